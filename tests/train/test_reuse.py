"""A work directory of many runs: configurations side by side, seeds and epochs added to what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxrec.train.fit import Fitted
from jaxrec.train.reuse import configuration_hash, fit_reusing
from tests.train import toy


def run(
    workdir: Path, *, epochs: tuple[int, ...] = (3,), lr: float = 0.05, calls: list[str] | None = None,
    **kwargs: Any,
) -> Fitted:  # fmt: skip
    settings: dict[str, Any] = {"seeds": (0,), "description": {"lr": lr, "epochs": sum(epochs)}, **kwargs}
    selection = settings.pop("selection", toy.selection())
    return fit_reusing(
        toy.phases(*epochs, task=None if calls is None else toy.factors(calls)),
        optax.adam(lr),
        toy.plan(),
        toy.context(),
        selection,
        workdir=workdir,
        **settings,
    )


def of(fitted: Fitted, index: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[index], fitted.variables)


def test_two_configurations_live_side_by_side(tmp_path: Path) -> None:
    first = run(tmp_path)
    other = run(tmp_path, lr=0.5)
    assert len(list(tmp_path.iterdir())) == 2
    toy.same_bits(run(tmp_path).variables, first.variables)
    assert not np.array_equal(of(first, 0)["params"]["items"], of(other, 0)["params"]["items"])


def test_added_seeds_are_trained_and_the_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", seeds=(3,))
    both = run(tmp_path / "a", seeds=(7, 3))
    assert "seeds 3 are taken from seeds-3-epochs-3" in capsys.readouterr().out
    straight = run(tmp_path / "b", seeds=(7, 3))
    toy.same_bits(jax.tree.map(np.asarray, both.variables), jax.tree.map(np.asarray, straight.variables))
    assert toy.without_times(both.history) == toy.without_times(straight.history)
    assert (both.best_epoch, both.best_value) == (straight.best_epoch, straight.best_value)
    assert [path.name for path in sorted((tmp_path / "a").glob("*/*"))] == [
        "seeds-3-epochs-3", "seeds-7-epochs-3",
    ]  # fmt: skip
    assert run(tmp_path / "b", seeds=(3,)).best_value == [straight.best_value[1]]  # part of a finished run
    toy.same_bits(of(run(tmp_path / "b", seeds=(3,)), 0), of(straight, 1))


def test_more_epochs_go_on_from_the_shorter_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = run(tmp_path / "a", epochs=(2, 1))
    long = run(tmp_path / "a", epochs=(2, 3))
    assert "seeds 0 go on from epoch 3 of seeds-0-epochs-2+1" in capsys.readouterr().out
    straight = run(tmp_path / "b", epochs=(2, 3))
    toy.same_bits(long.variables, straight.variables)
    assert toy.without_times(long.history) == toy.without_times(straight.history)
    toy.same_bits(run(tmp_path / "a", epochs=(2, 1)).variables, short.variables)  # which is still there


def test_phases_that_begin_otherwise_are_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", epochs=(2, 1))
    other = run(tmp_path / "a", epochs=(1, 3))
    assert "go on from" not in capsys.readouterr().out
    toy.same_bits(other.variables, run(tmp_path / "b", epochs=(1, 3)).variables)


@pytest.mark.long
def test_phases_of_the_same_sum_live_side_by_side(tmp_path: Path) -> None:
    run(tmp_path / "a", epochs=(2, 1))
    other = run(tmp_path / "a", epochs=(1, 2))
    toy.same_bits(other.variables, run(tmp_path / "b", epochs=(1, 2)).variables)


def test_fewer_epochs_are_a_run_of_their_own(tmp_path: Path) -> None:
    run(tmp_path / "a", epochs=(4,))
    toy.same_bits(run(tmp_path / "a", epochs=(2,)).variables, run(tmp_path / "b", epochs=(2,)).variables)


@pytest.mark.long
def test_seeds_that_stopped_at_other_epochs_are_put_together(tmp_path: Path) -> None:
    patient = {"selection": toy.selection(patience=1), "epochs": (12,)}
    alone = [run(tmp_path / "a", seeds=(seed,), **patient) for seed in (0, 1, 2)]
    lengths = [len(one.history) for one in alone]
    assert len(set(lengths)) > 1
    together = run(tmp_path / "a", seeds=(2, 0, 1), **patient)
    assert len(together.history) == max(lengths)
    assert together.best_value == [alone[i].best_value[0] for i in (2, 0, 1)]
    for position, seed in enumerate((2, 0, 1)):
        losses = [entry["loss"][position] for entry in together.history]
        assert losses[: lengths[seed]] == [entry["loss"][0] for entry in alone[seed].history]
        assert np.isnan(losses[lengths[seed] :]).all()


def test_an_interrupted_run_is_continued(tmp_path: Path) -> None:
    run(tmp_path / "a", stop_after=1)
    toy.same_bits(run(tmp_path / "a").variables, run(tmp_path / "b").variables)


def test_other_data_is_refused_and_not_taken_for_the_same_settings(tmp_path: Path) -> None:
    run(tmp_path)
    context = {**toy.context(), "positive": np.roll(toy.context()["positive"], 1)}
    with pytest.raises(ValueError, match=r"fit\.context\.positive="):
        fit_reusing(
            toy.phases(3), optax.adam(0.05), toy.plan(), context, toy.selection(),
            seeds=(0,), workdir=tmp_path, description={"lr": 0.05},
        )  # fmt: skip


def test_a_run_of_the_layout_before_is_refused(tmp_path: Path) -> None:
    toy.run(tmp_path)
    with pytest.raises(ValueError, match="holds a run of an older version"):
        run(tmp_path)


def test_the_folder_is_that_of_settings_without_numbers_of_epochs() -> None:
    assert configuration_hash({"a": 1}) != configuration_hash({"a": 2})
    with jax.threefry_partitionable(False):
        changed = configuration_hash({"a": 1})
    assert changed != configuration_hash({"a": 1})
