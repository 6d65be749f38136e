"""The other candidates of a batch as negatives: against slow NumPy, at the edges, on several devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from tests.programs import run

rng = np.random.default_rng(0)
SIZE, MORE, DIM = 6, 4, 5
QUERIES, CANDIDATES = rng.normal(size=(2, SIZE, DIM)).astype(np.float32)
OTHERS = rng.normal(size=(MORE, DIM)).astype(np.float32)
IDS, OTHER_IDS = np.array([3, 1, 3, 4, 1, 2], np.int32), np.array([4, 7, 0, 8], np.int32)
LOG_PROB, OTHER_LOG_PROB = (np.log(rng.uniform(0.05, 0.5, n)).astype(np.float32) for n in (SIZE, MORE))
WHERE = np.array([1, 1, 1, 0, 1, 1], bool)
WEIGHT = rng.uniform(0.5, 2.0, SIZE).astype(np.float32)
EXTRA = losses.Extra(OTHERS, OTHER_IDS, OTHER_LOG_PROB)
Loss = Callable[..., Any]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.3},
    "logq": {"temperature": 0.3, "log_prob": LOG_PROB},
    "logq inside": {"temperature": 0.3, "log_prob": LOG_PROB, "inside": True},
    "logq of negatives": {"log_prob": LOG_PROB, "correct_positive": False},
    "hits": {"ids": IDS},
    "masked": {"ids": IDS, "where": WHERE},
    "weighted": {"weight": WEIGHT, "where": WHERE},
    "hardest": {"ids": IDS, "log_prob": LOG_PROB, "num_hardest": 2},
    "following": {"following": 2},
    "mixed": {"ids": IDS, "log_prob": LOG_PROB, "extra": EXTRA, "where": WHERE},
    "everything": {
        "temperature": 0.5, "ids": IDS, "log_prob": LOG_PROB, "extra": EXTRA, "num_hardest": 3,
        "following": 3, "weight": WEIGHT, "where": WHERE,
    },
}  # fmt: skip
every_case = pytest.mark.parametrize("name", CASES)


def slow(queries: np.ndarray, candidates: np.ndarray, **options: Any) -> float:
    """The loss from its formula, one example and one candidate after another, in float64."""
    get = options.get
    tau, extra, where = get("temperature", 1.0), get("extra"), get("where", np.ones(SIZE, bool))
    following = get("following") or SIZE
    total = 0.0
    for i in np.flatnonzero(where):
        negatives = []
        for j in np.flatnonzero(where):
            near = (j - i) % SIZE <= following
            hit = get("ids") is not None and IDS[j] == IDS[i]
            if j != i and near and not hit:
                negatives.append((candidates[j], LOG_PROB[j]))
        if extra is not None:
            negatives += [
                (vector, log_prob)
                for vector, number, log_prob in zip(*extra, strict=True)
                if number != 0 and number != IDS[i]
            ]

        def corrected(vector: np.ndarray, log_prob: float, i: Any = i, positive: bool = False) -> float:
            score = float(queries[i].astype(np.float64) @ vector) / tau
            if get("log_prob") is None or (positive and not get("correct_positive", True)):
                return score
            return score - log_prob / (tau if get("inside") else 1.0)

        own = corrected(candidates[i], LOG_PROB[i], positive=True)
        scores = sorted((corrected(*negative) for negative in negatives), reverse=True)[: get("num_hardest")]
        loss = np.log(sum(np.exp(s - own) for s in scores) + 1)
        total += loss * (1.0 if get("weight") is None else WEIGHT[i])
    return float(total / where.sum())


@every_case
def test_the_loss_is_that_of_the_formula(name: str) -> None:
    found = jax.jit(functools.partial(losses.in_batch_softmax, **CASES[name]))(QUERIES, CANDIDATES)
    np.testing.assert_allclose(found, slow(QUERIES, CANDIDATES, **CASES[name]), rtol=1e-5)


def split(options: dict[str, Any], devices: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that are arrays, a part for each device, and the others."""
    arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray | losses.Extra)}
    parts = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), arrays)
    return parts, {name: value for name, value in options.items() if name not in arrays}


