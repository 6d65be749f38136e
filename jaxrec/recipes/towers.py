"""Two towers over ids and features, and YouTube's network of mean histories.

Yi et al., RecSys 2019, whose temperature, batch and optimiser are for far larger data; Covington et al.,
RecSys 2016. Settings are ours. Without features of users and items the towers read ids alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxrec import losses, sampling
from jaxrec.data.events.side_features import SideFeatures, tower_columns
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.two_tower import Field, Frozen, TwoTower
from jaxrec.nn.retrieval.youtube_dnn import youtube_dnn
from jaxrec.protocols.retrieval import Data, vocabulary
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks.pairs import PairModel
from jaxrec.tasks.two_tower import two_tower
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How two towers are trained."""

    dim: int = 64  # width of the vectors of ids
    feature_dim: int = 16  # width of the vectors of features
    hidden_dims: tuple[int, ...] = (128,)  # widths of the towers' layers before the last
    out_dim: int = 64  # width of the towers' vectors
    temperature: float = 0.1  # divides the cosines
    ids: bool = True  # users and items have vectors of their own, beside those of their features
    id_dropout: float = 0.1  # share of users and items that are trained as if they had no id
    history: int = 0  # last items of a user whose mean vector is a feature; 0: none
    in_batch: bool = True  # the items of the other pairs of a batch are negatives
    negatives: int = 0  # items drawn uniformly for each batch, negatives of all its pairs
    corrected: bool = True  # scores are corrected for how often an item is a negative
    streaming: bool = False  # how often is estimated from the batches so far, not counted in training pairs
    batch_size: int = 1024  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 60  # epochs to train
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never

    def __post_init__(self) -> None:
        if self.history < 0 or self.negatives < 0:
            raise ValueError(f"history={self.history}, negatives={self.negatives}: must be at least 0")
        if self.streaming and not (self.corrected and self.in_batch):
            raise ValueError(
                f"streaming=True: estimates what scores of a batch's items are corrected by, but corrected="
                f"{self.corrected} and in_batch={self.in_batch}; leave it out"
            )
        if min(self.hidden_dims, default=1) < 1:
            raise ValueError(f"hidden_dims={self.hidden_dims}: each must be at least 1")


@dataclasses.dataclass(frozen=True)
class YouTubeRecipe:
    """How YouTube's network is trained."""

    dim: int = 64  # width of the vectors of the history, and of items
    feature_dim: int = 16  # width of the vectors of features
    hidden_dims: tuple[int, ...] = (256, 128)  # widths of the layers before the last
    shared: bool = True  # one table for histories and items; the paper has two
    cosine: bool = True  # scores are cosines; the paper's are products
    temperature: float = 0.1  # divides the scores
    max_history: int = 100  # last items of a user that are read
    negatives: int = 2048  # items drawn uniformly for each batch, negatives of all its pairs
    batch_size: int = 1024  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 60  # epochs to train
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never

    def __post_init__(self) -> None:
        if self.negatives < 1 or self.max_history < 1:
            raise ValueError(
                f"negatives={self.negatives}, max_history={self.max_history}: must be at least 1"
            )
        if min(self.hidden_dims, default=1) < 1:
            raise ValueError(f"hidden_dims={self.hidden_dims}: each must be at least 1")


def feature_fields(side: str, features: SideFeatures | None, dim: int) -> tuple[Field, ...]:
    """Fields of all features: a vector of `dim` for each category, and frozen vectors as they are."""
    if features is None:
        return ()
    columns = (Categorical(f"{side}_{name}", size + 1, dim) for name, size in features.sizes.items())
    return (*columns, *(Frozen(f"{side}_{name}", width) for name, width in features.dims.items()))


def id_and_feature_fields(
    data: Data, dim: int, feature_dim: int, *, ids: bool, histories: tuple[Field, ...] = ()
) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """Fields of users and of items: their ids, if they have vectors of their own, and all features.

    histories: further fields of users, of their items.

    Raises:
      ValueError: a side has neither ids nor features; an entity has no value where there are no ids.
    """
    user, item = (
        feature_fields(side, features, feature_dim)
        for side, features in (("user", data.users), ("item", data.items))
    )
    if ids:
        user = (Categorical("user_id", data.num_users + 1, dim), *user)
        item = (Categorical("item_id", data.num_items + 1, dim), *item)
    user = (*user, *histories)
    for side, fields, features in (("user", user, data.users), ("item", item, data.items)):
        if not fields:
            raise ValueError(
                f"ids=False: {side}s have no features, so their tower has nothing to read; give some, or ids"
            )
        known = ids or (side == "user" and bool(histories))  # by an id, or by a user's items
        if not known and features is not None and features.empty().size:
            raise ValueError(
                f"ids=False: {side} {raw_id(data, side, features.empty()[0])} has no feature "
                f"({features.empty().size:,} such), so that nothing is known of it; give it one, or ids"
            )
    return user, item


