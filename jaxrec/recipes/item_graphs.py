"""Models of items alone on graphs of them: PinSage (KDD 2018), EGES with GES (KDD 2018), and DeepWalk.

EGES (Wang et al., arXiv:1803.02349): width, walks and sessions are the paper's; it states no negatives,
optimiser or batch. PinSage (Ying et al., arXiv:1806.01973): layers, neighbours, negatives and batch are the
paper's, margin, restart and widths those of DGL's example for data of this size. Departs from the paper:
vectors of ids in place of features; without `--hard` no hard negatives, whose window is a share of the items,
as the paper's ranks 2,000 to 5,000 are for billions.

Events in order give the papers' graphs and pairs. An interaction matrix has no order: walks then lead through
users, and PinSage's pairs are two items of one user.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import losses
from jaxrec.data.events.graph import bipartite
from jaxrec.data.events.item_graph import item_graph
from jaxrec.data.events.neighbourhoods import (
    consecutive_items,
    hard_items,
    importance_neighbourhoods,
)
from jaxrec.nn.retrieval.eges import EGES
from jaxrec.nn.retrieval.pinsage import PinSage
from jaxrec.protocols import next_item
from jaxrec.protocols.items import Data
from jaxrec.recipes.trainable import ItemModel
from jaxrec.tasks import item_pairs, skip_gram
from jaxrec.tasks.item_pairs import Finish
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Context, Task, Variables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How EGES, GES and DeepWalk are trained."""

    dim: int = 160  # width of the vectors
    side: Literal["weighted", "mean", "none"] = "weighted"  # side information: EGES, GES, DeepWalk
    gap: float = 3600.0  # seconds without an event after which a new session begins
    walk_length: int = 10  # items of a walk
    window: int = 5  # largest distance of two items of a walk that are a pair
    negatives: int = 5  # sampled items per pair
    power: float = 0.75  # of an item's degree, to which the chance of being sampled is proportional
    scores: Literal["vectors", "contexts"] = "vectors"  # of an item by its own vector, or that as a context
    history: int = 10  # last items of a user, of which the mean of the vectors is the query
    batch_size: int = 16  # walks per step
    learning_rate: float = 1e-2  # of Adam
    epochs: int = 20  # walks from each item
    evaluate_every: int = 1  # epochs between evaluations
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class PinSageRecipe:
    """How PinSage is trained."""

    dim: int = 64  # width of the vectors
    hidden_dim: int = 64  # width of what neighbours send
    num_layers: int = 2  # convolutions
    neighbours: int = 50  # most visited items of an item that it convolves
    walks: int = 200  # from each item, which find them
    walk_length: int = 3  # steps from item to item of a walk
    restart: float = 0.5  # probability that a walk ends after a step
    margin: float = 1.0  # by which the score of a pair has to exceed those of negatives
    negatives: int = 500  # sampled items, the same for all pairs of a step
    hard: int = 0  # hard negatives of an item, at most: epoch n has n - 1 of them
    hard_first: float = 0.01  # share of all items that are visited more than an item's hard negatives
    hard_last: float = 0.05  # share of all items among which its hard negatives are
    hard_walks: int = 1000  # from each item, which find them, of ten steps
    history: int = 10  # last items of a user, of which the mean of the vectors is the query
    batch_size: int = 2048  # pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 100  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never

    def __post_init__(self) -> None:
        if self.hard < 0 or not 0 <= self.hard_first < self.hard_last <= 1:
            raise ValueError(
                f"hard={self.hard}, hard_first={self.hard_first}, hard_last={self.hard_last}: must be at "
                "least 0, and shares with 0 <= hard_first < hard_last <= 1"
            )


def in_order(data: Data) -> bool:
    """Whether the events of a user have an order."""
    return isinstance(data, next_item.Data)


# --- EGES ----------------------------------------------------------------------------------------------


def side_information(data: Data) -> np.ndarray:
    """The attributes of items as fields of side information, int32 [V + 1, n].

    Raises:
      ValueError: the data have no attributes, or an item has several values of one.
    """
    found = data.columns.get("attributes")
    name = data.split.sequences.name
    if found is None:
        raise ValueError(
            f"{name}: has no attributes of items, which EGES reads as side information; train eges with a "
            "file of them by --item-attributes, or take --side none, which reads none"
        )
    if found.shape[2] > 1:
        raise ValueError(
            f"{name}: an item has {found.shape[2]} values of an attribute, and EGES reads one of each; give "
            "every cell one value, or take --side none without attributes"
        )
    return np.asarray(found[:, :, 0], np.int32)


def eges(data: Data, recipe: Recipe) -> EGES:
    """EGES, or GES with equal weights, or DeepWalk without side information."""
    sizes: tuple[int, ...] = ()
    if recipe.side != "none":
        sizes = tuple(int(size) for size in side_information(data).max(axis=0))
    return EGES(data.num_items, sizes, recipe.dim, weighted=recipe.side == "weighted")


def walked(model: EGES, data: Data, recipe: Recipe) -> Task:
    """Skip-gram with negative sampling over random walks."""
    return skip_gram.skip_gram(
        model, length=recipe.walk_length, window=recipe.window, negatives=recipe.negatives
    )


