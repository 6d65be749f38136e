"""The scorers of `learned_index`, how they are trained, and the indexes that each is searched by."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from experiments.retrieval.learned_index_parts import (
    Index,
    Searched,
    best_of_tower,
    graphs_of,
    is_ordered,
    of_seed,
    of_training,
    options,
    recipe_of,
)
from jaxrec import sampling
from jaxrec.index import paths, tree_building, trees
from jaxrec.index.chunked import some_products
from jaxrec.index.scored import Found, Query, ScoreItems
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import items, next_item, retrieval
from jaxrec.protocols.interests import every_event
from jaxrec.recipes import deep_retrieval, interests, nann, sasrec, tdm
from jaxrec.tasks import deep_retrieval as of_paths
from jaxrec.tasks import interests as of_interests
from jaxrec.tasks import next_item as of_sequences
from jaxrec.tasks import tree as of_tree
from jaxrec.tasks.objectives import sampled_softmax, with_tables
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Protocol, Retriever

# (data, protocol, settings, the trained two-tower model or None) -> the scorer
Make = Callable[[Any, Protocol, Any, Any], Searched]


def by_products(
    retriever: Retriever, fitted: Fitted, data: Any, config: Any, loss: str, recipe: Any
) -> Searched:
    """A model whose scores are products of vectors."""

    def query(state: Any, queries: Mapping[str, Array], context: Context) -> Query:
        vectors = retriever.query(state["variables"], queries, context)
        return vectors.reshape(len(vectors), -1)

    def score(state: Any) -> ScoreItems:
        return lambda query, ids: some_products(query, state["table"], ids)

    def state(seed: int) -> Any:
        variables = of_seed(fitted, seed)
        return {"variables": variables, "table": jax.jit(retriever.items)(variables)}

    users = of_training(data, config.relevance)
    indexes = graphs_of(lambda state: state["table"], score, lambda state: query(state, *users), config)
    return Searched(fitted, state, query, score, indexes, loss, dataclasses.asdict(recipe))


def two_tower(data: Any, protocol: Protocol, config: Any, tower: Searched | None) -> Searched:
    """The mean of events through a layer against vectors of items; a matrix is read in its random order."""
    recipe = interests.Mean(dim=64, max_len=50, num_samples=1000, epochs=20, evaluate_every=1, batch_size=256)
    recipe = recipe_of(recipe, config)
    model = interests.mean_of_events(data.num_items, recipe)
    counts = np.bincount(data.split.training_events().item, minlength=data.num_items + 1)
    popular = sampling.popularity_table(np.maximum(counts, 1), alpha=1.0)
    objective, ranked = sampled_softmax(recipe.num_samples, popular), of_interests.retriever(model)
    asked: Any = next_item.evaluation if is_ordered(data) else retrieval.evaluation
    fitted = fit_reusing(
        [Phase("train", of_interests.interests(model, objective), recipe.epochs, static())],
        optax.adam(recipe.learning_rate),
        every_event(data, recipe.batch_size),
        with_tables(data.columns, objective),
        Selection(asked(ranked, data, protocol, "validation"), protocol.selection),
        vocabulary=items.vocabulary(data),
        **options(config, data, "two-tower", recipe),
    )
    return by_products(ranked, fitted, data, config, objective.description, recipe)


def self_attention(data: Any, protocol: Protocol, config: Any, tower: Searched | None) -> Searched:
    """SASRec."""
    entry = sasrec.MODELS["sasrec"]
    recipe = recipe_of(sasrec.Recipe(replacement=False, epochs=20, evaluate_every=1), config)
    model, objective = entry.encoder(data.num_items, recipe), entry.objectives["ce"](data, recipe)
    more = options(config, data, "sasrec", recipe)
    fitted = entry.train(model, objective, data, protocol, entry.optimiser(recipe), recipe, **more)
    return by_products(of_sequences.retriever(model), fitted, data, config, objective.description, recipe)


def with_tower(tower: Searched | None, seed: int, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a scorer, and of the same seed that of the two-tower model, if there is one."""
    return state if tower is None else {**state, "tower": tower.state(seed)}


