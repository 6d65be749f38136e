"""YouTube's deep networks: retrieval by a softmax over items, and ranking by expected watch time.

Covington, Adams and Sargin, RecSys 2016, doi:10.1145/2959100.2959190, sections 3 and 4. Departs from section
3.4: in training the history is all other items of the user, later ones too, as a matrix has no order; the
paper's has those before the one to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.retrieval.two_tower import Field, TwoTower
from jaxrec.types import Array


def youtube_dnn(
    num_items: int,
    user_fields: tuple[Field, ...] = (),
    *,
    dim: int = 256,
    dims: Sequence[int] = (1024, 512, 256),
    shared: bool = False,
    **fields: Any,
) -> TwoTower:
    """A user's mean history and features, ReLU layers, and products with a table of class vectors of items.

    Items have no tower, and their class vectors are another table than that of the history. "example_age" may
    be among the user's features (`Numeric("example_age")`): it is 0 once the model is trained.

    dim: width of the history's vectors. dims: of the layers; the last is also the width of class vectors.
    shared: one table for history and classes, as public ports have it; `dim` must be the last of `dims`.
    fields: others of `TwoTower`, such as cosine=True and temperature=0.1 of those ports.

    Raises:
      ValueError: no layer, or a shared table of two widths; as `TwoTower`.
    """
    if not dims or (shared and dims[-1] != dim):
        raise ValueError(f"dims={tuple(dims)}, dim={dim}: a layer at least, and equal if shared")
    table = "item_id" if shared else "history"
    history = Categorical("history_id", num_items + 1, dim, vocabulary=table)
    classes = Categorical("item_id", num_items + 1, dims[-1])
    given: dict[str, Any] = {"cosine": False, "temperature": 1.0, **fields}
    return TwoTower((*user_fields, history), (classes,), tuple(dims), (), **given)


class WatchTimeRanker(nn.Module):
    """A logit whose exponential is the expected watch time of an impression, section 4.2.

    Trained by `losses.watch_time`, in which a watched impression weighs its watch time: the odds that are
    learned are then the watch time of all impressions divided by the number of those that were not watched,
    nearly the expected watch time where few are. Features come embedded; see `with_powers` for numbers.
    """

    dims: Sequence[int] = (1024, 512, 256)
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to a logit [B]."""
        return Tower(self.dims, mlp=self.mlp, name="tower")(x, train=train)


def expected_watch_time(logit: Array) -> Array:
    """exp(logit), in the units of the watch times of training, [...]: what is served, not the sigmoid."""
    return jnp.exp(logit)


def with_powers(x: Array) -> Array:
    """Numbers in [0, 1] with their squares and square roots, section 4.1: [B, F] → [B, 3 F].

    The paper brings a number into this range by its empirical distribution function. The gradient of the root
    at 0 is 0.

    >>> with_powers(jnp.array([[0.25]])).tolist()
    [[0.25, 0.0625, 0.5]]
    """
    positive = x > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
    return jnp.concatenate([x, jnp.square(x), root], axis=-1)
