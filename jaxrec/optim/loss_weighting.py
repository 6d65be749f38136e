"""Ways to make one loss of several, as pure functions beside optax.

A weighting is `init` and `combine`. What it learns lives among the parameters, what it remembers in a
state of its own; the training step knows neither's content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxrec.types import Array


class LossWeighting(NamedTuple):
    """init() -> (learned parameters, state).

    combine(learned parameters, state, losses) -> (total, state, weights).
    """

    init: Callable[[], tuple[Any, Any]]
    combine: Callable[[Any, Any, Mapping[str, Array]], tuple[Array, Any, dict[str, Any]]]


def static(weights: Mapping[str, float] | None = None) -> LossWeighting:
    """A fixed weight for each named loss; None gives every loss the weight 1.

    Raises (while tracing):
      ValueError: the task has a loss without a weight, or a weight has no loss.
    """

    def combine(
        parameters: Any, state: Any, losses: Mapping[str, Array]
    ) -> tuple[Array, Any, dict[str, Any]]:
        used = dict.fromkeys(losses, 1.0) if weights is None else dict(weights)
        if set(used) != set(losses):
            raise ValueError(f"loss weights for {sorted(used)}, but the task has the losses {sorted(losses)}")
        total = jnp.sum(jnp.stack([used[name] * loss for name, loss in losses.items()]))
        return total, state, used

    return LossWeighting(init=lambda: ({}, {}), combine=combine)
