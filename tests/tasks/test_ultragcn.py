"""UltraGCN's losses against NumPy, on devices, and in a step on CUDA."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.co_occurrence import constraint_columns
from jaxrec.nn.retrieval.mf import MF
from jaxrec.tasks import pairs
from jaxrec.tasks.ultragcn import Weights, ultragcn
from tests.lowering import repeated_float_adds
from tests.nn.drawn import drawn
from tests.tasks import small_pairs
from tests.tasks.small_pairs import MOST, NUM_ITEMS, NUM_USERS

MODEL = MF(NUM_USERS, NUM_ITEMS, dim=3)
WEIGHTS = Weights((0.2, 1.5), (0.1, 2.0), 4.0, 0.3)
TASK = ultragcn(MODEL, sampler=pairs.unseen(NUM_ITEMS, MOST), negatives=3, weights=WEIGHTS)
KEY = jax.random.key(0)


@functools.cache
def context() -> dict[str, Any]:
    columns = constraint_columns(small_pairs.events(), num_users=NUM_USERS, neighbours=2)
    return {**small_pairs.context(), **{name: jnp.asarray(column) for name, column in columns.items()}}


@functools.cache
def variables() -> Any:
    return drawn(MODEL, np.ones(1, int), np.ones((1, 1), int), {}, train=False)


@functools.cache
def batch() -> Any:
    return jax.jit(TASK.prepare)(KEY, small_pairs.examples(0, 4, 5, 10, 7, 2, last=False), context())


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def test_losses_are_those_of_the_formula() -> None:
    found, _ = jax.jit(lambda b: TASK.losses(variables(), b, KEY))(batch())
    params, c = variables()["params"], {name: np.asarray(column) for name, column in context().items()}
    users, items = params["user_embedding"], params["item_embedding"]
    terms, near = [], []
    for row in range(5):
        user, item = int(batch()["user"][row]), int(batch()["item"][row])
        negatives = np.asarray(batch()["negatives"][row])
        beta = c["user_factor"][user] * c["item_factor"]
        pushed = (0.1 + 2.0 * beta[negatives]) * softplus(items[negatives] @ users[user])
        pulled = (0.2 + 1.5 * beta[item]) * softplus(-items[item] @ users[user])
        terms.append(pulled + 4.0 * pushed.mean())
        others = c["near_item"][item]
        near.append(0.3 * (c["near_weight"][item] * softplus(-items[others] @ users[user])).sum())
    np.testing.assert_allclose(found["pairs"], np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(found["near"], np.mean(near), rtol=1e-5)


def test_a_batch_that_is_not_full_weighs_as_many_pairs_as_it_has() -> None:
    """5 of 6 pairs are real: losses are sums over them by the size of a full batch."""
    task = ultragcn(MODEL, sampler=pairs.unseen(NUM_ITEMS, MOST), negatives=3, weights=WEIGHTS, batch_size=8)
    found, means = jax.jit(lambda b: [t.losses(variables(), b, KEY)[0] for t in (task, TASK)])(batch())
    for name, mean in means.items():
        np.testing.assert_allclose(8 * found[name], 5 * mean, rtol=1e-6)


def test_shares_of_devices_add_up_and_cuda_adds_no_repeated_floats() -> None:
    def total(params: Any, batch: Any, axis_name: str | None = None) -> Any:
        return sum(TASK.losses({"params": params}, batch, KEY, axis_name)[0].values())

    params = variables()["params"]
    split = {
        name: column.reshape(2, 3, *column.shape[1:]) for name, column in batch().items() if name != "shared"
    }
    split["shared"] = jax.tree.map(lambda column: jnp.stack([column, column]), batch()["shared"])
    shares = jax.vmap(functools.partial(total, axis_name="devices"), (None, 0), axis_name="devices")
    whole = jax.jit(jax.value_and_grad(total))
    np.testing.assert_allclose(jax.jit(shares)(params, split).sum(), whole(params, batch())[0], rtol=1e-5)
    assert repeated_float_adds(whole.trace(params, batch()), "cuda") == []


@pytest.mark.parametrize("weights", [Weights(negatives=-1.0), Weights(observed=(1.0, -2.0))])
def test_weights_below_zero_are_refused(weights: Weights) -> None:
    with pytest.raises(ValueError, match=r"weights\.(negatives|observed)="):
        ultragcn(MODEL, sampler=pairs.uniform(NUM_ITEMS), weights=weights)
