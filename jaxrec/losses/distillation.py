"""Losses of a student that learns from a teacher's scores, through which no gradient passes.

Hinton et al., 2015, arXiv:1503.02531: labels with weight 1 - λ, the teacher with weight λ. Each loss is by
itself here; a weighting mixes them (`tasks.distillation.after_warm_up`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.labels import sigmoid_cross_entropy
from jaxrec.losses.reduce import MASKED, masked_mean
from jaxrec.types import Array


def soft_sigmoid_cross_entropy(
    student: Array,
    teacher: Array,
    *,
    temperature: float = 1.0,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """T² times the cross-entropy of σ(student / T) against the teacher's σ(teacher / T).

    The distillation loss of PFD (Xu et al., KDD 2020, arXiv:1907.05171), which has T = 1. It is least where
    both are equal: the teacher's entropy times T², above 0. T² keeps the size of the gradient, T (σ(s / T) -
    σ(t / T)), which for large T becomes (s - t) / 4.

    Args:
      student, teacher: logits, [...]. temperature: T, positive.
      where: True where the example is real, [...].

    Raises:
      ValueError: the temperature is not positive.

    >>> round(float(soft_sigmoid_cross_entropy(jnp.zeros(1), jnp.zeros(1))), 4)  # ln 2
    0.6931
    """
    student, teacher, real = _real(student, teacher, temperature, where)
    target = jax.nn.sigmoid(teacher / temperature)
    terms = temperature**2 * sigmoid_cross_entropy(student / temperature, target)
    return masked_mean(terms, real, axis_name)


def soft_softmax_cross_entropy(
    student: Array,
    teacher: Array,
    *,
    temperature: float = 1.0,
    candidates: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """T² times the cross-entropy of softmax(student / T) against softmax(teacher / T), over the last axis.

    The gradient is that of T² times the divergence KL(teacher | student), from which it differs by the
    teacher's entropy, `softmax_entropy`. For large T it becomes (s - t) / C, with both shifted to mean 0 over
    the C classes.

    Args:
      student, teacher: scores of classes or of a list of candidates, [..., C].
      candidates: True where there is a class or candidate, [..., C]; a list without any has loss 0.
      temperature, where [...]: as of `soft_sigmoid_cross_entropy`.

    >>> round(float(soft_softmax_cross_entropy(jnp.zeros((1, 4)), jnp.zeros((1, 4)))), 4)  # ln 4
    1.3863
    """
    listed, some = _listed(student, candidates)
    student, teacher, _ = _real(student, teacher, temperature, _of_lists(listed, where))
    target = jax.nn.softmax(jnp.where(listed, teacher / temperature, MASKED), axis=-1)
    log_prob = jax.nn.log_softmax(jnp.where(listed, student / temperature, MASKED), axis=-1)
    terms = -(temperature**2) * jnp.sum(jnp.where(listed, target * log_prob, 0.0), axis=-1)
    # a real list without a candidate counts, with loss 0
    return masked_mean(jnp.where(some, terms, 0.0), where, axis_name)


def softmax_entropy(
    scores: Array,
    *,
    temperature: float = 1.0,
    candidates: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """T² times the entropy of softmax(scores / T): the least value of `soft_softmax_cross_entropy`.

    >>> round(float(softmax_entropy(jnp.zeros((1, 4)))), 4)  # ln 4
    1.3863
    """
    return soft_softmax_cross_entropy(
        scores, scores, temperature=temperature, candidates=candidates, where=where, axis_name=axis_name
    )


def logit_error(
    student: Array, teacher: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Mean of (s - t)² / 2 of logits, [...] (Hinton et al., section 2.1: what large temperatures come to).

    >>> float(logit_error(jnp.array([1.0, 4.0]), jnp.array([3.0, 4.0])))
    1.0
    """
    student, teacher, real = _real(student, teacher, 1.0, where)
    return masked_mean(0.5 * (student - teacher) ** 2, real, axis_name)


def margin_error(
    student: Array,
    teacher: Array,
    *,
    candidates: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean of ((s₀ - s_j) - (t₀ - t_j))² over the other candidates j of a list, and over lists.

    Margin-MSE (Hofstätter et al., 2020, arXiv:2010.02666, section 3.1): the student learns by how much the
    first candidate is above each other one, and may have scores of another level.

    Args:
      student, teacher: scores of lists whose first candidate is the observed item, [..., C].
      candidates: True where there is another candidate, [..., C]; entry 0 is not read.
      where: True where the list is real, [...]. A real list without another candidate has loss 0.

    >>> float(margin_error(jnp.array([[3.0, 1.0]]), jnp.array([[10.0, 9.0]])))  # (2 - 1)²
    1.0
    """
    listed, _ = _listed(student, candidates)
    listed = listed.at[..., 0].set(True)
    student, teacher, _ = _real(student, teacher, 1.0, _of_lists(listed, where))
    error = ((student[..., :1] - student[..., 1:]) - (teacher[..., :1] - teacher[..., 1:])) ** 2
    others = listed[..., 1:]
    count = jnp.maximum(jnp.sum(others, axis=-1), 1)
    return masked_mean(jnp.sum(jnp.where(others, error, 0.0), axis=-1) / count, where, axis_name)


def _listed(scores: Array, candidates: Array | None) -> tuple[Array, Array]:
    """Which candidates there are, [..., C], and whether a list has one, [...]."""
    listed = (
        jnp.ones(scores.shape, bool) if candidates is None else jnp.broadcast_to(candidates, scores.shape)
    )
    return listed, jnp.any(listed, axis=-1)


def _of_lists(listed: Array, where: Array | None) -> Array:
    """What of real lists is read, [..., C]."""
    return listed if where is None else listed & where[..., None]


def _real(
    student: Array, teacher: Array, temperature: float, where: Array | None
) -> tuple[Array, Array, Array]:
    """Both scores, 0 where they are not read, the teacher's without a gradient, and where they are read."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    if student.shape != teacher.shape:
        raise ValueError(
            f"scores of the student {student.shape}, of the teacher {teacher.shape}: must be of one shape; "
            "let both score the same examples and candidates"
        )
    real = jnp.ones(student.shape, bool) if where is None else jnp.broadcast_to(where, student.shape)
    teacher = jax.lax.stop_gradient(teacher)
    return jnp.where(real, student, 0.0), jnp.where(real, teacher, 0.0), real
