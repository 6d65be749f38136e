"""Clicks whose conversion depends on an interest that only the time after the click shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.features import Category, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random

DWELL = "dwell"  # the feature that is not known when a conversion has to be predicted
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


class PostClick(NamedTuple):
    """Clicks with the task `conversion` and the feature DWELL among others.

    best, informed: the true probabilities of a conversion given the other features, and given DWELL too,
    float64 [N]; no model that reads these features can rank better.
    """

    split: ImpressionSplit
    best: np.ndarray
    informed: np.ndarray


def post_click(
    num_examples: int = 30_000,
    *,
    num_users: int = 500,
    num_items: int = 200,
    rate: float = 0.05,
    hidden: float = 2.0,
    noise: float = 0.3,
    rank: int = 3,
    seed: int = 0,
) -> PostClick:
    """The logit of a conversion is an interest; the time after the click (DWELL) is the interest and noise.

    The interest of a click is a sum of effects of user, item and price, of a product of vectors of user and
    item, all with deviation 1 together or so, and of something that no feature shows, N(0, hidden²).

    Args:
      rate: of conversions where the interest is 0. noise: deviation of DWELL from the interest. rank: width
        of the vectors, 0 for none.

    Split at random, 80/10/10.

    Raises:
      ValueError: a setting out of range, naming it.
    """
    for name, count in (("num_examples", num_examples), ("num_users", num_users), ("num_items", num_items)):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    if not (0 < rate < 1 and hidden >= 0 and noise > 0 and rank >= 0):
        raise ValueError(
            f"rate={rate}, hidden={hidden}, noise={noise}, rank={rank}: must be in (0, 1), at least 0, above "
            "0, and at least 0"
        )
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, num_users, num_examples), rng.integers(0, num_items, num_examples)
    price = rng.standard_normal(num_examples)
    effects = rng.normal(0.0, 0.5, num_users)[user] + rng.normal(0.0, 0.5, num_items)[item] - 0.5 * price
    vectors = [rng.normal(0.0, max(rank, 1) ** -0.25, (count, rank)) for count in (num_users, num_items)]
    known = effects + 0.7 * (vectors[0][user] * vectors[1][item]).sum(axis=1)
    interest = known + hidden * rng.standard_normal(num_examples)
    dwell = interest + noise * rng.standard_normal(num_examples)
    level = np.log(rate) - np.log1p(-rate)
    converted = rng.random(num_examples) < _sigmoid(level + interest)
    kept = hidden**2 / (hidden**2 + noise**2)  # of what DWELL deviates from what was to be expected
    best = _mean_sigmoid(level + known, hidden)
    informed = _mean_sigmoid(level + known + kept * (dwell - known), np.sqrt(kept) * noise)
    raw = {"user_id": user, "item_id": item, "price": price, DWELL: dwell}
    parts = split_at_random(num_examples, seed=seed)
    specs = (Category("user_id"), Category("item_id"), Number("price"), Number(DWELL))
    encoders = fit_encoders(specs, raw, parts.train)
    table = Impressions(
        f"post-click-{num_examples}",
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels={"conversion": converted.astype(np.float32)},
        group=user.astype(np.int32),
    )
    return PostClick(table.split(*parts[:3], rule=parts.rule), best, informed)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _mean_sigmoid(mean: np.ndarray, deviation: float) -> np.ndarray:
    """The expected σ of normal logits, by Gauss-Hermite quadrature: [N] → [N]."""
    weights = _WEIGHTS / _WEIGHTS.sum()
    total = np.zeros_like(mean)
    for node, weight in zip(_NODES, weights, strict=True):
        total += weight * _sigmoid(mean + deviation * node)
    return total
