"""Arrays cut into those of ours, and joined again."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.convert.parts import cut, joined

STATE = {"w": np.arange(12.0).reshape(3, 4), "b": np.arange(4.0), "layers.0.weight": np.zeros(2)}


def test_blocks_stand_at_their_numbers_and_join_again() -> None:
    parts = cut(cut(STATE, "w", (1, 2), (3, 1)), "b", (1, 3))
    assert set(parts) == {"w[0][0]", "w[0][1]", "w[1][0]", "w[1][1]", "b[0]", "b[1]", "layers.0.weight"}
    np.testing.assert_array_equal(parts["w[1][0]"], STATE["w"][1:, :3])
    np.testing.assert_array_equal(parts["b[1]"], STATE["b"][1:])
    back = joined(dict(reversed(parts.items())))
    assert set(back) == set(STATE)
    for name, value in STATE.items():
        np.testing.assert_array_equal(back[name], value)


def test_many_blocks_join_in_the_order_of_their_numbers() -> None:
    state = {"b": np.arange(12.0)}
    np.testing.assert_array_equal(joined(cut(state, "b", (1,) * 12))["b"], state["b"])


def test_other_sizes_and_missing_arrays_are_errors() -> None:
    with pytest.raises(ValueError, match=r"w: shape \(3, 4\), but the other parameters imply \(3, 5\)"):
        cut(STATE, "w", (3,), (2, 3))
    with pytest.raises(ValueError, match="v: missing"):
        cut(STATE, "v", (3,))
