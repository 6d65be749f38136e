"""Batches of the next-item task against a loop over raw sequences, and packed rows against padded ones."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrec import losses, packing, sampling
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.packing import Packing
from jaxrec.tasks import next_item as tasks
from jaxrec.tasks import objectives
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import Objective
from jaxrec.train.epoch import shuffled
from jaxrec.types import SHARED, Batch, Context, Variables
from tests.tasks.small import (
    LENGTHS,
    MAX_LEN,
    NUM_ITEMS,
    Averager,
    columns,
    split,
    training_events,
    variables_of,
)

PACKED = Packing(5, 8)
USERS = [4, 0, 7, 1, 2, 3, 5, 8]
MASK = [True, True, True, True, True, True, True, False]
place = jax.jit(packing.place, static_argnames=("rows", "width"))
both = pytest.mark.parametrize("packed", [PACKED, None], ids=["packed", "padded"])


def rows_of(packed: Packing | None) -> dict[str, np.ndarray]:
    """A step's rows, with the place of every user."""
    rows: dict[str, Any] = {"example": np.array(USERS, np.int32), "mask": np.array(MASK)}
    if packed is not None:
        lengths = np.array([len(inputs_of(i)[0]) for i in range(len(USERS))])
        placement = place(lengths, rows=packed.rows, width=packed.width)
        assert packing.fits(placement, lengths, packed.rows)
        rows |= {"row": np.asarray(placement.row), "slot": np.asarray(placement.slot)}
    return rows


def inputs_of(index: int) -> tuple[list[int], list[int]]:
    """Inputs and targets of one example of the batch."""
    events = training_events(USERS[index]) if MASK[index] else []
    return events[:-1][-MAX_LEN:], events[1:][-MAX_LEN:]