def raw_id(data: Data, side: str, number: int) -> str:
    """A user or an item, from 1, as errors name it: as in the data."""
    return repr(vocabulary(data)[side].tolist()[number - 1])


def towers(data: Data, recipe: Recipe) -> PairModel:
    """Two towers whose last layer is linear.

    Raises:
      ValueError: as `id_and_feature_fields`.
    """
    return TwoTower(**tower_fields(data, recipe), mlp=Factory(MLP, activate_last=False))


def tower_fields(data: Data, recipe: Recipe) -> dict[str, Any]:
    """What `TwoTower` and its like are built with, but for the layers.

    Raises:
      ValueError: as `id_and_feature_fields`.
    """
    histories = _histories(data, recipe) if recipe.history else ()
    user, item = id_and_feature_fields(
        data, recipe.dim, recipe.feature_dim, ids=recipe.ids, histories=histories
    )
    dims = (*recipe.hidden_dims, recipe.out_dim)
    return {
        "user_fields": user,
        "item_fields": item,
        "user_dims": dims,
        "item_dims": dims,
        "temperature": recipe.temperature,
        "id_dropout": recipe.id_dropout if recipe.ids else 0.0,
        "max_history": max(1, recipe.history),
        "bits": counter_bits,
    }


def _histories(data: Data, recipe: Recipe) -> tuple[Field, ...]:
    """Means over a user's items, of their own vectors and of those of their categories."""
    found: list[Field] = []
    if recipe.ids:
        found.append(Categorical("history_id", data.num_items + 1, recipe.dim, vocabulary="item_id"))
    for name, size in () if data.items is None else data.items.sizes.items():
        field = Categorical(f"history_{name}", size + 1, recipe.feature_dim, vocabulary=f"item_{name}")
        found.append(field)
    return tuple(found)


def youtube(data: Data, recipe: YouTubeRecipe) -> PairModel:
    """YouTube's network; its users have features besides, if there are any."""
    return youtube_dnn(
        data.num_items,
        feature_fields("user", data.users, recipe.feature_dim),
        dim=recipe.dim,
        dims=(*recipe.hidden_dims, recipe.dim),
        shared=recipe.shared,
        mlp=Factory(MLP, activate_last=False) if recipe.shared else MLP,
        cosine=recipe.cosine,
        temperature=recipe.temperature,
        max_history=min(recipe.max_history, max(1, data.most)),
    )


def of_batches(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """A softmax over the items of the batch and drawn ones, corrected for how often an item is a negative."""
    return two_tower(
        model,  # type: ignore[arg-type]
        losses.sampled_softmax,
        in_batch=recipe.in_batch,
        negatives=recipe.negatives,
        corrected=recipe.corrected,
        frequency=stream(data) if recipe.streaming else None,
    )


def stream(data: Data) -> sampling.StreamingFrequency:
    """How often an item is in a batch, remembered for each item: ids are the buckets."""
    return sampling.streaming_frequency(data.num_items + 1, num_hashes=0)


def of_drawn(model: PairModel, data: Data, recipe: YouTubeRecipe) -> Task:
    """A softmax over the observed item and drawn ones."""
    return two_tower(model, in_batch=False, negatives=recipe.negatives)  # type: ignore[arg-type]


def columns(data: Data, recipe: Any) -> Context:
    """Ids, 0 for users and items without a training pair, features and frequencies."""
    found: dict[str, np.ndarray] = tower_columns(
        data.columns["pair_user"],
        data.columns["pair_item"],
        num_users=data.num_users,
        num_items=data.num_items,
        users=data.users,
        items=data.items,
    )
    return found


def every_pair(data: Data, recipe: Any) -> Plan:
    """Every training pair once an epoch."""
    size = len(data.columns["pair_user"])
    return shuffled(size, min(recipe.batch_size, size))


def adam(recipe: Any) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


SOFTMAX, SAMPLED = "softmax over the batch", "sampled softmax"
MODELS: Mapping[str, RetrievalModel] = {
    "two-tower": RetrievalModel(
        Recipe, towers, of_batches, every_pair, adam, SOFTMAX, columns, reads_features=("user", "item")
    ),
    "youtube-dnn": RetrievalModel(
        YouTubeRecipe, youtube, of_drawn, every_pair, adam, SAMPLED, columns, reads_features=("user",)
    ),
}
