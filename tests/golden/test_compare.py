"""The comparisons: what they let pass, and what not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.compare import close_gradients

ONES = np.ones((2, 3), np.float32)


def test_a_parameter_without_a_gradient_is_one_of_zeros_here() -> None:
    close_gradients({"a": ONES, "unused": 0 * ONES}, {"a": ONES})
    with pytest.raises(AssertionError, match="unused: the reference has no gradient"):
        close_gradients({"a": ONES, "unused": ONES}, {"a": ONES})
    with pytest.raises(AssertionError):
        close_gradients({}, {"a": ONES})
