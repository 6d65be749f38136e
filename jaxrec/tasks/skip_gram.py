"""Skip-gram with negative sampling over random walks on a graph of items: DeepWalk, GES, EGES.

An example is a walk from an item, which is drawn anew in every step. Context columns (`columns`): walk_start
[M], the items that walks begin at; item_graph, noise, and side where the model has side information.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses, sampling
from jaxrec.augment.random_walks import random_walks, walks_through_users
from jaxrec.augment.random_walks import skip_grams as pairs_of
from jaxrec.data.events.graph import Graph
from jaxrec.data.events.item_graph import ItemGraph, degrees
from jaxrec.losses.vectors import l2_normalise
from jaxrec.segments import sum_by_id
from jaxrec.tasks.encoder import only_params
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables


def columns(
    graph: ItemGraph | Graph, *, side: np.ndarray | None = None, alpha: float = 0.75
) -> dict[str, Any]:
    """What the task reads. Walks begin at every item that another one follows.

    graph: of items that follow one another; or, where events have no order, of users and items: a step then
    leads to an item of a user who has this one. side: ids of each item's fields, [V + 1, n]. alpha: negatives
    are drawn in proportion to an item's degree to this power; the paper does not say how.
    """
    degree = degrees(graph) if isinstance(graph, ItemGraph) else graph.item_degree.astype(np.int64)
    found: dict[str, Any] = {
        "walk_start": np.flatnonzero(graph.total if isinstance(graph, ItemGraph) else degree).astype(
            np.int32
        ),
        "item_graph": graph,
        "noise": sampling.popularity_table(degree, alpha=alpha),
    }
    return found if side is None else found | {"side": np.asarray(side, np.int32)}


def skip_gram(model: Any, *, length: int = 10, window: int = 5, negatives: int = 5) -> Task:
    """The task of telling items that are near in a walk from sampled ones; predict gives scores [B, P].

    Losses: "skip_gram", binary cross-entropy summed over a pair and its negatives, averaged over the pairs of
    the batch's walks (equation 8 of EGES). Walks of one item have no pair.

    Args:
      model: scores (centre [M], context [M, N], side) -> [M, N], such as `nn.retrieval.eges.EGES`.
      length: items of a walk. window: largest distance of a pair. Defaults are the paper's; an epoch walks
        from each item once, so its 20 walks from each are 20 epochs.
      negatives: of each pair; the paper does not say how many.

    Raises:
      ValueError: a number is out of range.
    """
    if negatives < 1:
        raise ValueError(f"negatives={negatives}: must be at least 1")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        walk_key, noise_key = jax.random.split(key)
        start, graph = context["walk_start"][examples["example"]], context["item_graph"]
        walk = random_walks if isinstance(graph, ItemGraph) else walks_through_users
        walks = walk(walk_key, graph, start, length=length)
        centre, around = pairs_of(walks, window=window)
        drawn, _ = sampling.popularity(noise_key, (*centre.shape, negatives), context["noise"])
        return {
            "centre": centre,
            "item": jnp.concatenate([around[..., None], drawn], axis=-1),  # [B, P, 1 + negatives]
            "mask": (centre > 0) & examples["mask"][:, None],
            SHARED: {"side": context.get("side")},
        }

    def scores(variables: Variables, batch: Batch, train: bool) -> Array:
        item = batch["item"]
        flat = batch["centre"].reshape(-1), item.reshape(-1, item.shape[-1]), batch[SHARED]["side"]
        return model.apply(variables, *flat, train=train).reshape(item.shape)

    def init(key: Key, batch: Batch) -> Variables:
        one = batch["centre"][0, :1], batch["item"][0, :1], batch[SHARED]["side"]
        return only_params(model.init(key, *one, train=False), "skip_gram")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found = scores(variables, batch, True)
        loss = losses.bce(found[..., 0], found[..., 1:], where=batch["mask"], axis_name=axis_name)
        return {"skip_gram": loss}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return scores(variables, batch, False)[..., 0]

    return Task(prepare, init, value, predict)


class ByHistory:
    """EGES as protocols of interaction matrices rank it: a user's vector is the mean of the unit vectors of
    the user's items of training, and scores are products with the unit vectors of all items.

    Items that no walk can have met, since they have no edge, get the vector of their side information. It is
    a `tasks.pairs.PairModel` that is not trained as one.

    context: item_graph and side of `columns`; pair_user, pair_item and start of
    `protocols.retrieval.resident`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def init(self, *inputs: Any, **options: Any) -> Variables:
        return self.model.init(*inputs, **options)

    def apply(self, variables: Variables, context: Context, *, method: str) -> tuple[Array, Array]:
        """`vectors(context)` of these variables, whatever the method."""
        graph = context["item_graph"]
        seen = degrees_on_device(graph) > 0
        found = self.model.apply(variables, context.get("side"), seen, method="vectors")
        items = l2_normalise(found).at[0].set(0.0)
        user, size = context["pair_user"] + 1, context["start"].shape[0] + 1
        total = sum_by_id(items[context["pair_item"]], user, size)
        number = sum_by_id(jnp.ones(user.shape[0]), user, size)
        return total / jnp.maximum(number, 1.0)[:, None], items

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Says that scores are products; `apply` makes the vectors."""
        raise NotImplementedError("give variables: apply(variables, context, method='vectors')")


def degrees_on_device(graph: ItemGraph) -> Array:
    """How many edges an item has, in both directions, int32 [V + 1]."""
    incoming = sum_by_id(jnp.ones(graph.target.shape[0], jnp.int32), graph.target, graph.total.shape[0])
    return jnp.asarray(graph.total) + incoming