def target_attention(data: Any, protocol: Protocol, config: Any, tower: Searched | None) -> Searched:
    """NANN's scorer, which attends to the history: no product of two vectors."""
    recipe = recipe_of(nann.Recipe(), config)
    model, fitted = nann.train(data, protocol, recipe, **options(config, data, "nann", recipe))

    def state(seed: int) -> Any:
        variables = of_seed(fitted, seed)
        own = {"variables": variables, "table": nann.item_vectors(model, variables)}
        return with_tower(tower, seed, own)

    def query(state: Any, queries: Mapping[str, Array], context: Context) -> Query:
        own = {"own": of_paths.read_histories(queries, context, model.max_len)}
        return own if tower is None else {**own, "tower": tower.query(state["tower"], queries, context)}

    def score(state: Any) -> ScoreItems:
        scorer = nann.score_items(model, state["variables"], state["table"])
        return lambda query, ids: scorer(query["own"], ids)

    users = of_training(data, config.relevance)
    indexes = graphs_of(lambda state: state["table"], score, lambda state: query(state, *users), config)
    if tower is not None:
        indexes["two-tower"] = best_of_tower(data.num_items)
    loss = f"noise-contrastive estimation, {recipe.num_negatives} negatives"
    return Searched(fitted, state, query, score, indexes, loss, dataclasses.asdict(recipe))


def of_tree_nodes(row: str, recipe: Any, data: Any, protocol: Protocol, config: Any, tower: Any) -> Searched:
    """TDM or JTM, on the tree of the two-tower model's vectors, those of its first seed; without it on a
    random one.

    JTM learns its next tree from the first seed of this training, and goes on with it.
    """
    recipe = recipe_of(recipe, config)
    recipe = dataclasses.replace(recipe, windows=(config.max_len or sum(recipe.windows),))
    start, tree, made_of = time.perf_counter(), tree_building.random(data.num_items), "random"
    if tower is not None:
        made_of = "vectors of two-tower"
        tree = tree_building.from_vectors(np.asarray(tower.state(0)["table"]))
    seconds = time.perf_counter() - start
    more = options(config, data, row, recipe, tree="first")
    model, fitted = tdm.train(data, protocol, recipe, tree, **more)
    if recipe.by_level:
        start = time.perf_counter()
        tree = tdm.learn_tree(model, of_seed(fitted, 0), data, recipe, tree, gap=config.gap).tree
        seconds += time.perf_counter() - start
        more = options(config, data, row, recipe, tree="learned")
        model, fitted = tdm.train(data, protocol, recipe, tree, initial=fitted.variables, **more)

    def query(state: Any, queries: Mapping[str, Array], context: Context) -> Query:
        return of_tree.histories(queries, context, model.max_len, ordered=is_ordered(data))

    def score(state: Any) -> ScoreItems:
        return tdm.score_items(model, state["variables"], state["tree"], by_level=recipe.by_level)

    def find(index: Any, state: Any, scorer: ScoreItems, query: Any, k: int, width: int) -> Found:
        return trees.search(state["tree"], scorer, query, k, width)

    def state(seed: int) -> Any:
        return {"variables": of_seed(fitted, seed), "tree": tree}

    indexes = {"tree": Index(lambda state: (), find, seconds=seconds)}
    loss = f"binary cross-entropy of nodes, {recipe.num_negatives} negatives"
    described = {**dataclasses.asdict(recipe), "first_tree": made_of}
    return Searched(fitted, state, query, score, indexes, loss, described)


def of_paths_of_items(data: Any, protocol: Protocol, config: Any, tower: Searched | None) -> Searched:
    """Deep Retrieval: products with softmax embeddings, found by paths."""
    recipe = recipe_of(deep_retrieval.Recipe(), config)
    more = options(config, data, "deep-retrieval", recipe)
    model, learned = deep_retrieval.train(data, protocol, recipe, **more)
    fitted = learned.joined()

    def build(state: Any) -> Any:
        return deep_retrieval.index(model, state["variables"], recipe)

    def find(index: Any, state: Any, scorer: ScoreItems, query: Any, k: int, width: int) -> Found:
        step = of_paths.next_code_of(model, state["variables"])
        return paths.search(
            index, scorer, query, k, width, next_code=lambda query, begun: step(query[0], begun)
        )

    def query(state: Any, queries: Mapping[str, Array], context: Context) -> Query:
        return of_paths.users(model, state["variables"], queries, context)

    def score(state: Any) -> ScoreItems:
        return of_paths.softmax_scorer(model, state["variables"])

    def state(seed: int) -> Any:
        return {"variables": of_seed(fitted, seed)}

    indexes = {"paths": Index(build, find, least=lambda k: 1)}
    loss = "paths + softmax over items"
    return Searched(fitted, state, query, score, indexes, loss, dataclasses.asdict(recipe))


ROWS: Mapping[str, Make] = {  # the two-tower model first, as others read it
    "two-tower": two_tower,
    "sasrec": self_attention,
    "nann": target_attention,
    "tdm": functools.partial(of_tree_nodes, "tdm", tdm.Recipe(attention=())),
    "jtm": functools.partial(of_tree_nodes, "jtm", tdm.jtm()),
    "deep-retrieval": of_paths_of_items,
}
NEEDS_ORDER = ("sasrec",)
