"""What holds for every model of a click over a history of vectors: DIN, DIEN, MIMN and their base."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.dice import Dice
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.memory import InterestMemory
from jaxrec.nn.ranking.can import CAN
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.nn.ranking.mimn import MIMN
from tests.nn import family
from tests.nn.drawn import applied, drawn

B, L, D, F = 4, 5, 3, 6
rng = np.random.default_rng(0)
X, TARGET, HISTORY = (rng.normal(size=shape).astype(np.float32) for shape in ((B, F), (B, D), (B, L, D)))
MASK = np.arange(L) < np.array([[5], [3], [1], [0]])  # whole, padded, one event, none
INPUTS = (X, TARGET, HISTORY, MASK)


def mlp(axis: str | None) -> Any:
    return family.noisy(axis, activation=Dice)


def unit(axis: str | None, **fields: Any) -> ActivationUnit:
    return ActivationUnit((3,), axis_name=axis, **fields)


def memory(**fields: Any) -> InterestMemory:
    return InterestMemory(3, **fields)


MODELS: dict[str, Callable[[str | None], Any]] = {
    "base": lambda a: DINBase((4,), mlp=mlp(a)),
    "base-sums": lambda a: DINBase((4,), average=False, mlp=mlp(a)),
    "din": lambda a: DIN((4,), unit(a), product=True, mlp=mlp(a)),
    "din-softmax": lambda a: DIN((4,), unit(a, softmax=True), mlp=mlp(a)),
    "dien": lambda a: DIEN((4,), mlp=mlp(a)),
    "dien-unit": lambda a: DIEN((4,), attention=unit(a, softmax=True), sum_pooling=True, mlp=mlp(a)),
    "dien-reversed": lambda a: DIEN((4,), evolution="augru_reversed", attention="dot", mlp=mlp(a)),
    "dien-gru": lambda a: DIEN((4,), evolution="gru", attention=None, mlp=mlp(a)),
    "mimn": lambda a: MIMN((4,), memory(), unit(a, softmax=True), sum_pooling=True, mlp=mlp(a)),
    "mimn-shift": lambda a: MIMN((4,), memory(rebalance="shift", strength=True, induction=0), mlp=mlp(a)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def placed(values: np.ndarray, first: int, filler: float) -> np.ndarray:
    """Histories from slot `first` on, with two slots more than they need."""
    widths = [(0, 0), (first, 2 - first)] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, widths, constant_values=filler)


@every_model
@pytest.mark.parametrize("train", [False, True])
def test_padding_on_either_side_changes_nothing(name: str, train: bool) -> None:
    """Neither outputs nor, in training, statistics; the vectors on padding are whatever they are."""
    module = MODELS[name](None)
    variables, options = drawn(module, *INPUTS), {"rngs": {"dropout": family.KEY}, "mutable": ["batch_stats"]}
    apply = jax.jit(functools.partial(module.apply, variables, X, TARGET, train=train, **options))
    outputs, stats = apply(placed(HISTORY, 0, 0.0), placed(MASK, 0, False))
    logit = outputs["click"] if isinstance(outputs, dict) else outputs
    assert logit.shape == (B,)
    assert np.isfinite(logit).all()
    for first in (1, 2):
        other, moved = apply(placed(HISTORY, first, 9.0), placed(MASK, first, False))
        family.leaves_close(other, outputs, atol=1e-5)
        family.leaves_close(moved, stats, atol=1e-5)


@pytest.mark.parametrize("name", ["base", "base-sums", "din", "din-softmax"])
def test_the_order_of_events_changes_nothing(name: str) -> None:
    module, order = MODELS[name](None), rng.permutation(L)
    variables = drawn(module, *INPUTS)
    logit = applied(module, variables, *INPUTS)
    shuffled = applied(module, variables, X, TARGET, HISTORY[:, order], MASK[:, order])
    np.testing.assert_allclose(shuffled, logit, atol=1e-5)


@every_model
def test_gradients_of_events_are_finite_and_zero_on_padding(name: str) -> None:
    module = MODELS[name](None)
    variables = drawn(module, *INPUTS)

    def total(history: Any) -> Any:
        outputs, _ = module.apply(
            variables,
            X,
            TARGET,
            history,
            MASK,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(outputs))

    gradient = np.abs(jax.jit(jax.grad(total))(HISTORY)).sum(axis=-1)
    assert np.isfinite(gradient).all()
    assert ((gradient > 0) == MASK).all()


@every_model
def test_examples_do_not_see_each_other(name: str) -> None:
    family.check_examples_do_not_see_each_other(MODELS[name], *INPUTS)


@every_model
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    family.check_gradients_are_finite_and_reach_all(MODELS[name], *INPUTS)


@every_model
def test_devices_change_nothing(name: str) -> None:
    family.check_devices_change_nothing(MODELS[name], *INPUTS)


# --- columns in place of vectors ---------------------------------------------------------------------------

ITEM, PAST = Categorical("item", 9, D), Categorical("history_item", 9, D, "item")
COLUMNS = {
    "item": np.array([1, 2, 3, 4], np.int32),
    "history_item": np.where(MASK, rng.integers(1, 9, (B, L)), 0).astype(np.int32),
}


def served(name: str, co_actions: bool) -> Callable[[str | None], Any]:
    """A model behind its tables, with co-actions of item and history or without."""
    co_action = CAN(((ITEM, PAST),)) if co_actions else None
    return lambda axis: WithHistory(
        FeatureEmbedding((ITEM, PAST)),
        MODELS[name](axis),
        ("item",),
        ("history_item",),
        extra_features=co_action,
    )


every_table = pytest.mark.parametrize(
    ("name", "co_actions"), [("base", True), ("din", False), ("din", True), ("dien", False), ("mimn", False)]
)


@every_table
def test_padding_ids_change_nothing_and_their_row_never_trains(name: str, co_actions: bool) -> None:
    module = served(name, co_actions)(None)
    variables = drawn(module, COLUMNS)
    expected = applied(module, variables, COLUMNS)
    for first in (0, 1, 2):
        batch = {**COLUMNS, "history_item": placed(COLUMNS["history_item"], first, 0)}
        np.testing.assert_allclose(applied(module, variables, batch), expected, rtol=1e-5, atol=1e-5)
    rest = {kind: value for kind, value in variables.items() if kind != "params"}
    loss = lambda params: (module.apply({**rest, "params": params}, COLUMNS) ** 2).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss))(variables["params"])
    tables = [gradients["embedding"]["item_embedding"], *jax.tree.leaves(gradients.get("extra_features", {}))]
    assert len(tables) == (3 if co_actions else 1)
    for table in tables:
        assert (table[0] == 0.0).all()
        assert np.any(table[1:])


@every_table
def test_examples_of_columns_do_not_see_each_other(name: str, co_actions: bool) -> None:
    family.check_examples_do_not_see_each_other(served(name, co_actions), COLUMNS)
