"""The GRU4Rec experiment runs to its end on made-up sessions and stores what it found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gru4rec as experiment
from experiments import sessions as lab
from jaxrec import losses
from jaxrec.report.results import read_all
from tests.experiments.test_tiny import call

TINY = experiment.effective(experiment.Config(tiny=True))


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    rows = ("popularity", "gru4rec-bpr-max-parallel")
    results = tmp_path / "results"
    call(experiment, monkeypatch, "--tiny", "--rows", *rows, "--results", results, "--workdir", tmp_path,
         "--seeds", 3, 4)  # fmt: skip
    records = {record.result.model: record.result for record in read_all(results)}
    expected = {"popularity": "", "gru4rec-bpr-max-parallel": "bpr-max"}
    assert {model: result.protocol.loss for model, result in records.items()} == expected
    for model, result in records.items():
        assert (result.experiment, result.dataset, result.protocol.seen) == ("gru4rec", "tiny", "keep")
        assert len(result.metrics["recall@20"]) == len(result.metrics["mrr@20"]) == 2
        assert (result.steps > 0) == (model != "popularity")
        assert not result.published


def test_tiny_changes_defaults_only() -> None:
    config = experiment.effective(experiment.Config(tiny=True, dim=12))
    assert (config.dim, config.epochs, config.num_samples) == (12, 2, 8)
    assert experiment.effective(experiment.Config()) == experiment.Config()


def test_both_ways_of_batching_train_on_the_same_pairs() -> None:
    """Targets of an epoch, counted, by ordinary batches and side by side."""
    data = lab.resident(experiment.load(TINY))
    model, split = experiment.model_of(data.split, TINY), data.split
    counts = {}
    for row in ("gru4rec-ce", "gru4rec-ce-parallel"):
        task, plan, lanes = experiment.training_of(row, model, split, TINY)
        columns = jax.tree.map(jnp.asarray, {**data.columns, **lanes})
        rows, fits = plan.draw(jax.random.key(0), columns)
        assert fits

        def targets(rows: dict, task=task, columns=columns):  # type: ignore[no-untyped-def, type-arg]
            return task.prepare(jax.random.key(0), rows, columns)["targets"]

        found = np.asarray(jax.jit(lambda r, f=targets: jax.lax.map(f, r))(rows))
        counts[row] = np.bincount(found.reshape(-1), minlength=split.num_items + 1)[1:]
    session, item = split.training_clicks()
    first = np.append(True, session[1:] != session[:-1])
    expected = np.bincount(item[~first], minlength=split.num_items + 1)[1:]
    for found in counts.values():
        np.testing.assert_array_equal(found, expected)


def test_negatives_follow_training_clicks_alone() -> None:
    split = experiment.load(TINY)
    counts = experiment.training_counts(split)
    train = split.items[: split.offsets[split.num_train]]
    assert counts.tolist() == [int((train == item).sum()) for item in range(split.num_items + 1)]


def test_rows_and_their_losses() -> None:
    split = experiment.load(TINY)
    for row in experiment.ROWS[2:]:
        assert experiment.objective_of(row, split, TINY).loss is not None
    assert [experiment.loss_of(row) for row in experiment.ROWS[2:]] == ["ce", "ce", "bpr-max", "top1-max"]
    with pytest.raises(ValueError, match="its loss 'popularity' is not one of"):
        experiment.objective_of("popularity", split, TINY)


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
        objective = experiment.objective_of("gru4rec-bpr-max-parallel", split, config)
        bent = np.where(scores > 0, scores, elu * np.expm1(scores)) if elu else scores
        ours, expected = jax.jit(
            lambda h, t, s, o=objective: (
                o.loss(h, t, batch, None),
                losses.bpr_max(s[:, :4].diagonal(), s, regularisation=0.5, accidental=own),
            )
        )(*(np.asarray(x, np.float32) for x in (hidden, table, bent)))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_adagrad_is_that_of_the_authors_code() -> None:
    """v = m v - lr g / √(Σ g² + 1e-6), p = p + v; sums start at 0."""
    tx = experiment.optimiser(dataclasses.replace(TINY, learning_rate=0.1, momentum=0.3))
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
