"""Models that score pairs of a user and an item, trained on observed pairs against sampled ones.

Matrix factorisation, its neural forms and graph models. An example is an observed pair; a step draws
negatives for each. User number u (from 0) has row u + 1 of a table of users, as row 0 is padding everywhere.

Context columns (`protocols.retrieval.resident`): pair_user, pair_item [P]; for `unseen` excluded [P] with
excluded_start, excluded_length [U]; and whatever the model reads. Examples: example [B], a pair each, and
mask [B], False in a padded tail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrec import losses, sampling
from jaxrec.sampling import PopularityTable
from jaxrec.segments import pick
from jaxrec.tasks.encoder import numbered, only_params
from jaxrec.types import SHARED, Array, Batch, Context, Key, Measure, Retriever, Scorer, Task, Variables

# (key, users from 0 [B], how many N, context) -> ids of items [B, N]
Sampler = Callable[[Key, Array, int, Context], Array]
# (scores of observed items [B], of sampled ones [B, N], where=[B], axis_name=…) -> scalar
Loss = Callable[..., Array]


class PairModel(Protocol):
    """A model of pairs as the tasks use it: a Linen module with `init`, `apply` and

    __call__(user [B], item [B, N], context, *, train: bool) -> scores [B, N]
        Rows of users and ids of items, both from 1; 0 is padding. context: the resident columns. A module
        with dropout takes `rows` [B] too, the number of each row in the batch of all devices, from which its
        noise has to derive.
    penalised(user [B], item [B, N]) -> arrays [B, …, D] and [B, N, …, D]
        Rows of parameters of which a regularised task adds the squares.

    and one of
    vectors(context) -> (users [U + 1, D], items [I + 1, D])
        If its scores, up to a constant of each user, are dot products of these.
    all_scores(user [B], context) -> [B, I + 1]

    Its only variables are parameters.
    """

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


def uniform(num_items: int) -> Sampler:
    """All items alike, those that the user has among them."""

    def draw(key: Key, user: Array, count: int, context: Context) -> Array:
        return sampling.uniform(key, (user.shape[0], count), num_items=num_items)[0]

    return draw


def unseen(num_items: int, most: int) -> Sampler:
    """Uniform over the items that are not excluded for the user, which are those of its pairs; no rejection.

    most: the largest `excluded_length`. Raises ValueError if a user has every item.
    """
    if not 0 <= most < num_items:
        raise ValueError(
            f"most={most}: of {num_items} items a user may have {num_items - 1} at most, or there is no "
            "negative to draw; leave the user out, or use `uniform`"
        )

    def draw(key: Key, user: Array, count: int, context: Context) -> Array:
        drawn = jnp.broadcast_to(user[:, None], (user.shape[0], count))
        ids, _ = sampling.uniform_excluding_flat(
            key,
            num_items=num_items,
            excluded=context["excluded"],
            start=context["excluded_start"][drawn],
            count=context["excluded_length"][drawn],
            width=most,
        )
        return ids

    return draw


def popular(table: PopularityTable) -> Sampler:
    """By popularity, count^alpha (`sampling.popularity_table`), whatever items the user has."""

    def draw(key: Key, user: Array, count: int, context: Context) -> Array:
        return sampling.popularity(key, (user.shape[0], count), table)[0]

    return draw


def pairwise(
    model: PairModel,
    loss: Loss = losses.bpr,
    *,
    sampler: Sampler,
    negatives: int = 1,
    hardest: int | None = None,
    l2: float = 0.0,
) -> Task:
    """The task of scoring observed items above sampled ones; predict gives the observed items' scores [B].

    Losses: "pairs", and with a penalty "l2": l2 / 2 times the squares of what the model's `penalised` gives
    for the user, its observed item and its negatives, averaged over examples. That is the regulariser of
    LightGCN's code and, with l2 = 2 λ, of BPR (Rendle et al., UAI 2009, section 4.3).

    Args:
      loss: of scores (pos [B], neg [B, N]), with `where` and `axis_name`: `losses.bpr`, `losses.ccl`, ….
      sampler: of the negatives.
      negatives: how many are drawn for each pair.
      hardest: only so many of the negatives enter the loss, those of the highest scores (dynamic negative
        sampling, Zhang et al., SIGIR 2013). None: all.
      l2: weight of the penalty; 0: none, and `penalised` is not called.

    Raises:
      ValueError: a number of negatives or the weight is out of range. When variables are made: the model has
        some other than parameters.
    """
    return _task(model, loss, sampler, negatives, hardest, l2, per_pair=False)


def pointwise(
    model: PairModel,
    loss: Loss = losses.bce,
    *,
    sampler: Sampler,
    negatives: int = 4,
    l2: float = 0.0,
) -> Task:
    """The task of telling observed pairs from sampled ones, each a labelled example of its own.

    As `pairwise`, but for the default loss, binary cross-entropy summed over an observed pair and its
    negatives, and for the penalty, which counts the user's row in every labelled pair, as stochastic gradient
    descent over labelled pairs does (Rendle et al., RecSys 2020, arXiv:2005.09683).
    """
    return _task(model, loss, sampler, negatives, None, l2, per_pair=True)


def _task(
    model: PairModel,
    loss: Loss,
    sampler: Sampler,
    negatives: int,
    hardest: int | None,
    l2: float,
    *,
    per_pair: bool,
) -> Task:
    if negatives < 1:
        raise ValueError(f"negatives={negatives}: must be at least 1")
    if hardest is not None and not 1 <= hardest <= negatives:
        raise ValueError(f"hardest={hardest}: must be in 1..{negatives} (negatives)")
    if not l2 >= 0:
        raise ValueError(f"l2={l2}: must be at least 0")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        return drawn_pairs(key, examples, context, sampler=sampler, negatives=negatives)

    def init(key: Key, batch: Batch) -> Variables:
        user, item = batch["user"][:1], batch["item"][:1, None]
        return only_params(model.init(key, user, item, batch[SHARED], train=False), "pairs")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        item = jnp.concatenate([batch["item"][:, None], batch["negatives"]], axis=1)
        scores = model.apply(
            variables,
            batch["user"],
            item,
            batch[SHARED],
            train=True,
            rngs={"dropout": key},
            **numbered(model, batch["row"]),
        )
        if hardest is not None:
            _, place = jax.lax.top_k(jax.lax.stop_gradient(scores[:, 1:]), hardest)
            kept = jnp.concatenate([jnp.zeros_like(place[:, :1]), place + 1], axis=1)
            scores, item = pick(scores, kept), pick(item, kept)
        where = batch["mask"]
        found = {"pairs": loss(scores[:, 0], scores[:, 1:], where=where, axis_name=axis_name)}
        if l2 > 0:
            rows = model.apply(variables, batch["user"], item, method="penalised")
            found["l2"] = 0.5 * l2 * _squares(rows, item.shape, per_pair, where, axis_name)
        return found, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        scores = model.apply(variables, batch["user"], batch["item"][:, None], batch[SHARED], train=False)
        return scores[:, 0]

    return Task(prepare, init, value, predict)


def drawn_pairs(
    key: Key, examples: Mapping[str, Array], context: Context, *, sampler: Sampler, negatives: int
) -> Batch:
    """The batch of examples: rows of users and observed items [B], sampled items [B, negatives]."""
    user = context["pair_user"][examples["example"]]
    return {
        "user": user + 1,
        "item": context["pair_item"][examples["example"]],
        "negatives": sampler(key, user, negatives, context),
        "mask": examples["mask"],
        "row": jnp.arange(user.shape[0], dtype=jnp.int32),
        SHARED: dict(context),
    }


def _squares(rows: Any, shape: tuple[int, ...], per_pair: bool, where: Array, axis_name: str | None) -> Array:
    """Squares of what a model's `penalised` gave for users [B] and items [B, N], averaged over examples."""
    total = jnp.zeros(shape[0])
    for row in rows:
        square = jnp.sum(jnp.square(row), axis=-1)
        if per_pair and square.ndim == 1:
            square = jnp.broadcast_to(square[:, None], shape)
        total = total + jnp.sum(square.reshape(shape[0], -1), axis=1)
    return losses.masked_mean(total, where, axis_name)


