"""What a run is told apart by: settings, data, selection, losses, and the code that trained it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxrec import provenance
from jaxrec.train import identity
from jaxrec.train.epoch import shuffled
from jaxrec.train.fit import Phase, fit
from jaxrec.types import Protocol
from tests.train import toy
from tests.train.other_code import OTHER_CODE, with_code


def other_positives() -> dict[str, np.ndarray]:
    context = toy.context()
    return {**context, "positive": np.roll(context["positive"], 1)}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of four epochs."""
    folder = tmp_path_factory.mktemp("begun")
    toy.run(folder, epochs=(4,), stop_after=2)
    return folder


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            {"plan": shuffled(toy.NUM_USERS, 2)},
            r"fit\.steps\..*num_steps=3, this run has 5|examples.*\[4\].*\[2\]",
        ),
        (
            {"selection": toy.selection(metric="hit@1")},
            r"fit\.selection\.metric='ndcg@5', this run has 'hit@1'",
        ),
        ({"selection": toy.selection(lower_is_better=True)}, r"lower_is_better=False, this run has True"),
        ({"selection": toy.selection(every=2)}, r"every=1, this run has 2"),
        ({"selection": toy.selection(patience=2)}, r"patience=None, this run has 2"),
        (
            {"selection": toy.selection(toy.evaluation(protocol=Protocol(seen="keep")))},
            r"fit\.protocol=None, this run has \{'seen': 'keep'\}",
        ),
        (
            {"selection": toy.selection(toy.evaluation(protocol=Protocol(ties="optimistic")))},
            r"fit\.protocol=None, this run has \{'ties': 'optimistic'\}",
        ),
        ({"context": other_positives()}, r"fit\.context\.positive='int32\[10\] with checksum"),
        ({"task": toy.factors(name="bpr")}, r"has the losses \['bce'\], this run has \['bpr'\]"),
        (
            {"task": toy.factors()._replace(losses=lambda *args: ({}, {}))},
            r"has the losses \['bce'\], this run has \[\]",
        ),
        ({"calls": 2}, "calls=1, this run has 2"),
        ({"tx": optax.adamw(0.05)}, "another optimiser; the checkpoint is intact"),
        ({"tx": optax.chain(optax.clip(1.0), optax.adam(0.05))}, "another optimiser"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_run_does_not_continue_under_other_arguments(begun: Path, change: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        toy.run(begun, epochs=(4,), **change)


def test_all_differing_items_are_named(begun: Path) -> None:
    with pytest.raises(ValueError, match=r"calls=1, this run has 2; fit\.context.*model='factors'"):
        toy.run(begun, epochs=(4,), calls=2, context=other_positives(), description={"model": "other"})


def test_other_queries_are_another_run(begun: Path) -> None:
    queries = {**toy.queries(), "target": np.roll(toy.queries()["target"], 1)}
    with pytest.raises(ValueError, match=r"fit\.queries\.target="):
        toy.run(begun, epochs=(4,), selection=toy.selection(toy.evaluation(queries=queries)))


def test_queries_in_other_batches_are_the_same_run() -> None:
    assert identity.columns(toy.queries(4, 3)) == identity.columns(toy.queries(2, 6))
    assert identity.columns({"a": np.zeros(3)}) != identity.columns({"a": np.zeros(4)})
    assert identity.columns({"a": np.zeros(3)}) != identity.columns({"a": np.zeros(3, np.float32)})


def test_a_key_and_a_nested_column_are_described() -> None:
    found = identity.columns({"key": jax.random.key(1), "of": {"items": np.arange(3)}})
    assert set(found) == {"key", "of.items"}
    assert found["of.items"].startswith("int64[3] with checksum ")


def test_a_finished_run_is_refused_by_other_code_and_names_both_if_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = toy.run(tmp_path, epochs=(2,))
    trained = done.made_by[0]
    assert [entry["first_epoch"] for entry in done.made_by] == [0]
    with_code(monkeypatch)
    with pytest.raises(ValueError, match=OTHER_CODE):
        toy.run(tmp_path, epochs=(2,))
    again = toy.run(tmp_path, epochs=(2,), accept_changed_code=True)
    toy.same_bits(again.variables, done.variables)
    assert [(e["first_epoch"], e["commit"]) for e in again.made_by] == [(0, trained["commit"]), (2, "b" * 40)]


def test_a_run_that_other_code_goes_on_with_keeps_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = toy.run(tmp_path, epochs=(3,), stop_after=1).made_by[0]
    with_code(monkeypatch)
    toy.run(tmp_path, epochs=(3,), accept_changed_code=True)
    found = toy.run(tmp_path, epochs=(3,)).made_by  # the code that ended it reads it without asking
    assert [(e["first_epoch"], e["sources"]) for e in found] == [
        (0, first["sources"]),
        (1, {"jaxrec": "other"}),
    ]


def test_another_commit_of_the_same_sources_is_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = toy.run(tmp_path, epochs=(2,)).made_by[0]
    with_code(monkeypatch, sources=first["sources"])
    again = toy.run(tmp_path, epochs=(2,), progress=True)
    assert [entry["commit"] for entry in again.made_by] == [first["commit"]]
    assert (
        f"found complete: trained by commit {first['commit']}; nothing is trained" in capsys.readouterr().out
    )


def test_other_library_versions_are_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run(tmp_path, epochs=(2,), stop_after=1)
    versions = {**provenance.library_versions(), "optax": "0.0.1"}
    monkeypatch.setattr(provenance, "library_versions", lambda: versions)
    with pytest.raises(ValueError, match=r"optax: [\d.]+, now 0\.0\.1"):
        toy.run(tmp_path, epochs=(2,))


def test_a_checkpoint_that_does_not_say_what_trained_it_is_refused() -> None:
    with pytest.raises(ValueError, match="runs/x: the checkpoint does not say which code trained it"):
        identity.check_code("runs/x", (), provenance.manifest(), accept=True)


def test_settings_of_jax_are_part_of_a_run(begun: Path) -> None:
    with (
        jax.threefry_partitionable(False),
        pytest.raises(ValueError, match="jax_threefry_partitionable=True"),
    ):
        toy.run(begun, epochs=(4,))


def test_phases_are_named_apart(tmp_path: Path) -> None:
    twice = [Phase("a", toy.factors(), 1), Phase("a", toy.factors(), 1)]
    settings: dict[str, Any] = {"seeds": (0,), "workdir": tmp_path, "description": {}}
    with pytest.raises(ValueError, match="each needs a name of its own"):
        fit(twice, optax.adam(0.05), toy.plan(), toy.context(), toy.selection(), **settings)
