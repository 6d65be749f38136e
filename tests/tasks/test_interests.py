"""Batches of cuts against a loop over users; losses and queries by formulas; plans of epochs."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrec import sampling
from jaxrec.nn.retrieval.comirec import ComiRecSA
from jaxrec.nn.retrieval.mind import MIND
from jaxrec.nn.retrieval.poly_encoder import PolyEncoder
from jaxrec.nn.retrieval.sine import SINE
from jaxrec.protocols import interests as plans
from jaxrec.protocols import next_item
from jaxrec.tasks import objectives
from jaxrec.tasks.interests import IN_BATCH, filled, in_batch_softmax, interests, retriever
from jaxrec.types import Array, Interests
from tests.tasks import small

SMALL: dict[str, Any] = {"num_items": small.NUM_ITEMS, "dim": 5, "max_len": 4}
MODEL = ComiRecSA(**SMALL, num_interests=2)
FULL = objectives.full_softmax(8)


@functools.cache
def columns() -> dict[str, Any]:
    return {name: jnp.asarray(column) for name, column in small.columns().items()}


def start(user: int) -> int:
    return int(columns()["start"][user])


CUTS = [(0, 1), (4, 9), (4, 1), (10, 3), (1, 5), (7, 2), (8, 4), (6, 1)]  # users and events before the target


def examples() -> dict[str, Array]:
    events = [start(user) + cut for user, cut in CUTS]
    return {"example": jnp.array(events, jnp.int32), "mask": jnp.arange(8) < 7}


@functools.cache
def prepared(model: Any = MODEL, objective: Any = FULL) -> dict[str, np.ndarray]:
    task = interests(model, objective)
    context = objectives.with_tables(columns(), objective)
    return jax.tree.map(np.asarray, dict(jax.jit(task.prepare)(jax.random.key(0), examples(), context)))


@functools.cache
def variables(model: Any = MODEL) -> Any:
    batch = prepared(model, None if isinstance(model, PolyEncoder) else FULL)
    users = {"users": batch["users"]} if "users" in batch else {}
    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), batch["items"], **users))
    rng = np.random.default_rng(0)
    found = jax.tree.map(lambda leaf: 0.7 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found["params"]["item_embedding"][0] = 0.0
    return found


def losses_of(model: Any, objective: Any, axis: str | None = None) -> Any:
    """The named losses of the batch; with an axis, the shares of two devices."""
    task, batch = interests(model, objective), prepared(model, objective)

    def share(part: Any) -> Any:
        return task.losses(variables(model), part, jax.random.key(1), axis)[0]

    if axis is None:
        return jax.jit(share)(batch)
    halves = jax.tree.map(lambda column: column.reshape(2, 4, *column.shape[1:]), batch)
    return jax.jit(jax.vmap(share, axis_name=axis))(halves)


def read_out(model: Any, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The vector of each row's target, and the table."""
    found = jax.jit(functools.partial(model.apply, train=False))(variables(model), batch["items"])
    table = np.asarray(variables(model)["params"]["item_embedding"], np.float64)
    scores = np.where(found.active, np.einsum("bkd,bd->bk", found.vectors, table[batch["targets"]]), -np.inf)
    return np.asarray(found.vectors)[np.arange(8), scores.argmax(axis=1)], table


def test_a_batch_holds_the_events_before_each_cut() -> None:
    batch = prepared()
    for i, (user, cut) in enumerate(CUTS):
        events = small.split().sequences.user_items(user).tolist()
        real = i < 7
        history = events[:cut][-4:] if real else []
        assert batch["items"][i].tolist() == [0] * (4 - len(history)) + history
        assert batch["targets"][i] == (events[cut] if real else 0)


def test_the_loss_is_that_of_the_vector_read_out_for_the_target() -> None:
    batch = prepared()
    state, table = read_out(MODEL, batch)
    each = log_softmax(state @ table[1:].T, axis=1)[np.arange(8), np.maximum(batch["targets"], 1) - 1]
    found = losses_of(MODEL, FULL)
    assert list(found) == ["interests"]
    np.testing.assert_allclose(found["interests"], -each[:7].mean(), rtol=1e-5)


