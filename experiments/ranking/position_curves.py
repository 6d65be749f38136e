"""What positions do to clicks, by models and by counting, for `position_bias`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.synthetic.positions import Displayed
from jaxrec.types import Array, Batch, Task, Variables

Columns = Mapping[str, np.ndarray]


def distance(log_curve: np.ndarray, made: Displayed, *, share: float) -> dict[str, float]:
    """How far a curve [K] is from the truth, and at how many positions it is outside the interval.

    share: of the impressions that the curve was learned from; fewer make a wider interval.
    """
    found = np.abs(log_curve - log_curve[0] - np.log(made.curve))[1:]
    outside = (found > made.margin[1:] / math.sqrt(share)).sum()
    return {"curve_error": float(found.max()), "curve_outside": float(outside)}


def of_task(task: Task, variables: Variables, test: Columns, made: Displayed) -> np.ndarray:
    """What each position does to the test impressions by a model, in logs, of every seed: [S, K].

    test: columns in one batch, [1, B]. The model's output "observed" is set to every position in turn.
    """
    batch = {name: jnp.asarray(column[0]) for name, column in test.items()}

    def of_seed(variables: Variables, batch: Batch) -> Array:
        def at(position: Array) -> Array:
            placed = {**batch, "position": jnp.full_like(batch["position"], position)}
            logit = task.predict(variables, placed)["observed"]
            return logit.mean() if made.additive else jnp.log(jax.nn.sigmoid(logit).mean())

        return jax.lax.map(at, jnp.arange(1, len(made.curve) + 1))

    return np.asarray(jax.jit(jax.vmap(of_seed, in_axes=(0, None)))(variables, batch))


def base_rate(columns: Columns, test: Columns, made: Displayed) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a click and of attraction for the test part [B, 2], and a log curve [K]: one rate for all."""
    rate = columns["label/click"].mean(dtype=np.float64)
    return np.full((test["item"].size, 2), np.log(rate / (1 - rate))), np.zeros(len(made.curve))


def click_rates(columns: Columns, test: Columns, made: Displayed) -> tuple[np.ndarray, np.ndarray]:
    """The same by the click rates of items and of positions, their product where both are known.

    Each rate has one impression of the mean rate added.
    """
    label = columns["label/click"].astype(np.float64)
    mean = label.mean()

    def rates(name: str, size: int) -> np.ndarray:
        clicks, shown = (np.bincount(columns[name], weight, size + 1) for weight in (label, None))
        return (clicks + mean) / (shown + 1)

    of_position = rates("position", len(made.curve))
    of_item = rates("item", int(test["item"].max()))[test["item"][0]]
    clicked = np.clip(of_item * of_position[test["position"][0]] / mean, 1e-6, 1 - 1e-6)
    both = np.stack([clicked, of_item], axis=-1)
    factor = of_position / (1 - of_position) if made.additive else of_position
    return np.log(both / (1 - both)), np.log(factor[1:])


Counted = Callable[[Columns, Columns, Displayed], tuple[np.ndarray, np.ndarray]]
FLOORS: Mapping[str, Counted] = {"base-rate": base_rate, "click-rates": click_rates}
