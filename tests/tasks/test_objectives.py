"""Objectives over a loss that is given: its name, its negatives, and the value of slow NumPy."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses, sampling
from jaxrec.data.events.clusters import one_cluster
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import interests
from jaxrec.tasks.cluster_retrieval import in_cluster_softmax
from jaxrec.tasks.next_click import sigmoid_softmax
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import (
    Objective,
    draw_nothing,
    full_softmax,
    negatives,
    sampled,
    sampled_softmax,
    shared_negatives,
    uniform_softmax,
    with_tables,
)
from jaxrec.train.epoch import make_epoch, shuffled
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array
from tests.lowering import closed_over
from tests.tasks import small
from tests.tasks.small import NUM_ITEMS

COUNTS = np.arange(NUM_ITEMS + 1)
SHARED = negatives(COUNTS, num_samples=5, alpha=0.75, logq=1.0)
rng = np.random.default_rng(0)
HIDDEN = rng.normal(size=(2, 3, 4)).astype(np.float32)
TABLE = rng.normal(size=(NUM_ITEMS + 1, 4)).astype(np.float32)
TARGETS = np.array([[0, 3, 7], [30, 1, 2]], np.int32)
REAL = TARGETS != 0


def margin(pos: Array, neg: Array, *, where: Array, axis_name: str | None) -> Array:
    """A loss of one negative alone, as a user may write it."""
    return losses.masked_mean(jnp.maximum(neg - pos + 1.0, 0.0), where, axis_name)


def excluded_width() -> int:
    return int(small.columns()["excluded_length"].max())


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "name", "description"),
    [
        (sampled(losses.bce, NUM_ITEMS, 3), "bce", "bce"),
        (sampled(losses.bpr, NUM_ITEMS, 3, num_negatives=4), "bpr", "bpr, 4 negatives an event"),
        (sampled(functools.partial(losses.bpr_max, regularisation=0.5), NUM_ITEMS, 3), "bpr-max", "bpr-max"),
        (sampled(margin, NUM_ITEMS, 3, name="hinge", description="hinge, 1"), "hinge", "hinge, 1"),
        (
            sampled(losses.sampled_softmax, NUM_ITEMS, None, num_negatives=4),
            "ssm",
            "ssm, 4 negatives an event from all items",
        ),
        (sampled(losses.bce, NUM_ITEMS, None), "bce", "bce, 1 negatives an event from all items"),
        (full_softmax(), "ce", "ce"),
        (
            uniform_softmax(NUM_ITEMS, 128),
            "ssm",
            "softmax of cosines / 0.05, 128 uniform negatives an event",
        ),
        (
            uniform_softmax(NUM_ITEMS, 8, shared=True, temperature=0.1),
            "ssm",
            "softmax of cosines / 0.1, 8 uniform negatives a batch",
        ),
        (
            sampled_softmax(4, sampling.popularity_table(COUNTS, alpha=1.0)),
            "ssm-logq",
            "sampled softmax, logQ 1; 4 by popularity, shared by the batch",
        ),
        (
            shared_negatives(losses.sampled_softmax, SHARED),
            "ssm",
            "sampled softmax, logQ 1; in-batch negatives and 5 ∝ frequency^0.75",
        ),
        (
            shared_negatives(losses.top1_max, SHARED),
            "top1-max",
            "top1-max; in-batch negatives and 5 ∝ frequency^0.75",
        ),
        (sigmoid_softmax(), "sigmoid", "sigmoid softmax"),
        (in_cluster_softmax(one_cluster(NUM_ITEMS), 3), "ssm", "sampled softmax"),
    ],
)
def test_an_objective_says_what_it_trains(objective: Objective, name: str, description: str) -> None:
    assert (objective.name, objective.description) == (name, description)


@pytest.mark.parametrize("name", ["", "two words", "bpr "])
def test_a_name_is_one_word(name: str) -> None:
    with pytest.raises(ValueError, match=f"name={name!r}: must be one word"):
        Objective(draw_nothing, losses.bpr, name)


def test_a_loss_without_a_name_is_given_one() -> None:
    nameless = lambda pos, neg, **rest: losses.bpr(pos, neg, **rest)  # noqa: E731
    with pytest.raises(ValueError, match="has no name of its own; give one, such as name='bpr'"):
        sampled(nameless, NUM_ITEMS, 3)
    assert sampled(nameless, NUM_ITEMS, 3, name="mine").name == "mine"


# --- values --------------------------------------------------------------------------------------------


def value(objective: Objective, ids: np.ndarray, targets: np.ndarray = TARGETS) -> Any:
    """The loss and its gradient with respect to hidden states."""
    batch = {"targets": targets, "negatives": ids}
    of = jax.jit(jax.value_and_grad(lambda hidden: objective.loss(hidden, jnp.asarray(TABLE), batch, None)))
    return of(HIDDEN)


def drawn(number: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, NUM_ITEMS + 1, (*TARGETS.shape, *[number] * (number > 1)))


def slow_scores(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of real targets [M] and of their negatives [M, N], by a loop."""
    at = np.argwhere(REAL)
    ids = ids.reshape(*TARGETS.shape, -1)
    pos = np.array([HIDDEN[r, s] @ TABLE[TARGETS[r, s]] for r, s in at])
    return pos, np.array([[HIDDEN[r, s] @ TABLE[j] for j in ids[r, s]] for r, s in at])