def test_samples_shared_or_of_each_example_are_scored_with_that_vector() -> None:
    counts = np.arange(small.NUM_ITEMS + 1)
    popular = objectives.sampled_softmax(6, sampling.popularity_table(counts, alpha=1.0))
    log_q = np.asarray(sampling.popularity_table(counts, alpha=1.0).log_prob)
    own = objectives.uniform_softmax(small.NUM_ITEMS, 3, temperature=1.0)
    for objective, correction in ((popular, log_q), (own, np.zeros_like(log_q))):
        batch = prepared(MODEL, objective)
        state, table = read_out(MODEL, batch)
        total = []
        for row in range(7):
            target, samples = batch["targets"][row], batch["samples"][row]
            others = samples[samples != target]
            scores = table[np.append(target, others)] @ state[row] - correction[np.append(target, others)]
            total.append(logsumexp(scores) - scores[0])
        np.testing.assert_allclose(losses_of(MODEL, objective)["interests"], np.mean(total), rtol=1e-5)


PENALISED = SINE(**SMALL, num_interests=2, num_prototypes=4)
POLY = PolyEncoder(**SMALL, num_interests=2)


@pytest.mark.parametrize(("model", "objective"), [(PENALISED, FULL), (POLY, None)])
def test_shares_of_devices_add_up(model: Any, objective: Any) -> None:
    """Of devices that hold different numbers of real examples, and of losses of the parameters alone."""
    whole, shares = losses_of(model, objective), losses_of(model, objective, "devices")
    assert set(whole) == set(shares) == {"interests"} | ({"prototypes"} if model is PENALISED else set())
    for name, value in whole.items():
        assert float(value) > 0
        np.testing.assert_allclose(shares[name].sum(), value, rtol=1e-5)


def test_the_targets_of_a_batch_are_each_others_negatives() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    targets = np.array([3, 5, 3, 0])  # the third is the item of the first, the fourth none
    rows = [
        logsumexp(scores[i, kept]) - scores[i, i] for i, kept in ((0, [0, 1]), (1, [0, 1, 2]), (2, [1, 2]))
    ]
    np.testing.assert_allclose(in_batch_softmax(scores, targets), np.mean(rows), rtol=1e-6)
    none = in_batch_softmax(scores, np.zeros(4, np.int32))
    assert float(none) == 0.0
    vectors = jnp.asarray(variables(POLY)["params"]["item_embedding"])[prepared(POLY, None)["targets"]]
    found = POLY.apply(variables(POLY), prepared(POLY, None)["items"], train=False)
    expected = in_batch_softmax(POLY.scores(found, vectors), jnp.asarray(prepared(POLY, None)["targets"]))
    np.testing.assert_allclose(losses_of(POLY, None)["interests"], expected, rtol=1e-5)


def test_a_query_has_an_active_vector_wherever_one_is_not() -> None:
    active = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 1]], bool)
    vectors = np.arange(18, dtype=np.float32).reshape(3, 3, 2) * active[..., None]
    found = np.asarray(filled(Interests(jnp.asarray(vectors), jnp.asarray(active))))
    assert found[0].tolist() == [vectors[0, 1].tolist(), *vectors[0, 1:].tolist()]
    assert found[1].tolist() == [vectors[1, 0].tolist()] * 3
    assert found[2].tolist() == vectors[2].tolist()


def test_queries_are_the_interests_of_the_events_before_a_target() -> None:
    model = MIND(**SMALL, num_interests=3)
    task = interests(model, FULL)
    users, cuts = np.array([user for user, _ in CUTS], np.int32), np.array([cut for _, cut in CUTS], np.int32)
    queries = {"user": users, "length": cuts, "mask": np.arange(8) < 7}
    ranked = retriever(model)
    found = np.asarray(jax.jit(ranked.query)(variables(model), queries, columns()))
    read = jax.jit(task.predict)(variables(model), prepared(model))
    np.testing.assert_allclose(found, filled(read), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        ranked.items(variables(model)), variables(model)["params"]["item_embedding"]
    )
    assert not found[-1].any() and np.asarray(read.active).sum(axis=1).tolist() == [1, 2, 1, 1, 2, 1, 2, 1]


