"""What the rows of `learned_index` are made of: indexes, a scorer's parts, and its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from jaxrec.index import graph_build, graphs
from jaxrec.index.graph_build import relevance_vectors
from jaxrec.index.scored import Found, Query, ScoreItems, best_of
from jaxrec.protocols import next_item
from jaxrec.protocols.items import Data
from jaxrec.train.fit import Fitted
from jaxrec.types import Array, Context, Variables

# options that change no training
OF_SEARCHES = ("widths", "k", "num_queries", "relevance", "degree", "graph_rounds", "expanded", "split_seed")
BLOCK = 1024  # items that an exhaustive search scores at a time
TINY: Mapping[str, Any] = {
    "dim": 8, "max_len": 8, "epochs": 1, "batch_size": 64, "user_dims": (8,), "item_dims": (8,),
    "score_dims": (8,), "num_negatives": 8, "num_samples": 20, "dims": (8,), "windows": (8,), "beam": 20,
    "num_codes": 4, "paths_per_item": 2, "hidden_dims": (8,), "listed": 8, "width": 4,
    "rounds": 2, "capacity": 20,
}  # fmt: skip


class Index(NamedTuple):
    """A way to search by a scorer.

    build: of the scorer's state, on the host. find: (index, state, scorer, query, k, width) -> what is found;
    the scorer's own query is query[0]. least: of the width, given k. masked: whether seen items are -inf to
    the search, so that they take no place; False: they are taken out of the `width` items that it returns.
    seconds: spent on building before, where training needs the index.
    """

    build: Callable[[Any], Any]
    find: Callable[[Any, Any, ScoreItems, Any, int, int], Found]
    least: Callable[[int], int] = lambda k: k
    masked: bool = True
    seconds: float = 0.0


class Searched(NamedTuple):
    """A trained scorer.

    state: what it reads, of a seed by its number: variables, a tree, a table of vectors. query: (state,
    queries, context). score: of the state. settings: of the training.
    """

    fitted: Fitted
    state: Callable[[int], Any]
    query: Callable[[Any, Mapping[str, Array], Context], Query]
    score: Callable[[Any], ScoreItems]
    indexes: Mapping[str, Index]
    loss: str
    settings: Mapping[str, Any]


def is_ordered(data: Data) -> bool:
    """Whether events have an order."""
    return isinstance(data, next_item.Data)


def recipe_of(recipe: Any, config: Any) -> Any:
    """The recipe with the sizes of --tiny and the settings of the command line."""
    known = {field.name for field in dataclasses.fields(recipe)}
    small = {name: value for name, value in (TINY if config.tiny else {}).items() if name in known}
    return common.override(dataclasses.replace(recipe, **small), config)


def options(config: Any, data: Data, row: str, recipe: Any, **more: Any) -> dict[str, Any]:
    """The arguments of training on seeds, storage and devices."""
    name, settings = data.split.sequences.name.split("/")[-1], dataclasses.asdict(recipe)
    return common.training_options(config, name, row, left_out=OF_SEARCHES, row=row, recipe=settings, **more)


def of_seed(fitted: Fitted, seed: int) -> Variables:
    """The variables of a seed, by its number."""
    picked: Variables = jax.tree.map(lambda leaf: leaf[seed], fitted.variables)
    return picked


# --- indexes -----------------------------------------------------------------------------------------


def every_item(num_items: int) -> Index:
    """Scores all items, a block at a time."""

    def find(index: Any, state: Any, scorer: ScoreItems, query: Any, k: int, width: int) -> Found:
        size, number = min(BLOCK, num_items), jax.tree.leaves(query)[0].shape[0]

        def step(best: tuple[Array, Array, Array], first: Array) -> tuple[tuple[Array, Array, Array], None]:
            ids = first + jnp.arange(size)
            ids = jnp.broadcast_to(jnp.where(ids <= num_items, ids, 0), (number, size))
            scores = scorer(query, ids)
            bad = ((ids > 0) & (jnp.isnan(scores) | (scores == jnp.inf))).any(axis=1)
            scores, ids = (jnp.concatenate(pair, axis=1) for pair in ((best[0], scores), (best[1], ids)))
            return (*best_of(scores, ids, k), best[2] & ~bad), None

        none = jnp.full((number, k), -jnp.inf), jnp.zeros((number, k), jnp.int32), jnp.ones(number, bool)
        scores, ids, finite = jax.lax.scan(step, none, jnp.arange(1, num_items + 1, size))[0]
        return Found(ids, scores, jnp.full(number, num_items, jnp.int32), finite)

    return Index(lambda state: (), find)


def best_of_tower(num_items: int) -> Index:
    """The `width` best unseen items of the two-tower model, scored anew: what any index has to beat."""

    def find(index: Any, state: Any, scorer: ScoreItems, query: Any, k: int, width: int) -> Found:
        products = jnp.where(query[1], -jnp.inf, query[0]["tower"] @ state["tower"]["table"].T)
        products = products.at[:, 0].set(-jnp.inf)
        value, ids = jax.lax.top_k(products, width)
        ids = jnp.where(value > -jnp.inf, ids, 0)
        every = scorer(query, ids)
        bad = ((ids > 0) & (jnp.isnan(every) | (every == jnp.inf))).any(axis=1)
        scores, found = best_of(every, ids, k)
        return Found(found, scores, (ids > 0).sum(axis=1), ~bad)

    return Index(lambda state: (), find)


def graphs_of(
    vectors: Callable[[Any], Array],
    score: Callable[[Any], ScoreItems],
    asked: Callable[[Any], Query],
    config: Any,
) -> dict[str, Index]:
    """Graphs of the items' vectors (NANN), of scores for training users (RPG), and a random one."""

    def find(index: Any, state: Any, scorer: ScoreItems, query: Any, k: int, width: int) -> Found:
        rounds, expanded = config.graph_rounds, min(config.expanded, width)
        return graphs.search(index, scorer, query, width, width, rounds=rounds, expanded=expanded)

    def near(state: Any) -> graphs.Graph:
        return graph_build.build(np.asarray(vectors(state)), degree=config.degree, filled=True)

    def relevance(state: Any) -> graphs.Graph:
        number = len(vectors(state)) - 1
        scorer = jax.tree_util.Partial(lambda state, query, ids: score(state)(query, ids), state)
        table = relevance_vectors(scorer, asked(state), number, standardise=True, block=512)
        return graph_build.build(table, degree=config.degree, filled=True)

    def random(state: Any) -> graphs.Graph:
        return graph_build.random_graph(len(vectors(state)) - 1, degree=config.degree)

    kinds = {"nann-graph": near, "rpg-graph": relevance, "random-graph": random}
    return {name: Index(build, find, masked=False) for name, build in kinds.items()}


def of_training(data: Data, number: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Random users with their training items as history, as queries, and the columns that these read."""
    lengths = np.asarray(data.columns["length"])
    users = np.random.default_rng(0).permutation(np.flatnonzero(lengths > 0))[:number]
    asked = {"user": users, "length": lengths[users], "mask": np.ones(len(users), bool)}
    return jax.tree.map(jnp.asarray, asked), {
        name: jnp.asarray(data.columns[name]) for name in ("items", "start")
    }
