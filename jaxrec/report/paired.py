"""The difference of two results with an interval over users and over seeds.

Two things vary: which users were tested, and the seed of a training. The users are the same for both results,
so their values are compared in pairs. The seeds are those of each result by itself, even where both use the
same numbers: the same seed draws something else in another model. Where seeds do go together (a shared
pre-training, say), their covariance is positive and the interval is wider than it has to be, never narrower.

With three seeds a bootstrap over seeds rejects too often: it resamples three numbers, whose spread is on
average too small by a third, and takes the estimated deviation for the true one. (The two-way bootstrap of
Owen, Annals of Applied Statistics 2007, has the same fault for its short axis.) So users are bootstrapped in
pairs, and what seeds add has a t distribution:

    variance = V(users) + sum over both results of max(0, V(seeds) − V(chance))

    V(users)    variance of the mean over users of each user's difference between the results' means over
                seeds; it includes what changes by seed for each user independently, V(chance) of both results
    V(seeds)    variance of a result's mean over its S seeds: that of its metric over seeds, divided by S
    V(chance)   what V(seeds) is expected to be if seeds change users independently of each other

The degrees of freedom are those of Satterthwaite (Biometrics Bulletin 1946): S − 1 for what the seeds of each
result add, and the number of users − 1 for users. A draw is a bootstrap of the users plus a normal deviate
with the variance of the seeds, times sqrt(f / chi²(f)) for f degrees of freedom. The interval and the p-value
are read from the same draws. In simulations with three seeds and no difference (tests/report/test_paired.py)
this rejects at a level of 5 % in 4 to 8 %, the bootstrap of users and seeds in up to 13 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

BLOCKS = 2048  # users are resampled in at most so many random blocks


class Spread(NamedTuple):
    """Means of two results over users and seeds, and the variance of their difference. […]: any leading axes.

    first, second: means, […]. residual: what each user contributes to the deviation of the difference from
    its mean, […, G]. users: V(users); seeds: what the seeds of both results add; freedom: degrees of freedom;
    each […].
    """

    first: np.ndarray
    second: np.ndarray
    residual: np.ndarray
    users: np.ndarray
    seeds: np.ndarray
    freedom: np.ndarray


class Interval(NamedTuple):
    """The ends of the interval of second − first, and the two-sided p-value of no difference, each […]."""

    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def spread(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> Spread:
    """The variance of the difference between two results, in parts.

    A metric is the sum of its values over users, divided by the sum of the weights. A result of one seed adds
    nothing for seeds: the difference is then that of its parameters, not of its training.

    Args:
      first: sums over each user's examples, […, S, G].
      second: the same users, […, T, G]; the number of seeds T may be another.
      weights: of each user, […, G] or [G].

    Raises:
      ValueError: fewer than two users, or weights that add up to nothing.
    """
    groups, total = weights.shape[-1], weights.sum(axis=-1)
    if groups < 2 or not np.all(total > 0):
        raise ValueError(
            f"{groups} users or groups of total weight {np.min(total):g}: need two of positive weight"
        )
    correction = groups / (groups - 1)
    share = weights / total[..., None]
    means, residuals, added, freedom_parts = [], [], [], []
    for sums in (first, second):
        seeds = sums.shape[-2]
        by_seed = sums.sum(axis=-1) / total[..., None]  # […, S]
        residual = sums / np.asarray(total)[..., None, None] - share[..., None, :] * by_seed[..., None]
        mean = residual.mean(axis=-2)
        means.append(by_seed.mean(axis=-1))
        residuals.append(mean)
        if seeds == 1:
            added.append(np.zeros(by_seed.shape[:-1]))
            continue
        chance = np.square(residual).sum(axis=(-2, -1)) - seeds * np.square(mean).sum(axis=-1)
        of_seeds = by_seed.var(axis=-1, ddof=1)
        added.append(np.maximum(of_seeds - correction * chance / (seeds - 1), 0.0) / seeds)
        freedom_parts.append(np.square(added[-1]) / (seeds - 1))
    residual = residuals[1] - residuals[0]
    users = correction * np.square(residual).sum(axis=-1)
    seeds_added = added[0] + added[1]
    parts = sum(freedom_parts, np.square(users) / (groups - 1))
    whole = np.square(users + seeds_added)
    freedom = np.divide(whole, parts, out=np.full(np.shape(whole), np.inf), where=parts > 0)
    return Spread(means[0], means[1], residual, users, seeds_added, freedom)


def over_seeds(first: Sequence[float], second: Sequence[float]) -> Spread:
    """The variance of the difference between two results over seeds alone, for results without values of each
    user: that of the test of Welch (Biometrika 1947).

    Args:
      first: a metric by seed; second: that of the other result. Each at least two.
    """
    samples = [np.asarray(values, float) for values in (first, second)]
    added = [values.var(ddof=1) / len(values) for values in samples]
    parts = sum(part**2 / (len(values) - 1) for part, values in zip(added, samples, strict=True))
    freedom = np.asarray(sum(added) ** 2 / parts if parts > 0 else np.inf)
    mean, other = (np.asarray(values.mean()) for values in samples)
    return Spread(mean, other, np.zeros(0), np.zeros(()), np.asarray(sum(added)), freedom)


def limit(found: Spread, *, level: float = 0.95) -> Interval:
    """`interval` without draws: the t distribution that they follow if no few users make up most of V(users).

    Where nothing varies, the interval has no width, and p is 1 for equal means and else 0.
    """
    difference = found.second - found.first
    deviation = np.sqrt(found.users + found.seeds)
    freedom = np.minimum(found.freedom, 1e9)
    half = special.stdtrit(freedom, (1 + level) / 2) * deviation
    distance = np.where(difference == 0, 0.0, np.inf)
    np.divide(np.abs(difference), deviation, out=distance, where=deviation > 0)
    return Interval(difference - half, difference + half, 2 * special.stdtr(freedom, -distance))


def interval(found: Spread, *, level: float = 0.95, draws: int = 9999, seed: int = 0) -> Interval:
    """The interval of second − first and its p-value, from bootstrap draws that all leading axes share.

    Raises:
      ValueError: a level outside (0, 1), or too few draws for it.
    """
    if not 0 < level < 1 or draws * (1 - level) < 20:
        raise ValueError(
            f"level={level}, draws={draws}: need a level between 0 and 1 and 20 draws outside the interval"
        )
    rng = np.random.default_rng(seed)
    shape = found.users.shape
    residual = found.residual.reshape(-1, found.residual.shape[-1])
    users = np.sqrt(found.users.reshape(-1, 1))
    deviations = _resample(residual, draws, rng)
    scale = deviations.std(axis=1, keepdims=True)
    deviations *= np.divide(users, scale, out=np.zeros_like(users), where=scale > 0)
    deviations += np.sqrt(found.seeds.reshape(-1, 1)) * rng.standard_normal(draws)
    freedom = np.minimum(found.freedom.reshape(-1, 1), 1e9)
    deviations *= np.sqrt(freedom / (2 * rng.standard_gamma(freedom / 2, (len(freedom), draws))))
    difference = (found.second - found.first).reshape(-1, 1)
    low, high = np.quantile(difference + deviations, [(1 - level) / 2, (1 + level) / 2], axis=1)
    below = 1 + (difference + deviations <= 0).sum(axis=1)
    above = 1 + (difference + deviations >= 0).sum(axis=1)
    p = np.minimum(2 * np.minimum(below, above) / (draws + 1), 1.0)
    return Interval(low.reshape(shape), high.reshape(shape), p.reshape(shape))


def _resample(residual: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Deviations of the mean when users are drawn with replacement: [K, G] → [K, draws]."""
    blocks = min(residual.shape[1], BLOCKS)
    if residual.shape[1] > blocks:
        order = rng.permutation(residual.shape[1])
        starts = np.linspace(0, residual.shape[1], blocks, endpoint=False).astype(int)
        residual = np.add.reduceat(residual[:, order], starts, axis=1)
    found = np.empty((len(residual), draws))
    for start in range(0, draws, 1000):
        size = min(1000, draws - start)
        drawn = rng.integers(0, blocks, (size, blocks)) + blocks * np.arange(size)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=size * blocks).reshape(size, blocks)
        found[:, start : start + size] = residual @ counts.T
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979), any shape.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    flat = np.asarray(p, float).reshape(-1)
    order = np.argsort(flat, kind="stable")
    scaled = np.maximum.accumulate(flat[order] * (len(flat) - np.arange(len(flat))))
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(scaled, 1.0)
    return corrected.reshape(np.shape(p))
