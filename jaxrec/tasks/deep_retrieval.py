"""Deep Retrieval (Gao et al., arXiv:2007.07203): the loss of paths, their learning, and retrieval by them.

Training alternates. The paper's E-step is gradient descent on the structure model while the items' paths are
fixed: the task `deep_retrieval`. Its M-step chooses the paths while the parameters are fixed: `observe_paths`
reads the training examples and `choose_paths` moves the items.

The model is a module with `max_len`, num_codes, depth, num_paths and

    __call__(items [B, L], *, train: bool) -> users [B, E]
    next_code(users, prefixes [B, W, d]) -> log-probabilities [B, W, K]
    path_log_prob(users, paths [B, J, D]) -> [B, J]
    paths_of(ids […]) -> numbers of paths [..., J], from the collection "paths", which no step changes
    item_table() -> [V, E], softmax embeddings

as `nn.retrieval.deep_retrieval.DeepRetrieval`. Context columns: items [N], start [U], length [U]. Examples:
example [B], the index of the target among the N events, and mask [B], False in a padded tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrec import packing
from jaxrec.index import paths as index_of_paths
from jaxrec.index.chunked import some_products
from jaxrec.index.paths import NextCode, Paths, beam_search, codes_of, number_paths
from jaxrec.index.paths_learning import PathScores, assign, observe
from jaxrec.index.scored import Found, Query, ScoreItems
from jaxrec.losses import masked_mean
from jaxrec.tasks.encoder import check_keywords
from jaxrec.tasks.interests import users_of
from jaxrec.tasks.nann import History, histories
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Key, Retriever, Scorer, Task, Variables

UNFOUND = -1e30  # the score of an item that a search did not find; finite, as scores have to be
COLLECTION = "paths"


class PathModel(Protocol):
    """What the task calls; see the head of this file."""

    num_codes: int
    depth: int
    max_len: int

    @property
    def num_paths(self) -> int: ...
    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


def deep_retrieval(model: PathModel, objective: Objective, *, history: History = "before") -> Task:
    """The task of giving a user's next item probable paths and a high score. predict: users' vectors.

    Losses: "paths", the mean of -log Σ_j p(path j of the item | x) (section 2.3, for fixed paths without its
    penalty), and "softmax", the objective's of x against the softmax embeddings.

    objective: such as `objectives.full_softmax`, `sampled_softmax`. history: the events before the
    target, or all other training events of the user (`tasks.nann.histories`).

    Raises:
      ValueError: the model lacks a method; when variables are made: it holds more than parameters and paths.
    """
    check_keywords(model, "train")  # type: ignore[arg-type]

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        drawn = objective.draw(key, users_of(examples["example"], context), context)
        return {**_read(model, examples, context, history), **drawn}

    def init(key: Key, batch: Batch) -> Variables:
        found: Variables = model.init(key, batch["items"][:1], train=False)
        if set(found) != {"params", COLLECTION}:
            raise ValueError(
                f"deep_retrieval: the model holds {', '.join(sorted(found))}; this task updates parameters "
                f"alone and reads {COLLECTION}"
            )
        return found

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        targets = batch["targets"]
        x = model.apply(variables, batch["items"], train=True)
        numbers = model.apply(variables, targets, method="paths_of")
        paths = codes_of(jnp.maximum(numbers, 0), num_codes=model.num_codes, depth=model.depth)
        each = model.apply(variables, x, paths, method="path_log_prob")
        known = (targets == 0) | (numbers >= 0).all(axis=-1)  # else the loss is NaN
        likelihood = jnp.where(known, jax.nn.logsumexp(each, axis=-1), jnp.nan)
        table = model.apply(variables, method="item_table")
        return {
            "paths": masked_mean(-likelihood, targets != 0, axis_name),
            "softmax": objective.loss(x, table, batch, axis_name),
        }, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        found: Array = model.apply(variables, batch["items"], train=False)
        return found

    return Task(prepare, init, losses, predict)


def _read(
    model: PathModel, examples: Mapping[str, Array], context: Context, history: History
) -> dict[str, Array]:
    """Histories [B, L] and targets [B] of examples."""
    event, mask = jnp.where(examples["mask"], examples["example"], 0), examples["mask"]
    items = histories(event, mask, context, width=model.max_len, history=history)
    return {"items": items, "targets": jnp.where(mask, context["items"][event], 0)}


# --- learning the paths ------------------------------------------------------------------------------


def observe_paths(
    model: PathModel,
    variables: Variables,
    known: PathScores,
    examples: Mapping[str, Array],
    context: Context,
    *,
    width: int,
    decay: float,
    history: History = "before",
) -> PathScores:
    """Scores of items' paths after all examples [steps, B] of an epoch, each with its user's `width` most
    probable paths: the streaming form of the M-step, see `index.paths_learning.observe`.

    known: the lists so far. decay: η. history: as of the task.
    """
    step_code = next_code_of(model, variables)

    def step(lists: PathScores, part: Mapping[str, Array]) -> tuple[PathScores, None]:
        read = _read(model, part, context, history)
        x = model.apply(variables, read["items"], train=False)
        beam = beam_search(step_code, x, num_codes=model.num_codes, depth=model.depth, width=width)
        numbers = number_paths(beam.paths, model.num_codes)
        return observe(lists, read["targets"], numbers, jnp.exp(beam.log_prob), decay=decay), None

    return jax.lax.scan(step, known, dict(examples))[0]


def choose_paths(
    model: PathModel,
    variables: Variables,
    known: PathScores,
    counts: Array,
    *,
    alpha: float,
    sweeps: int,
    capacity: int | None,
) -> Variables:
    """The variables with other paths of the items, see `index.paths_learning.assign`."""
    now = variables[COLLECTION]["of_items"]
    settings: dict[str, Any] = {"alpha": alpha, "sweeps": sweeps, "capacity": capacity}
    chosen = assign(known, counts, now, num_paths=model.num_paths, **settings).paths
    return {**variables, COLLECTION: {"of_items": chosen}}


# --- retrieval ---------------------------------------------------------------------------------------


def next_code_of(model: PathModel, variables: Variables) -> NextCode:
    """The structure model as a beam search calls it; queries are users' vectors [B, E]."""

    def next_code(query: Query, begun: Array) -> Array:
        found: Array = model.apply(variables, query, begun, method="next_code")
        return found

    return next_code


