"""Explicit ratings: how far the predicted ones of held-out pairs are from the given ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.events.ratings import Ratings, RatingSplit
from jaxrec.types import Array, Protocol, Variables

SELECTION = "rmse"
AT_ONCE = 1 << 16  # pairs


def protocol(split: RatingSplit, *, selection: str = SELECTION) -> Protocol:
    """Of ratings as they are, each predicted on its own and cut to the range of the training ratings."""
    rule = f"{split.rule}; predictions are cut to the range of the training ratings"
    return Protocol(split=rule, candidates="impressions", ks=(), selection=selection)


@jax.jit
def predict(variables: Variables, user: Array, item: Array) -> Array:
    """Predicted ratings of pairs [N], products of the vectors "users" and "items" of one seed."""

    def one(pair: tuple[Array, Array]) -> Array:
        return jnp.dot(variables["users"][pair[0]], variables["items"][pair[1]])

    return jax.lax.map(one, (user, item), batch_size=AT_ONCE)


def errors(variables: Variables, split: RatingSplit, part: Ratings) -> list[dict[str, float]]:
    """RMSE and mean absolute error of each seed, in the unit of the ratings.

    Predictions are clipped to the range of the training ratings. variables: with a leading seeds axis.

    Raises:
      ValueError: a prediction is not finite.
    """
    least, most = float(split.train.value.min()), float(split.train.value.max())
    found = []
    for seed in range(len(variables["users"])):
        of_seed = {name: variables[name][seed] for name in ("users", "items")}
        predicted = np.asarray(predict(of_seed, jnp.asarray(part.user), jnp.asarray(part.item)), np.float64)
        if not np.isfinite(predicted).all():
            raise ValueError("a predicted rating is NaN or infinite; train with a larger regularisation")
        error = np.clip(predicted, least, most) - part.value
        found.append({"rmse": float(np.sqrt((error**2).mean())), "mae": float(np.abs(error).mean())})
    return found