@functools.cache
def prepared(
    packed: Packing | None, reject: str = "train"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns and a batch with sampled negatives."""
    found = columns(reject=reject)
    width = int(found["excluded_length"].max())
    task = next_item(Averager(), objectives.sampled(losses.bce, NUM_ITEMS, width), packed=packed)
    batch = jax.jit(task.prepare)(jax.random.key(1), rows_of(packed), found)
    return found, {name: np.asarray(column) for name, column in batch.items()}


@both
def test_every_example_holds_its_last_inputs_targets_and_positions(packed: Packing | None) -> None:
    _, batch = prepared(packed)
    for index in range(len(USERS)):
        mine = batch["segments"] == index + 1
        inputs, targets = inputs_of(index)
        assert len({*np.nonzero(mine)[0].tolist()}) <= 1  # in one row
        assert batch["items"][mine].tolist() == inputs
        assert batch["targets"][mine].tolist() == targets
        assert batch["positions"][mine].tolist() == list(range(MAX_LEN - len(inputs), MAX_LEN))


@both
def test_slots_without_an_event_are_padding(packed: Packing | None) -> None:
    _, batch = prepared(packed)
    empty = batch["segments"] == 0
    assert empty.any()
    assert (batch["items"][empty] == 0).all()
    assert (batch["targets"][empty] == 0).all()


def test_users_with_fewer_than_two_training_events_and_masked_ones_add_nothing() -> None:
    _, batch = prepared(PACKED)
    assert [len(inputs_of(i)[0]) for i in range(len(USERS))] == [MAX_LEN, 0, 6, 5, 0, 0, 1, 0]
    assert {*np.unique(batch["segments"]).tolist()} == {0, 1, 3, 4, 7}


@both
@pytest.mark.parametrize("reject", ["train", "all"])
def test_negatives_are_items_a_user_has_not_used(packed: Packing | None, reject: str) -> None:
    _, batch = prepared(packed, reject)
    for index, user in enumerate(USERS):
        used = split().sequences.user_items(user).tolist() if reject == "all" else training_events(user)
        negatives = batch["negatives"][batch["segments"] == index + 1]
        assert ((negatives >= 1) & (negatives <= NUM_ITEMS)).all()
        assert not {*negatives.tolist()} & {*used}


def test_every_item_a_user_has_not_used_is_drawn_and_no_other() -> None:
    found = columns()
    draw = objectives.sampled(losses.bce, NUM_ITEMS, int(found["excluded_length"].max())).draw
    users = np.full((40, 40), 4, np.int32)
    negatives = np.asarray(jax.jit(draw)(jax.random.key(0), users, found)["negatives"])
    assert {*negatives.ravel().tolist()} == {*range(1, NUM_ITEMS + 1)} - {*training_events(4)}


def test_held_out_items_never_reach_a_training_batch() -> None:
    found = jax.tree.map(jnp.asarray, columns())
    task = next_item(Averager(), objectives.full_softmax(), packed=None)
    plan = shuffled(len(LENGTHS), 4)
    rows, _ = plan.draw(jax.random.key(0), found)
    batches = jax.jit(jax.vmap(lambda r: task.prepare(jax.random.key(0), r, found)))(rows)
    held_out = {*split().validation.target.tolist(), *split().test.target.tolist()}
    assert held_out == {*held_out} & {*range(21, 31)}
    read = {*np.unique(batches["items"]).tolist(), *np.unique(batches["targets"]).tolist()}
    assert {0} < read <= {0, *range(1, 21)}


# --- objectives against NumPy ------------------------------------------------------------------------


def scored() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Random hidden states [2, 5, 4], a table of all items and a batch with padding."""
    rng = np.random.default_rng(3)
    targets = rng.integers(1, NUM_ITEMS + 1, (2, 5))
    targets[0, :2] = 0
    return rng.normal(size=(2, 5, 4)), rng.normal(size=(NUM_ITEMS + 1, 4)), {"targets": targets}


def loss_of(objective: Objective, hidden: np.ndarray, table: np.ndarray, batch: Batch) -> float:
    loss = jax.jit(objective.loss, static_argnums=3)
    return float(loss(hidden.astype(np.float32), table.astype(np.float32), batch, None))


def test_bce_is_the_mean_over_real_events_of_both_terms() -> None:
    hidden, table, batch = scored()
    negatives = np.random.default_rng(4).integers(1, NUM_ITEMS + 1, (2, 5))
    terms = []
    for at in zip(*np.nonzero(batch["targets"]), strict=True):
        positive, negative = hidden[at] @ table[batch["targets"][at]], hidden[at] @ table[negatives[at]]
        terms.append(np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative)))
    got = loss_of(
        objectives.sampled(losses.bce, NUM_ITEMS, 3), hidden, table, {**batch, "negatives": negatives}
    )
    assert got == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("block", [7, 4096])
def test_full_softmax_is_cross_entropy_over_all_items_but_padding(block: int) -> None:
    hidden, table, batch = scored()
    log_prob = log_softmax(hidden @ table[1:].T, axis=-1)
    terms = [
        -log_prob[at][batch["targets"][at] - 1] for at in zip(*np.nonzero(batch["targets"]), strict=True)
    ]
    assert loss_of(objectives.full_softmax(block), hidden, table, batch) == pytest.approx(
        np.mean(terms), rel=1e-5
    )


def test_sampled_softmax_corrects_for_popularity_and_leaves_out_the_target() -> None:
    hidden, table, batch = scored()
    counts = np.arange(NUM_ITEMS + 1)
    popularity = sampling.popularity_table(counts, alpha=1.0)
    samples = np.array([30, 29, int(batch["targets"][1, 0]), 28])
    log_q = np.log(np.maximum(counts, 1) / counts.sum())
    terms = []
    for at in zip(*np.nonzero(batch["targets"]), strict=True):
        target = batch["targets"][at]
        ids = np.array([target, *samples[samples != target]])
        logits = table[ids] @ hidden[at] - log_q[ids]
        terms.append(logsumexp(logits) - logits[0])
    got = loss_of(
        objectives.sampled_softmax(4, popularity),
        hidden,
        table,
        {**batch, "samples": np.tile(samples, (2, 1)), SHARED: {objectives.TABLES: popularity}},
    )
    assert got == pytest.approx(np.mean(terms), rel=1e-5)


