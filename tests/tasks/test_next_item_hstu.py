"""HSTU through the next-item task: times, its objective, shortened histories, and ranking by cosines."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses, packing
from jaxrec.augment.stochastic_length import stochastic_length
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.packing import Packing
from jaxrec.tasks import candidate_scores
from jaxrec.tasks import next_item as tasks
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import Objective, uniform_softmax
from jaxrec.types import Array, Batch, Key, Variables
from tests.nn.drawn import drawn
from tests.tasks.small import (
    MAX_LEN,
    NUM_ITEMS,
    Averager,
    columns,
    split,
    training_events,
    variables_of,
)

MODEL: Any = HSTU(
    NUM_ITEMS, dim=6, num_layers=1, num_heads=2, key_dim=3, value_dim=3, max_len=MAX_LEN, spare_slots=1,
    dropout=0.0, linear_dropout=0.0,
)  # fmt: skip
ITEMS = np.ones((1, MAX_LEN), np.int32)
VARIABLES = drawn(MODEL, ITEMS, times=ITEMS)
PACKED = Packing(5, 8)
USERS = np.array([4, 0, 7, 1, 2, 3, 5, 8], np.int32)
MASK = np.array([True] * 7 + [False])
OBJECTIVE = uniform_softmax(NUM_ITEMS, 3, temperature=0.5)
both = pytest.mark.parametrize("packed", [PACKED, None], ids=["packed", "padded"])


def seconds(user: int) -> list[int]:
    """Seconds of all events of a user since its first."""
    sequences = split().sequences
    assert sequences.times is not None
    first, last = sequences.offsets[user : user + 2]
    return (sequences.times[first:last] - sequences.times[first]).tolist()


def placed(lengths: list[int], packed: Packing | None) -> dict[str, np.ndarray]:
    if packed is None:
        return {}
    placement = packing.place(jnp.asarray(lengths), rows=packed.rows, width=packed.width)
    return {"row": np.asarray(placement.row), "slot": np.asarray(placement.slot)}


@functools.cache
def prepared(packed: Packing | None) -> dict[str, np.ndarray]:
    lengths = [
        min(max(len(training_events(u)) - 1, 0), MAX_LEN) * m for u, m in zip(USERS, MASK, strict=True)
    ]
    rows = {"example": USERS, "mask": MASK, **placed(lengths, packed)}
    task = next_item(MODEL, OBJECTIVE, packed=packed)
    batch = jax.jit(task.prepare)(jax.random.key(0), rows, columns())
    return {name: np.asarray(column) for name, column in batch.items()}


@both
def test_each_event_has_its_time_and_that_of_its_target(packed: Packing | None) -> None:
    batch = prepared(packed)
    for index, user in enumerate(USERS.tolist()):
        mine = batch["segments"] == index + 1
        known = len(training_events(user)) if MASK[index] else 0
        assert batch["times"][mine].tolist() == seconds(user)[: max(known - 1, 0)][-MAX_LEN:]
        assert batch["target_times"][mine].tolist() == seconds(user)[:known][1:][-MAX_LEN:]
    empty = batch["segments"] == 0
    assert not batch["times"][empty].any() and not batch["target_times"][empty].any()


@jax.jit
def loss_of(variables: Variables, batch: Batch) -> Any:
    task = next_item(MODEL, OBJECTIVE)
    return jax.value_and_grad(lambda v: task.losses(v, batch, jax.random.key(0))[0]["next_item"])(variables)


def test_packed_rows_give_the_loss_and_gradient_of_padded_ones() -> None:
    """The same samples in both; the bias by time differs from slot to slot, and segments do not meet."""
    packed, padded = prepared(PACKED), dict(prepared(None))
    padded["samples"] = np.ones_like(padded["samples"])
    for segment in np.unique(packed["segments"])[1:]:
        at = padded["segments"] == segment
        padded["samples"][at] = packed["samples"][packed["segments"] == segment]
    value, gradient = loss_of(VARIABLES, packed)
    expected, expected_gradient = loss_of(VARIABLES, padded)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected_gradient
    )
    assert np.abs(gradient["params"]["layer_0"]["time_bias"]).max() > 1e-4
    still = {**padded, "times": padded["times"] * 0, "target_times": padded["target_times"] * 0}
    assert abs(float(loss_of(VARIABLES, still)[0]) - float(expected)) > 1e-3


def test_times_are_not_made_up() -> None:
    found = {name: column for name, column in columns().items() if name != "seconds"}
    task = next_item(MODEL, OBJECTIVE)
    with pytest.raises(ValueError, match="no column 'seconds'.*time_bias=False"):
        jax.eval_shape(task.prepare, jax.random.key(0), {"example": USERS, "mask": MASK}, found)
    silent = MODEL.clone(time_bias=False)
    rows = {"example": USERS, "mask": MASK}
    for context in (found, columns()):
        batch = jax.eval_shape(next_item(silent, OBJECTIVE).prepare, jax.random.key(0), rows, context)
        assert "times" not in batch


@pytest.mark.parametrize(
    ("model", "reads"),
    [
        (MODEL, True),
        (Cosine(MODEL), True),
        (MODEL.clone(time_bias=False), False),
        (MODEL.clone(relative_bias=False), False),
        (Averager(), False),
    ],
)
def test_whether_times_are_read_follows_from_the_encoder(model: Any, reads: bool) -> None:
    """Training and ranking ask the encoder; a batch without times is refused, not read as equal times."""
    assert tasks.reads_times(model) is reads
    batch = {name: column for name, column in prepared(None).items() if name not in ("times", "target_times")}
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))
    refused = pytest.raises(ValueError, match="reads times and the batch has none: .* time_bias=False")
    with refused if reads else contextlib.nullcontext():
        jax.eval_shape(lambda v: tasks.encode(model, v, batch, None), variables)


# --- queries ---


@functools.cache
def compiled_query(packed: Packing | None) -> Any:
    return jax.jit(tasks.retriever(MODEL, packed).query)


def vectors(packed: Packing | None, context: Any) -> np.ndarray:
    test = split().test
    queries = {"user": test.user[:5], "length": test.length[:5], "mask": np.array([True] * 4 + [False])}
    lengths = np.where(queries["mask"], np.minimum(queries["length"], MAX_LEN), 0)
    return np.asarray(compiled_query(packed)(VARIABLES, {**queries, **placed(lengths, packed)}, context))[:4]


def test_a_query_is_asked_at_the_time_of_its_target() -> None:
    """Moving the target moves the vector; packed and padded queries have the same; scores are cosines."""
    context = columns()
    before = vectors(None, context)
    np.testing.assert_allclose(vectors(PACKED, context), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(before, axis=-1), 1, rtol=1e-5)
    table = np.asarray(tasks.retriever(MODEL).items(VARIABLES))
    np.testing.assert_allclose(np.linalg.norm(table[1:], axis=-1), 1, rtol=1e-5)
    test = split().test
    moved = {**context, "seconds": context["seconds"].copy()}
    moved["seconds"][context["start"][test.user[1]] + test.length[1]] += 10**8
    change = np.abs(vectors(None, moved) - before).max(axis=-1)
    assert change[1] > 1e-4 and change[[0, 2, 3]].max() == 0


def test_ranking_reads_what_training_read() -> None:
    """The state at each event of a training row is the vector of the query that ends there, times and all."""
    task, batch = next_item(MODEL, OBJECTIVE), prepared(None)
    hidden = np.asarray(jax.jit(task.predict)(VARIABLES, batch))
    index, user = next((i, u) for i, u in enumerate(USERS.tolist()) if len(training_events(u)) == 6)
    lengths = np.arange(1, 6, dtype=np.int32)
    queries = {"user": np.full(5, user, np.int32), "length": lengths, "mask": np.ones(5, bool)}
    found = np.asarray(compiled_query(None)(VARIABLES, queries, columns()))
    np.testing.assert_allclose(found, hidden[index, 1:], rtol=1e-5, atol=1e-6)
    still = {**columns(), "seconds": columns()["seconds"] * 0}
    assert np.abs(np.asarray(compiled_query(None)(VARIABLES, queries, still)) - found).max() > 1e-2


# --- the objective ---


def scored() -> tuple[Array, Array, dict[str, Array]]:
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(2, 4, 6)), rng.normal(size=(NUM_ITEMS + 1, 6))
    hidden, table = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (hidden, table))
    targets = rng.integers(1, NUM_ITEMS + 1, (2, 4))
    samples = rng.integers(1, NUM_ITEMS + 1, (2, 4, 3))
    samples[0, 1, 2] = targets[0, 1]  # left out
    targets[1, 3] = 0
    batch = {"targets": jnp.asarray(targets), "samples": jnp.asarray(samples)}
    return jnp.asarray(hidden, jnp.float32), jnp.asarray(table, jnp.float32), batch


@pytest.mark.parametrize("limit", [0, 64], ids=["vectors", "products"])
def test_scores_over_a_temperature_are_those_of_the_research_code(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cosines, whichever way they are computed, value and gradients are `sampled_cosine_softmax`'s."""
    monkeypatch.setattr(candidate_scores, "PRODUCT_UP_TO", limit)
    hidden, table, batch = scored()
    objective = uniform_softmax(NUM_ITEMS, 3, temperature=0.2)

    def expected(hidden: Array, table: Array) -> Array:
        targets, samples = batch["targets"], batch["samples"]
        return losses.sampled_cosine_softmax(
            hidden, table, targets, samples, temperature=0.2, where=targets > 0
        )

    def ours(hidden: Array, table: Array) -> Array:
        length = jnp.linalg.norm(table, axis=-1, keepdims=True)  # the model's part
        return objective.loss(hidden, table / length, batch, None)

    found, other = (jax.jit(jax.value_and_grad(f, (0, 1)))(hidden, table) for f in (ours, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, other)


def test_shared_samples_are_one_set_for_the_batch() -> None:
    hidden, table, batch = scored()
    shared, own = uniform_softmax(NUM_ITEMS, 5, shared=True), uniform_softmax(NUM_ITEMS, 5)

    @jax.jit
    def both_losses() -> tuple[Array, Array, Array]:
        samples = shared.draw(jax.random.key(0), jnp.zeros((2, 4), jnp.int32), {})["samples"]
        each = jnp.broadcast_to(samples[0], (2, 4, 5))
        one = shared.loss(hidden, table, {**batch, "samples": samples}, None)
        return samples, one, own.loss(hidden, table, {**batch, "samples": each}, None)

    samples, found, expected = both_losses()
    assert samples.shape == (2, 5)
    assert (np.asarray(samples)[0] == np.asarray(samples)[1]).all()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_samples_are_uniform_over_all_items_and_differ_from_event_to_event() -> None:
    users = jnp.zeros((3, 40), jnp.int32)
    samples = np.asarray(uniform_softmax(NUM_ITEMS, 50).draw(jax.random.key(0), users, {})["samples"])
    assert samples.shape == (3, 40, 50)
    counts = np.bincount(samples.ravel(), minlength=NUM_ITEMS + 1)
    assert counts[0] == 0 and counts.size == NUM_ITEMS + 1
    assert np.abs(counts[1:] - 200).max() < 5 * np.sqrt(200)
    assert (samples[:, 1:] != samples[:, :-1]).any(axis=-1).all()


@pytest.mark.parametrize("change", [{"num_samples": 0}, {"temperature": 0.0}])
def test_an_objective_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        uniform_softmax(NUM_ITEMS, **{"num_samples": 3, **change})


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_shares_of_devices_add_up_to_the_loss(shared: bool) -> None:
    hidden, table, batch = scored()
    objective = uniform_softmax(NUM_ITEMS, 3, shared=shared)
    if shared:
        batch["samples"] = jnp.broadcast_to(batch["samples"][0, 0], (2, 3))

    def share(hidden: Array, batch: Batch) -> Array:
        one = jax.tree.map(lambda column: column[None], batch)
        return objective.loss(hidden[None], table, one, "devices")

    shares = jax.jit(jax.vmap(share, axis_name="devices"))(hidden, batch)
    whole = jax.jit(lambda: objective.loss(hidden, table, batch, None))()
    assert float(shares.sum()) == pytest.approx(float(whole), rel=1e-5)


# --- shortened histories ---


def shortened(packed: Packing | None, shorten: tasks.Shorten) -> dict[str, np.ndarray]:
    task = next_item(MODEL, OBJECTIVE, packed=packed, shorten=shorten)
    batch = jax.jit(task.prepare)(jax.random.key(3), {"example": USERS, "mask": MASK}, columns())
    return {name: np.asarray(column) for name, column in batch.items()}


@both
def test_events_that_stay_keep_their_targets_and_move_together(packed: Packing | None) -> None:
    """N = 4 and alpha 1.5: histories of more than 2 events are cut to 2, or whole with probability 8 / n²."""
    batch = shortened(packed, functools.partial(stochastic_length, max_len=4, alpha=1.5))
    assert batch["fits"].all()
    cut = 0
    for index, user in enumerate(USERS.tolist()):
        mine = batch["segments"] == index + 1
        events = training_events(user) if MASK[index] else []
        window = list(zip(events[:-1], events[1:], seconds(user), seconds(user)[1:], strict=False))[-MAX_LEN:]
        names = ("items", "targets", "times", "target_times")
        rows = list(zip(*(batch[name][mine].tolist() for name in names), strict=True))
        places = [window.index(row) for row in rows]
        assert places == sorted(set(places))
        assert len(rows) in ({len(window)} if len(window) <= 2 else {2, len(window)})
        assert batch["positions"][mine].tolist() == list(range(MAX_LEN - len(rows), MAX_LEN))
        cut += len(rows) < len(window)
    assert cut > 0


def test_a_history_kept_whole_is_the_batch_of_the_plain_task() -> None:
    whole, plain = shortened(None, lambda key, real: real), prepared(None)
    for name in ("items", "targets", "times", "target_times", "segments", "positions"):
        np.testing.assert_array_equal(whole[name], plain[name])


def test_a_step_that_does_not_fit_is_drawn_again_or_stops_training() -> None:
    """Here 2 rows hold 16 events, and all histories 6 + 6 + 6 + 1."""
    tight = Packing(2, 8)

    def sometimes(key: Key, real: Array) -> Array:
        return real & (jax.random.bernoulli(key, 0.3) | (jnp.arange(MAX_LEN) < 2))

    lengths = jnp.array([6, 6, 6, 1], jnp.int32)
    for shorten, expected in ((sometimes, True), (lambda key, real: real, False)):
        lay = functools.partial(tasks.lay_out_shortened, shorten=shorten, packed=tight, max_len=MAX_LEN)
        assert bool(jax.jit(lay)(jax.random.key(0), lengths)[2]) is expected
    objective = Objective(lambda key, users, context: {}, lambda hidden, *rest: hidden.sum(), "sum")
    task = next_item(Averager(), objective, shorten=sometimes)
    batch = {name: column for name, column in prepared(None).items() if name not in ("times", "target_times")}
    loss = jax.jit(lambda fits: task.losses(variables_of(Averager()), {**batch, "fits": fits}, None)[0])
    assert [np.isnan(loss(np.full(len(USERS), fits))["next_item"]) for fits in (True, False)] == [False, True]