SLOW = {
    "bce": lambda pos, neg: np.log1p(np.exp(-pos)) + np.log1p(np.exp(neg)).sum(axis=1),
    "bpr": lambda pos, neg: np.log1p(np.exp(neg - pos[:, None])).mean(axis=1),
    "sampled_softmax": lambda pos, neg: np.log1p(np.exp(neg - pos[:, None]).sum(axis=1)),
    "top1": lambda pos, neg: (1 / (1 + np.exp(pos[:, None] - neg)) + 1 / (1 + np.exp(-(neg**2)))).mean(
        axis=1
    ),
}


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("name", SLOW)
def test_a_sampled_objective_equals_slow_numpy(name: str, number: int) -> None:
    """`top1` wants an axis of negatives even where there is one; the others take either."""
    objective = sampled(getattr(losses, name), NUM_ITEMS, 3, num_negatives=number)
    found, gradient = value(objective, drawn(number))
    assert float(found) == pytest.approx(SLOW[name](*slow_scores(drawn(number))).mean(), rel=1e-5)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~REAL] == 0).all()


def test_a_softmax_of_every_other_item_is_the_full_one() -> None:
    others = np.array(
        [[[j for j in range(1, NUM_ITEMS + 1) if j != t][: NUM_ITEMS - 1] for t in r] for r in TARGETS]
    )
    number = NUM_ITEMS - 1
    objective = sampled(losses.sampled_softmax, NUM_ITEMS, None, num_negatives=number)
    full = full_softmax(num_items=NUM_ITEMS)
    for found, expected in zip(value(objective, others), value(full, others), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_negatives_that_are_the_target_stay(copies: int) -> None:
    """They raise the loss, by at most log(1 + c) for c copies."""
    ids = drawn(4) % (NUM_ITEMS - 1) + 1
    ids = np.where(ids == TARGETS[..., None], ids % NUM_ITEMS + 1, ids)
    hit = ids.copy()
    hit[..., :copies] = np.maximum(TARGETS, 1)[..., None]
    objective = sampled(losses.sampled_softmax, NUM_ITEMS, None, num_negatives=4)
    same, _ = value(objective, np.concatenate([ids[..., copies:], hit[..., :copies]], -1))
    fewer = sampled(losses.sampled_softmax, NUM_ITEMS, None, num_negatives=4 - copies)
    without, _ = value(fewer, ids[..., copies:].squeeze(-1) if copies == 3 else ids[..., copies:])
    assert 0 < float(same - without) <= np.log(1 + copies) + 1e-6


@pytest.mark.parametrize("number", [1, 4])
def test_without_a_target_a_sampled_objective_is_zero(number: int) -> None:
    objective = sampled(losses.bpr, NUM_ITEMS, 3, num_negatives=number)
    found, gradient = value(objective, drawn(number), 0 * TARGETS)
    assert float(found) == 0.0
    assert (np.asarray(gradient) == 0).all()


def test_a_loss_of_one_negative_is_not_given_several() -> None:
    found, _ = value(sampled(margin, NUM_ITEMS, 3), drawn(1))
    pos, neg = slow_scores(drawn(1))
    assert float(found) == pytest.approx(np.maximum(neg[:, 0] - pos + 1, 0).mean(), rel=1e-5)
    for number in (2, 5, 7):
        with pytest.raises(
            ValueError, match=f"loss 'margin': does not take num_negatives={number}: expected"
        ):
            sampled(margin, NUM_ITEMS, 3, num_negatives=number)


def test_a_loss_has_to_give_one_number() -> None:
    with pytest.raises(
        ValueError, match="loss 'each': does not take num_negatives=1.*in place of one number"
    ):
        sampled(lambda pos, neg, **rest: neg - pos, NUM_ITEMS, 3, name="each")


@pytest.mark.parametrize("number", [0, -1])
def test_there_is_a_negative(number: int) -> None:
    with pytest.raises(ValueError, match=f"num_negatives={number}: must be at least 1"):
        sampled(losses.bpr, NUM_ITEMS, 3, num_negatives=number)


# --- draws ---------------------------------------------------------------------------------------------


def test_each_event_gets_its_own_items_that_the_user_has_not_used() -> None:
    columns = small.columns()
    users = jnp.array([[4, 4], [0, 8]])
    objective = sampled(losses.bpr, NUM_ITEMS, excluded_width(), num_negatives=500)
    found = np.asarray(jax.jit(objective.draw)(jax.random.key(3), users, columns)["negatives"])
    assert found.shape == (2, 2, 500)
    for row, slot in np.ndindex(2, 2):
        used = set(small.training_events(int(users[row, slot])))
        assert set(found[row, slot].tolist()) == set(range(1, NUM_ITEMS + 1)) - used
    assert (found[0, 0] != found[0, 1]).any()


def test_negatives_of_all_items_are_uniform_and_of_each_event() -> None:
    objective = sampled(losses.sampled_softmax, NUM_ITEMS, None, num_negatives=500)
    draw = jax.jit(objective.draw)
    first, again, other = (
        np.asarray(draw(jax.random.key(seed), jnp.zeros((2, 3), jnp.int32), {})["negatives"])
        for seed in (0, 0, 1)
    )
    counts = np.bincount(first.reshape(-1), minlength=NUM_ITEMS + 1)
    assert counts[0] == 0 and len(counts) == NUM_ITEMS + 1
    mean = first.size / NUM_ITEMS
    assert ((counts[1:] - mean) ** 2 / mean).sum() < 2 * NUM_ITEMS  # chi-square
    assert (first == again).all() and (first != other).any() and (first[0, 0] != first[0, 1]).any()


def test_one_negative_an_event_is_one_draw_of_the_sampler() -> None:
    columns, users, key = small.columns(), jnp.array([[4, 0, 7]]), jax.random.key(3)
    objective = sampled(losses.bce, NUM_ITEMS, excluded_width())
    expected, _ = sampling.uniform_excluding_flat(
        key,
        num_items=NUM_ITEMS,
        excluded=columns["excluded"],
        start=columns["excluded_start"][users],
        count=columns["excluded_length"][users],
        width=excluded_width(),
    )
    np.testing.assert_array_equal(objective.draw(key, users, columns)["negatives"], expected)


# --- training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
def test_bpr_trains_sasrec(number: int) -> None:
    model = SASRec(NUM_ITEMS, dim=8, inner_dim=8, num_layers=1, num_heads=1, max_len=6, dropout=0.1)
    objective = sampled(losses.bpr, NUM_ITEMS, excluded_width(), num_negatives=number)
    task, tx, columns = (
        next_item(model, objective),
        optax.adam(0.01),
        jax.tree.map(jnp.asarray, small.columns()),
    )
    plan = shuffled(len(small.LENGTHS), 4)
    first = first_step(plan, columns)
    started = jax.jit(lambda key, first, columns: create(task, tx, static(), key, first, columns))
    state = started(jax.random.key(0), first, columns)
    run = jax.jit(make_epoch(make_step(task, tx, static()), plan))
    found = []
    for epoch in range(20):
        state, means = run(state, columns, jnp.int32(epoch), jnp.int32(0))
        found.append(float(means["next_item"]))
    assert np.mean(found[-3:]) < 0.75 * np.mean(found[:3])


def first_step(plan: Any, columns: Any) -> Any:
    drawn, _ = jax.jit(plan.draw)(jax.random.key(0), columns)
    return jax.tree.map(lambda column: np.asarray(column)[0], drawn)


# --- tables are arguments of a program -----------------------------------------------------------------

MANY = 5000  # items, and users


def many_columns() -> dict[str, Any]:
    return {"items": jnp.arange(MANY) + 1, "start": jnp.arange(0, MANY, 2), "length": jnp.full(MANY // 2, 2)}


@pytest.mark.parametrize(
    "objective",
    [
        sampled_softmax(4, sampling.popularity_table(np.arange(MANY + 1), alpha=1.0)),
        shared_negatives(losses.bpr_max, negatives(np.arange(MANY + 1), num_samples=4, alpha=0.5, logq=1.0)),
    ],
    ids=lambda objective: objective.name,
)
def test_no_program_holds_the_table_of_an_objective(objective: Objective) -> None:
    context = with_tables(many_columns(), objective)
    users, targets = jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), jnp.int32)
    hidden, table = jnp.zeros((2, 3, 4)), jnp.zeros((MANY + 1, 4))

    def step(context: Any, hidden: Any, table: Any) -> Any:
        batch = {"targets": targets, **objective.draw(jax.random.key(0), users, context)}
        return objective.loss(hidden, table, batch, None)

    assert closed_over(step, context, hidden, table) <= targets.size
    with pytest.raises(ValueError, match="lacks the tables that the objective reads; give the columns as"):
        objective.draw(jax.random.key(0), users, many_columns())


@pytest.mark.parametrize("plan_of", [interests.one_cut, interests.every_event])
def test_no_program_holds_a_list_of_users_or_events(plan_of: Any) -> None:
    columns = many_columns()
    split = SimpleNamespace(sequences=SimpleNamespace(num_users=MANY // 2))
    plan = plan_of(SimpleNamespace(split=split, columns=columns), 64)
    assert closed_over(plan.draw, jax.random.key(0), columns) == 0
    drawn, _ = plan.draw(jax.random.key(0), columns)
    assert np.asarray(drawn["mask"]).sum() == MANY // 2