def test_sampled_softmax_draws_one_set_for_the_whole_batch() -> None:
    objective = objectives.sampled_softmax(5, sampling.popularity_table(np.arange(NUM_ITEMS + 1), alpha=0.75))
    draw = jax.jit(objective.draw)
    users = np.zeros((3, 4), np.int32)
    context = objectives.with_tables({}, objective)
    samples = np.asarray(draw(jax.random.key(0), users, context)["samples"])
    assert samples.shape == (3, 5)
    assert (samples == samples[0]).all()
    assert ((samples >= 1) & (samples <= NUM_ITEMS)).all()


# --- packed against padded ---------------------------------------------------------------------------


def same_draws(packed: Batch, padded: Batch, name: str) -> np.ndarray:
    """A column of the packed batch, laid out as the padded one."""
    out = np.zeros(padded["items"].shape, np.int32)
    for segment in np.unique(packed["segments"])[1:]:
        out[padded["segments"] == segment] = packed[name][packed["segments"] == segment]
    return out


def close(a: Any, b: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol), a, b)


OBJECTIVES = {
    "bce": objectives.sampled(losses.bce, NUM_ITEMS, 3),
    "full": objectives.full_softmax(8),
    "sampled": objectives.sampled_softmax(4, sampling.popularity_table(np.arange(NUM_ITEMS + 1), alpha=1.0)),
}
MODEL = Averager()


@jax.jit
def weighted(variables: Variables, batch: Batch, weights: Any) -> Any:
    """A weighted sum of the losses of all objectives, and its gradient."""

    def total(variables: Variables) -> Any:
        losses = {
            name: next_item(MODEL, objective).losses(variables, batch, jax.random.key(0))[0]["next_item"]
            for name, objective in OBJECTIVES.items()
        }
        return sum(jnp.where(weights[name] > 0, loss, 0) for name, loss in losses.items())

    return jax.value_and_grad(total)(variables)


def with_draws(packed: Packing | None) -> dict[str, Any]:
    """A batch for any objective; the same negatives and samples in both forms."""
    batch = dict(prepared(packed)[1])
    if packed is None:
        batch["negatives"] = same_draws(prepared(PACKED)[1], batch, "negatives")
    tables = {SHARED: {objectives.TABLES: OBJECTIVES["sampled"].tables}}
    return batch | {"samples": np.tile(np.array([3, 9, 20, 30]), (len(batch["items"]), 1))} | tables


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_packed_and_padded_losses_and_gradients_are_equal(objective: str) -> None:
    weights = {name: float(name == objective) for name in OBJECTIVES}
    loss, gradient = weighted(variables_of(MODEL), with_draws(PACKED), weights)
    expected, expected_gradient = weighted(variables_of(MODEL), with_draws(None), weights)
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
    close(gradient, expected_gradient)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_without_a_real_event_has_loss_zero_and_no_gradient(objective: str) -> None:
    weights = {name: float(name == objective) for name in OBJECTIVES}
    kept = ("negatives", "samples", "row", SHARED)
    empty = {
        name: column if name in kept else np.zeros_like(column) for name, column in with_draws(PACKED).items()
    }
    loss, gradient = weighted(variables_of(MODEL), empty, weights)
    assert float(loss) == 0.0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_dropout_of_a_row_depends_on_its_number_alone() -> None:
    model = Averager(dropout=0.5)
    variables = variables_of(model)
    _, batch = prepared(PACKED)
    order = np.array([3, 1, 4, 0, 2])
    run = jax.jit(lambda b: tasks.encode(model, variables, b, jax.random.key(5)))
    moved = {name: column[order] for name, column in batch.items()}
    np.testing.assert_allclose(run(moved), np.asarray(run(batch))[order], rtol=1e-5, atol=1e-6)
    renumbered = run({**batch, "row": batch["row"] + 1})
    assert np.abs(np.asarray(renumbered) - np.asarray(run(batch))).max() > 0.1


# --- queries -----------------------------------------------------------------------------------------