def walk_columns(data: Data, recipe: Recipe) -> Context:
    """The graph of items that follow one another in sessions; of a matrix, of users and items."""
    events, sequences = data.split.training_events(), data.split.sequences
    if in_order(data):
        times = None if sequences.times is None else sequences.times[data.split.in_training]
        graph: Any = item_graph(events, times=times, gap=recipe.gap)
    else:
        graph = bipartite(events, num_users=sequences.num_users)
    side = None if recipe.side == "none" else side_information(data)
    columns = skip_gram.columns(graph, side=side, alpha=recipe.power)
    met = np.zeros(data.num_items + 1, bool)
    met[graph.target if in_order(data) else graph.by_user.column] = True
    met[columns["walk_start"]] = True
    return jax.tree.map(jnp.asarray, {**columns, "met": met})


def every_start(data: Data, columns: Context, recipe: Recipe) -> Plan:
    """A walk from every item an epoch."""
    size = len(columns["walk_start"])
    return shuffled(size, min(recipe.batch_size, size))


def merged(model: EGES, recipe: Recipe) -> Finish:
    """Merged vectors of items, of cold ones by their side information, against vectors of either kind."""
    own = recipe.scores == "vectors"

    def finish(variables: Variables, context: Context) -> Variables:
        found = model.apply(variables, context.get("side"), context["met"], method="vectors")
        return {"queries": found, "items": found if own else variables["params"]["context_embedding"]}

    return finish


# --- PinSage -------------------------------------------------------------------------------------------


def pinsage(data: Data, recipe: PinSageRecipe) -> PinSage:
    """PinSage of ids."""
    return PinSage(data.num_items, recipe.dim, recipe.hidden_dim, recipe.num_layers)


def related(model: PinSage, data: Data, recipe: PinSageRecipe) -> Task | Sequence[Task]:
    """The hinge loss of an item and the one that came after it, or of two items of one user.

    With hard negatives a curriculum (section 3.3): none in the first epoch, one more in each, up to `hard`.
    """
    made = functools.partial(
        item_pairs.item_pairs,
        model,
        num_items=data.num_items,
        draw=item_pairs.consecutive if in_order(data) else item_pairs.of_one_user,
        loss=functools.partial(losses.hinge, margin=recipe.margin),
        negatives=recipe.negatives,
    )
    return [made(hard=number) for number in range(recipe.hard + 1)] if recipe.hard else made()


def hard_window(num_items: int, recipe: PinSageRecipe) -> tuple[int, int]:
    """The ranks of hard negatives, from 1.

    Raises:
      ValueError: there are fewer than an item has.
    """
    first = 1 + round(recipe.hard_first * num_items)
    last = max(first, round(recipe.hard_last * num_items))
    if last - first + 1 < recipe.hard:
        raise ValueError(
            f"hard={recipe.hard}: of {num_items:,} items the ranks {first}..{last} (hard_first, hard_last) "
            "are fewer; widen them"
        )
    return first, last


def neighbourhoods(data: Data, recipe: PinSageRecipe) -> Context:
    """The most visited items of each, its hard negatives, and the pairs of an epoch."""
    events = data.split.training_events()
    graph = bipartite(events, num_users=data.split.sequences.num_users)
    near = importance_neighbourhoods(
        graph,
        number=recipe.neighbours,
        walks=recipe.walks,
        length=recipe.walk_length,
        restart=recipe.restart,
    )
    columns: dict[str, Any] = {"neighbours": near}
    if recipe.hard:
        first, last = hard_window(data.num_items, recipe)
        columns["hard"] = hard_items(graph, first=first, last=last, walks=recipe.hard_walks)
    if in_order(data):
        columns["before"], columns["after"] = consecutive_items(events)
    return jax.tree.map(jnp.asarray, columns)


def every_pair(data: Data, columns: Context, recipe: PinSageRecipe) -> Plan:
    """Every pair once an epoch.

    Raises:
      ValueError: no item comes after another one.
    """
    size = len(columns["after"] if in_order(data) else data.columns["pair_item"])
    return shuffled(size, min(recipe.batch_size, max(size, 1)))


def convolved(model: PinSage, recipe: PinSageRecipe) -> Finish:
    """The vectors of all items."""

    def finish(variables: Variables, context: Context) -> Variables:
        queries, items = model.apply(variables, context, method="vectors")
        return {"queries": queries, "items": items}

    return finish


def adam(recipe: Recipe | PinSageRecipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


SGNS = "skip-gram with negative sampling"
MODELS: Mapping[str, ItemModel] = {
    "pinsage": ItemModel(
        PinSageRecipe, pinsage, related, neighbourhoods, every_pair, convolved, adam, "hinge loss"
    ),
    "eges": ItemModel(Recipe, eges, walked, walk_columns, every_start, merged, adam, SGNS, attributes=True),
    "deepwalk": ItemModel(Recipe(side="none"), eges, walked, walk_columns, every_start, merged, adam, SGNS),
}
