"""Labelled rows with known answers: objectives that conflict for some users, and numbers that are missing."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.tables.features import Category, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random


class TwoObjectives(NamedTuple):
    """Impressions with the tasks `click` and `stay`. logits: the true ones of both, float64 [N, 2]."""

    split: ImpressionSplit
    logits: np.ndarray


def two_objectives(
    num_examples: int = 20_000,
    *,
    agreement: tuple[float, ...] = (0.9, -0.9),
    num_columns: int = 8,
    strength: float = 2.0,
    seed: int = 0,
) -> TwoObjectives:
    """Clicks and stays that depend on the same numbers, alike for some users and oppositely for others.

    A user is of a group g, a category. With x ~ N(0, I) the logits are s · u·x and s · v_g·x, of unit vectors
    u and v_g whose cosine is agreement[g]: where it is negative, what raises clicks lowers stays. Split at
    random, 80/10/10.

    strength: s, the deviation of each logit.

    Raises:
      ValueError: fewer than 10 examples or 3 columns, no group, or an agreement outside -1..1.
    """
    if num_examples < 10 or num_columns < 3:
        raise ValueError(f"num_examples={num_examples}, num_columns={num_columns}: at least 10 and 3")
    if not agreement or not all(-1 <= a <= 1 for a in agreement):
        raise ValueError(f"agreement={agreement}: give at least one, each in -1..1")
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((num_columns, 2)))[0].T
    along = np.array(agreement)
    stays = along[:, None] * basis[0] + np.sqrt(1 - along**2)[:, None] * basis[1]
    group = rng.integers(0, len(agreement), num_examples)
    x = rng.standard_normal((num_examples, num_columns))
    logits = strength * np.stack([x @ basis[0], np.einsum("nd,nd->n", x, stays[group])], axis=1)
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    raw = {"user_group": group, **{f"x{i}": x[:, i] for i in range(num_columns)}}
    parts = split_at_random(num_examples, seed=seed)
    features: list[Category | Number] = [Category("user_group")]
    features += [Number(f"x{i}", standardise=False) for i in range(num_columns)]
    encoders = fit_encoders(tuple(features), raw, parts.train)
    table = Impressions(
        f"two-objectives-{num_examples}",
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels={"click": labels[:, 0], "stay": labels[:, 1]},
    )
    return TwoObjectives(table.split(*parts[:3], rule=parts.rule), logits)


class MissingNumbers(NamedTuple):
    """Impressions with the tasks of `ctr`, `cvr` and `ctcvr`, and numbers of which some are missing.

    values: the numbers with none missing, float64 [N, F]; missing: bool [N, F]. means: of all values, and of
    those that are missing, float64 [F]. The columns are `x0`, … and `x0_missing`, …; a missing number stands
    at the training mean of the others.
    """

    split: ImpressionSplit
    values: np.ndarray
    missing: np.ndarray
    means: np.ndarray
    missing_means: np.ndarray


def missing_numbers(
    num_examples: int = 20_000,
    *,
    mechanism: Literal["at-random", "large"] = "at-random",
    share: float = 0.3,
    num_columns: int = 8,
    strength: float = 2.0,
    seed: int = 0,
) -> MissingNumbers:
    """Numbers x ~ N(1, 1) of which each is missing with probability `share`, or if it is among the largest.

    The logits of a click and of an order after it are linear in the values, whether they are seen or not. So
    of "at-random" the best linear filling is the mean, and of "large" the mean of what is missing, which lies
    above all that is seen.

    strength: the deviation of each logit.

    Raises:
      ValueError: the share is not in (0, 1), or the mechanism is another one.
    """
    if mechanism not in ("at-random", "large"):
        raise ValueError(f"mechanism={mechanism!r}: must be 'at-random' or 'large'")
    if not 0 < share < 1:
        raise ValueError(f"share={share}: must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((num_examples, num_columns)) + 1.0
    weights = rng.standard_normal((num_columns, 2))
    weights *= strength / np.linalg.norm(weights, axis=0)
    logits = (values - 1.0) @ weights - 0.5
    click, order = rng.random((2, num_examples)) < 1 / (1 + np.exp(-logits.T))
    if mechanism == "at-random":
        missing = rng.random(values.shape) < share
    else:
        missing = values > np.quantile(values, 1 - share, axis=0)
    seen = np.where(missing, np.nan, values)
    raw = {f"x{i}": seen[:, i] for i in range(num_columns)}
    parts = split_at_random(num_examples, seed=seed)
    numbers = tuple(Number(f"x{i}", standardise=False, missing="indicator") for i in range(num_columns))
    encoders = fit_encoders(numbers, raw, parts.train)
    table = Impressions(
        f"missing-{mechanism}-{num_examples}",
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels={"click": click.astype(np.float32), "order": (click & order).astype(np.float32)},
    ).as_ctr_cvr("click", "order")
    count = missing.sum(axis=0)
    means = np.where(missing, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    split = table.split(*parts[:3], rule=parts.rule)
    return MissingNumbers(split, values, missing, values.mean(axis=0), means)
