"""Isotonic regression of any numbers, by SciPy, as a function between the fitted points too."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec.calibration.examples import check_numbers
from jaxrec.types import Array


class Isotonic(NamedTuple):
    """A monotone function: straight lines between knots x, ascending, and y, float64 [K] each."""

    x: np.ndarray
    y: np.ndarray

    def predict(self, x: Array, *, outside: Literal["clip", "nan"] = "clip") -> Array:
        """Values at x, […] → […], float32: knots that are nearer than its rounding are not told apart.

        outside: of the fitted range, the nearest end's value, or NaN.

        Raises:
          ValueError: outside is something else.
        """
        if outside not in ("clip", "nan"):
            raise ValueError(f"outside={outside!r}: must be 'clip' or 'nan'")
        left, right = (np.nan, np.nan) if outside == "nan" else (None, None)
        return jnp.interp(x, self.x, self.y, left=left, right=right)


def isotonic_regression(
    x: Any,
    y: Any,
    weight: Any = None,
    *,
    increasing: bool = True,
    least: float = -np.inf,
    most: float = np.inf,
) -> Isotonic:
    """The monotone function of least squared error, on the host (pool adjacent violators; SciPy's).

    Values y at equal x are merged to their weighted mean first. Knots inside a constant stretch are left out.
    Between knots the function is a straight line, as scikit-learn has it, where a step function would be as
    good at the fitted points.

    x, y: [N], any finite numbers. weight: at least 0, [N]; None: all 1. increasing: or else decreasing.
    least, most: what the function is kept between, which is again that of least error.

    Raises:
      ValueError: lengths differ, there is no example of positive weight, a number is not finite, or least is
        above most.
    """
    from scipy import optimize

    if not least <= most:
        raise ValueError(f"least={least}, most={most}: the first must not be above the second")
    x, y, weight = check_numbers({"x": x, "y": y}, weight)
    knots, place = np.unique(x, return_inverse=True)
    total = np.bincount(place, weight)
    fitted = optimize.isotonic_regression(
        np.bincount(place, weight * y) / total, weights=total, increasing=increasing
    ).x
    fitted = np.clip(fitted, least, most)
    changes = np.concatenate([[True], np.diff(fitted) != 0, [True]])
    kept = changes[:-1] | changes[1:]
    return Isotonic(knots[kept], fitted[kept])
