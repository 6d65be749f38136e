"""Watch times that depend on duration and interest in a known way, to test what is learned of each."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import numpy as np

_NORMAL = statistics.NormalDist()


class WatchTimes(NamedTuple):
    """Impressions of videos of K durations, with the answer. N impressions.

    user, item: from 1, int32 [N]. duration, watched: seconds, float32 [N]. level: which of the K durations,
    int32 [N]. interest: standard normal within each duration, float64 [N]. noise_share: of the spread of
    watch times that interest does not explain. durations, medians, spreads: of each duration, [K].
    """

    user: np.ndarray
    item: np.ndarray
    duration: np.ndarray
    watched: np.ndarray
    level: np.ndarray
    interest: np.ndarray
    noise_share: float
    durations: np.ndarray
    medians: np.ndarray
    spreads: np.ndarray
    num_users: int
    num_items: int

    def quantile(self, watched: np.ndarray, level: np.ndarray) -> np.ndarray:
        """The true distribution function of each duration, P(watch time <= watched | duration), [N]."""
        z = np.log(np.maximum(watched, 1e-30) / self.medians[level]) / self.spreads[level]
        return normal_cdf(z)

    def expected_quantile(self) -> np.ndarray:
        """The mean quantile of each impression given its interest: what D2Q learns at best, [N]."""
        return normal_cdf(self.interest * np.sqrt((1 - self.noise_share) / (1 + self.noise_share)))

    def median_time(self) -> np.ndarray:
        """The median watch time of each impression given its interest and duration, [N]."""
        explained = np.sqrt(1 - self.noise_share) * self.interest * self.spreads[self.level]
        return self.medians[self.level] * np.exp(explained)


def watch_times(
    num_examples: int = 50_000,
    *,
    num_users: int = 200,
    num_items: int = 200,
    num_durations: int = 10,
    exponent: float = 0.8,
    noise_share: float = 0.5,
    seed: int = 0,
) -> WatchTimes:
    """Durations of 10 to 600 seconds, longer ones shown more often; interest says nothing about duration.

    log(watch time) = log(median) + spread · (√(1 - noise_share) · interest + √noise_share · ε). The median is
    duration^exponent, and the spread falls from 1.2 for the shortest to 0.6 for the longest: so the quantile
    of a watch time within its duration depends on interest alone, and its mean on both. Interest is a sum of
    an item's quality and a user's taste for the item, in the order of their normal scores within each
    duration.

    Raises:
      ValueError: a count is below 1, there are fewer items than durations, or noise_share is not in 0..1.
    """
    counts = {"num_examples": num_examples, "num_users": num_users, "num_durations": num_durations}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    if num_items < num_durations:
        raise ValueError(f"num_items={num_items}: must be at least {num_durations} (num_durations)")
    if not 0 <= noise_share <= 1:
        raise ValueError(f"noise_share={noise_share}: must lie in 0..1")
    rng = np.random.default_rng(seed)
    durations = np.geomspace(10.0, 600.0, num_durations)
    of_item = rng.permutation(np.arange(num_items) % num_durations)
    shown = np.sqrt(durations)[of_item]
    item = rng.choice(num_items, num_examples, p=shown / shown.sum())
    user = rng.integers(0, num_users, num_examples)
    level = of_item[item]
    tastes, kinds = rng.standard_normal((num_users, 4)) / 2, rng.standard_normal((num_items, 4))
    raw = rng.standard_normal(num_items)[item] + np.einsum("nd,nd->n", tastes[user], kinds[item])
    interest = np.empty(num_examples)
    for k in range(num_durations):
        interest[level == k] = _normal_scores(raw[level == k], rng)
    medians, spreads = durations**exponent, np.linspace(1.2, 0.6, num_durations)
    z = np.sqrt(1 - noise_share) * interest + np.sqrt(noise_share) * rng.standard_normal(num_examples)
    return WatchTimes(
        user=(user + 1).astype(np.int32),
        item=(item + 1).astype(np.int32),
        duration=durations[level].astype(np.float32),
        watched=(medians[level] * np.exp(spreads[level] * z)).astype(np.float32),
        level=level.astype(np.int32),
        interest=interest,
        noise_share=noise_share,
        durations=durations,
        medians=medians,
        spreads=spreads,
        num_users=num_users,
        num_items=num_items,
    )


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """Φ(z), to 1e-4 between the points of a fine table."""
    points = np.linspace(-6.0, 6.0, 2401)
    values = np.array([_NORMAL.cdf(point) for point in points])
    return np.interp(z, points, values)


def _normal_scores(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers in the order of the values; equal values have their mean number."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    drawn = np.sort(rng.standard_normal(len(values)))
    means = np.add.reduceat(drawn, np.cumsum(count) - count) / count if len(values) else drawn
    return means[number]