@pytest.mark.parametrize("name", ["masked", "hardest", "following", "mixed", "everything"])
def test_the_negatives_are_those_of_all_devices(name: str) -> None:
    loss: Loss = losses.in_batch_softmax
    arrays, constants = split(CASES[name], devices=2)

    def total(queries: Any, candidates: Any) -> Any:
        share = functools.partial(loss, axis_name="devices", **constants)
        shares: Loss = jax.vmap(lambda q, c, a: share(q, c, **a), axis_name="devices")
        parts = [a.reshape(2, SIZE // 2, DIM) for a in (queries, candidates)]
        return shares(*parts, arrays).sum()

    both = jax.jit(jax.value_and_grad(total, (0, 1)))(QUERIES, CANDIDATES)
    whole = functools.partial(loss, **CASES[name])
    expected = jax.jit(jax.value_and_grad(whole, (0, 1)))(QUERIES, CANDIDATES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), both, expected)


def test_no_extra_candidates_are_the_plain_loss_bit_for_bit() -> None:
    none = losses.Extra(OTHERS[:0], OTHER_IDS[:0], OTHER_LOG_PROB[:0])
    options = {"ids": IDS, "log_prob": LOG_PROB}
    with_none = jax.jit(functools.partial(losses.in_batch_softmax, extra=none, **options))
    without = jax.jit(functools.partial(losses.in_batch_softmax, **options))
    assert with_none(QUERIES, CANDIDATES) == without(QUERIES, CANDIDATES)


def test_only_extra_candidates_give_an_unseen_item_a_gradient() -> None:
    def loss(others: Any) -> Any:
        return losses.in_batch_softmax(QUERIES, CANDIDATES, extra=losses.Extra(others))

    assert np.abs(jax.jit(jax.grad(loss))(OTHERS)).min() > 0


@pytest.mark.parametrize("shift", [0.0, np.log(7.0)])
def test_equal_probabilities_change_nothing(shift: float) -> None:
    plain = run(losses.in_batch_softmax, QUERIES, CANDIDATES, log_prob=np.zeros(SIZE, np.float32))
    equal = np.full(SIZE, shift, np.float32)
    np.testing.assert_allclose(
        run(losses.in_batch_softmax, QUERIES, CANDIDATES, log_prob=equal), plain, rtol=1e-6
    )


# --- edges -----------------------------------------------------------------------------------------


def with_gradient(queries: np.ndarray, candidates: np.ndarray, **options: Any) -> tuple[Any, Any]:
    loss = functools.partial(losses.in_batch_softmax, **options)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(queries, candidates)
    return value, np.concatenate([np.asarray(g).ravel() for g in gradients])


@pytest.mark.parametrize("num_hardest", [None, 2])
def test_a_batch_of_one_item_has_no_negative_and_no_loss(num_hardest: int | None) -> None:
    same = np.full(SIZE, 9, np.int32)
    value, gradient = with_gradient(QUERIES, CANDIDATES, ids=same, num_hardest=num_hardest)
    assert value == 0.0 and not gradient.any()


def test_one_example_has_no_negative_and_no_loss() -> None:
    value, gradient = with_gradient(QUERIES[:1], CANDIDATES[:1])
    assert value == 0.0 and not gradient.any()


def test_a_batch_without_a_real_example_costs_nothing() -> None:
    value, gradient = with_gradient(QUERIES, CANDIDATES, where=np.zeros(SIZE, bool), log_prob=LOG_PROB)
    assert value == 0.0 and not gradient.any()


def test_a_repeated_positive_is_no_negative_of_its_query() -> None:
    """Row 1 twice: neither is a negative of the other, and both are of the rest."""
    rows = np.array([0, 1, 1])
    value = run(losses.in_batch_softmax, QUERIES[rows], CANDIDATES[rows], ids=rows.astype(np.int32))
    scores = QUERIES[rows].astype(np.float64) @ CANDIDATES[rows].T
    terms = [np.log1p(2 * np.exp(scores[0, 1] - scores[0, 0]))]
    terms += 2 * [np.log1p(np.exp(scores[1, 0] - scores[1, 1]))]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-5)


def test_padding_changes_nothing_and_has_no_gradient() -> None:
    rows = np.flatnonzero(WHERE)
    alone = run(losses.in_batch_softmax, QUERIES[rows], CANDIDATES[rows], log_prob=LOG_PROB[rows])
    log_prob = np.where(WHERE, LOG_PROB, -np.inf).astype(np.float32)  # padding is never drawn
    loss = functools.partial(losses.in_batch_softmax, log_prob=log_prob, where=WHERE)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(QUERIES, CANDIDATES)
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and not np.asarray(gradient)[~WHERE].any()


