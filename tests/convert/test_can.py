"""The constants of the authors' CAN as a co-action unit."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.convert import can

RNG = np.random.default_rng(0)


def reference(w: np.ndarray, p: np.ndarray, layers: list[tuple[int, int, int]], orders: int) -> np.ndarray:
    """One example with one behaviour: (rows, columns, width of the bias) of each layer."""
    found = []
    for order in range(1, orders + 1):
        h, at = p**order, 0
        for i, (rows, columns, bias) in enumerate(layers):
            h = h @ w[at : at + rows * columns].reshape(rows, columns)
            at += rows * columns
            if bias:
                h = h + w[at : at + bias]
                at += bias
            h = h if i + 1 == len(layers) else np.tanh(h)
            found.append(h)
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("kernels", "biases", "orders", "order_indep"),
    [
        ([[4, 3], [3, 2]], [0, 0], 3, False),
        ([[4, 3], [3, 2]], [3, 0], 2, False),
        ([[4, 3], [3, 2], [2, 2]], [0, 2, 2], 1, False),
        ([[3, 3], [3, 3]], [0, 3], 2, True),
    ],
)
def test_the_unit_is_that_of_the_constants(
    kernels: list[list[int]], biases: list[int], orders: int, order_indep: bool
) -> None:
    unit = can.co_action(kernels, biases, orders, order_indep=order_indep)
    layers = [(*kernel, bias) for kernel, bias in zip(kernels, biases, strict=True)]
    layers = layers * orders if order_indep else layers
    width = sum(rows * columns + bias for rows, columns, bias in layers)
    assert unit.num_weights == width
    w, p = RNG.normal(size=width), RNG.normal(size=kernels[0][0])
    ours = unit.apply({}, w[None].astype(np.float32), p[None, None].astype(np.float32), np.ones((1, 1), bool))
    np.testing.assert_allclose(ours[0], reference(w, p, layers, orders), rtol=1e-4, atol=1e-5)


def test_constants_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight_emb_b=\[1, 0\]: must be 0 or the width of the layer"):
        can.co_action([[4, 3], [3, 2]], [1, 0], 2)
    with pytest.raises(ValueError, match="each layer must read what the one before it gives"):
        can.co_action([[4, 3], [4, 2]], [0, 0], 2)
    with pytest.raises(ValueError, match="order_indep=True chains the layers of all orders; each layer must"):
        can.co_action([[4, 3], [3, 2]], [0, 0], 2, order_indep=True)