def queries_of(packed: Packing | None) -> dict[str, np.ndarray]:
    test = split().test
    count = 6
    found: dict[str, Any] = {
        "user": test.user[:count],
        "length": test.length[:count],
        "mask": np.array([True] * 5 + [False]),
    }
    if packed is not None:
        lengths = np.where(found["mask"], np.minimum(found["length"], MAX_LEN), 0)
        placement = place(lengths, rows=packed.rows, width=packed.width)
        found |= {"row": np.asarray(placement.row), "slot": np.asarray(placement.slot)}
    return found


@both
def test_a_query_reads_the_events_before_its_target(packed: Packing | None) -> None:
    queries = queries_of(packed)
    batch = jax.jit(lambda q, c: tasks.query_batch(q, c, packed, MAX_LEN))(queries, columns())
    for index, (user, length) in enumerate(zip(queries["user"], queries["length"], strict=True)):
        mine = np.asarray(batch["segments"]) == index + 1
        events = (
            split().sequences.user_items(user)[:length].tolist()[-MAX_LEN:] if queries["mask"][index] else []
        )
        assert np.asarray(batch["items"])[mine].tolist() == events
        assert np.asarray(batch["positions"])[mine].tolist() == list(range(MAX_LEN - len(events), MAX_LEN))


def test_packed_and_padded_queries_have_the_same_vectors() -> None:
    model = Averager()
    variables = variables_of(model)
    vectors = {
        packed: jax.jit(tasks.retriever(model, packed).query)(variables, queries_of(packed), columns())
        for packed in (PACKED, None)
    }
    real = queries_of(None)["mask"]
    np.testing.assert_allclose(vectors[PACKED][real], vectors[None][real], rtol=1e-5, atol=1e-6)
    first_two = {"items": np.pad(split().sequences.user_items(0)[:2], (MAX_LEN - 2, 0))[None]}
    first_two |= {
        "positions": np.arange(MAX_LEN)[None],
        "segments": (first_two["items"] > 0).astype(np.int32),
    }
    alone = jax.jit(lambda v: tasks.encode(model, v, first_two, None))(variables)
    np.testing.assert_allclose(vectors[None][0], alone[0, -1], rtol=1e-5, atol=1e-6)


@both
def test_an_encoder_that_takes_slots_gives_the_vectors_of_one_that_gives_all(packed: Packing | None) -> None:
    model = SASRec(NUM_ITEMS, dim=8, num_layers=2, inner_dim=8, max_len=MAX_LEN)
    variables = variables_of(model)
    retriever = tasks.retriever(model, packed)

    def both_ways(variables: Variables, queries: Batch, context: Context) -> tuple[jax.Array, jax.Array]:
        batch = tasks.query_batch(queries, context, packed, MAX_LEN)
        hidden = tasks.encode(model, variables, batch, None)
        every = tasks.last_hidden(hidden, queries, packed, MAX_LEN)
        return retriever.query(variables, queries, context), every

    found, expected = jax.jit(both_ways)(variables, queries_of(packed), columns())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_packed_query_without_events_reads_nobody_elses() -> None:
    """Zeros, whatever stands in the last slot of the packed rows, which another user's events may fill."""
    hidden = np.arange(1.0, 2 * 4 * 3 + 1).reshape(2, 4, 3).astype(np.float32)
    queries = {
        "length": np.array([4, 0, 9, 4], np.int32),
        "mask": np.array([True, True, True, False]),
        "row": np.array([0, 2, 1, 2], np.int32),
        "slot": np.zeros(4, np.int32),
    }
    found = np.asarray(jax.jit(lambda h, q: tasks.last_hidden(h, q, Packing(2, 4), 4))(hidden, queries))
    np.testing.assert_array_equal(found, [hidden[0, 3], [0, 0, 0], hidden[1, 3], [0, 0, 0]])


def test_sampled_bce_needs_an_item_that_is_not_used() -> None:
    objectives.sampled(losses.bce, 5, 4)
    with pytest.raises(ValueError, match="a user has used all 5 items, so there is no negative"):
        objectives.sampled(losses.bce, 5, 5)


def test_number_of_parameters() -> None:
    assert (
        tasks.num_parameters({"params": {"a": jnp.zeros((3, 4)), "b": jnp.zeros(5)}, "other": jnp.zeros(9)})
        == 17
    )