def test_an_example_of_weight_zero_is_still_a_negative() -> None:
    weight = np.where(np.arange(SIZE) == 2, 0.0, 1.0).astype(np.float32)
    loss = functools.partial(losses.in_batch_softmax, weight=weight)
    of_query, of_candidate = jax.jit(jax.grad(loss, (0, 1)))(QUERIES, CANDIDATES)
    assert not np.asarray(of_query)[2].any() and np.asarray(of_candidate)[2].any()


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_scores_stay_finite(scale: float) -> None:
    value, gradient = with_gradient(
        np.float32(scale) * QUERIES, CANDIDATES, ids=IDS, log_prob=LOG_PROB, temperature=0.05
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_candidates_that_are_no_negatives_have_no_gradient() -> None:
    def loss(others: Any) -> Any:
        extra = losses.Extra(others, np.zeros(MORE, np.int32))
        return losses.in_batch_softmax(QUERIES, CANDIDATES, ids=IDS, extra=extra)

    assert not np.asarray(jax.jit(jax.grad(loss))(OTHERS)).any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0: must be positive"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"following": 0}, "following=0: must be at least 1"),
        ({"num_hardest": 0}, r"number=0: must be in 1\.\.6"),
        ({"num_hardest": 7}, "number=7"),
        ({"ids": IDS, "extra": losses.Extra(OTHERS)}, "ids: give those of the batch and of extra"),
        ({"log_prob": LOG_PROB, "extra": losses.Extra(OTHERS)}, "log_prob: give that of the batch and of"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        losses.in_batch_softmax(QUERIES, CANDIDATES, **options)


# --- scores for other losses, and hard negatives ---------------------------------------------------


def test_scores_of_a_batch_serve_any_loss_of_negatives() -> None:
    found = losses.in_batch_scores(jnp.asarray(QUERIES), jnp.asarray(CANDIDATES), ids=jnp.asarray(IDS))
    scores = QUERIES @ CANDIDATES.T
    used = IDS[:, None] != IDS
    np.testing.assert_allclose(found.pos, np.diag(scores), rtol=1e-6)
    expected = np.mean(
        [np.log1p(np.exp(scores[i, used[i]] - scores[i, i])).mean() for i in range(SIZE)], dtype=np.float64
    )
    value = losses.bpr(found.pos, found.neg, accidental=found.accidental)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_hardest_negatives_are_the_largest_that_are_left() -> None:
    neg = np.array([[3.0, 5.0, 4.0, 1.0], [3.0, 5.0, 4.0, 1.0]], np.float32)
    left_out = np.array([[0, 1, 0, 0], [1, 1, 1, 0]], bool)
    found, none = run(losses.hardest_negatives, neg, number=2, accidental=left_out)
    np.testing.assert_array_equal(found[0], [4.0, 3.0])
    np.testing.assert_array_equal(none, [[False, False], [False, True]])
    assert found[1, 0] == 1.0


def test_triplets_of_hard_negatives_have_a_gradient_where_they_are_violated_alone() -> None:
    def loss(pos: Any, neg: Any) -> Any:
        hardest, none = losses.hardest_negatives(neg, 1)
        return losses.hinge(pos, hardest, margin=0.2, accidental=none)

    pos, neg = np.array([0.9, 0.5], np.float32), np.array([[0.6, 0.1], [0.4, 0.2]], np.float32)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(pos, neg)
    np.testing.assert_allclose(value, (0.0 + (0.2 - 0.5 + 0.4)) / 2, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], [0.0, -0.5])
    np.testing.assert_allclose(gradients[1], [[0.0, 0.0], [0.5, 0.0]])


# --- two views -------------------------------------------------------------------------------------


def test_info_nce_of_equal_vectors_is_the_log_of_their_number() -> None:
    same = np.ones((SIZE, DIM), np.float32)
    np.testing.assert_allclose(run(losses.info_nce, same, same), np.log(SIZE), rtol=1e-5)


def test_symmetric_info_nce_is_the_mean_of_both_directions() -> None:
    both = run(losses.info_nce, QUERIES, CANDIDATES, symmetric=True)
    one = [run(losses.info_nce, a, b) for a, b in ((QUERIES, CANDIDATES), (CANDIDATES, QUERIES))]
    np.testing.assert_allclose(both, np.mean(one), rtol=1e-6)
    assert one[0] != one[1]


def test_info_nce_does_not_see_lengths_of_vectors() -> None:
    longer = QUERIES * np.arange(1, SIZE + 1, dtype=np.float32)[:, None]
    plain = run(losses.info_nce, QUERIES, CANDIDATES)
    np.testing.assert_allclose(run(losses.info_nce, longer, CANDIDATES), plain, rtol=1e-5)
    assert run(losses.info_nce, longer, CANDIDATES, normalise=False) != plain


# --- the correction --------------------------------------------------------------------------------


def test_the_correction_brings_the_gradient_towards_that_of_all_items() -> None:
    """Batches of targets drawn by their frequency: the mean gradient by the vector of a query."""
    items, draws, size = 12, 512, 64
    frequency = np.arange(1, items + 1) ** 2.0
    frequency /= frequency.sum()
    generator = np.random.default_rng(3)
    table, query = generator.normal(size=(items, 4)), generator.normal(size=4)
    batches = generator.choice(items, size=(draws, size), p=frequency)
    batches[:, 0] = 5  # the target of the query, the first of its batch

    def gradient(log_prob: np.ndarray | None) -> np.ndarray:
        def of_batch(q: Any, ids: Any) -> Any:
            vectors, weight = jnp.asarray(table, jnp.float32)[ids], jnp.arange(size) == 0
            correction = None if log_prob is None else jnp.asarray(log_prob, jnp.float32)[ids]
            queries = jnp.broadcast_to(q, (size, 4))
            return size * losses.in_batch_softmax(
                queries, vectors, ids=ids, log_prob=correction, weight=weight.astype(jnp.float32)
            )

        found = jax.jit(jax.vmap(jax.grad(of_batch), in_axes=(None, 0)))(query.astype(np.float32), batches)
        return np.asarray(found).mean(axis=0)

    scores = np.exp(table @ query)
    full = (scores / scores.sum()) @ table - table[5]
    # the number of times that an item is expected among the other rows; the target stands there once
    expected = np.where(np.arange(items) == 5, 1.0, (size - 1) * frequency)
    errors = [np.linalg.norm(gradient(q) - full) for q in (np.log(expected), None)]
    assert errors[0] < 0.5 * errors[1]