def test_users_are_read_where_the_model_has_a_table_of_them() -> None:
    model = MODEL.clone(num_users=len(small.LENGTHS))
    assert prepared(model)["users"].tolist() == [user + 1 for user, _ in CUTS]
    queries = {"user": np.array([4]), "length": np.array([9]), "mask": np.array([True])}
    found = jax.jit(retriever(model).query)(variables(model), queries, columns())
    predicted = jax.jit(interests(model, FULL).predict)(variables(model), prepared(model)).vectors
    np.testing.assert_allclose(found[0], predicted[1], rtol=1e-5, atol=1e-6)


class Hidden(nn.Module):
    """An encoder of sequences, which is no model of interests."""

    max_len: int = 4

    @nn.compact
    def __call__(self, items: Array, *, train: bool) -> Array:
        return nn.Embed(9, 2)(items)

    def item_table(self) -> Array:
        return self.variables["params"]["Embed_0"]["embedding"]


class Bare(Hidden):
    def readout(self, interests: Interests, target: Array) -> Array:
        return target


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        (Hidden(), FULL, "has no readout"),
        (Bare(), FULL, "must be jaxrec.types.Interests"),
        (MODEL, None, "no scores"),
    ],
)
def test_other_models_are_refused(model: Any, objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interests(model, objective)


# --- plans ---------------------------------------------------------------------------------------------


def drawn(plan: Any, seed: int = 0) -> list[int]:
    rows, ok = jax.jit(plan.draw)(jax.random.key(seed), columns())
    assert bool(ok)
    return np.asarray(rows["example"])[np.asarray(rows["mask"])].tolist()


def data() -> next_item.Data:
    return next_item.Data(small.split(), small.columns(), 0, 0, 0)


def targets(least: int) -> list[list[int]]:
    """Events that have `least` earlier ones in training, by user."""
    lengths = [len(small.training_events(user)) for user in range(len(small.LENGTHS))]
    return [[start(user) + cut for cut in range(least, n)] for user, n in enumerate(lengths)]


@pytest.mark.parametrize("least", [1, 3])
def test_an_epoch_has_every_event_with_enough_before_it(least: int) -> None:
    plan = plans.every_event(data(), 4, least=least)
    assert sorted(drawn(plan)) == [event for events in targets(least) for event in events]
    assert drawn(plan) != drawn(plan, 1)


def test_no_program_holds_a_list_of_events() -> None:
    plan, number = plans.every_event(data(), 4), sum(map(len, targets(1)))
    text = jax.jit(plan.draw).lower(jax.random.key(0), small.columns()).as_text()
    constants = [line for line in text.splitlines() if "constant dense<" in line]
    assert constants and not any(f"tensor<{number}x" in line for line in constants)


@pytest.mark.parametrize("least", [1, 3])
def test_an_epoch_has_one_cut_of_each_user(least: int) -> None:
    plan = plans.one_cut(data(), 4, least=least)
    own = {event: user for user, events in enumerate(targets(least)) for event in events}
    seen = set()
    for seed in range(40):
        events = drawn(plan, seed)
        assert sorted(own[event] for event in events) == [
            u for u, found in enumerate(targets(least)) if found
        ]
        seen |= set(events)
    assert seen == set(own)  # each cut comes at some time


@pytest.mark.parametrize("plan", [plans.every_event, plans.one_cut])
def test_plans_without_a_target_are_refused(plan: Any) -> None:
    with pytest.raises(ValueError, match="least=0"):
        plan(data(), 4, least=0)
    with pytest.raises(ValueError, match="least=50: no user has more than 50 training events"):
        plan(data(), 4, least=50)


def test_the_softmax_over_a_batch_is_for_models_that_score() -> None:
    """By name as by None; another task refuses it before a step is made."""
    with pytest.raises(ValueError, match=r"objective=None: ComiRecSA has no scores\(interests, vectors\)"):
        interests(MODEL, IN_BATCH)
    model = PolyEncoder(**SMALL, num_interests=2)
    assert "samples" not in interests(model, IN_BATCH).prepare(jax.random.key(0), examples(), columns())
    with pytest.raises(ValueError, match="in-batch: scores the targets of a batch by the model's own"):
        IN_BATCH.draw(jax.random.key(0), jnp.zeros(2, jnp.int32), columns())
