"""Whether a result agrees with the numbers that its paper publishes."""

from __future__ import annotations

import statistics

from jaxrec.types import Result

TOLERANCE = 0.02  # relative
YES, NO, NOT_COMPARABLE = "yes", "no", "not comparable"
WITHIN = f"within {100 * TOLERANCE:g} %"
RULE = (
    f"As published: yes if our mean is {WITHIN} of every published metric of the row (for an AUC, of its "
    "distance from 0.5), no if one is further off, better or worse."
)


def as_published(result: Result, metric: str = "") -> str:
    """Whether our means agree with the published numbers; "" where none of our metrics has one.

    metric: the only one that counts; "" for all of them.

    >>> agrees(0.098, 0.1, "ndcg@10"), agrees(0.795, 0.8, "auc/click"), agrees(0.78, 0.8, "auc/click")
    (True, True, False)
    """
    common = [name for name in result.published if name in result.metrics and metric in ("", name)]
    if not common:
        return ""
    if result.incomparable:
        return NOT_COMPARABLE
    means = {name: statistics.fmean(result.metrics[name]) for name in common}
    return YES if all(agrees(means[name], result.published[name], name) for name in common) else NO


def agrees(ours: float, published: float, metric: str) -> bool:
    """Whether a mean is within the tolerance of a published number."""
    chance = 0.5 if metric.partition("/")[0] in ("auc", "gauc") else 0.0
    return abs(ours - published) <= TOLERANCE * abs(published - chance) * (1 + 1e-9)
