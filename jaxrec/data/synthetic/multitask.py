"""Multi-task data with known answers: two regressions of chosen correlation, and a conversion funnel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.features import Category, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random

_CHUNK = 65_536  # examples whose labels are computed at once


class TaskPair(NamedTuple):
    """Two regression tasks with the same inputs.

    x: inputs, float32 [N, d]. labels: float32 [N, 2]. weights: w1 and w2, float64 [2, d]. alpha, beta: of the
    sines, float64 [m]. noise: of the labels, float64 [N, 2].
    """

    x: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    noise: np.ndarray


def correlated_tasks(
    num_examples: int = 10_000,
    *,
    correlation: float,
    dim: int = 100,
    scale: float = 1.0,
    num_sines: int = 10,
    noise: float = 0.01,
    noise_is_variance: bool = True,
    seed: int = 0,
) -> TaskPair:
    """Two regressions whose weights have the cosine `correlation` (Ma et al., KDD 2018, section 3.2).

    With orthogonal unit vectors u1, u2: w1 = c u1 and w2 = c (p u1 + sqrt(1 - p^2) u2), x ~ N(0, I) and
    y_k = w_k x + sum_i sin(alpha_i w_k x + beta_i) + eps_k. `scale` is c, `correlation` p in -1..1.
    alpha and beta are drawn from N(0, 1) once and shared by both tasks, as in PLE (the paper gives no
    values); num_sines=0 is the linear case, where without noise the labels' correlation is p.
    noise: variance of eps, or with noise_is_variance=False its standard deviation: the paper's N(0, 0.01)
    can mean either. The same seed gives the same x, alpha, beta and noise at every correlation.
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation={correlation}: must lie in -1..1")
    if num_examples < 1 or dim < 2 or num_sines < 0:
        raise ValueError(
            f"num_examples={num_examples}, dim={dim}, num_sines={num_sines}: must be at least 1, 2 (for two "
            "orthogonal vectors) and 0"
        )
    if not (scale > 0 and noise >= 0):
        raise ValueError(f"scale={scale}, noise={noise}: must be positive, and at least 0")
    for_vectors, for_sines, for_inputs, for_noise = np.random.default_rng(seed).spawn(4)
    first, second = np.linalg.qr(for_vectors.standard_normal((dim, 2)))[0].T
    weights = scale * np.stack([first, correlation * first + np.sqrt(1 - correlation**2) * second])
    alpha, beta = for_sines.standard_normal((2, num_sines))
    x = for_inputs.standard_normal((num_examples, dim), np.float32)
    eps = for_noise.standard_normal((num_examples, 2)) * (np.sqrt(noise) if noise_is_variance else noise)
    labels = np.empty((num_examples, 2), np.float32)
    for start in range(0, num_examples, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        linear = x[chunk] @ weights.T  # float64
        sines = np.sin(linear[..., None] * alpha + beta).sum(axis=-1)
        labels[chunk] = linear + sines + eps[chunk]
    return TaskPair(x=x, labels=labels, weights=weights, alpha=alpha, beta=beta, noise=eps)


def ple_tasks(num_examples: int = 1_400_000, *, correlation: float, seed: int = 0) -> TaskPair:
    """The data of PLE (Tang et al., RecSys 2020): 512 inputs, 10 sines, c = 1, 1.4M examples (2.9 GB)."""
    return correlated_tasks(
        num_examples, correlation=correlation, dim=512, scale=1.0, num_sines=10, seed=seed
    )


class Funnel(NamedTuple):
    """Impressions with the tasks `ctr`, `cvr` (on clicked rows) and `ctcvr`. click, conversion: the true
    probabilities of a click and of a conversion given a click, float64 [N]; no model can rank better.
    """

    split: ImpressionSplit
    click: np.ndarray
    conversion: np.ndarray


def funnel(
    num_examples: int = 4_000,
    *,
    num_users: int = 50,
    num_items: int = 30,
    click_rate: float = 0.3,
    conversion_rate: float = 0.3,
    shared: float = 0.5,
    seed: int = 0,
) -> Funnel:
    """The logits of a click and of a conversion after it are sums of effects of user, item and price.

    shared: correlation of each feature's effects on the two, -1..1. click_rate, conversion_rate: of an
    impression whose effects are 0. Split at random, 80/10/10.
    """
    for name, count in (("num_examples", num_examples), ("num_users", num_users), ("num_items", num_items)):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    for name, rate in (("click_rate", click_rate), ("conversion_rate", conversion_rate)):
        if not 0 < rate < 1:
            raise ValueError(f"{name}={rate}: must lie between 0 and 1")
    if not -1 <= shared <= 1:
        raise ValueError(f"shared={shared}: must lie in -1..1")
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, num_users, num_examples), rng.integers(0, num_items, num_examples)
    price = rng.standard_normal(num_examples)
    logits = np.log([click_rate, conversion_rate]) - np.log1p([-click_rate, -conversion_rate])
    both = np.broadcast_to(logits, (num_examples, 2)).copy()
    mix = np.array([[1, shared], [0, np.sqrt(1 - shared**2)]])  # standard normal pairs of this correlation
    both += (rng.standard_normal((num_users, 2)) @ mix)[user] + (rng.standard_normal((num_items, 2)) @ mix)[
        item
    ]
    both += price[:, None] * (rng.standard_normal(2) @ mix)
    click, conversion = (1 / (1 + np.exp(-both))).T
    clicked = rng.random(num_examples) < click
    converted = clicked & (rng.random(num_examples) < conversion)
    raw = {"user_id": user, "item_id": item, "price": price}
    split = split_at_random(num_examples, seed=seed)
    encoders = fit_encoders((Category("user_id"), Category("item_id"), Number("price")), raw, split.train)
    labels = {"click": clicked.astype(np.float32), "conversion": converted.astype(np.float32)}
    table = Impressions(
        f"funnel-{num_examples}",
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels=labels,
        group=user.astype(np.int32),
    ).as_ctr_cvr("click", "conversion")
    return Funnel(table.split(*split[:3], rule=split.rule), click, conversion)
