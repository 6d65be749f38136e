"""Rules for the weights of examples, as an argument of an objective.

    loss = reweighted(binary_cross_entropy, decayed(half_life=7.0))
    Target("click", 0, "label/click", loss, weight="age_in_days")

A rule gives a weight to each example from its logit, its label and the column that the target names as its
`weight`; `reweighted` makes a loss of a loss and a rule. Weights have no gradient. Positives of a times the
weight of negatives multiply the learned odds by a: subtract log a from the logit to undo it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.losses.labels import class_weights, f_beta_weights, hardest, sigmoid_cross_entropy
from jaxrec.types import Array

# (logits, labels, column or None, where=, axis_name=) -> weights, all [...]
Rule = Callable[..., Array]


def reweighted(loss: Callable[..., Array], rule: Rule, *, by_weight: bool = False, name: str = "") -> Any:
    """A loss whose examples are weighted by a rule, with the arguments of `binary_cross_entropy`.

    Its own argument `weight` is the column that the rule reads, not a weight.

    Args:
      loss: takes logits, labels, where=, weight= and axis_name=, and divides by the number of real examples.
      rule: see this module.
      by_weight: divides by the sum of the weights in place of the number of real examples, so that their
        scale does not matter (self-normalised).
      name: of the loss in a row's protocol; by default those of loss and rule.
    """

    def value(
        logits: Array,
        labels: Array,
        *,
        where: Array | None = None,
        weight: Array | None = None,
        axis_name: str | None = None,
    ) -> Array:
        real = jnp.ones(logits.shape, bool) if where is None else jnp.broadcast_to(where, logits.shape)
        safe = (jnp.where(real, logits, 0.0), jnp.where(real, labels, 0.0))
        column = None if weight is None else jnp.where(real, weight, 0)
        found = jax.lax.stop_gradient(rule(*safe, column, where=real, axis_name=axis_name))
        found = jnp.where(real, found, 0.0)
        if by_weight:
            sums = jnp.stack([jnp.sum(found), jnp.sum(real, dtype=found.dtype)])
            mass, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
            found = found * count / jnp.where(mass > 0, mass, 1.0)
        return loss(logits, labels, where=real, weight=found, axis_name=axis_name)

    value.__name__ = name or f"{loss.__name__}_{getattr(rule, '__name__', 'weighted')}"
    return value


def _named(name: str) -> Callable[[Rule], Rule]:
    def rename(rule: Rule) -> Rule:
        rule.__name__ = name
        return rule

    return rename


def balanced_classes(negatives: int, positives: int, *, beta: float | None = None) -> Rule:
    """N / (2 n) for each class, or the inverse of its effective number, see `class_weights`.

    negatives, positives: numbers of training examples.

    Raises:
      ValueError: a class has no example, or beta is not in [0, 1).
    """
    if min(negatives, positives) < 1:
        raise ValueError(f"negatives={negatives}, positives={positives}: each class needs an example")
    weights = class_weights(jnp.array([negatives, positives]), beta=beta)

    @_named("balanced")
    def rule(logits: Array, labels: Array, column: Array | None, **options: Any) -> Array:
        return jnp.where(labels > 0.5, weights[1], weights[0])

    return rule


def inverse_propensity(*, minimum: float = 0.1) -> Rule:
    """1 / max(q, minimum) of the column of propensities q, the probability that the example is in the data.

    With `by_weight` the risk is self-normalised (SNIPS), between the least and the largest loss.

    Raises:
      ValueError: the minimum is not in (0, 1]; when called: there is no column.
    """
    if not 0.0 < minimum <= 1.0:
        raise ValueError(
            f"minimum={minimum}: must be above 0 and at most 1; 1 / minimum is the largest weight"
        )

    @_named("ips")
    def rule(logits: Array, labels: Array, column: Array | None, **options: Any) -> Array:
        return 1.0 / jnp.maximum(given(column, "inverse_propensity", "propensities"), minimum)

    return rule


def decayed(half_life: float, *, floor: float = 0.0) -> Rule:
    """2^(-age / half_life) of the column of ages, at least `floor`; both in one unit, such as days.

    An age below 0, of an example of the future, counts as 0.

    Raises:
      ValueError: the half-life is not above 0, or the floor not in [0, 1]; when called: there is no column.
    """
    if not 0.0 < half_life < float("inf"):
        raise ValueError(f"half_life={half_life}: must be above 0 and finite")
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor={floor}: must be in 0..1, as weights are at most 1")

    @_named("decayed")
    def rule(logits: Array, labels: Array, column: Array | None, **options: Any) -> Array:
        age = jnp.maximum(given(column, "decayed", "ages"), 0)
        return jnp.maximum(jnp.exp2(-age / half_life), floor)

    return rule


def by_stay(*, transform: Callable[[Array], Array] = jnp.log1p, longest: float = float("inf")) -> Rule:
    """The transformed stay or watch time of positives, from the column of times; 1 of negatives.

    transform: log(1 + t) by default; `lambda t: t` is weighted logistic regression (`losses.watch_time`).
    longest: longer times count as this.

    Raises:
      ValueError: longest is not above 0; when called: there is no column.
    """
    if not longest > 0:
        raise ValueError(f"longest={longest}: must be above 0")

    @_named("by_stay")
    def rule(logits: Array, labels: Array, column: Array | None, **options: Any) -> Array:
        time = jnp.clip(given(column, "by_stay", "times"), 0.0, longest)
        return jnp.where(labels > 0.5, transform(time), 1.0)

    return rule


def hard_examples(ratio: float, *, loss: Callable[[Array, Array], Array] = sigmoid_cross_entropy) -> Rule:
    """1 for the `ratio` of examples with the largest loss, else 0 (`hardest`); of all devices.

    loss: of each example. With `by_weight` the mean is over those that are kept.
    """

    @_named("ohem")
    def rule(
        logits: Array, labels: Array, column: Array | None, *, where: Array, axis_name: str | None = None
    ) -> Array:
        return hardest(loss(logits, labels), ratio, where=where, axis_name=axis_name).astype(logits.dtype)

    return rule


def f_beta(beta: float = 1.0) -> Rule:
    """Weights that raise F-beta, from the probabilities of the batch: `f_beta_weights`."""

    @_named("f_beta")
    def rule(
        logits: Array, labels: Array, column: Array | None, *, where: Array, axis_name: str | None = None
    ) -> Array:
        return f_beta_weights(logits, labels, beta=beta, where=where, axis_name=axis_name)

    return rule


def product(*rules: Rule) -> Rule:
    """The product of the weights of rules, which read the same column.

    Raises:
      ValueError: there is no rule.
    """
    if not rules:
        raise ValueError("product(): name at least one rule")

    @_named("_".join(getattr(rule, "__name__", "weighted") for rule in rules))
    def rule(logits: Array, labels: Array, column: Array | None, **options: Any) -> Array:
        found = rules[0](logits, labels, column, **options)
        for other in rules[1:]:
            found = found * other(logits, labels, column, **options)
        return found

    return rule


def given(column: Array | None, rule: str, what: str) -> Array:
    """The column that a rule reads. Raises ValueError if there is none."""
    if column is None:
        raise ValueError(f"{rule}: reads a column of {what}; name it as the target's weight")
    return column
