"""What holds for every model that reads histories as ids and chooses what it looks up: SIM, ETA and BST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.dropout import across_devices, counter_bits
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.id_columns import Pooled, Sequenced
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.sim import SIM
from tests.nn import family
from tests.nn.drawn import applied, drawn

B, L, S = 4, 9, 4
ITEMS = (Categorical("item", 20, 4), Categorical("category", 5, 2))
rng = np.random.default_rng(0)


def history(name: str, length: int) -> dict[str, np.ndarray]:
    """Right-aligned: whole, empty, three events, one event; padding has ids in its second column."""
    real = np.arange(length) >= length - np.array([length, 0, 3, 1])[:, None]
    item = np.where(real, rng.integers(1, 20, (B, length)), 0)
    return {
        f"{name}_item": item.astype(np.int32),
        f"{name}_category": rng.integers(1, 4, (B, length)).astype(np.int32),
        f"{name}_age": rng.integers(0, 10_000, (B, length)).astype(np.int32),
    }


BATCH = {
    "user": np.array([1, 2, 3, 1], np.int32),
    "item": np.array([1, 2, 3, 4], np.int32),
    "category": np.array([1, 2, 3, 1], np.int32),
    **history("long", L),
    **history("short", S),
    **history("history", L),
}


def mlp(axis: str | None) -> Any:
    return family.noisy(axis, activation=nn.silu)


def behind_features(model: nn.Module) -> nn.Module:
    return Sequenced(model, FeatureEmbedding((Categorical("user", 5, 2),)))


def bst(axis: str | None, **fields: Any) -> BST:
    bits = across_devices(counter_bits, axis)
    return BST(ITEMS, age_dim=2, num_heads=2, dims=(4,), mlp=mlp(axis), bits=bits, **fields)


def pooled(axis: str | None) -> Pooled:
    return Pooled(ActivationUnit((3,), jnp.tanh, axis_name=axis))


MODELS: dict[str, Callable[[str | None], Any]] = {
    "sim-soft": lambda a: SIM(ITEMS, k=3, search_dim=5, age_dim=2, block=4, dims=(4,), mlp=mlp(a)),
    "sim-shared": lambda a: SIM(ITEMS, k=3, own_tables=False, short=pooled(a), dims=(4,), mlp=mlp(a)),
    "sim-hard": lambda a: SIM(ITEMS, k=2, category="category", short_ages=True, dims=(4,), mlp=mlp(a)),
    "eta": lambda a: ETA(ITEMS, k=3, num_bits=40, age_dim=2, short_ages=True, dims=(4,), mlp=mlp(a)),
    "bst": lambda a: bst(a),
    "bst-mean": lambda a: bst(a, concatenate=False, attention_dropout=0.1),
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_examples_do_not_see_each_other(name: str) -> None:
    family.check_examples_do_not_see_each_other(lambda a: behind_features(MODELS[name](a)), BATCH)


@every_model
def test_gradients_are_finite(name: str) -> None:
    """Of an example without any event too. A row of ages or ids that no event has gets none."""
    family.check_gradients_are_finite_and_reach_all(lambda a: behind_features(MODELS[name](a)), BATCH)


@every_model
def test_devices_change_nothing(name: str) -> None:
    family.check_devices_change_nothing(lambda a: behind_features(MODELS[name](a)), BATCH)


@every_model
def test_what_stands_on_padding_changes_nothing(name: str) -> None:
    """Neither ids of further columns nor ages."""
    module = behind_features(MODELS[name](None))
    variables = drawn(module, BATCH)
    covered = dict(BATCH)
    for role in ("long", "short", "history"):
        real = BATCH[f"{role}_item"] != 0
        covered[f"{role}_category"] = np.where(real, BATCH[f"{role}_category"], 4)
        covered[f"{role}_age"] = np.where(real, BATCH[f"{role}_age"], -9)
    family.leaves_close(applied(module, variables, covered), applied(module, variables, BATCH))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bst"])
def test_more_padding_changes_nothing(name: str) -> None:
    """But to BST with all tokens side by side, which has a fixed length."""
    module = behind_features(MODELS[name](None))
    variables = drawn(module, BATCH)
    longer = {
        column: np.pad(values, ((0, 0), (2, 0))) if values.ndim == 2 else values
        for column, values in BATCH.items()
    }
    family.leaves_close(applied(module, variables, longer), applied(module, variables, BATCH))


@every_model
def test_the_row_of_padding_never_trains(name: str) -> None:
    module = behind_features(MODELS[name](None))
    variables = drawn(module, BATCH)
    rest = {kind: value for kind, value in variables.items() if kind != "params"}

    def loss(params: Any) -> Any:
        outputs = module.apply({**rest, "params": params}, BATCH)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(outputs))

    gradients = jax.jit(jax.grad(loss))(variables["params"])["model"]
    tables = [gradients[name] for name in ("items", "search_items") if name in gradients]
    for table in jax.tree.leaves(tables):
        assert (table[0] == 0.0).all()
        assert np.any(table[1:])
