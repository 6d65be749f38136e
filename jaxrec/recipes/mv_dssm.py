"""Multi-View DSSM: a tower of items for each view (Elkahky et al., WWW 2015, doi:10.1145/2736277.2741667).

Widths of layers are DSSM's, as the paper gives none; temperature, batch and optimiser are ours. The paper
counts letter trigrams, where this reads ids and features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from jaxrec import losses
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.mv_dssm import MultiViewDSSM
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes import towers
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks.pairs import PairModel
from jaxrec.tasks.two_tower import two_tower
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Recipe(towers.Recipe):
    """How Multi-View DSSM is trained."""

    view: str = ""  # column of --item-features: an item is of the view that its first value names; '': one
    hidden_dims: tuple[int, ...] = (300, 300)  # widths of the towers' tanh layers before the last
    out_dim: int = 128  # width of the towers' vectors


def views_of(data: Data, view: str) -> np.ndarray:
    """The view of each item, from 1 and 0 for padding, int32 [I + 1]; "": all items are of one.

    Raises:
      ValueError: items have no such feature, one of them no value of it, or a view has no training pair, so
        that nothing would train its tower.
    """
    if not view:
        return np.minimum(np.arange(data.num_items + 1), 1).astype(np.int32)
    if data.items is None or view not in data.items.columns:
        known = [] if data.items is None else sorted(data.items.columns)
        raise ValueError(
            f"view={view!r}: is no feature of items ({', '.join(known) or 'there are none'}); name a column "
            "of --item-features, or leave it out"
        )
    ids = data.items.columns[view].reshape(data.num_items + 1, -1)
    found = ids[np.arange(len(ids)), np.argmax(ids != 0, axis=1)]
    if missing := np.flatnonzero(found[1:] == 0).tolist():
        raise ValueError(
            f"view={view!r}: item {towers.raw_id(data, 'item', missing[0] + 1)} has no value of it "
            f"({len(missing):,} such); give it one, or leave the item out"
        )
    _, number = np.unique(found, return_inverse=True)  # 0 is padding; values that no item begins with go
    untrained = set(range(1, int(number.max()) + 1)) - set(number[data.columns["pair_item"]].tolist())
    if untrained:
        item = int(np.argmax(number == min(untrained)))
        raise ValueError(
            f"view={view!r}: no item of the view of item {towers.raw_id(data, 'item', item)} has a training "
            "pair, so that nothing would train its tower; put its items into another view"
        )
    return number.astype(np.int32)


def multi_view(data: Data, recipe: Recipe) -> PairModel:
    """A tower of users and one of items for each view, which read the same fields but that of the view.

    Raises:
      ValueError: as `views_of` and `towers.id_and_feature_fields`.
    """
    number = int(views_of(data, recipe.view).max())
    fields = towers.tower_fields(data, recipe)
    read = tuple(field for field in fields["item_fields"] if field.name != f"item_{recipe.view}")
    names = tuple(field.name for field in read)
    return MultiViewDSSM(
        **{**fields, "item_fields": read}, mlp=Factory(MLP, activation=nn.tanh), views=(names,) * number
    )


def of_one_view(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """A softmax over the items of the batch and drawn ones that are of the observed item's view."""
    return two_tower(
        model,  # type: ignore[arg-type]
        losses.sampled_softmax,
        in_batch=recipe.in_batch,
        negatives=recipe.negatives,
        corrected=recipe.corrected,
        frequency=towers.stream(data) if recipe.streaming else None,
        same="item_view",
    )


def columns(data: Data, recipe: Recipe) -> Context:
    """Those of two towers, and the view of each item.

    Raises:
      ValueError: as `views_of`; a feature of items that is not the view has its name, and would be lost.
    """
    found = towers.columns(data, recipe)
    if "item_view" in found and recipe.view != "view":
        raise ValueError(
            "feature view: is the name of the column of items' views; rename it, leave it out, or give "
            "--view view"
        )
    return {**found, "item_view": views_of(data, recipe.view)}


MODELS: Mapping[str, RetrievalModel] = {
    "mv-dssm": RetrievalModel(
        Recipe,
        multi_view,
        of_one_view,
        towers.every_pair,
        towers.adam,
        "softmax over the items of a view in the batch",
        columns,
        reads_features=("user", "item"),
    ),
}
