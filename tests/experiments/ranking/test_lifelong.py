"""The experiment on lifelong histories runs to its end on tiny data and stores what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import floors
from experiments.ranking import lifelong, lifelong_times
from jaxrec.nn.ranking.sim import of_search
from jaxrec.recipes import search as recipes
from jaxrec.report.results import read_results
from jaxrec.tasks.ctr import behaviours
from tests.experiments.test_tiny import call


def test_tiny_trains_and_times_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path)
    call(lifelong, monkeypatch, "--tiny", "--rows", "sim-hard", "--timed", 33, "--seeds", 3, 4, *places)
    (times,), (trained,) = (
        [r.result for r in read_results(tmp_path / "results") if r.result.dataset.startswith(name)]
        for name in ("milliseconds", "tiny")
    )
    assert (trained.experiment, trained.model) == ("lifelong", "sim-hard")
    assert trained.protocol.loss == "bce"
    assert trained.metrics["auc/best"] == (0.95, 0.95)
    assert len(trained.metrics["auc/click"]) == 2
    assert trained.steps > 0
    assert not trained.baseline and not times.baseline
    assert set(times.metrics) == {"serve@33", "train@33"}
    assert all(value > 0 for values in times.metrics.values() for value in values)
    assert not trained.published  # nothing was published about made-up data


def test_each_budget_is_a_row_and_a_longer_one_goes_on_from_a_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path)
    call(
        lifelong, monkeypatch, "--tiny", "--rows", "base", "--timed", "--budgets", 1, 2, "--seeds", 3, *places
    )
    found = {read.result.model: read.result for read in read_results(tmp_path / "results")}
    assert set(found) == {"base+epochs-1", "base+epochs-2"}
    assert found["base+epochs-2"].steps == 2 * found["base+epochs-1"].steps
    assert [result.config["epochs"] for result in found.values()] == [1, 2]
    assert not {"budgets", "timed"} & set(found["base+epochs-1"].config)
    kept = [path.name for path in tmp_path.glob("tiny/base/*/*")]
    assert sorted(kept) == ["seeds-3-epochs-1", "seeds-3-epochs-2"]  # of one configuration


def test_names_say_what_is_not_the_default() -> None:
    changed = lifelong.Config(
        slots=4, rebalance="shift", key_memory=True, sum_pooling=True, gate_bias=1.0, categories=3
    )
    assert lifelong.model_name("mimn", changed) == "mimn+slots-4+shift+key-memory+sum-pooling+gate-bias-1"
    assert lifelong.model_name("din", changed) == "din"
    assert lifelong.model_name("mimn", lifelong.Config()) == "mimn"
    assert lifelong.model_name("din", lifelong.Config(budgets=(1, 3), epochs=3)) == "din+epochs-3"
    clicks = lifelong.load(lifelong.Config(num_users=10, categories=3, length=200)).clicks
    assert lifelong.dataset_name(changed, clicks) == "lifelong-10x200-3-categories"
    assert lifelong.dataset_name(lifelong.Config(), clicks) == "lifelong-10x200"


def test_baselines_stand_in_the_table_of_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    config, found = lifelong.Config(num_users=10, categories=3, length=160), list[str]()

    def measure(config: Any, experiment: str, columns: Any, *others: Any) -> None:
        found.append(columns.name)

    monkeypatch.setattr(floors, "measure", measure)
    lifelong.measure_untrained(lifelong.load(config), config)
    assert found == ["lifelong-10x160-3-categories"]


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        ({}, {"utilisation_kernel": (8, 8)}),
        ({"rebalance": "shift", "key_memory": True}, {"keys": (8, 24)}),
        ({"gate_bias": 1.0}, {"utilisation_kernel": (8, 8)}),
    ],
)
def test_parts_of_the_memory_are_options(change: dict[str, Any], parameters: dict[str, Any]) -> None:
    config = lifelong.Config(tiny=True, recent=6, **change)
    model: Any = recipes.mimn(lifelong.load(config).clicks, config)
    memory = model.model.memory
    init = jax.eval_shape if not change.get("gate_bias") else lambda made: made()
    made: Any = init(lambda: memory.init(jax.random.key(0), np.ones((1, 2, 24)), np.ones((1, 2), bool)))
    found = made["params"]
    optional = {name: value.shape for name, value in found.items() if name in ("keys", "utilisation_kernel")}
    assert optional == parameters
    if change.get("gate_bias"):
        assert np.asarray(found["controller_bias"]).tolist() == [1.0] * 48 + [0.0] * 24


def test_a_memory_is_also_timed_from_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def results(fn: Any, given: Any) -> Any:
        return [jax.eval_shape(fn, *arguments) for arguments in given]

    monkeypatch.setattr(lifelong_times, "seconds_of", results)
    config, row = lifelong.Config(seeds=(0,), slots=2), lifelong.ROWS["mimn"]
    clicks = lifelong_times.timed_clicks(33, num_categories=lifelong.NUM_CATEGORIES)
    found: Any = dict(
        lifelong_times.timings(
            lifelong.task_of(row, clicks, config, 33),
            row.weights(config),
            clicks,
            read=33,
            learning_rate=config.learning_rate,
            seeds=config.seeds,
            memory=row.model(clicks, config),
        )
    )
    assert list(found) == ["serve", "train", "stored"]
    assert found["serve"][0].shape == found["stored"][0].shape == (lifelong_times.BATCH,)
    state, _ = found["train"][0]
    assert state.params["model"]["model"]["memory"]["heads_kernel"].shape  # what a gradient was needed for


@pytest.mark.parametrize("row", lifelong.ROWS)
def test_every_row_gives_the_losses_it_is_weighted_by_and_a_logit(row: str) -> None:
    config = lifelong.Config(tiny=True, recent=6)
    clicks = lifelong.load(config).clicks
    task, weights = (
        lifelong.task_of(lifelong.ROWS[row], clicks, config, 40),
        lifelong.ROWS[row].weights(config),
    )
    context = clicks.columns()
    rows = {"example": np.arange(5), "mask": np.ones(5, bool)}
    key = jax.random.key(0)

    def outputs(context: Any) -> Any:
        batch = task.prepare(key, rows, context)
        variables = task.init(key, batch)
        return task.losses(variables, batch, key)[0], task.predict(variables, batch), batch["history_item"]

    found, logits, history = jax.eval_shape(outputs, context)
    assert set(found) == set(weights)
    assert logits.shape == (5,)
    assert history.shape == (5, config.recent if row == "din-recent" else 40)


@pytest.mark.long
def test_a_pretrained_search_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs: of each seed the second starts from its own search of the first, and leaves it to the bit."""
    runs: list[Any] = []
    fit = lifelong.fit

    def fitted_to(*arguments: Any, **options: Any) -> Any:
        runs.append((arguments, fit(*arguments, **options)))
        return runs[-1][1]

    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    monkeypatch.setattr(lifelong, "fit", fitted_to)
    places = ("--results", tmp_path / "results", "--workdir", tmp_path)
    call(
        lifelong, monkeypatch, "--tiny", "--rows", "sim-soft-pretrained", "--timed", "--seeds", 3, 4, *places
    )
    (stored,) = [read.result for read in read_results(tmp_path / "results")]
    assert (stored.model, stored.protocol.loss) == ("sim-soft-pretrained", "search, then bce")
    assert len(stored.metrics["auc/click"]) == 2
    (given, first), (_, second) = runs
    assert [arguments[2] for arguments, _ in runs] == [
        {"click": 0.0, "search": 1.0},
        {"click": 1.0, "search": 0.0},
    ]
    marks = of_search(first.variables)
    for marked, before, after in zip(
        *map(jax.tree.leaves, (marks, *map(jax.device_get, (first.variables, second.variables)))), strict=True
    ):
        assert np.array_equal(before, after) == marked
        assert not np.array_equal(after[0], after[1]) or not after[0].any()  # each seed has its own

    data, task = given[0], given[1]
    batch = jax.jit(data.expand)({name: column[0] for name, column in data.test.items()}, data.columns)
    predict = jax.jit(task.predict)
    for seed in range(2):
        searched = [
            predict(jax.tree.map(lambda leaf, s=seed: np.asarray(leaf)[s], run.variables), batch)
            for run in (first, second)
        ]
        np.testing.assert_array_equal(*searched)


def test_what_truncation_reads_tells_nothing() -> None:
    """The recent events of the tiny set and of the whole one hold as many of either style."""
    for config in (lifelong.Config(tiny=True, recent=6), lifelong.Config(num_users=10)):
        made = lifelong.load(config)
        read = {n: np.asarray(getattr(made.clicks, n)) for n in ("user", "item", "start", "end")}
        batch = behaviours(read, made.clicks.columns()["shared"], 2 * config.recent)  # type: ignore[arg-type]
        styles = np.asarray(batch["history_style"])
        assert ((styles == 1).sum(axis=1) == config.recent).all()
        ends = made.clicks.end[:, None] - 1 - np.arange(2 * config.recent)
        assert not made.planted[ends].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"utilisation": 0.0}, "utilisation=0.0: must be positive"),
        ({"timed": (100, 30)}, "timed=(100, 30): only histories of 31 events and more"),
        ({"trained": False, "timed": ()}, "nothing is left to do"),
        ({"categories": 0}, "categories=0: must be at least 1"),
        ({"budgets": (3, 0)}, "budgets=(3, 0): numbers of epochs, each at least 1"),
        ({"budgets": (3, 3)}, "given once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        lifelong.Config(**change)
