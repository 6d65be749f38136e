"""NANN's losses against their formulas, histories against a loop, and ranking by the same scores."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from jaxrec import sampling
from jaxrec.nn.retrieval.nann import NANN
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks.nann import Direction, divergence, histories, item_vectors, nann, score_items, scorer
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Task
from tests.lowering import repeated_float_adds
from tests.tasks import small

NEGATIVES, EPS = 3, 0.05
MODEL = NANN(small.NUM_ITEMS, 5, 4, (6, 4), (6, 4), (5,))
COUNTS = np.maximum(np.arange(small.NUM_ITEMS + 1) % 7, 1)
TABLE = sampling.popularity_table(COUNTS, alpha=1.0)
CUTS = [(0, 1), (4, 9), (4, 1), (10, 3), (1, 1), (7, 2), (8, 4), (6, 1)]  # users and events before the target


def task(**changes: Any) -> Task:
    return nann(MODEL, TABLE, num_negatives=NEGATIVES, **{"eps": EPS, **changes})


@functools.cache
def columns() -> dict[str, Any]:
    return {name: jnp.asarray(column) for name, column in small.columns().items()}


def examples() -> dict[str, Any]:
    events = [int(columns()["start"][user]) + cut for user, cut in CUTS]
    return {"example": jnp.array(events, jnp.int32), "mask": jnp.arange(8) < 7}


@functools.cache
def prepared(history: Any = "before") -> Any:
    found = jax.jit(task(history=history).prepare)(jax.random.key(0), examples(), columns())
    return jax.tree.map(np.asarray, found)


@functools.cache
def variables() -> Any:
    shapes = jax.eval_shape(lambda: task().init(jax.random.key(0), prepared()))
    rng = np.random.default_rng(0)
    found = jax.tree.map(lambda leaf: 0.6 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found["params"]["item_embedding"][0] = 0.0
    return found


@functools.cache
def losses_of(direction: Direction = "score", eps: float = EPS) -> Any:
    """The named losses and the gradient of each with respect to the parameters."""
    made = task(direction=direction, eps=eps)

    def named(params: Any) -> Any:
        return made.losses({"params": params}, prepared(), jax.random.key(1))[0]

    return jax.device_get(jax.jit(lambda p: (named(p), jax.jacrev(named)(p)))(variables()["params"]))


@functools.cache
def clean() -> tuple[np.ndarray, Any, np.ndarray]:
    """Scores of targets and negatives, what is read of histories, and items' vectors."""
    ids = np.concatenate([prepared()["targets"][:, None], prepared()["negatives"]], axis=1)
    read = MODEL.apply(variables(), prepared()["items"], method="read")
    vectors = np.asarray(item_vectors(MODEL, variables()))[ids]
    return np.asarray(MODEL.apply(variables(), read, vectors, method="score")), read, vectors


def test_a_batch_has_the_events_before_the_target() -> None:
    batch = prepared()
    for row, (user, cut) in enumerate(CUTS):
        events = small.split().sequences.user_items(user).tolist()
        history = events[:cut][-4:] if row < 7 else []
        assert batch["items"][row].tolist() == [0] * (4 - len(history)) + history
        assert batch["targets"][row] == (events[cut] if row < 7 else 0)


def test_or_all_other_training_events() -> None:
    for row, (user, cut) in enumerate(CUTS[:7]):
        events = small.training_events(user)
        if cut >= len(events):  # a target that is held out
            continue
        others = (events[:cut] + events[cut + 1 :])[-4:]
        assert prepared("others")["items"][row].tolist() == [0] * (4 - len(others)) + others
    assert not prepared("others")["items"][7].any()
    alone = columns() | {"length": jnp.ones_like(columns()["length"])}
    first = columns()["start"][:1]
    assert not histories(first, jnp.array([True]), alone, width=4, history="others").any()


def test_negatives_are_drawn_by_frequency() -> None:
    many = nann(MODEL, TABLE, num_negatives=3000).prepare(jax.random.key(3), examples(), columns())
    share = np.bincount(np.asarray(many["negatives"]).ravel(), minlength=len(COUNTS)) / 24000
    np.testing.assert_allclose(share[1:], COUNTS[1:] / COUNTS[1:].sum(), atol=0.01)


