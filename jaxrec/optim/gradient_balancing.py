"""Weightings of several losses that depend on the gradients of the tasks.

Every method gives shared parameters the gradient Σ wₖ gₖ of the tasks' gradients gₖ, with weights that depend
only on the inner products ⟨gᵢ, gⱼ⟩: see `jaxrec.optim.task_gradients`. Each has a pure function from that
matrix to the weights, and the method for the training step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrec.optim.loss_weighting import Losses, check_loss_names
from jaxrec.optim.task_gradients import GradientBalancing, Parameters, all_parameters, safe_divisor
from jaxrec.types import Array, Key


def _stack(losses: Losses) -> Array:
    return jnp.stack(list(losses.values()))


def _no_state() -> tuple[Any, Any]:
    return {}, {}


# --- PCGrad -----------------------------------------------------------------------------------------------


def pcgrad(shared: Parameters) -> GradientBalancing:
    """Gradient surgery: removes a task gradient's conflicting components (Yu et al., NeurIPS 2020).

    Each gradient is projected against the others in a random order, drawn per task and step; the projected
    gradients are summed.
    """

    def balance(state: Any, losses: dict[str, Array], gram: Array, key: Key) -> tuple[Array, Any]:
        return pcgrad_weights(gram, random_orders(key, len(gram))), state

    return GradientBalancing(_no_state, balance, shared, measured=shared)


def random_orders(key: Key, num_tasks: int) -> Array:
    """For each task the other tasks in random order: int32 [K, K - 1]."""
    others = jnp.argsort(jax.random.uniform(key, (num_tasks, num_tasks - 1)), axis=1)
    return others + (others >= jnp.arange(num_tasks)[:, None])


def pcgrad_weights(gram: Array, orders: Array) -> Array:
    """Weights [K] for which Σ wₖ gₖ is the sum of the projected gradients.

    Args:
      gram: inner products of the gradients, [K, K].
      orders: for each task, the tasks against whose original gradients its own is projected, int [K, ...].

    >>> pcgrad_weights(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([[1], [0]])).tolist()  # g and -g
    [2.0, 2.0]
    """

    def project(combination: Array, j: Array) -> tuple[Array, None]:
        inner = jnp.sum(combination * gram[j])
        return combination.at[j].add(jnp.where(inner < 0, -inner / safe_divisor(gram[j, j]), 0.0)), None

    def surgery(own: Array, order: Array) -> Array:
        return jax.lax.scan(project, own, order)[0]

    return jnp.sum(jax.vmap(surgery)(jnp.eye(len(gram)), orders), axis=0)


# --- MGDA -------------------------------------------------------------------------------------------------

Normalisation = Callable[
    [Array, Array], Array
]  # (losses [K], gradient norms [K]) -> divisors of the gradients, [K]


def unnormalised(losses: Array, norms: Array) -> Array:
    """No normalisation of the gradients."""
    return jnp.ones_like(norms)


def by_norm(losses: Array, norms: Array) -> Array:
    """Divides gradients by their norms ("l2" in the official code)."""
    return norms


def by_loss(losses: Array, norms: Array) -> Array:
    """Divides gradients by their losses ("loss"): the gradients of the logarithms of the losses."""
    return losses


def by_loss_and_norm(losses: Array, norms: Array) -> Array:
    """Divides gradients by losses and norms ("loss+")."""
    return losses * norms


def mgda(
    shared: Parameters, *, normalisation: Normalisation = unnormalised, rescale: bool = False
) -> GradientBalancing:
    """The shortest convex combination of the gradients, which descends on every loss (Désidéri, 2012).

    The multiple-gradient descent algorithm of Sener and Koltun, NeurIPS 2018. The combination is 0 at a
    Pareto-stationary point, and also for a batch in which a task has no example, since its gradient is 0.

    Args:
      shared: the shared parameters; the others get their own gradient, unweighted.
      normalisation: divisors of the gradients when the weights are computed: unnormalised (the paper),
        by_norm, by_loss, by_loss_and_norm (the official example).
      rescale: True applies the weights to the divided gradients, as LibMTL does; False to the gradients
        themselves, as the official code does.
    """
    return GradientBalancing(_no_state, _min_norm_balance(normalisation, rescale), shared, measured=shared)


def mgda_ub(
    shared: Parameters, *, normalisation: Normalisation = unnormalised, rescale: bool = False
) -> GradientBalancing:
    """MGDA on the gradients of the shared representation Z, with one backward pass through the shared layers.

    Minimises an upper bound of the criterion, with the same stationary points if ∂Z/∂θ has full rank (Sener
    and Koltun, section 3.3). The model marks Z by `z = self.perturb("shared", z)`; shared parameters must act
    through Z alone, or it is not a bound. Arguments as of `mgda`.
    """
    return GradientBalancing(_no_state, _min_norm_balance(normalisation, rescale), shared, measured=None)


def _min_norm_balance(normalisation: Normalisation, rescale: bool) -> Callable[..., tuple[Array, Any]]:
    def balance(state: Any, losses: dict[str, Array], gram: Array, key: Key) -> tuple[Array, Any]:
        size = safe_divisor(normalisation(_stack(losses), jnp.sqrt(jnp.diagonal(gram))))
        weights = min_norm_weights(gram / jnp.outer(size, size))
        return weights / size if rescale else weights, state

    return balance


def min_norm_weights(gram: Array, *, max_iterations: int = 250, tolerance: float = 1e-6) -> Array:
    """Weights [K], non-negative and of sum 1, of the shortest convex combination of K vectors.

    Frank-Wolfe with pairwise steps and exact line search (Lacoste-Julien and Jaggi, 2015): weight moves from
    the vector with the largest inner product with the combination g to that with the smallest. For two
    vectors the first step is the closed form. Stops when no inner product is below (1 - tolerance) |g|².

    Departs from the official code, whose plain Frank-Wolfe steps converge slowly on a face of the simplex;
    weights can reach 0 and 1, where it stops at 0.001 and 0.999.

    Args:
      gram: inner products of the vectors, [K, K].
    """
    gram = gram / safe_divisor(jnp.trace(gram) / len(gram))

    def along(weights: Array) -> Array:
        return jnp.sum(gram * weights, axis=1)  # ⟨gᵢ, g⟩

    def unfinished(carry: tuple[Array, Array]) -> Array:
        iteration, weights = carry
        inner = along(weights)
        length = jnp.sum(weights * inner)
        return (iteration < max_iterations) & (length - inner.min() > tolerance * length)

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        iteration, weights = carry
        inner = along(weights)
        to, away = jnp.argmin(inner), jnp.argmax(jnp.where(weights > 0, inner, -jnp.inf))
        curvature = gram[to, to] + gram[away, away] - 2 * gram[to, away]
        best = jnp.where(curvature > 0, (inner[away] - inner[to]) / safe_divisor(curvature), jnp.inf)
        moved = jnp.minimum(best, weights[away])
        return iteration + 1, weights.at[to].add(moved).at[away].add(-moved)

    weights = jnp.full(len(gram), 1.0 / len(gram))
    weights = jax.lax.while_loop(unfinished, step, (jnp.int32(0), weights))[1]
    return weights / jnp.sum(weights)


# --- PE-LTR -----------------------------------------------------------------------------------------------


def pe_ltr(shared: Parameters, bounds: Mapping[str, float]) -> GradientBalancing:
    """Pareto-efficient weights with a lower bound for each loss (Lin et al., RecSys 2019, section 4).

    The weights multiply the losses, so they affect all parameters. A task without an example in the batch has
    its lower bound, and the others share the rest.

    Args:
      shared: parameters whose gradients are compared.
      bounds: of every loss by name, non-negative and of sum at most 1; with sum 1 they are the weights.
    """
    each = list(bounds.values())
    if not (each and all(bound >= 0 for bound in each) and sum(each) <= 1 + 1e-6):
        raise ValueError(f"bounds={dict(bounds)}: each at least 0, and together at most 1")

    def balance(state: Any, losses: dict[str, Array], gram: Array, key: Key) -> tuple[Array, Any]:
        check_loss_names(list(bounds), losses)
        return pe_ltr_weights(gram, jnp.array([bounds[name] for name in losses])), state

    return GradientBalancing(_no_state, balance, shared=all_parameters, measured=shared)


def pe_ltr_weights(gram: Array, bounds: Array) -> Array:
    """Weights [K] of sum 1, none below its bound, in the two steps of PE-LTR.

    First the minimum of |Σ wₖ gₖ|² over weights of sum 1 and any sign, by the pseudo-inverse of its linear
    conditions; then the nearest point within the bounds. If the first is feasible it is the constrained
    minimum; if not, the paper takes the projection, which need not be.

    A task whose gradient is 0, such as one without an example in the batch, would get all the weight; it is
    left out and keeps its bound, unless all gradients are 0.

    Args:
      gram: inner products of the gradients, [K, K]; bounds: [K], non-negative and of sum at most 1.

    >>> print(pe_ltr_weights(jnp.array([[0.0, 0.0], [0.0, 4.0]]), jnp.array([0.125, 0.125])))
    [0.125 0.875]
    """
    count = len(gram)
    there = jnp.diagonal(gram) > 0
    there = there | ~there.any()
    gram = gram / safe_divisor(jnp.trace(gram) / count)
    free = jnp.maximum(1.0 - jnp.sum(bounds), 0.0)
    conditions = jnp.ones((count + 1, count + 1)).at[:count, :count].set(gram).at[count, count].set(0.0)
    known = jnp.append(there, True)
    conditions = jnp.where(known[:, None] & known, conditions, jnp.eye(count + 1))  # 0 where left out
    wanted = jnp.append(jnp.where(there, -jnp.sum(gram * bounds, axis=1), 0.0), free)
    inverse = jnp.linalg.pinv(conditions, hermitian=True)
    relaxed = jnp.sum(inverse * wanted, axis=1)[:count]
    return bounds + project_to_simplex(jnp.where(there, relaxed, -jnp.inf), free)


def project_to_simplex(x: Array, total: Array | float = 1.0) -> Array:
    """The nearest point to x with non-negative coordinates of sum `total`: [K] → [K].

    >>> project_to_simplex(jnp.array([0.5, 2.0, 0.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    ordered = jnp.sort(x)[::-1]
    excess = (jnp.cumsum(ordered) - total) / jnp.arange(1, len(x) + 1)
    support = jnp.maximum(jnp.sum(ordered > excess), 1)
    return jnp.maximum(x - excess[support - 1], 0.0)


# --- GradNorm ---------------------------------------------------------------------------------------------


def gradnorm(
    names: Sequence[str],
    layer: Parameters,
    *,
    alpha: float = 1.5,
    tx: optax.GradientTransformation | None = None,
    start: Mapping[str, float] | None = None,
    softmax: bool = False,
    min_weight: float = 1e-3,
) -> GradientBalancing:
    """Weights that keep the tasks' gradient norms at their relative training rates (Chen et al., ICML 2018).

    The network descends on Σ wₖ Lₖ with constant w; then w takes its own step and is rescaled to sum K.

    Args:
      names: of the losses.
      layer: parameters whose gradient norms are compared; the paper takes the last shared layer.
      alpha: 0 makes the norms equal; the larger, the larger the norms of tasks that have learned little.
      tx: optimiser of the weights; None: gradient descent at rate 0.025.
      start: L(0) of each loss, such as log 2 for a binary cross-entropy; None takes the first that is not 0.
      softmax: weights K softmax(θ) with θ learned, as in LibMTL, instead of free ones.
      min_weight: smallest free weight, before rescaling.
    """
    tx = optax.sgd(0.025) if tx is None else tx
    names = sorted(names)
    if start is not None and (sorted(start) != names or min(start.values()) <= 0):
        raise ValueError(f"start={dict(start)}: needs a positive loss for each of {names}")

    def as_weights(free: Array) -> Array:
        return len(names) * jax.nn.softmax(free) if softmax else free

    def init() -> tuple[Any, Any]:
        free = jnp.ones(len(names))
        first = jnp.array([0.0 if start is None else start[name] for name in names])
        return {}, {"free": free, "tx": tx.init(free), "start": first}

    def balance(state: Any, losses: dict[str, Array], gram: Array, key: Key) -> tuple[Array, Any]:
        check_loss_names(names, losses)
        values, norms = _stack(losses), jnp.sqrt(jnp.diagonal(gram))
        initial = jnp.where(state["start"] > 0, state["start"], values)
        weights, pull_back = jax.vjp(as_weights, state["free"])
        (gradient,) = pull_back(
            gradnorm_gradient(weights, norms=norms, losses=values, start=initial, alpha=alpha)
        )
        change, remembered = tx.update(gradient, state["tx"], state["free"])
        free = optax.apply_updates(state["free"], change)
        if not softmax:
            free = jnp.maximum(free, min_weight)
            free = free * (len(names) / jnp.sum(free))
        return weights, {"free": free, "tx": remembered, "start": initial}

    return GradientBalancing(init, balance, shared=all_parameters, measured=layer)


def gradnorm_gradient(weights: Array, norms: Array, losses: Array, start: Array, *, alpha: float) -> Array:
    """∂/∂w of Σ |Gₖ - target|, with Gₖ = wₖ nₖ and a constant target: [K] → [K].

    The target is mean(G) · rₖ^alpha, where rₖ is Lₖ / Lₖ(0) divided by its mean over tasks.

    Args:
      weights: wₖ. norms: nₖ of the unweighted gradients; a task whose norm is 0, such as one without an
        example in the batch, is left out of the means and of the step. losses: Lₖ. start: Lₖ(0); 0 counts as
        unchanged.
    """
    there = norms > 0

    def mean(values: Array) -> Array:
        return jnp.sum(jnp.where(there, values, 0.0)) / jnp.maximum(jnp.sum(there), 1)

    scaled = weights * norms
    progress = jnp.maximum(jnp.where(start > 0, losses / safe_divisor(start), 1.0), 0.0)
    rate = progress / safe_divisor(mean(progress))
    return jnp.sign(scaled - mean(scaled) * rate**alpha) * norms