def softmax_scorer(model: PathModel, variables: Variables) -> ScoreItems:
    """Items by the products of softmax embeddings with users' vectors [B, E]."""
    table = model.apply(variables, method="item_table")
    return lambda query, ids: some_products(query, table, ids)


def index_of(model: PathModel, variables: Variables, *, capacity: int) -> Paths:
    """The index of the items on their paths, without a check (`index.paths.invert`), for use within jit."""
    numbers = variables[COLLECTION]["of_items"]
    paths = jnp.where(
        numbers[..., None] < 0, -1, codes_of(numbers, num_codes=model.num_codes, depth=model.depth)
    )
    size = {"num_codes": model.num_codes, "capacity": capacity}
    return index_of_paths.invert(paths, count=numbers.shape[0] - 1, **size)


def retriever(model: PathModel) -> Retriever:
    """The softmax over all items, without the paths: brute force by the same vectors."""

    def table(variables: Variables) -> Array:
        found: Array = model.apply(variables, method="item_table")
        return found

    return Retriever(lambda variables, queries, context: users(model, variables, queries, context), table)


def users(model: PathModel, variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    """Vectors of the users of queries, who have the first `length` of their events as history: [B, E]."""
    history = read_histories(queries, context, model.max_len)
    found: Array = model.apply(variables, history, train=False)
    return found


def read_histories(queries: Mapping[str, Array], context: Context, max_len: int) -> Array:
    """The last of the first `length` events of the users of queries, right-aligned: [B, max_len]."""
    length = jnp.where(queries["mask"], queries["length"], 0)
    end = context["start"][queries["user"]] + length
    return packing.window(context["items"], end, length, max_len)


def by_paths(model: PathModel, *, width: int, capacity: int) -> Scorer:
    """What serving returns, for evaluation: scores of the items on a user's `width` most probable paths by
    the softmax embeddings, and one lower than any for all other items.

    capacity: items that a path has room for.
    """

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        x = users(model, variables, queries, context)
        index = index_of(model, variables, capacity=capacity)
        scorer, next_code = softmax_scorer(model, variables), next_code_of(model, variables)
        size = {"num_codes": model.num_codes, "depth": model.depth}
        every = index_of_paths.candidates(index, beam_search(next_code, x, width=width, **size)).shape[1]
        found = index_of_paths.search(index, scorer, x, every, width, next_code=next_code)
        return as_scores(found, index.paths.shape[0])

    return Scorer(scores)


def as_scores(found: Found, vocab_size: int) -> Array:
    """Scores of all ids, [B, V]: those of a search, and `UNFOUND` of what it did not find, and of padding.

    NaN for a query without a valid search, so that an evaluation refuses it.
    """
    rows = jnp.arange(found.ids.shape[0])[:, None]
    empty = jnp.full((found.ids.shape[0], vocab_size), UNFOUND)
    real = found.ids > 0
    column = jnp.where(real, found.ids, vocab_size + jnp.arange(found.ids.shape[1]))
    scores = empty.at[rows, column].set(found.scores, mode="drop", unique_indices=True)
    return jnp.where(found.finite[:, None], scores, jnp.nan)


def was_found(scores: Array) -> Array:
    """Where a search found the item of a score of `as_scores`, bool; of a mean of seeds, where all did."""
    return scores > UNFOUND * 2.0**-20
