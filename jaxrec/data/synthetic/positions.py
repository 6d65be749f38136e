"""Clicks on displayed lists with a known curve of examination, to test whether a model finds it.

The examination model is that of Richardson, Dominowska and Ragno (WWW 2007) and of PAL (Guo et al., RecSys
2019): a click needs a position that is seen and an item that attracts.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # probability with which an efficient estimate lies within the margin at all positions


class Displayed(NamedTuple):
    """Impressions at positions, with the answer. N impressions, K positions.

    columns: "item", "group" (of the user), "position" (1 is the top), int32 [N] each, from 1; "label/click"
    and "label/attracted", what the click would be at the top, float32 [N]. attraction: its probability,
    float64 [N]. curve: what a position does to it, relative to the top, [K]: a factor of the probability or,
    where `additive`, of the odds. margin: half-width of the interval of log(curve) in which an estimate from
    these impressions lies, all positions jointly, [K]; 0 at the top.
    """

    columns: Mapping[str, np.ndarray]
    attraction: np.ndarray
    curve: np.ndarray
    margin: np.ndarray
    additive: bool


def displayed(
    num_lists: int = 5_000,
    *,
    num_items: int = 50,
    num_groups: int = 5,
    num_positions: int = 10,
    decay: float = 1.0,
    placement: float = 1.0,
    additive: bool = False,
    seed: int = 0,
) -> Displayed:
    """Lists of random items, which a policy that knows a little of their attraction puts in order.

    The logit of attraction is the sum of an item's and a user group's effect.
    The curve is 1 / position^decay.
    additive=False: p(click) = curve · p(attracted), the world of PAL; True: its odds are curve · the odds of
    attraction, the world of a shallow tower, whose position adds to the logit.

    Args:
      num_lists: each shows num_positions different items to a random group.
      placement: how sure the policy is. It believes that an item has its effect plus an error, standard
        normal and the same in all lists, and orders by placement · belief + standard normal noise. 0 places
        at random, so that the click rates of positions are the curve; above 0 better items stand higher, so
        that the rates fall faster, and items that are overrated have more clicks than they deserve.

    Raises:
      ValueError: a count is below 1, there are fewer items than positions or fewer than two positions, or
        decay or placement is negative or not finite.
    """
    counts = {"num_lists": num_lists, "num_items": num_items, "num_groups": num_groups}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    if not 2 <= num_positions <= num_items:
        raise ValueError(f"num_positions={num_positions}: must lie in 2..{num_items} (num_items)")
    for name, value in (("decay", decay), ("placement", placement)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value}: must be at least 0 and finite")
    rng = np.random.default_rng(seed)
    effects = rng.normal(-0.5, 1.0, num_items)
    of_groups = rng.normal(0.0, 0.5, num_groups)
    shown = rng.random((num_lists, num_items)).argsort(axis=1)[:, :num_positions]
    belief = effects + rng.standard_normal(num_items)
    wanted = placement * belief[shown] + rng.standard_normal(shown.shape)
    item = np.take_along_axis(shown, (-wanted).argsort(axis=1), axis=1).reshape(-1)
    group = np.repeat(rng.integers(0, num_groups, num_lists), num_positions)
    position = np.tile(np.arange(num_positions), num_lists)
    curve = 1.0 / np.arange(1, num_positions + 1) ** decay
    logit = effects[item] + of_groups[group]
    attraction = 1 / (1 + np.exp(-logit))
    click = _click(attraction, curve[position], additive)
    luck = rng.random(len(item))  # the same for both labels, as what is clicked would be at the top too
    slope = np.ones(len(item)) if additive else 1.0 - attraction
    weight = click * (1.0 - click) if additive else click / (1.0 - click)
    columns = {
        "item": (item + 1).astype(np.int32),
        "group": (group + 1).astype(np.int32),
        "position": (position + 1).astype(np.int32),
        "label/click": (luck < click).astype(np.float32),
        "label/attracted": (luck < attraction).astype(np.float32),
    }
    return Displayed(columns, attraction, curve, _margin(columns, slope, weight), additive)


def _click(attraction: np.ndarray, factor: np.ndarray, additive: bool) -> np.ndarray:
    """The probability of a click, of a factor on the probability or on the odds."""
    if not additive:
        return factor * attraction
    odds = factor * attraction / (1 - attraction)
    return odds / (1 + odds)


def _margin(columns: Mapping[str, np.ndarray], slope: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Half-widths of a joint interval of the log factors by the Cramér-Rao bound, all effects unknown, [K],
    relative to the top.

    slope: derivative of an impression's log p (or logit) by the logit of attraction; that by its position's
    log factor is 1. weight: information of an impression about that log p (or logit).
    """
    numbers = {name: columns[name] - 1 for name in ("position", "item", "group")}
    sizes = {name: int(column.max()) + 1 for name, column in numbers.items()}
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1], strict=True))
    total = sum(sizes.values())
    slopes = {"position": np.ones(len(slope)), "item": slope, "group": slope}
    information = np.zeros(total * total)
    for a, of_a in numbers.items():
        for b, of_b in numbers.items():
            cell = (first[a] + of_a) * total + first[b] + of_b
            information += np.bincount(cell, weight * slopes[a] * slopes[b], minlength=total**2)
    # A level can move between the effects of items, groups and positions; differences of positions cannot.
    inverse = np.linalg.pinv(information.reshape(total, total), rcond=1e-11, hermitian=True)
    positions = sizes["position"]
    among = inverse[:positions, :positions]
    variance = np.diag(among) + among[0, 0] - 2 * among[0]
    z = statistics.NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * (positions - 1)))
    return z * np.sqrt(np.maximum(variance, 0.0))
