from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment.by_width import by_width


def total(width: Any, values: Any, reach: Any) -> Any:
    """Sum of the first `reach` values, twice in a row of two, and the width that did it."""
    columns = jnp.where(jnp.arange(width) < reach[:, None], values[:, :width], 0)
    return jnp.stack([columns.sum(1), columns.sum(1)], 1), jnp.full(len(reach), width)


@pytest.mark.parametrize(
    "reach", ["short", "few long", "all long", "mixed"], ids=["short", "few long", "all long", "mixed"]
)
def test_every_row_is_computed_at_the_smallest_width_that_holds_it(reach: Any) -> None:
    rng = np.random.default_rng(0)
    reach = {
        "short": rng.integers(0, 5, 64),
        "few long": np.where(np.arange(64) % 20 == 0, 32, 3),
        "all long": np.full(64, 32),
        "mixed": rng.integers(0, 33, 64),
    }[reach]
    values = rng.integers(0, 9, (64, 32))
    (sums, width) = jax.jit(lambda v, r: by_width(total, 32, r, v, r, widths=(4, 12)))(values, reach)
    want = np.where(np.arange(32) < reach[:, None], values, 0).sum(1)
    np.testing.assert_array_equal(sums, np.stack([want, want], 1))
    np.testing.assert_array_equal(width, np.where(reach <= 4, 4, np.where(reach <= 12, 12, 32)))


def test_under_vmap() -> None:
    rng = np.random.default_rng(1)
    values, reach = rng.integers(0, 9, (3, 40, 20)), rng.integers(0, 21, (3, 40))
    reach[0] = 2
    sums, _ = jax.vmap(lambda v, r: by_width(total, 20, r, v, r, widths=(4,)))(values, reach)
    want = np.where(np.arange(20) < reach[..., None], values, 0).sum(2)
    np.testing.assert_array_equal(sums[..., 0], want)
