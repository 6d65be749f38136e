"""Searches of the settings of a small task: what compiles, what is shared, and going on after a kill."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.optim.adjustable import adjustable, with_numbers
from jaxrec.protocols import conversions, items, retrieval, sessions
from jaxrec.train import parallel
from jaxrec.train.fit import Fitted, Phase, fit
from jaxrec.train.trial import Trial
from jaxrec.tuning.budget import Limits
from jaxrec.tuning.progress import Progress
from jaxrec.tuning.reads import Measured, inspect, optimiser
from jaxrec.tuning.search import Chosen, chosen_settings
from jaxrec.tuning.space import Setting, Space
from jaxrec.types import Protocol
from tests.train import toy

pytest.importorskip("optuna")

RATE = Setting("float", 1e-3, 0.3, True)
SCALE = Setting("choice", choices=(1.0, 2.0))
SEEDS = (3, 5)


@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.05
    scale: float = 1.0  # of the loss: shapes the program
    unread: int = 1
    workdir: str = ""


def adam(config: Any) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)


def training(
    calls: list[str] | None = None, *, epochs: int = 3, patience: int | None = None
) -> Callable[[Any, Trial], Fitted]:
    """calls: grows whenever the losses are traced."""

    def train(config: Config, trial: Trial) -> Fitted:
        task = toy.factors(calls, scale=config.scale)
        return fit(
            [Phase("train", task, epochs)],
            optimiser(adam, config, trial),
            toy.plan(),
            toy.context(),
            toy.selection(patience=patience),
            seeds=trial.seeds,
            workdir=config.workdir,
            description={"scale": config.scale},
            progress=False,
            trial=trial,
        )

    return train


def over_members(fn: Callable[..., Any], *, mapped: int = 1, carried: bool = False) -> Callable[..., Any]:
    """`parallel.over_seeds` as on accelerators."""
    return lambda *args: jax.vmap(lambda *a: fn(*a, *args[mapped:]))(*args[:mapped])


def search(tmp_path: Path, space: Space, train: Any = None, **options: Any) -> Chosen | None:
    named: dict[str, Any] = {"limits": Limits(4), "seeds": SEEDS, "own": set(), "at_once": 1, **options}
    return chosen_settings(
        train or training(),
        Config(),
        space,
        path=tmp_path / "study.json",
        folder=tmp_path / "trials",
        identity={},
        **named,
    )


def trials_of(tmp_path: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads((tmp_path / "study.json").read_text())["trials"]
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in trials]


def test_an_adjustable_optimiser_is_the_one_it_is_made_of() -> None:
    params = {"w": jnp.array([1.0, -2.0])}
    gradients = [{"w": jnp.array([0.3, 0.1])}, {"w": jnp.array([-0.2, 0.4])}]
    made = adjustable(lambda n: optax.adamw(n["rate"], weight_decay=n["decay"]), {"rate": 1.0, "decay": 1.0})
    plain = optax.adamw(0.05, weight_decay=0.1)
    state = jax.vmap(lambda _: made.init(params))(jnp.arange(2))
    state = with_numbers(state, {"rate": [0.05, 0.5], "decay": [0.1, 0.0]})
    expected, kept = params, plain.init(params)
    found = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    for gradient in gradients:
        change, kept = plain.update(gradient, kept, expected)
        expected = optax.apply_updates(expected, change)
        both, state = jax.vmap(made.update, in_axes=(None, 0, 0))(gradient, state, found)
        found = optax.apply_updates(found, both)
    np.testing.assert_allclose(found["w"][0], expected["w"], rtol=1e-6)
    assert not np.allclose(found["w"][1], expected["w"])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"decay": [1.0, 2.0]}, r"numbers \['decay'\]: the optimiser does not read"),
        ({"rate": [1.0]}, "2 runs"),
    ],
)
def test_wrong_numbers_are_refused(numbers: dict[str, list[float]], message: str) -> None:
    made = adjustable(lambda n: optax.sgd(n["rate"]), {"rate": 1.0})
    state = jax.vmap(lambda _: made.init(jnp.zeros(3)))(jnp.arange(2))
    with pytest.raises(ValueError, match=message):
        with_numbers(state, numbers)


def test_what_a_row_reads_is_found_before_anything_is_traced() -> None:
    calls: list[str] = []
    row = inspect(training(calls), Config(), SEEDS)
    assert {"learning_rate", "scale"} <= row.reads
    assert "unread" not in row.reads
    assert row.numbers == {"learning_rate"}
    assert (row.metric, row.lower_is_better, row.num_epochs) == (toy.METRIC, False, 3)
    assert calls == []


def test_learning_rates_compile_once_and_settings_that_shape_the_program_once_each(tmp_path: Path) -> None:
    traced = {}
    for name, settings in {
        "one trial": {"learning_rate": RATE},
        "rates": {"learning_rate": RATE},
        "rates and scales": {"learning_rate": RATE, "scale": SCALE},
    }.items():
        calls: list[str] = []
        limits = Limits(1 if name == "one trial" else 6)
        space = Space(settings, pruner="none")
        search(tmp_path / name, space, training(calls), limits=limits, seeds=(3,))
        traced[name] = len(calls)
    assert traced["one trial"] > 0
    assert traced["rates"] == traced["one trial"]
    assert traced["rates and scales"] == 2 * traced["one trial"]


@pytest.mark.parametrize("vectorised", [False, True])  # over members: as on CPU, as on accelerators
def test_trials_at_once_have_the_values_of_trials_alone(
    tmp_path: Path, vectorised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space({"learning_rate": RATE}, pruner="none")
    search(tmp_path / "alone", space, limits=Limits(3))
    if vectorised:
        monkeypatch.setattr(parallel, "over_seeds", over_members)
    search(tmp_path / "at once", space, limits=Limits(3), at_once=3)
    alone, at_once = trials_of(tmp_path / "alone"), trials_of(tmp_path / "at once")
    for one, other in zip(alone, at_once, strict=True):
        assert one["settings"] == other["settings"]
        np.testing.assert_allclose(one["validation"], other["validation"], rtol=1e-5)


@pytest.mark.long
def test_a_trial_keeps_its_value_after_its_patience_is_spent_while_others_go_on(tmp_path: Path) -> None:
    space, train = Space({"learning_rate": RATE}, pruner="none"), training(epochs=12, patience=1)
    search(tmp_path / "alone", space, train, limits=Limits(3), seeds=(3,))
    search(tmp_path / "at once", space, train, limits=Limits(3), seeds=(3,), at_once=3)
    alone, at_once = trials_of(tmp_path / "alone"), trials_of(tmp_path / "at once")
    assert len({trial["epochs"] for trial in alone}) > 1  # they end at different epochs
    np.testing.assert_allclose([t["value"] for t in alone], [t["value"] for t in at_once], rtol=1e-5)


def test_the_chosen_settings_are_those_of_the_best_validation_value(tmp_path: Path) -> None:
    chosen = search(tmp_path, Space({"learning_rate": RATE}))
    assert chosen is not None
    complete = [trial for trial in trials_of(tmp_path) if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["value"])
    assert chosen.settings == best["settings"]
    assert chosen.config == Config(learning_rate=best["settings"]["learning_rate"])
    assert best["value"] == max(value for _, value in best["validation"])
    assert not list((tmp_path / "trials").iterdir())  # no checkpoint is left


def test_a_trial_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    wild = Space({"learning_rate": Setting("choice", choices=(0.05, 1e30))})
    wide = Space({"learning_rate": Setting("float", 0.05, 1e38)}, pruner="none")
    search(tmp_path / "alone", wild, limits=Limits(2), seeds=(3,))
    search(tmp_path / "at once", wide, limits=Limits(3), at_once=3, seeds=(3,))
    for name in ("alone", "at once"):
        trials = [trial for trial in trials_of(tmp_path / name) if trial["state"] != "repeat"]
        kept = [trial for trial in trials if trial["settings"]["learning_rate"] == 0.05]
        assert [trial["state"] for trial in kept] == ["complete"]
        assert {trial["state"] for trial in trials if trial not in kept} == {"diverged"}


@pytest.mark.long
def test_a_search_that_is_killed_within_a_trial_goes_on_to_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space({"learning_rate": RATE, "scale": SCALE})
    search(tmp_path / "whole", space)
    observe, left = Progress.observe, [5]

    class Killed(Exception):
        pass

    def killed(self: Progress, *args: Any, **named: Any) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return observe(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "observe", killed)
        with pytest.raises(Killed):
            search(tmp_path / "killed", space)
    search(tmp_path / "killed", space)
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")


@pytest.mark.long
def test_a_group_that_the_budget_made_small_is_whole_with_a_larger_one(tmp_path: Path) -> None:
    space, whole = Space({"learning_rate": RATE}, pruner="none"), Limits(None, 18)
    search(tmp_path / "once", space, limits=whole, seeds=(3,), at_once=3)
    search(tmp_path / "twice", space, limits=Limits(None, 11), seeds=(3,), at_once=3)
    assert [trial["state"] for trial in trials_of(tmp_path / "twice")][3:] == ["stopped"] * 2
    search(tmp_path / "twice", space, limits=whole, seeds=(3,), at_once=3)
    assert trials_of(tmp_path / "twice") == trials_of(tmp_path / "once")
    assert not list((tmp_path / "twice/trials").iterdir())  # no checkpoint is left


def test_a_setting_of_the_row_that_it_does_not_read_is_refused(tmp_path: Path) -> None:
    space = Space({"learning_rate": RATE, "unread": Setting("int", 1, 5)})
    with pytest.raises(
        ValueError, match=r"unread = \{'low': 1, 'high': 5, 'log': False\}: the row 'toy' does not"
    ):
        search(tmp_path, space, own={"unread"}, name="toy")


def test_a_row_that_reads_nothing_of_the_space_keeps_its_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path, Space({"unread": Setting("int", 1, 5)}), name="toy") is None
    assert "toy: does not read unread" in capsys.readouterr().out
    assert not (tmp_path / "study.json").exists()


def test_a_validation_value_that_is_not_finite_is_that_of_a_diverged_trial(tmp_path: Path) -> None:
    def measure(config: Any, trial: Trial) -> Measured:
        return Measured("auc", [float("nan") if config.scale == 2.0 else 0.5 for _ in trial.seeds])

    def train(config: Config, trial: Trial) -> Fitted:
        metric = {toy.METRIC: float("inf") if config.scale == 2.0 else 0.5}
        return fit(
            [Phase("train", toy.factors(), 1)],
            optimiser(adam, config, trial),
            toy.plan(),
            toy.context(),
            toy.selection(toy.evaluation(summarise=lambda values, queries: metric)),
            seeds=trial.seeds,
            workdir=config.workdir,
            description={"scale": config.scale},
            progress=False,
            trial=trial,
        )

    for name, way in {"measured": measure, "trained": train}.items():
        chosen = search(tmp_path / name, Space({"scale": SCALE}), way, limits=Limits(2), seeds=(3,))
        assert chosen is not None and chosen.settings == {"scale": 1.0}
        trials = {trial["state"]: trial["settings"]["scale"] for trial in trials_of(tmp_path / name)}
        assert trials["complete"] == 1.0 and trials["diverged"] == 2.0


def test_members_with_initial_variables_have_their_own_numbers(tmp_path: Path) -> None:
    def run(name: str, **options: Any) -> list[float]:
        trial = Trial((0, 0), {"rate": [0.01, 0.5]}, {}, lambda *args: None, lambda *args: True)
        tx = adjustable(lambda values: optax.adam(values["rate"]), {"rate": 0.01})
        fitted = toy.run(tmp_path / name, epochs=(1,), seeds=trial.seeds, trial=trial, tx=tx, **options)
        losses: list[float] = fitted.history[0]["loss"]
        return losses

    assert run("given", initial=lambda drawn, seeds: drawn) == run("drawn")


ON_TEST: Any = {
    "retrieval": (retrieval.train, [None] * 4, [Protocol(selection=retrieval.LAST_EPOCH), None], {}),
    "items": (items.train, [None] * 5, [Protocol(selection=retrieval.LAST_EPOCH), None], {"columns": {}}),
    "sessions": (sessions.train, [None] * 2, [Protocol(), None], {"select": "test"}),
    "conversions": (conversions.train, [None] * 2, [None], {"batch_size": 1}),
}


@pytest.mark.parametrize("name", ON_TEST)
def test_settings_are_never_chosen_on_the_test_part(name: str) -> None:
    train, before, after, named = ON_TEST[name]
    trial = Trial((0,), {}, {}, lambda *args: None, lambda *args: True)
    with pytest.raises(ValueError, match="on its test part, and settings are never chosen there"):
        train(*before, *after, epochs=1, trial=trial, **named)


def test_another_metric_than_that_of_the_rows_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric = 'auc': the row 'row' is selected by .* 'ndcg@5'"):
        search(tmp_path, Space({"learning_rate": RATE}, metric="auc"))


def test_a_method_that_is_not_trained_is_searched_by_its_validation_value(tmp_path: Path) -> None:
    def measure(config: Any, trial: Trial) -> Measured:
        return Measured("error", [(config.scale - 1.5) ** 2 for _ in trial.seeds], lower_is_better=True)

    space = Space({"scale": Setting("choice", choices=(1.0, 1.5, 2.0))})
    chosen = search(tmp_path, space, measure, limits=Limits(None, 10))
    assert chosen is not None and chosen.settings == {"scale": 1.5}
    assert json.loads((tmp_path / "study.json").read_text())["spent"]["epochs"] == 3
