"""The GRU4Rec experiment runs to its end on made-up sessions and stores what it found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.sequential import gru4rec as experiment
from jaxrec import losses
from jaxrec.data.events.sessions import SessionSplit
from jaxrec.protocols import sessions
from jaxrec.recipes import gru4rec as recipes
from jaxrec.report.results import read_results
from jaxrec.tasks.objectives import TABLES, Objective
from jaxrec.types import SHARED
from tests.experiments.own_files import write_events
from tests.experiments.test_tiny import call

TINY = common.shrink_if_tiny(experiment.Config(tiny=True), **experiment.TINY)


def with_tables(batch: dict[str, Any], objective: Objective) -> dict[str, Any]:
    """The batch with what it shares of the objective's tables."""
    return {**batch, SHARED: {TABLES: objective.tables}}


def objective_of(row: str, split: SessionSplit, config: experiment.Config) -> Objective:
    return experiment.ROWS[row].objective(split, config, experiment.settings_of(row, config))


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    rows = ("popularity", "gru4rec-bpr-max-parallel")
    results = tmp_path / "results"
    call(experiment, monkeypatch, "--tiny", "--rows", *rows, "--results", results, "--workdir", tmp_path,
         "--seeds", 3, 4)  # fmt: skip
    records = {record.result.model: record.result for record in read_results(results)}
    expected = {
        "popularity": "",
        "gru4rec-bpr-max-parallel": "bpr-max; in-batch negatives and 8 ∝ frequency^0",
    }
    assert {model: result.protocol.loss for model, result in records.items()} == expected
    for model, result in records.items():
        assert (result.experiment, result.dataset, result.protocol.seen) == ("gru4rec", "tiny", "keep")
        assert len(result.metrics["recall@20"]) == len(result.metrics["mrr@20"]) == 2
        assert (result.steps > 0) == (model != "popularity")
        assert not result.published
    config = records["gru4rec-bpr-max-parallel"].config
    assert (config["learning_rate"], config["dropout"], config["alpha"]) == (0.2, 0.0, 0.0)


@pytest.mark.long
def test_sessions_of_ones_own_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    path = write_events(tmp_path / "mine.csv")
    columns = ("--data", path, "--user", "uid", "--item", "sku", "--time", "ts")
    kept = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 3)
    call(experiment, monkeypatch, "--tiny", "--rows", "gru4rec-ssm", *columns, *kept)
    (found,) = [record.result for record in read_results(tmp_path / "results")]
    assert (found.dataset, found.protocol.loss.split(";")[0]) == ("mine.csv", "sampled softmax, logQ 1")


def test_tiny_changes_defaults_only() -> None:
    config = common.shrink_if_tiny(experiment.Config(tiny=True, dim=12), **experiment.TINY)
    assert (config.dim, config.epochs, config.num_samples) == (12, 2, 8)
    assert common.shrink_if_tiny(experiment.Config(), **experiment.TINY) == experiment.Config()


def test_both_ways_of_batching_train_on_the_same_pairs() -> None:
    """Targets of an epoch, counted, by ordinary batches and side by side."""
    data = sessions.resident(experiment.load(TINY))
    split = data.split
    counts = {}
    for row in ("gru4rec-ssm", "gru4rec-ssm-parallel"):
        training, _ = experiment.training_of(row, data, TINY)
        columns = jax.tree.map(jnp.asarray, {**data.columns, **training.columns})
        steps, fits = training.plan.draw(jax.random.key(0), columns)
        assert fits

        def targets(rows: dict, task=training.task, columns=columns):  # type: ignore[no-untyped-def, type-arg]
            return task.prepare(jax.random.key(0), rows, columns)["targets"]

        found = np.asarray(jax.jit(lambda r, f=targets: jax.lax.map(f, r))(steps))
        counts[row] = np.bincount(found.reshape(-1), minlength=split.num_items + 1)[1:]
    session, item = split.training_events().group, split.training_events().item
    first = np.append(True, session[1:] != session[:-1])
    expected = np.bincount(item[~first], minlength=split.num_items + 1)[1:]
    for found in counts.values():
        np.testing.assert_array_equal(found, expected)


def test_negatives_follow_training_clicks_alone() -> None:
    split = experiment.load(TINY)
    counts = recipes.training_counts(split)
    train = split.items[: split.offsets[split.num_train]]
    assert counts.tolist() == [int((train == item).sum()) for item in range(split.num_items + 1)]


def test_rows_say_that_their_softmax_is_sampled() -> None:
    split, whole = experiment.load(TINY), experiment.Config()
    assert [objective_of(row, split, whole).description for row in experiment.ROWS] == [
        "sampled softmax, logQ 1; in-batch negatives and 2048 ∝ frequency^0.75",
        "sampled softmax, logQ 1; in-batch negatives and 2048 ∝ frequency^0.75",
        "bpr-max; in-batch negatives and 2048 ∝ frequency^0",
        "top1-max; in-batch negatives and 2048 ∝ frequency^0",
    ]
    changed = dataclasses.replace(experiment.Config(), alpha=0.5, logq=0.25, num_samples=3)
    expected = "sampled softmax, logQ 0.25; in-batch negatives and 3 ∝ frequency^0.5"
    assert objective_of("gru4rec-ssm", split, changed).description == expected
    for row in experiment.ROWS:
        common.check_label(row, objective_of(row, split, whole).name)


