"""BST's fields for other forms than the paper's: what tokens see, positions, pooling, dropout."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.ranking.bst import BST, visible_tokens
from tests.nn.drawn import drawn

ITEMS = (Categorical("item", 9, 4),)
TARGET = {"item": np.array([3, 5])}
HISTORY = {"item": np.array([[0, 0, 2, 4], [7, 1, 6, 8]])}


def test_what_tokens_see() -> None:
    real = np.array([[False, True, False, True]])
    seen = np.asarray(visible_tokens(real, causal=False, see_themselves=False))[0]
    np.testing.assert_array_equal(seen, np.tile(real, (4, 1)))
    itself = np.asarray(visible_tokens(real, causal=False, see_themselves=True))[0]
    np.testing.assert_array_equal(itself, seen | np.eye(4, dtype=bool))
    both = np.asarray(visible_tokens(real, causal=True, see_themselves=True))[0]
    np.testing.assert_array_equal(both, np.tril(itself))


def test_causal_tokens_know_nothing_of_later_ones() -> None:
    module: Any = BST(ITEMS, age_dim=None, num_heads=2, dims=(), causal=True, num_blocks=2)
    variables = drawn(module, TARGET, HISTORY)
    run = jax.jit(lambda target, history: module.apply(variables, target, history, mutable=["intermediates"]))
    _, seen = run(TARGET, HISTORY)
    changed = {"item": HISTORY["item"].copy()}
    changed["item"][:, 3] = 1
    _, other = run({"item": np.array([2, 2])}, changed)
    before, after = (np.asarray(s["intermediates"]["tokens"][0]) for s in (seen, other))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any(axis=-1).all()
    assert np.isfinite(before).all()  # padding in front sees nothing
    gradient = jax.jit(jax.grad(lambda p: module.apply({"params": p}, TARGET, HISTORY).sum()))(
        variables["params"]
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_positions_tell_the_order_of_behaviours() -> None:
    for dim, same in ((None, True), (3, False)):
        module: Any = BST(ITEMS, None, num_heads=1, concatenate=False, dims=(), position_dim=dim)
        variables = drawn(module, TARGET, HISTORY)
        turned = {"item": HISTORY["item"][:, [0, 1, 3, 2]]}
        usual, other = (jax.jit(module.apply)(variables, TARGET, history) for history in (HISTORY, turned))
        assert np.allclose(usual, other, atol=1e-5) is same


def test_a_pooling_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling='max': must be one of"):
        BST(ITEMS, pooling="max")  # type: ignore[arg-type]


def test_dropout_of_attention_weights_acts_in_training() -> None:
    module: Any = BST(ITEMS, None, num_heads=1, block_dropout=0.0, dims=(), attention_dropout=0.5)
    variables = drawn(module, TARGET, HISTORY)
    run = jax.jit(
        lambda seed, train: module.apply(
            variables, TARGET, HISTORY, train=train, rngs={"dropout": jax.random.key(seed)}
        ),
        static_argnums=1,
    )
    assert (run(0, True) != run(1, True)).all()
    np.testing.assert_array_equal(run(0, False), run(1, False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 0}, "num_heads=0: must be at least 1 and divide dim=4"),
        ({"num_heads": -2}, "num_heads=-2: must be at least 1"),
        ({"num_blocks": -1}, "num_blocks=-1: must be at least 0"),
    ],
)
def test_numbers_of_heads_and_blocks_are_checked(fields: dict[str, int], message: str) -> None:
    def init() -> Any:
        module = BST(ITEMS, **{"age_dim": None, "num_heads": 2, **fields})
        return module.init(jax.random.key(0), TARGET, HISTORY)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init)
