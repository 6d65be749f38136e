"""The authors' DLRM in NumPy, for settings that no fixture has."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
import pytest

from jaxrec.convert import dlrm
from jaxrec.convert.state_dict import to_state

RNG = np.random.default_rng(0)
D, ROWS = 2, (4, 3)
BOTTOM, TOP = (3, 5, D), (4, 1)
INDICES = (np.array([3, 0, 0, 2, 1]), np.array([2, 0]))
OFFSETS = (np.array([0, 2, 2]), np.array([0, 1, 2]))  # the second bag, and the third of the other, are empty
DENSE = RNG.normal(size=(3, BOTTOM[0])).astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def layers(name: str, widths: tuple[int, ...]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for i, (rows, columns) in enumerate(pairwise(widths)):
        found |= {f"{name}.{2 * i}.weight": normal(columns, rows), f"{name}.{2 * i}.bias": normal(columns)}
    return found


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_dlrm_of_each_interaction(dot: bool, itself: bool) -> None:
    rows, columns = np.tril_indices(1 + len(ROWS), 0 if itself else -1)
    width = D + len(rows) if dot else D * (1 + len(ROWS))
    state = {f"emb_l.{k}.weight": normal(rows, D) for k, rows in enumerate(ROWS)}
    state |= layers("bot_l", BOTTOM) | layers("top_l", (width, *TOP))

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = np.maximum(linear("bot_l.2", np.maximum(linear("bot_l.0", DENSE), 0)), 0)
    found = [x]
    for k, (indices, offsets) in enumerate(zip(INDICES, OFFSETS, strict=True)):
        ends = [*offsets[1:], len(indices)]
        bags = [indices[a:b] for a, b in zip(offsets, ends, strict=True)]
        found.append(np.stack([state[f"emb_l.{k}.weight"][bag].sum(axis=0) for bag in bags]))
    vectors = np.stack(found, axis=1)
    products = np.einsum("bid,bjd->bij", vectors, vectors)[:, rows, columns]
    crossed = np.concatenate([x, products], axis=1) if dot else vectors.reshape(3, -1)
    expected = linear("top_l.2", np.maximum(linear("top_l.0", crossed), 0))[:, 0]

    module, variables, locations = dlrm.dlrm(state, itself=itself, products=dot)
    batch = {"dense": DENSE}
    for k, (indices, offsets) in enumerate(zip(INDICES, OFFSETS, strict=True)):
        batch[f"bag_{k}"] = dlrm.bag(indices, offsets)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, batch), expected, rtol=1e-4, atol=1e-4)
    back = to_state(variables, locations)
    assert set(back) == set(state)
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])