# --- ranking -------------------------------------------------------------------------------------------


def finished(model: PairModel, variables: Variables, context: Context) -> dict[str, Array]:
    """The final vectors of a model whose scores are dot products: {"users": [U + 1, D], "items": [I + 1, D]}.

    They are what `FACTORS` ranks by, made once for an evaluation, an index or a run folder.
    """
    users, items = model.apply(variables, context, method="vectors")
    return {"users": users, "items": items}


def _user_vectors(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    return jnp.asarray(variables["users"])[queries["user"] + 1]


def _item_vectors(variables: Variables) -> Array:
    return jnp.asarray(variables["items"])


FACTORS = Retriever(_user_vectors, _item_vectors)


def scorer(model: PairModel, *, users_at_once: int = 8) -> Scorer:
    """A model without vectors, as ranking sees it: its `all_scores`, of a few users at a time.

    users_at_once: bounds memory, as hidden layers of every pair of these users and an item are held.
    """

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        def one(user: Array) -> Array:
            return model.apply(variables, user[None], context, method="all_scores")[0]

        user = queries["user"] + 1
        counted = isinstance(user.shape[0], int)  # an export's number of users is a symbol
        return jax.lax.map(one, user, batch_size=users_at_once if counted else None)

    def some(variables: Variables, queries: Mapping[str, Array], context: Context, ids: Array) -> Array:
        return model.apply(variables, queries["user"] + 1, ids, context, train=False)

    return Scorer(scores, some)


def resident_scorer(model: PairModel) -> Scorer:
    """`scorer` of a model that reads columns, which are among its variables: see `with_columns`."""
    return Scorer(functools.partial(_resident_scores, model=model))


def with_columns(variables: Variables, columns: Context) -> Variables:
    """What `resident_scorer` reads, for variables with a leading axis of seeds: each seed has the columns."""
    seeds = jax.tree.leaves(variables)[0].shape[0]
    kept = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x)[None], (seeds, *x.shape)), dict(columns))
    return {"model": variables, "columns": kept}


def _resident_scores(
    variables: Variables, queries: Mapping[str, Array], context: Context, *, model: PairModel
) -> Array:
    return scorer(model).scores(variables["model"], queries, variables["columns"])


def ranked(model: PairModel) -> Retriever | Scorer:
    """A model as ranking sees it once it is `measured`: `FACTORS` of its final vectors, or `scorer`."""
    return FACTORS if has_vectors(model) else scorer(model)


def has_vectors(model: PairModel) -> bool:
    """Whether a model's scores are dot products of final vectors."""
    return hasattr(type(model), "vectors")


def measured(model: PairModel, measure: Measure) -> Measure:
    """A measure of `ranked(model)` as one of the model's own variables.

    Final vectors are made once a call, whatever the number of batches of queries: a graph model propagates
    once an evaluation.
    """
    if not has_vectors(model):
        return measure

    def run(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        return measure(finished(model, variables, context), queries, context)

    return run