def test_each_loss_has_the_settings_of_its_authors() -> None:
    """Learning rate, momentum, dropout and alpha for RSC15; what the command line gives holds for all."""
    expected = {
        "ssm": (0.1, 0.0, 0.1, 0.75),
        "bpr-max": (0.2, 0.1, 0.0, 0.0),
        "top1-max": (0.2, 0.1, 0.0, 0.0),
    }
    changed = dataclasses.replace(experiment.Config(), momentum=0.0, alpha=0.5)
    split = experiment.load(TINY)
    for row in experiment.ROWS:
        values = expected[objective_of(row, split, TINY).name]
        settings = experiment.settings_of(row, experiment.Config())
        assert dataclasses.astuple(settings) == values
        assert dataclasses.astuple(experiment.settings_of(row, changed)) == (values[0], 0.0, values[2], 0.5)
        assert recipes.network(split, TINY, settings).dropout == values[2]


def test_each_row_trains_by_its_own_formula() -> None:
    """Of one batch, with the other targets alone: log Σ exp of scores - logQ, or the mean of TOP1-max."""
    split = experiment.load(TINY)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, 1, 3)).astype(np.float32)
    table = rng.normal(size=(split.num_items + 1, 3)).astype(np.float32)
    batch = {"targets": np.array([[1], [2], [3], [4]]), "samples": np.zeros((4, 0), np.int32)}
    scores = (hidden[:, 0] @ table[1:5].T).astype(np.float64)
    lowered = scores - np.log(recipes.training_counts(split)[1:5])
    soft = np.mean(np.log(np.exp(lowered).sum(axis=1)) - lowered.diagonal())
    others = ~np.eye(4, dtype=bool)
    weight = np.exp(scores) * others
    weight = weight / weight.sum(axis=1, keepdims=True)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    terms = sigmoid(scores - scores.diagonal()[:, None]) + sigmoid(scores**2)
    expected = {"ssm": soft, "top1-max": np.mean((weight * terms).sum(axis=1))}
    config = dataclasses.replace(TINY, num_samples=0)
    for row in ("gru4rec-ssm", "gru4rec-top1-max-parallel"):
        objective = objective_of(row, split, config)
        ours = jax.jit(lambda h, t, o=objective: o.loss(h, t, with_tables(batch, o), None))(hidden, table)
        assert float(ours) == pytest.approx(expected[objective.name], rel=1e-5)


def test_bpr_max_bends_scores_and_leaves_logq_out() -> None:
    """An ELU of 0.5 below 0; without it the loss is of the scores themselves."""
    split = experiment.load(TINY)
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(4, 1, 3)), rng.normal(size=(split.num_items + 1, 3))
    batch = {"targets": np.array([[1], [2], [3], [4]]), "samples": np.tile([5, 6], (4, 1))}
    scores = hidden[:, 0] @ table[[1, 2, 3, 4, 5, 6]].T
    own = np.eye(4, 6, dtype=bool)
    for elu in (0.5, 0.0):
        config = dataclasses.replace(TINY, elu=elu)
        objective = objective_of("gru4rec-bpr-max-parallel", split, config)
        bent = np.where(scores > 0, scores, elu * np.expm1(scores)) if elu else scores
        ours, expected = jax.jit(
            lambda h, t, s, o=objective: (
                o.loss(h, t, with_tables(batch, o), None),
                losses.bpr_max(s[:, :4].diagonal(), s, regularisation=0.5, accidental=own),
            )
        )(*(np.asarray(x, np.float32) for x in (hidden, table, bent)))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_adagrad_is_that_of_the_authors_code() -> None:
    """v = m v - lr g / √(Σ g² + 1e-6), p = p + v; sums start at 0."""
    tx = recipes.adagrad(recipes.OfLoss(learning_rate=0.1, momentum=0.3, dropout=0.0, alpha=0.0))
    gradients = [np.array([0.5, -2.0, 0.0]), np.array([1.0, 1.0, 0.0])]
    params = np.zeros(3)
    state, total, velocity, expected = tx.init(params), np.zeros(3), np.zeros(3), np.zeros(3)
    for gradient in gradients:
        change, state = tx.update(gradient, state, params)
        total += gradient**2
        velocity = 0.3 * velocity - 0.1 * gradient / np.sqrt(total + 1e-6)
        expected += velocity
        params = params + np.asarray(change)
    np.testing.assert_allclose(params, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 0}, {"dropout": 1.0}, {"momentum": -0.1}, {"validation": 0.0}, {"num_samples": -1},
     {"elu": -1.0}, {"seeds": (1, 1)}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(experiment.Config(), **change)  # type: ignore[arg-type]
