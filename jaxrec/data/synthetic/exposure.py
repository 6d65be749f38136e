"""Clicks on items that are shown by their popularity, with known chances of being shown."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.held_out import HeldOut, from_parts

KEPT_OUT = 0.1  # share of all pairs that the test asks of


class ExposedClicks(NamedTuple):
    """A matrix of clicks and its truth. V items and U users; entry 0 of an item's arrays is padding.

    split: clicks under exposure train and validate; the test part has relevant items of pairs that were kept
    out of the log beforehand, so popular ones are there no more and no less often than they are relevant.
    propensity: chance that the log has shown it to a user, float64 [V + 1]. relevance: mean probability of a
    click on what is shown, over users, [V + 1]. attributes: what items are like, [V + 1, D]; they say nothing
    of the propensity. clicks: of training and validation on each item, [V + 1]. num_users: U, those without a
    click counted, whom the split leaves out.
    """

    split: HeldOut
    propensity: np.ndarray
    relevance: np.ndarray
    attributes: np.ndarray
    clicks: np.ndarray
    num_users: int

    def rates(self, *, weighted: bool) -> np.ndarray:
        """Share of users with a click on an item, [V + 1]; weighted: over the propensity, which makes it an
        unbiased estimate of the relevance.
        """
        shown = np.where(weighted & (self.propensity > 0), self.propensity, 1.0)
        return np.asarray(self.clicks / (self.num_users * shown))

    def margin(self, z: float = 1.96) -> np.ndarray:
        """Half-widths of the intervals of the weighted rates, [V + 1]."""
        chance = self.propensity * self.relevance
        shown = np.where(self.propensity > 0, self.propensity, 1.0)
        return np.asarray(z * np.sqrt(chance * (1 - chance) / self.num_users) / shown)


def exposed_clicks(
    num_users: int = 1_000,
    num_items: int = 200,
    *,
    dim: int = 4,
    skew: float = 1.0,
    level: float = -1.0,
    taste: float = 1.5,
    seed: int = 0,
) -> ExposedClicks:
    """Every pair is relevant with the probability σ(level + taste · ⟨user, item⟩ / √dim) of normal vectors.

    A tenth of all pairs, drawn without regard to anything, is shown to nobody, and those of them that are
    relevant are the test part. The others are shown with the chance (1 + rank)^-skew, the ranks drawn without
    regard to attributes, but at least with 0.02. A click is a relevant item that is shown; a tenth of the
    clicks validates.

    Raises:
      ValueError: a count is below 1, or skew or taste is negative or not finite.
    """
    for name, count in (("num_users", num_users), ("num_items", num_items), ("dim", dim)):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    for name, value in (("skew", skew), ("taste", taste)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value}: must be at least 0 and finite")
    rng = np.random.default_rng(seed)
    users, items = rng.standard_normal((num_users, dim)), rng.standard_normal((num_items, dim))
    chance = 1 / (1 + np.exp(-(level + taste * users @ items.T / np.sqrt(dim))))
    chance_shown = np.maximum((1.0 + rng.permutation(num_items)) ** -skew, 0.02)
    relevant = rng.random(chance.shape) < chance
    kept_out = rng.random(chance.shape) < KEPT_OUT
    clicked = relevant & ~kept_out & (rng.random(chance.shape) < chance_shown)
    tested = relevant & kept_out
    validated = clicked & (rng.random(chance.shape) < 0.1)
    parts = (clicked & ~validated, validated, tested)
    pairs = tuple((user, item + 1) for user, item in (np.nonzero(part) for part in parts))
    split = from_parts(
        f"exposure-{num_users}x{num_items}",
        pairs,  # type: ignore[arg-type]
        num_items=num_items,
        rule="clicks under exposure; test: relevant ones of a tenth of all pairs, kept out of the log",
        user_ids=np.arange(1, num_users + 1),
        item_ids=np.arange(1, num_items + 1),
    )
    return ExposedClicks(
        split,
        propensity=np.append(0.0, (1 - KEPT_OUT) * chance_shown),
        relevance=np.append(0.0, chance.mean(axis=0)),
        attributes=np.concatenate([np.zeros((1, dim)), items]),
        clicks=np.append(0, clicked.sum(axis=0)),
        num_users=num_users,
    )
