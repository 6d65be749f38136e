"""TIGER: a step with a cache is teacher forcing, padding and later codes change nothing, T5's positions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.retrieval.tiger import TIGER, Attention, buckets

B, L, D, K, W = 3, 4, 3, 5, 6
SIZES: dict[str, Any] = {
    "num_codes": K, "depth": D, "dim": 8, "num_heads": 2, "head_dim": 3, "inner_dim": 12, "num_layers": 2,
    "max_len": L + 2, "num_users": 4, "dropout": 0.2,
}  # fmt: skip
MODEL: Any = TIGER(**SIZES)
RNG = np.random.default_rng(0)
CODES = jnp.asarray(RNG.integers(0, K, (B, L, D)))
MASK = jnp.arange(L) < jnp.array([L, 2, 0])[:, None]
USERS = jnp.array([1, 2, 9])
TUPLES = jnp.asarray(RNG.integers(0, K, (B, W, D)))


@functools.cache
def variables() -> Any:
    return jax.jit(MODEL.init)(jax.random.key(0), CODES, MASK, TUPLES[:, 0], USERS)


@functools.cache
def apply() -> Any:
    return jax.jit(functools.partial(MODEL.apply, train=False))


def logits(codes: Any = CODES, mask: Any = MASK, targets: Any = TUPLES[:, 0], users: Any = USERS) -> Any:
    return np.asarray(apply()(variables(), codes, mask, targets, users))


@functools.cache
def decoded() -> np.ndarray:
    memory = MODEL.apply(variables(), CODES, MASK, USERS, method="encode")
    return np.asarray(MODEL.apply(variables(), memory, TUPLES, method="decode"))


def test_many_tuples_of_a_history_are_decoded_as_each_alone() -> None:
    assert logits().shape == (B, D, K)
    for number in range(W):
        np.testing.assert_allclose(decoded()[:, number], logits(targets=TUPLES[:, number]), atol=1e-5)


def test_a_cache_gives_what_teacher_forcing_does() -> None:
    memory = MODEL.apply(variables(), CODES, MASK, USERS, method="encode")
    past: Any = MODEL.apply(variables(), B, method="no_past")
    for level in range(D):
        codes = None if level == 0 else TUPLES[..., level - 1]
        found, past = MODEL.apply(variables(), memory, past, codes, level, method="next_code")
        np.testing.assert_allclose(found, decoded()[:, : found.shape[1], level], atol=1e-5)
        past = past if level else jax.tree.map(lambda leaf: jnp.repeat(leaf, W, axis=1), past)
    assert jax.tree.leaves(past)[0].shape == (B, W, D, 2, 3)


def test_codes_behind_a_level_change_nothing_at_it() -> None:
    for level in range(D):
        changed = TUPLES[:, 0].at[:, level:].set((TUPLES[:, 0, level:] + 1) % K)
        found = logits(targets=changed)
        np.testing.assert_array_equal(found[:, : level + 1], logits()[:, : level + 1])
        assert level + 1 == D or (found[:, level + 1 :] != logits()[:, level + 1 :]).any()


def test_padding_changes_nothing_whatever_is_there_and_however_long() -> None:
    other = jnp.where(MASK[..., None], CODES, (CODES + 1) % K)
    np.testing.assert_array_equal(logits(other), logits())
    longer, mask = (jnp.pad(x, ((0, 0), (0, 2), (0, 0))[: x.ndim]) for x in (CODES, MASK))
    np.testing.assert_allclose(logits(longer, mask), logits(), atol=1e-5)


def test_histories_do_not_read_each_other() -> None:
    for row in range(B):
        one = slice(row, row + 1)
        alone = logits(CODES[one], MASK[one], TUPLES[one, 0], USERS[one])
        np.testing.assert_allclose(alone, logits()[one], atol=1e-5)


def test_a_code_outside_its_level_is_none_of_the_next_one() -> None:
    for wrong in (K, -1):
        of_history = logits(codes=CODES.at[0, 0, 1].set(wrong))
        of_target = logits(targets=TUPLES[:, 0].at[0, 0].set(wrong))
        for found in (of_history, of_target):
            assert np.isnan(found[0]).all() and np.isfinite(found[1:]).all()


def test_order_users_and_levels_are_read() -> None:
    assert np.abs(logits(CODES[:, ::-1])[0] - logits()[0]).max() > 1e-3
    assert np.abs(logits(users=USERS + 1) - logits()).max() > 1e-3
    np.testing.assert_array_equal(logits(users=USERS + 4), logits())  # hashed to 4 tokens
    other_levels = CODES[..., ::-1]
    assert np.abs(logits(other_levels)[0] - logits()[0]).max() > 1e-3


def test_an_empty_history_without_a_user_is_finite() -> None:
    model: Any = TIGER(**{**SIZES, "num_users": 0})
    nothing = jnp.zeros((B, L), bool)
    held = jax.jit(model.init)(jax.random.key(0), CODES, nothing, TUPLES[:, 0])
    assert "user_embedding" not in held["params"]
    found: Any = model.apply(held, CODES, nothing, TUPLES[:, 0])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, 0], found[1, 0], atol=1e-6)

    def total(params: Any) -> Any:
        logits: Any = model.apply({"params": params}, CODES, nothing, TUPLES[:, 0])
        return jnp.sum(logits**2)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(held["params"])))


def test_gradients_reach_every_parameter() -> None:
    def total(params: Any) -> Any:
        logits: Any = MODEL.apply({"params": params}, CODES, MASK, TUPLES[:, 0], USERS)
        return jnp.sum(logits**2)

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(variables()["params"])):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any(), path


def test_noise_of_a_history_hangs_on_its_number_alone() -> None:
    def noisy(order: Any) -> Any:
        columns = (column[order] for column in (CODES, MASK, TUPLES[:, 0], USERS))
        options = {"train": True, "rows": jnp.arange(B)[order], "rngs": {"dropout": jax.random.key(1)}}
        return np.asarray(MODEL.apply(variables(), *columns, **options))

    turned = np.array([2, 0, 1])
    np.testing.assert_allclose(noisy(np.arange(B))[turned], noisy(turned), atol=1e-5)
    assert np.abs(noisy(np.arange(B)) - logits()).max() > 1e-3


def test_attention_is_by_its_formula() -> None:
    layer = Attention(4, 2, 3)
    x, y = (jnp.asarray(RNG.normal(size=(n, 4)), jnp.float32) for n in (3, 5))
    bias, visible = RNG.normal(size=(2, 3, 5)).astype(np.float32), RNG.random((3, 5)) < 0.6
    visible[1] = False

    def run(module: Any) -> Any:
        return module(x, module.keys_values(y), jnp.asarray(visible), jnp.asarray(bias))

    held = layer.init(jax.random.key(0), method=run)
    found = layer.apply(held, method=run)
    kernels = {name: np.asarray(part["kernel"]) for name, part in held["params"].items()}
    query, key, value = (np.asarray(a) @ kernels[n] for a, n in ((x, "query"), (y, "key"), (y, "value")))
    mixed = np.zeros((3, 6))
    for head in range(2):
        own = slice(3 * head, 3 * head + 3)
        weight = np.exp(query[:, own] @ key[:, own].T + bias[head]) * visible
        weight = weight / np.where(weight.sum(axis=1) > 0, weight.sum(axis=1), 1)[:, None]
        mixed[:, own] = weight @ value[:, own]
    np.testing.assert_allclose(found, mixed @ kernels["output"], atol=1e-5)


def test_buckets_of_relative_positions() -> None:
    place = np.arange(200)
    one = buckets(np.array([199]), place, number=32, longest=128, both=False)[0][::-1]
    np.testing.assert_array_equal(one[:16], np.arange(16))  # a distance each
    assert (np.diff(one) >= 0).all() and one[128:].min() == one.max() == 31
    assert (buckets(np.array([0]), place, number=32, longest=128, both=False) == 0).all()  # what comes later
    both = buckets(np.array([100]), place, number=32, longest=128, both=True)[0]
    np.testing.assert_array_equal(both[101:] - 16, both[99:0:-1])  # later keys have the other half


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim=0: must be at least 1"),
        ({"num_users": -1}, "num_users=-1"),
        ({"num_buckets": 2}, "num_buckets=2"),
        ({"longest": 16}, "longest=16"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TIGER(**{**SIZES, **change}).init(jax.random.key(0), CODES, MASK, TUPLES[:, 0], USERS)


def test_histories_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at most max_len=6 items of depth=3 codes"):
        MODEL.apply(
            variables(), jnp.zeros((1, 7, D), int), jnp.ones((1, 7), bool), USERS[:1], method="encode"
        )
    with pytest.raises(ValueError, match="users=None: the model has num_users=4"):
        MODEL.apply(variables(), CODES, MASK, method="encode")
