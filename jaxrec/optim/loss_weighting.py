"""Weightings of several losses that depend on the values of the losses, as pure functions like optax's.

A weighting is `init` and `gradient`. Its learned parameters are trained with the model's, by the same
optimiser; its state is separate. The training step knows neither their content nor which method it runs.
Methods that depend on the gradients of tasks are in `jaxrec.optim.gradient_balancing`.

Every loss is already a mean over its task's sample space (`losses.masked_mean`), so a rare task weighs as
much as a frequent one. Weights that change are logged as `weight/<loss>`: ∂ total / ∂ loss, the factor of the
gradient of that loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec.types import Array, Key

Losses = Mapping[str, Array]


class TaskLosses(NamedTuple):
    """The losses of one step as functions of the model's parameters.

    losses(params, probes) -> ({name: this device's share}, anything else)
    probes() -> zeros that the model adds to the representations which it marks by `self.perturb(name, z)`, as
        a collection of variables: the gradient with respect to them is that of z. {} if it marks none.
    """

    losses: Callable[[Any, Any], tuple[dict[str, Array], Any]]
    probes: Callable[[], dict[str, Any]]


class Descent(NamedTuple):
    """What a weighting returns to the step.

    gradient: of {"model": …, "weighting": …}, summed over devices; state: what it remembers next; rest: what
    `TaskLosses.losses` returned besides the losses; logs: scalars, the losses by name and their total as
    "loss".
    """

    gradient: Any
    state: Any
    rest: Any
    logs: dict[str, Array]


class Weighting(Protocol):
    """The interface of the training step: init() -> (learned parameters, state), and `gradient`."""

    @property
    def init(self) -> Callable[[], tuple[Any, Any]]: ...

    def gradient(
        self, tasks: TaskLosses, params: Any, state: Any, key: Key, axis_name: str | None = None
    ) -> Descent:
        """The gradient with respect to params {"model": …, "weighting": …}; traces the losses once."""


class LossWeighting(NamedTuple):
    """A method that computes one total from the values of the losses.

    init() -> (learned parameters, state)
    combine(learned parameters, state, losses, key=None) -> (total, state, weights)
        The losses are those of the global batch. Weights that are Python numbers are constants of the program
        and are not logged.
    """

    init: Callable[[], tuple[Any, Any]]
    combine: Callable[..., tuple[Array, Any, dict[str, Any]]]

    def gradient(
        self, tasks: TaskLosses, params: Any, state: Any, key: Key, axis_name: str | None = None
    ) -> Descent:
        """The gradient of the total, by one backward pass with ∂ total / ∂ loss as its cotangents."""
        shares, pull_back, rest = jax.vjp(lambda p: tasks.losses(p, {}), params["model"], has_aux=True)
        losses = sum_over_devices(shares, axis_name)

        def combined(learned: Any, losses: Losses) -> tuple[Array, tuple[Any, dict[str, Any]]]:
            total, remembered, weights = self.combine(learned, state, losses, key)
            return total, (remembered, weights)

        (total, (remembered, used)), (learned, weights) = jax.value_and_grad(
            combined, argnums=(0, 1), has_aux=True
        )(params["weighting"], losses)
        (model,) = pull_back(weights)
        changing = [name for name, weight in used.items() if isinstance(weight, jax.Array)]
        return Descent(
            gradient={"model": sum_over_devices(model, axis_name), "weighting": learned},
            state=remembered,
            rest=rest,
            logs={"loss": total, **losses, **{f"weight/{name}": weights[name] for name in changing}},
        )

    def with_fixed(self, fixed: Mapping[str, float]) -> LossWeighting:
        """The same method, except for the losses in `fixed`, such as a penalty, which have fixed weights."""

        def combine(
            learned: Any, state: Any, losses: Losses, key: Key | None = None
        ) -> tuple[Array, Any, dict[str, Any]]:
            balanced = without_fixed(losses, fixed)
            total, remembered, weights = self.combine(learned, state, balanced, key)
            total = total + sum(weight * losses[name] for name, weight in fixed.items())
            return total, remembered, {**weights, **fixed}

        return LossWeighting(self.init, combine)


def sum_over_devices(tree: Any, axis_name: str | None) -> Any:
    """The sum over devices of every leaf; without an axis name, the tree."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def without_fixed(losses: Losses, fixed: Mapping[str, float]) -> dict[str, Array]:
    """The losses without a fixed weight; ValueError if a fixed weight has no loss, or all losses have one."""
    if not fixed.keys() <= losses.keys() or fixed.keys() == losses.keys():
        raise ValueError(
            f"fixed weights for {sorted(fixed)}, but the task has the losses {sorted(losses)}: name only "
            "those, and leave at least one to the weighting"
        )
    return {name: loss for name, loss in losses.items() if name not in fixed}


def check_loss_names(names: Sequence[str], losses: Losses) -> None:
    """Raises ValueError unless the losses have the names that the weighting was made for."""
    if sorted(names) != sorted(losses):
        raise ValueError(f"loss weights for {sorted(names)}, but the task has the losses {sorted(losses)}")


def _weighted_sum(weights: Mapping[str, Any], losses: Losses) -> Array:
    return jnp.sum(jnp.stack([weights[name] * loss for name, loss in losses.items()]))


def static(weights: Mapping[str, float] | None = None) -> LossWeighting:
    """A fixed weight for each named loss; None gives every loss the weight 1.

    Raises (while tracing):
      ValueError: the task has a loss without a weight, or a weight has no loss.
    """

    def combine(
        learned: Any, state: Any, losses: Losses, key: Key | None = None
    ) -> tuple[Array, Any, dict[str, Any]]:
        used = dict.fromkeys(losses, 1.0) if weights is None else dict(weights)
        check_loss_names(list(used), losses)
        return _weighted_sum(used, losses), state, used

    return LossWeighting(init=lambda: ({}, {}), combine=combine)


def scheduled(
    start: Mapping[str, float], rate: Mapping[str, float], *, steps_per_epoch: int = 1
) -> LossWeighting:
    """Weights start · rateᵗ (PLE: Tang et al., RecSys 2020, equation 10).

    t counts epochs, as in the paper, if steps_per_epoch is the plan's `num_steps`, or steps if it is 1.
    """
    _at_least_one("steps_per_epoch", steps_per_epoch)
    if start.keys() != rate.keys():
        raise ValueError(f"start of {sorted(start)}, rate of {sorted(rate)}: every loss needs both")

    def combine(
        learned: Any, state: Any, losses: Losses, key: Key | None = None
    ) -> tuple[Array, Any, dict[str, Any]]:
        check_loss_names(list(start), losses)
        t = (state["step"] // steps_per_epoch).astype(jnp.float32)
        weights = {name: start[name] * jnp.power(jnp.float32(rate[name]), t) for name in start}
        return _weighted_sum(weights, losses), {"step": state["step"] + 1}, weights

    return LossWeighting(lambda: ({}, {"step": jnp.int32(0)}), combine)


def by_schedule(weights: Mapping[str, float | Callable[[Array], Any]]) -> LossWeighting:
    """Weights that are numbers or functions of the step, from 0 on, such as optax's schedules.

    `by_schedule({"reconstruction": 1.0, "kl": optax.linear_schedule(0.0, 0.2, 40_000)})` anneals a divergence
    (Liang et al., WWW 2018, section 2.2.2).

    Raises (while tracing):
      ValueError: the task has a loss without a weight, or a weight has no loss.
    """

    def combine(
        learned: Any, state: Any, losses: Losses, key: Key | None = None
    ) -> tuple[Array, Any, dict[str, Any]]:
        check_loss_names(list(weights), losses)
        step = state["step"]
        used = {
            name: jnp.asarray(weight(step), jnp.float32) if callable(weight) else weight
            for name, weight in weights.items()
        }
        return _weighted_sum(used, losses), {"step": step + 1}, used

    return LossWeighting(lambda: ({}, {"step": jnp.int32(0)}), combine)


def random_weights() -> LossWeighting:
    """Weights drawn at every step, a softmax of standard normals, of sum 1 (Lin et al., TMLR 2022)."""

    def combine(
        learned: Any, state: Any, losses: Losses, key: Key | None = None
    ) -> tuple[Array, Any, dict[str, Any]]:
        if key is None:
            raise ValueError("random weights need a key: combine(learned, state, losses, key)")
        names = sorted(losses)
        drawn = jax.nn.softmax(jax.random.normal(key, (len(names),)))
        weights = dict(zip(names, drawn, strict=True))
        return _weighted_sum(weights, losses), state, weights

    return LossWeighting(lambda: ({}, {}), combine)


def uncertainty(
    *,
    regression: Sequence[str] = (),
    classification: Sequence[str] = (),
    start: float = 0.0,
    bounds: tuple[float, float] = (-10.0, 10.0),
) -> LossWeighting:
    """A learned noise scale for each task (Kendall et al., CVPR 2018, equations 5 to 10).

    With s = log σ², a squared error L adds e⁻ˢ L / 2 + s / 2, a cross-entropy e⁻ˢ L + s / 2. At its optimal s
    a weighted loss is 1/2, whatever its scale. The total may be negative: look at the losses by name. σ² is
    half the inverse of a logged weight in regression, its inverse in classification.

    s is among the optimiser's parameters, under "weighting", and should have no weight decay:
    `optax.adamw(rate, mask={"model": True, "weighting": False})`.

    Args:
      regression, classification: names of the losses of each form.
      start: initial value of every s.
      bounds: range to which s is clipped, and within which it learns: without the lower bound it would
        decrease for ever where a loss is 0.
    """
    factors = {**dict.fromkeys(regression, 0.5), **dict.fromkeys(classification, 1.0)}
    if not factors or len(factors) < len(regression) + len(classification):
        raise ValueError(
            f"regression={list(regression)}, classification={list(classification)}: name every loss once, "
            "under its form"
        )
    if not bounds[0] <= start <= bounds[1]:
        raise ValueError(f"start={start}: must lie within bounds={bounds}")

    def combine(
        learned: Any, state: Any, losses: Losses, key: Key | None = None
    ) -> tuple[Array, Any, dict[str, Any]]:
        check_loss_names(list(factors), losses)
        s = {name: _clip_inwards(learned[name], *bounds) for name in factors}
        weights = {name: factor * jnp.exp(-s[name]) for name, factor in factors.items()}
        return _weighted_sum(weights, losses) + 0.5 * sum(s.values()), state, weights

    return LossWeighting(lambda: ({name: jnp.float32(start) for name in factors}, {}), combine)


@jax.custom_vjp
def _clip_inwards(x: Array, low: float, high: float) -> Array:
    """x clipped; unlike clip's, the gradient outside is 0 only where descent would lead further outside."""
    return jnp.clip(x, low, high)


def _clip_inwards_forward(x: Array, low: float, high: float) -> tuple[Array, tuple[Array, Array]]:
    return jnp.clip(x, low, high), (x <= low, x >= high)


def _clip_inwards_backward(outside: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    below, above = outside
    outwards = (below & (cotangent > 0)) | (above & (cotangent < 0))
    return jnp.where(outwards, 0.0, cotangent), None, None


_clip_inwards.defvjp(_clip_inwards_forward, _clip_inwards_backward)


def dwa(names: Sequence[str], *, steps_per_epoch: int, temperature: float = 2.0) -> LossWeighting:
    """Dynamic weight average: a loss that decreases more slowly weighs more (Liu et al., CVPR 2019).

    The weights of an epoch are constant: `dwa_weights` of the mean losses of the two epochs before it; in the
    first two epochs they are 1.

    Args:
      names: of the losses.
      steps_per_epoch: steps whose losses are averaged, the plan's `num_steps` or any other window.
    """
    _at_least_one("steps_per_epoch", steps_per_epoch)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    names = list(names)

    def init() -> tuple[Any, Any]:
        zeros = {name: jnp.zeros(len(names)) for name in ("sum", "last", "before")}
        return {}, {"step": jnp.int32(0), **zeros}

    def combine(
        learned: Any, state: Any, losses: Losses, key: Key | None = None
    ) -> tuple[Array, Any, dict[str, Any]]:
        check_loss_names(names, losses)
        step, last, before = state["step"], state["last"], state["before"]
        drawn = dwa_weights(last, before, temperature=temperature)
        weights = dict(zip(names, jnp.where(step < 2 * steps_per_epoch, 1.0, drawn), strict=True))
        total = state["sum"] + jnp.stack([losses[name] for name in names])
        ends = (step + 1) % steps_per_epoch == 0
        remembered = {
            "step": step + 1,
            "sum": jnp.where(ends, 0.0, total),
            "last": jnp.where(ends, total / steps_per_epoch, last),
            "before": jnp.where(ends, last, before),
        }
        return _weighted_sum(weights, losses), remembered, weights

    return LossWeighting(init, combine)


def dwa_weights(last: Array, before: Array, *, temperature: float = 2.0) -> Array:
    """K softmax(r / temperature) of the ratios r = last / before, [K] → [K]; their sum is K.

    A loss that was 0 before counts as unchanged.

    >>> dwa_weights(jnp.array([2.0, 6.0]), jnp.array([1.0, 3.0])).tolist()  # both doubled
    [1.0, 1.0]
    """
    ratio = jnp.where(before > 0, last / jnp.where(before > 0, before, 1.0), 1.0)
    return len(last) * jax.nn.softmax(ratio / temperature)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: must be at least 1")
