"""What calibration gives: functions of logits as NamedTuples of arrays, so pytrees, with a pure `apply`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array, Variables

COLLECTION = "calibration"  # of variables: {label: what `as_tree` gives}


class Calibrator(Protocol):
    """Maps logits to logits, […] → […]."""

    def apply(self, logits: Array) -> Array: ...


class Line(NamedTuple):
    """slope · logit + intercept, both []: Platt scaling, temperature and the correction of sampling."""

    slope: Any
    intercept: Any

    def apply(self, logits: Array) -> Array:
        return self.slope * logits + self.intercept


class Steps(NamedTuple):
    """A logit for each bin: edges [K - 1], ascending, and values [K]; one on an edge is in the bin above.

    NaN is in no bin and stays NaN.
    """

    edges: Any
    values: Any

    def apply(self, logits: Array) -> Array:
        found = jnp.asarray(self.values)[jnp.searchsorted(self.edges, logits, side="right")]
        return jnp.where(jnp.isnan(logits), jnp.nan, found)


class Curve(NamedTuple):
    """Straight lines between knots of probabilities: before x and after y, [K] each; constant outside."""

    x: Any
    y: Any

    def apply(self, logits: Array) -> Array:
        return _logit(jnp.interp(jax.nn.sigmoid(logits), self.x, self.y))


class GroupCurves(NamedTuple):
    """A curve for each group, mixed with that of all examples; it reads the groups of examples, too.

    x, y: knots, [G, K]. share: of a group's own curve, in [0, 1), [G]. of_all: the other.
    """

    x: Any
    y: Any
    share: Any
    of_all: Curve

    def apply(self, logits: Array, group: Array) -> Array:
        """[B] and int32 [B] → [B]. A group that was not fitted has the curve of all."""
        prob = jax.nn.sigmoid(logits)
        known = (group >= 0) & (group < len(self.share))
        index = jnp.where(known, group, 0)
        x, y = jnp.asarray(self.x)[index], jnp.asarray(self.y)[index]
        share = jnp.where(known, jnp.asarray(self.share)[index], 0.0)
        own = jax.vmap(jnp.interp)(prob, x, y)
        return _logit(share * own + (1.0 - share) * jnp.interp(prob, self.of_all.x, self.of_all.y))


KINDS: tuple[type[Any], ...] = (Line, Steps, Curve)  # of calibrators that are kept with a run


def sampling_correction(rate: float) -> Line:
    """Undoes training on a share of the negatives: q = p / (p + (1 - p) / w), so logit q = logit p + log w.

    (He et al., "Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014, section 6.3.)

    rate: w, the probability with which a negative was kept.

    Raises:
      ValueError: rate is not in (0, 1].

    >>> round(float(jax.nn.sigmoid(sampling_correction(0.01).apply(jnp.log(0.1)))), 6)  # odds of 1 to 10
    0.000999
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate}: the share of negatives that were kept must be in (0, 1]")
    return Line(np.float32(1.0), np.float32(np.log(rate)))


def stack(calibrators: Any) -> Any:
    """Calibrators of one kind, such as those of several seeds, behind one axis: a pytree for `jax.vmap`.

    Knots are filled up with the last one, edges with infinity, so that each gives what it gave.
    """
    first = calibrators[0]
    columns = []
    for name, parts in zip(first._fields, zip(*calibrators, strict=True), strict=True):
        arrays = [np.asarray(part) for part in parts]
        if arrays[0].ndim:
            size = max(len(array) for array in arrays)
            arrays = [_filled(a, size, np.inf if name == "edges" else a[-1]) for a in arrays]
        columns.append(np.stack(arrays))
    return type(first)(*columns)


def _filled(array: np.ndarray, size: int, value: float) -> np.ndarray:
    return np.append(array, np.full(size - len(array), value, array.dtype))


def as_tree(calibrator: Any) -> dict[str, dict[str, Any]]:
    """A calibrator of KINDS as nested dicts of arrays, as variables are: {kind: {field: array}}."""
    return {type(calibrator).__name__: calibrator._asdict()}


def from_tree(tree: Mapping[str, Mapping[str, Any]]) -> Calibrator:
    """The calibrator of `as_tree`.

    Raises:
      ValueError: there is no such kind.
    """
    known: dict[str, Callable[..., Calibrator]] = {kind.__name__: kind for kind in KINDS}
    (name, fields), *more = tree.items()
    if more or name not in known:
        raise ValueError(f"calibration: {', '.join(tree)}: must be one of {', '.join(known)}")
    return known[name](**fields)


def split(variables: Variables) -> tuple[Variables, Mapping[str, Any]]:
    """Variables of a module, and the trees of calibrators that are kept with them, by label."""
    others = {name: part for name, part in variables.items() if name != COLLECTION}
    return others, variables.get(COLLECTION, {})


def _logit(prob: Array) -> Array:
    return jnp.log(prob) - jnp.log1p(-prob)
