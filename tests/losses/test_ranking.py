"""Losses: by hand, against slow NumPy, under transformations, at extreme scores, with nothing to average."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.types import Array
from tests.programs import run

rng = np.random.default_rng(0)
POS, NEG = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(4, 3, 5)).astype(np.float32)
WHERE = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
HIDDEN, TABLE = rng.normal(size=(4, 3, 6)).astype(np.float32), rng.normal(size=(12, 6)).astype(np.float32)
TARGETS = np.where(WHERE, rng.integers(1, 11, size=(4, 3)), 0)
Z1, Z2 = rng.normal(size=(2, 4, 6)).astype(np.float32)
LAST = WHERE[:, 0]


def log_softmax_loss(scores: np.ndarray, target: int) -> float:
    scores = scores.astype(np.float64)
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target])


# --- masked_mean ---


def test_masked_mean_reads_only_marked_entries() -> None:
    values = jnp.array([1.0, jnp.nan, 3.0])
    assert run(losses.masked_mean, values, jnp.array([True, False, True])) == (1.0 + 3.0) / 2


def test_masked_mean_of_nothing_is_zero() -> None:
    assert run(losses.masked_mean, np.ones(3, np.float32), np.zeros(3, bool)) == 0.0


def test_masked_mean_broadcasts_its_mask() -> None:
    values = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    assert run(losses.masked_mean, values, jnp.array([[True], [False]])) == (1.0 + 2.0) / 2


# --- by hand ---


def test_bce_by_hand() -> None:
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0)) + np.log1p(np.exp(-3.0))
    np.testing.assert_allclose(
        run(losses.bce, jnp.array([2.0]), jnp.array([[1.0, -3.0]])), expected, rtol=1e-6
    )


def test_bce_agrees_with_the_form_with_1e_24_inside_the_logarithm() -> None:
    neg = NEG[..., 0]
    sigmoid = [1 / (1 + np.exp(-x.astype(np.float64))) for x in (POS, neg)]
    expected = (-np.log(sigmoid[0] + 1e-24) - np.log(1 - sigmoid[1] + 1e-24))[WHERE].mean()
    np.testing.assert_allclose(run(losses.bce, POS, neg, where=WHERE), expected, rtol=1e-5)


def test_bpr_averages_over_negatives() -> None:
    expected = (np.log1p(np.exp(1.0 - 2.0)) + np.log1p(np.exp(4.0 - 2.0))) / 2
    np.testing.assert_allclose(
        run(losses.bpr, jnp.array([2.0]), jnp.array([[1.0, 4.0]])), expected, rtol=1e-6
    )


def test_bpr_with_one_negative_equals_a_softmax_over_the_pair() -> None:
    one = NEG[..., :1]
    np.testing.assert_allclose(run(losses.bpr, POS, one), run(losses.sampled_softmax, POS, one), rtol=1e-6)


@pytest.mark.parametrize("num_negatives", [1, 5])
def test_sampled_softmax_of_equal_scores_is_the_log_of_their_number(num_negatives: int) -> None:
    loss = run(losses.sampled_softmax, np.ones(2, np.float32), np.ones((2, num_negatives), np.float32))
    np.testing.assert_allclose(loss, np.log(1 + num_negatives), rtol=1e-6)


def test_sampled_softmax_lowers_scores_of_frequent_items() -> None:
    log_prob = np.log(np.array([0.5, 0.25], np.float32))
    loss = run(
        losses.sampled_softmax,
        jnp.array([0.0]),
        jnp.array([[0.0]]),
        pos_log_prob=log_prob[:1],
        neg_log_prob=log_prob[None, 1:],
    )
    np.testing.assert_allclose(loss, -np.log(2.0 / (2.0 + 4.0)), rtol=1e-6)  # weights 1/Q: 2 against 4


def test_sampled_softmax_over_every_item_equals_the_full_softmax() -> None:
    ids = np.arange(1, 12)
    pos = np.sum(HIDDEN * TABLE[TARGETS], -1)
    uniform = {
        "pos_log_prob": np.full(pos.shape, -3.0, np.float32),
        "neg_log_prob": np.full((*pos.shape, 11), -3.0, np.float32),
    }
    sampled = run(
        losses.sampled_softmax,
        pos,
        HIDDEN @ TABLE[ids].T,
        accidental=ids == TARGETS[..., None],
        where=WHERE,
        **uniform,
    )
    full = run(losses.softmax_cross_entropy, HIDDEN, TABLE, TARGETS, where=WHERE)
    np.testing.assert_allclose(sampled, full, rtol=1e-5)


def test_sampled_softmax_wants_both_log_probabilities() -> None:
    with pytest.raises(ValueError, match="go together"):
        run(
            losses.sampled_softmax,
            np.ones(2, np.float32),
            np.ones((2, 1), np.float32),
            pos_log_prob=np.ones(2, np.float32),
        )


# --- full softmax ---


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize(
    ("num_items", "include_padding", "rows"),
    [(None, False, slice(1, 12)), (None, True, slice(0, 12)), (10, False, slice(1, 11))],
)
def test_softmax_cross_entropy_equals_slow_numpy(
    block: int, num_items: int | None, include_padding: bool, rows: slice
) -> None:
    scores = HIDDEN.astype(np.float64) @ TABLE[rows].T
    expected = np.mean(
        [log_softmax_loss(scores[i, j], TARGETS[i, j] - rows.start) for i, j in np.argwhere(WHERE)]
    )
    loss = run(
        losses.softmax_cross_entropy,
        HIDDEN,
        TABLE,
        TARGETS,
        where=WHERE,
        num_items=num_items,
        include_padding=include_padding,
        block=block,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["as it is", "compiled"])
def test_products_are_a_matrix_product_with_its_gradients(
    transform: Callable[..., Callable[..., Array]],
) -> None:
    hidden, table = (jnp.asarray(x, jnp.float32) for x in (HIDDEN, TABLE))
    scores, pull = jax.vjp(transform(losses.dot_products), hidden, table)
    np.testing.assert_allclose(scores, np.einsum("...d,vd->...v", HIDDEN, TABLE), atol=1e-5)
    g = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    of_hidden, of_table = pull(jnp.asarray(g))
    np.testing.assert_allclose(of_hidden, np.einsum("...v,vd->...d", g, TABLE), atol=1e-5)
    tokens = g.reshape(-1, len(TABLE)), HIDDEN.reshape(-1, HIDDEN.shape[-1])
    np.testing.assert_allclose(of_table, np.einsum("tv,td->vd", *tokens), atol=1e-5)


def test_softmax_cross_entropy_has_the_gradient_of_the_plain_form() -> None:
    def plain(hidden: Array, table: Array) -> Array:
        log_probs = jax.nn.log_softmax(hidden @ table[1:].T, axis=-1)
        picked = jnp.take_along_axis(log_probs, jnp.maximum(TARGETS - 1, 0)[..., None], axis=-1)[..., 0]
        return losses.masked_mean(-picked, WHERE)

    def blocked(hidden: Array, table: Array) -> Array:
        return losses.softmax_cross_entropy(hidden, table, TARGETS, where=WHERE, block=4)

    expected = jax.jit(jax.grad(plain, (0, 1)))(HIDDEN, TABLE)
    found = jax.jit(jax.grad(blocked, (0, 1)))(HIDDEN, TABLE)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_softmax_cross_entropy_never_holds_tokens_times_items() -> None:
    hidden, table = np.ones((64, 8), np.float32), np.ones((4001, 8), np.float32)
    targets = np.ones(64, np.int32)
    step = jax.jit(jax.grad(lambda h, t: losses.softmax_cross_entropy(h, t, targets, block=100), (0, 1)))
    memory = step.lower(hidden, table).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 64 * 4000 * 4  # bytes of all scores in float32


@pytest.mark.parametrize("num_items", [0, 12])
def test_softmax_cross_entropy_refuses_more_items_than_rows(num_items: int) -> None:
    with pytest.raises(ValueError, match=f"num_items={num_items}"):
        run(losses.softmax_cross_entropy, HIDDEN, TABLE, TARGETS, num_items=num_items)


# --- contrastive ---


def slow_nt_xent(
    z1: np.ndarray, z2: np.ndarray, temperature: float, normalise: bool, where: np.ndarray
) -> float:
    z = np.concatenate([z1[where], z2[where]]).astype(np.float64)
    if normalise:
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    half, terms = len(z) // 2, []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        scores = np.array([z[i] @ z[j] for j in others]) / temperature
        terms.append(log_softmax_loss(scores, others.index((i + half) % len(z))))
    return float(np.mean(terms))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("where", [np.ones(4, bool), LAST], ids=["all", "some"])
def test_nt_xent_equals_slow_numpy(normalise: bool, temperature: float, where: np.ndarray) -> None:
    loss = run(losses.nt_xent, Z1, Z2, temperature=temperature, normalise=normalise, where=where)
    np.testing.assert_allclose(loss, slow_nt_xent(Z1, Z2, temperature, normalise, where), rtol=1e-5)


def test_nt_xent_of_one_example_is_zero() -> None:
    np.testing.assert_allclose(run(losses.nt_xent, Z1[:1], Z2[:1]), 0.0, atol=1e-6)


def test_nt_xent_does_not_care_which_view_is_first() -> None:
    np.testing.assert_allclose(run(losses.nt_xent, Z1, Z2), run(losses.nt_xent, Z2, Z1), rtol=1e-6)


def test_nt_xent_is_smaller_for_equal_views_than_for_shuffled_ones() -> None:
    assert run(losses.nt_xent, Z1, Z1) < run(losses.nt_xent, Z1, Z1[::-1])


def test_nt_xent_with_cosines_survives_zero_vectors() -> None:
    grad = jax.jit(jax.grad(losses.nt_xent))(np.zeros((4, 6), np.float32), jnp.asarray(Z2))
    assert jnp.isfinite(grad).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_nt_xent_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        run(losses.nt_xent, Z1, Z2, temperature=temperature)


# --- what holds for all: each case maps four arrays with a leading axis and a mask to a loss ---

Case = Callable[..., Array]
CASES: dict[str, tuple[Case, tuple[np.ndarray, ...], np.ndarray]] = {
    "bce": (losses.bce, (POS, NEG), WHERE),
    "bpr": (losses.bpr, (POS, NEG), WHERE),
    "bpr_max": (losses.bpr_max, (POS, NEG), WHERE),
    "top1": (losses.top1, (POS, NEG), WHERE),
    "top1_max": (losses.top1_max, (POS, NEG), WHERE),
    "sampled_softmax": (losses.sampled_softmax, (POS, NEG), WHERE),
    "softmax_cross_entropy": (
        lambda h, where, axis_name=None: losses.softmax_cross_entropy(
            h,
            jnp.asarray(TABLE),
            jnp.ones(h.shape[:-1], jnp.int32),
            where=where,
            axis_name=axis_name,
            block=4,
        ),
        (HIDDEN,),
        WHERE,
    ),
    "nt_xent": (losses.nt_xent, (Z1, Z2), LAST),
    "nt_xent_dot": (
        lambda a, b, where, axis_name=None: losses.nt_xent(
            a, b, normalise=False, where=where, axis_name=axis_name
        ),
        (Z1, Z2),
        LAST,
    ),
}
every_loss = pytest.mark.parametrize("name", CASES)


@every_loss
def test_jit_changes_nothing(name: str) -> None:
    loss, arrays, where = CASES[name]
    jitted = jax.jit(lambda *a: loss(*a, where=where))(*arrays)
    np.testing.assert_allclose(jitted, loss(*arrays, where=where), rtol=1e-6)


@every_loss
def test_vmap_equals_a_loop(name: str) -> None:
    loss, arrays, where = CASES[name]
    batches = [np.stack([a, 2 * a]) for a in arrays]
    mapped = jax.jit(jax.vmap(lambda *a: loss(*a, where=where)))(*batches)
    looped = [loss(*a, where=where) for a in zip(*batches, strict=True)]
    np.testing.assert_allclose(mapped, np.stack(looped), rtol=1e-6)


@every_loss
def test_shares_of_devices_and_their_gradients_add_up(name: str) -> None:
    loss, arrays, where = CASES[name]
    halves = [a.reshape(2, 2, *a.shape[1:]) for a in (*arrays, where)]

    def total(*arrays: Array) -> Array:
        shares = jax.vmap(lambda *a: loss(*a[:-1], where=a[-1], axis_name="devices"), axis_name="devices")(
            *arrays, halves[-1]
        )
        return shares.sum()

    every = tuple(range(len(arrays)))
    value, grads = jax.jit(jax.value_and_grad(total, every))(*halves[:-1])
    whole, expected = jax.jit(jax.value_and_grad(lambda *a: loss(*a, where=where), every))(*arrays)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    for ours, theirs in zip(grads, expected, strict=True):
        np.testing.assert_allclose(np.reshape(ours, theirs.shape), theirs, atol=1e-6)


@every_loss
def test_nothing_real_gives_zero_with_zero_gradient(name: str) -> None:
    loss, arrays, where = CASES[name]
    value, grads = jax.jit(jax.value_and_grad(lambda a: loss(*a, where=np.zeros_like(where))))(arrays)
    assert value == 0.0
    assert all((np.asarray(g) == 0.0).all() for g in grads)


@every_loss
def test_masked_entries_get_no_gradient(name: str) -> None:
    loss, arrays, where = CASES[name]
    for grad in jax.jit(jax.grad(lambda a: loss(*a, where=where)))(arrays):
        assert (np.asarray(grad)[~where] == 0.0).all()
        assert (np.asarray(grad)[where] != 0.0).any()


@every_loss
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_scores_keep_value_and_gradient_finite(name: str, scale: float) -> None:
    loss, arrays, where = CASES[name]
    scale = scale if name not in ("nt_xent_dot",) else scale / 100  # its scores are products of two inputs
    run = jax.jit(jax.value_and_grad(lambda a: loss(*a, where=where)))
    value, grads = run(tuple(scale * a for a in arrays))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


@every_loss
def test_a_permuted_batch_has_the_same_loss(name: str) -> None:
    loss, arrays, where = CASES[name]
    permuted = loss(*(a[::-1] for a in arrays), where=where[::-1])
    np.testing.assert_allclose(permuted, loss(*arrays, where=where), rtol=1e-6)


@pytest.mark.parametrize("name", ["bpr", "sampled_softmax"])
def test_a_constant_added_to_all_scores_changes_nothing(name: str) -> None:
    loss, (pos, neg), where = CASES[name]
    np.testing.assert_allclose(loss(pos + 3, neg + 3, where=where), loss(pos, neg, where=where), rtol=1e-5)
