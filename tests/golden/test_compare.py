"""The comparisons: what they let pass, and what not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden

ONES = np.ones((2, 3), np.float32)


def test_a_parameter_without_a_gradient_is_one_of_zeros_here() -> None:
    close_gradients({"a": ONES, "unused": 0 * ONES}, {"a": ONES})
    with pytest.raises(AssertionError, match="unused: the reference has no gradient"):
        close_gradients({"a": ONES, "unused": ONES}, {"a": ONES})
    with pytest.raises(AssertionError):
        close_gradients({}, {"a": ONES})


def test_the_noise_of_the_reference_widens_what_is_near_zero() -> None:
    small = np.array([0.0, 1.0], np.float32)
    for compare in (close_outputs, close_gradients):
        compare({"a": small + 3e-5}, {"a": small}, noise=2e-5)
        with pytest.raises(AssertionError):
            compare({"a": small + 3e-5}, {"a": small})


@pytest.mark.parametrize("key", ["float64_vs_float32", "float64_vs_float32_max_abs_diff"])
def test_noise_is_read_where_it_is_said(key: str) -> None:
    def noise(value: object) -> float:
        return Golden({key: value}, {}, {}, {}, {}).noise("grad")

    assert noise({"out": 1e-6, "grad": 2e-6}) == 2e-6
    assert noise({"out": 1e-6, "grad": None}) == noise(None) == 0.0
    assert Golden({}, {}, {}, {}, {}).noise("grad") == 0.0
