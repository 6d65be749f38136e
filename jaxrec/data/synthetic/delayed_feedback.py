"""Clicks that convert late, with known probabilities and rates of delay."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.conversions import Conversions


class DelayedClicks(NamedTuple):
    """Clicks with the truth. prob: of a conversion, float64 [N]. rate: of its exponential delay, a day."""

    clicks: Conversions
    prob: np.ndarray
    rate: np.ndarray


def delayed_clicks(
    num_clicks: int = 20_000,
    *,
    days: float = 45.0,
    num_campaigns: int = 50,
    num_sites: int = 20,
    conversion_rate: float = 0.2,
    mean_delay: float = 3.0,
    spread: float = 0.5,
    drift: float = 0.0,
    seed: int = 0,
) -> DelayedClicks:
    """Clicks at uniform times; a click converts with p after a delay of the exponential distribution, as in
    Chapelle's model (KDD 2014).

    logit p = base + effects of campaign and site + a coefficient of the number `price`, all standard normal;
    log rate = -log mean_delay + spread × a normal effect of the campaign. Columns: `campaign`, `site`, ids
    from 1, int32; `price`, float32.

    days: over which clicks happen; conversions come after them too. conversion_rate: of a click without
    effects. mean_delay: in days, of a campaign without effect. spread: of log rates. drift: the standard
    deviation of what a campaign's logit changes by from the first day to the last, linearly.

    Raises:
      ValueError: a number below 1, a length or delay that is not positive, a rate outside 0..1, spread or
        drift below 0.
    """
    for name, count in (
        ("num_clicks", num_clicks),
        ("num_campaigns", num_campaigns),
        ("num_sites", num_sites),
    ):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    if not 0 < conversion_rate < 1:
        raise ValueError(f"conversion_rate={conversion_rate}: must lie between 0 and 1")
    if not (days > 0 and mean_delay > 0 and spread >= 0 and drift >= 0):
        raise ValueError(
            f"days={days}, mean_delay={mean_delay}, spread={spread}, drift={drift}: the first two must be "
            "positive, the others at least 0"
        )
    rng = np.random.default_rng(seed)
    time = np.sort(rng.random(num_clicks)) * days
    campaign, site = rng.integers(0, num_campaigns, num_clicks), rng.integers(0, num_sites, num_clicks)
    price = rng.standard_normal(num_clicks)
    of_campaign, of_delay, moves = rng.standard_normal((3, num_campaigns))
    logit = np.log(conversion_rate) - np.log1p(-conversion_rate) + of_campaign[campaign]
    logit += rng.standard_normal(num_sites)[site] + rng.standard_normal() * price
    logit += drift * moves[campaign] * time / days
    prob = 1 / (1 + np.exp(-logit))
    rate = np.exp(spread * of_delay[campaign]) / mean_delay
    delay = np.where(rng.random(num_clicks) < prob, rng.standard_exponential(num_clicks) / rate, np.inf)
    columns = {
        "campaign": (campaign + 1).astype(np.int32),
        "site": (site + 1).astype(np.int32),
        "price": price.astype(np.float32),
    }
    return DelayedClicks(Conversions(columns, time, delay).check(), prob, rate)