def test_the_loss_is_noise_contrastive_estimation() -> None:
    scores, _, _ = clean()
    ids = np.concatenate([prepared()["targets"][:, None], prepared()["negatives"]], axis=1)
    lowered = scores - np.log(NEGATIVES * COUNTS[ids] / COUNTS[1:].sum())
    each = np.logaddexp(0, -lowered[:, 0]) + np.logaddexp(0, lowered[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(losses_of()[0]["nce"], each[:7].mean(), rtol=1e-5)


@pytest.mark.parametrize("direction", ["score", "loss"])
def test_the_adversarial_loss_is_that_of_a_step_along_the_sign(direction: Direction) -> None:
    """The loss rises where the target's score falls and negatives' rise: there the target's step is back."""
    scores, read, vectors = clean()

    def one(row: int, place: int) -> np.ndarray:
        own = jax.tree.map(lambda leaf: leaf[row : row + 1], read)

        def value(vector: Array) -> Array:
            found: Any = MODEL.apply(variables(), own, vector[None, None], method="score")
            return found[0, 0]

        return np.asarray(jax.grad(value)(jnp.asarray(vectors[row, place])))

    sign = np.sign([[one(row, place) for place in range(1 + NEGATIVES)] for row in range(8)])
    if direction == "loss":
        sign[:, 0] *= -1
    moved = vectors + EPS * sign
    assert np.abs(moved - vectors).max() == pytest.approx(EPS, rel=1e-4)
    perturbed = np.asarray(MODEL.apply(variables(), read, jnp.asarray(moved), method="score"), np.float64)
    log_p, log_q = log_softmax(np.float64(scores), axis=1), log_softmax(perturbed, axis=1)
    each = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    found = losses_of(direction)[0]["adversarial"]
    assert found > 1e-6
    np.testing.assert_allclose(found, each[:7].mean(), rtol=1e-3)


def test_without_a_step_there_is_no_adversarial_loss() -> None:
    named, _ = losses_of(eps=0.0)
    assert list(named) == ["nce"]
    np.testing.assert_allclose(named["nce"], losses_of()[0]["nce"], rtol=1e-6)
    tiny = [float(losses_of(eps=eps)[0]["adversarial"]) for eps in (0.02, 0.04)]
    assert 0 < tiny[0] < tiny[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(losses_of()[1]))


def test_divergence_is_not_negative_and_has_no_gradient_of_the_clean_side() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1e-3, 1.0, 30.0):
        first = jnp.asarray(rng.normal(size=(50, 4)).astype(np.float32))
        second = first + scale * jnp.asarray(rng.normal(size=(50, 4)).astype(np.float32))
        assert float(divergence(first, second)) >= 0
    assert float(divergence(first, first)) == 0.0
    of_clean, of_moved = jax.grad(divergence, argnums=(0, 1))(first, second)
    assert not of_clean.any()
    expected = (jax.nn.softmax(second) - jax.nn.softmax(first)) / 50
    np.testing.assert_allclose(of_moved, expected, atol=1e-7)
    masked = divergence(first, second, where=jnp.arange(50) < 1)
    np.testing.assert_allclose(masked, divergence(first[:1], second[:1]), rtol=1e-6)
    assert float(divergence(first, second, where=jnp.zeros(50, bool))) == 0.0


def test_padded_examples_change_nothing() -> None:
    made = task()
    batch = jax.tree.map(lambda column: column[:7], prepared())
    found = jax.jit(made.losses)(variables(), batch, jax.random.key(1))[0]
    for name, value in losses_of()[0].items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_shares_of_devices_add_up() -> None:
    made = task()
    halves = jax.tree.map(lambda column: column.reshape(2, 4, *column.shape[1:]), prepared())

    def share(part: Any) -> Any:
        return made.losses(variables(), part, jax.random.key(1), "devices")[0]

    shares = jax.jit(jax.vmap(share, axis_name="devices"))(halves)
    for name, value in losses_of()[0].items():
        np.testing.assert_allclose(shares[name].sum(), value, rtol=1e-4)


def test_no_step_adds_floats_by_repeated_ids_on_cuda() -> None:
    for number in (NEGATIVES, 9):  # vectors of the ids, and of all items
        made = nann(MODEL, TABLE, num_negatives=number, eps=EPS)
        tx = optax.sgd(0.1)
        step = make_step(made, tx, static(), None)
        state = create(made, tx, static(), jax.random.key(0), examples(), columns())
        assert repeated_float_adds(jax.jit(step).trace(state, examples(), columns()), "cuda") == []


# --- ranking and searching -------------------------------------------------------------------------------


def test_ranking_and_searching_read_the_same_scores() -> None:
    users, cuts = (np.array(part, np.int32) for part in zip(*CUTS, strict=True))
    queries = {"user": users, "length": cuts, "mask": np.arange(8) < 7}
    model = scorer(MODEL)
    every = jax.jit(model.scores)(variables(), queries, columns())
    assert every.shape == (8, small.NUM_ITEMS + 1)
    ids = np.random.default_rng(0).integers(1, small.NUM_ITEMS + 1, (8, 5)).astype(np.int32)
    assert model.some is not None
    expected = np.take_along_axis(np.asarray(every), ids, axis=1)
    np.testing.assert_allclose(jax.jit(model.some)(variables(), queries, columns(), ids), expected, rtol=1e-4)
    read = prepared()["items"]
    for vectors in (None, item_vectors(MODEL, variables())):
        found = score_items(MODEL, variables(), vectors)(jnp.asarray(read), jnp.asarray(ids))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    scored = task().predict(variables(), prepared())
    np.testing.assert_allclose(scored, clean()[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_negatives": 0}, "num_negatives=0: must be at least 1"),
        ({"eps": -1.0}, "eps=-1.0: must be 0 or more"),
        ({"eps": float("nan")}, "eps=nan: must be 0 or more"),
        ({"direction": "up"}, "direction='up': must be one of 'score', 'loss'"),
        ({"history": "after"}, "history='after': must be one of 'before', 'others'"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nann(MODEL, TABLE, **changes)
