"""MOBIUS: a click model that learns which pairs are irrelevant from a teacher (Fan et al., KDD 2019).

doi:10.1145/3292500.3330651, algorithm 1. Clicks are logged for ads that were matched by relevance, so that a
click model has never seen an irrelevant one, and scores many of them high. At every step the queries and ads
of a batch are crossed, the teacher keeps the pairs of low relevance, and among these bad cases are drawn, the
more often the higher the student scores them. The student learns a third class of them.

Queries are users here and ads items, as in `tasks.pairs`.

Context columns: pair_user, pair_item [P], user from 0 and item from 1 of each impression; label/click [P];
those that the model reads; and, if observed clicks of other batches are no bad cases either, `clicked` [C],
each user's clicked items in ascending order, with `clicked_start` and `clicked_length` [U].
Examples: example [B], an impression each, and mask [B], False in a padded tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec import losses, sampling
from jaxrec.tasks.encoder import numbered, only_params
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables

# (rows of users [Q], ids of items [A], context) -> relevance in [0, 1], [Q, A]
Relevance = Callable[[Array, Array, Context], Array]
LABEL = "label/click"
UNCLICKED, CLICKED, BAD = 0, 1, 2


class Student(Protocol):
    """A model of classes, such as `nn.retrieval.mobius.Mobius`: a Linen module with `init`, `apply` and

    __call__(user [B], item [B], context, *, train: bool) -> logits [B, C]
        One with dropout takes `rows` [B] too, numbers that its noise derives from.
    cross(user [Q], item [A], context) -> logits [Q, A, C]

    Its only variables are parameters.
    """

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


class BadCases(NamedTuple):
    """Crossed queries and ads: rows and columns of pairs, and False where there are no more, all [K]."""

    row: Array
    column: Array
    real: Array


def draw_bad_cases(
    key: Key, log_click: Array, allowed: Array, number: int, *, by_click: bool = True
) -> BadCases:
    """Different pairs among the allowed ones, drawn one after the other with probability ∝ p(click).

    log_click: log p(click) of every query with every ad, [Q, A]. allowed: which may be drawn, [Q, A].
    by_click: False draws uniformly, the paper's random bad cases.

    Raises:
      ValueError: number is not in 1..Q · A.
    """
    if not 1 <= number <= log_click.size:
        raise ValueError(f"number={number}: must be in 1..{log_click.size}, the pairs that there are")
    # the largest of log p + Gumbel noise are draws without replacement
    noise = jax.random.gumbel(key, log_click.shape)
    perturbed = jnp.where(allowed, (log_click if by_click else 0.0) + noise, -jnp.inf)
    value, place = jax.lax.top_k(perturbed.reshape(-1), number)
    return BadCases(place // log_click.shape[1], place % log_click.shape[1], value > -jnp.inf)


def irrelevant_pairs(
    user: Array, item: Array, click: Array, real: Array, relevance: Array, threshold: float, context: Context
) -> Array:
    """Which pairs of distinct users and distinct items may be bad cases: [B, B].

    Row b is user b, column c item c of a batch; a user or item that has occurred before has no pair. Pairs of
    relevance above the threshold have none, nor those with an observed click.

    Args:
      user, item, click, real: of the batch's impressions, [B]. relevance: of user b and item c, [B, B].
    """
    first = [sampling.first_occurrences(jnp.where(real, ids, -1)) & real for ids in (user, item)]
    same_user, same_item = (ids[:, None] == ids for ids in (user, item))
    clicked = (click > 0) & real
    # impression i shows that user b clicked item c
    shown = jnp.einsum("bi,i,ic->bc", same_user, clicked, same_item, preferred_element_type=jnp.float32) > 0
    found = first[0][:, None] & first[1] & (relevance <= threshold) & ~shown
    return found & ~_clicked_before(user, item, context) if "clicked" in context else found


def _clicked_before(user: Array, item: Array, context: Context) -> Array:
    """Whether an item is among those that a user has clicked, by binary search: [B], [B] → [B, B]."""
    clicked, start, length = (context[name] for name in ("clicked", "clicked_start", "clicked_length"))
    number = jnp.maximum(user - 1, 0)
    end = (start[number] + length[number])[:, None]
    low = jnp.broadcast_to(start[number][:, None], (user.shape[0], item.shape[0]))
    high = jnp.broadcast_to(end, low.shape)
    last = clicked.shape[0] - 1
    for _ in range(clicked.shape[0].bit_length()):
        middle = (low + high) // 2
        less = (clicked[jnp.minimum(middle, last)] < item) & (low < high)
        low, high = jnp.where(less, middle + 1, low), jnp.where(less, high, jnp.maximum(middle, low))
    return (low < end) & (clicked[jnp.minimum(low, last)] == item)


def mobius(
    model: Student,
    relevance: Relevance | None,
    *,
    threshold: float = 0.5,
    bad_cases: int = 128,
    by_click: bool = True,
    bad_weight: float = 1.0,
) -> Task:
    """The task of telling clicked, unclicked and bad pairs apart; predict gives the log odds of a click [B].

    One loss, "classes": the mean cross-entropy over a batch's impressions and its bad cases. Which pairs are
    drawn has no gradient, nor is it changed by the number of devices, which must divide `bad_cases`.

    Args:
      relevance: the teacher; None: no bad cases, a click model.
      threshold: pairs of at most so much relevance may be bad cases.
      bad_cases: K, that are drawn at each step. by_click: see `draw_bad_cases`.
      bad_weight: of the loss of a bad case, beside 1 of an impression.

    Raises:
      ValueError: a number out of range; while tracing: a model of two classes has bad cases. When variables
        are made: the model has some other than parameters.
    """
    if bad_cases < 1 or not bad_weight > 0:
        raise ValueError(f"bad_cases={bad_cases}, bad_weight={bad_weight}: must be at least 1, and positive")

    def init(key: Key, batch: Batch) -> Variables:
        found = model.init(key, batch["user"][:1], batch["item"][:1], batch[SHARED], train=False)
        return only_params(found, "mobius")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        draw_key, noise_key = jax.random.split(key)
        user, item, rows = batch["user"], batch["item"], batch["row"]
        label, real = jnp.where(batch[LABEL] > 0, CLICKED, UNCLICKED), batch["mask"]
        weight = None
        if relevance is not None:
            drawn = _drawn(
                model, relevance, variables, batch, draw_key, axis_name,
                threshold=threshold, number=bad_cases, by_click=by_click,
            )  # fmt: skip
            user, item = jnp.concatenate([user, drawn[0]]), jnp.concatenate([item, drawn[1]])
            rows = jnp.concatenate([rows, drawn[2]])
            label = jnp.concatenate([label, jnp.full(drawn[0].shape, BAD)])
            real = jnp.concatenate([real, drawn[3]])
            weight = jnp.where(label == BAD, bad_weight, 1.0)
        options = {"rngs": {"dropout": noise_key}, **numbered(model, rows)}
        logits = model.apply(variables, user, item, batch[SHARED], train=True, **options)
        if relevance is not None and logits.shape[-1] <= BAD:
            raise ValueError(f"{logits.shape[-1]} classes: bad cases are a third one; take relevance=None")
        mean = losses.categorical_cross_entropy(logits, label, where=real, weight=weight, axis_name=axis_name)
        return {"classes": mean}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        logits = model.apply(variables, batch["user"], batch["item"], batch[SHARED], train=False)
        return log_odds(logits)

    return Task(_prepare, init, value, predict)


def log_odds(logits: Array) -> Array:
    """Of a click against all other classes: [..., C] → [...]."""
    own = jnp.arange(logits.shape[-1]) == CLICKED
    return logits[..., CLICKED] - jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)


def _prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
    """The impressions of a step."""
    number = examples["example"]
    return {
        "user": context["pair_user"][number] + 1,
        "item": context["pair_item"][number],
        LABEL: context[LABEL][number],
        "mask": examples["mask"],
        "row": jnp.arange(number.shape[0], dtype=jnp.int32),
        SHARED: dict(context),
    }


def _drawn(
    model: Student,
    relevance: Relevance,
    variables: Variables,
    batch: Batch,
    key: Key,
    axis_name: str | None,
    *,
    threshold: float,
    number: int,
    by_click: bool,
) -> tuple[Array, Array, Array, Array]:
    """This device's bad cases: users, items, rows for noise, and which are real."""
    user, item, click, real = (
        _everywhere(batch[name], axis_name) for name in ("user", "item", LABEL, "mask")
    )
    context = batch[SHARED]
    logits = model.apply(variables, user, item, context, method="cross")
    log_click = jax.lax.stop_gradient(jax.nn.log_softmax(logits, axis=-1)[..., CLICKED])
    allowed = irrelevant_pairs(user, item, click, real, relevance(user, item, context), threshold, context)
    found = draw_bad_cases(key, log_click, allowed, number, by_click=by_click)
    rows = user.shape[0] + jnp.arange(number, dtype=jnp.int32)
    return _share((user[found.row], item[found.column], rows, found.real), number, axis_name)


def _everywhere(column: Array, axis_name: str | None) -> Array:
    return column if axis_name is None else jax.lax.all_gather(column, axis_name, tiled=True)


def _share(arrays: Any, count: int, axis_name: str | None) -> Any:
    """This device's part of arrays that are the same on all."""
    if axis_name is None:
        return arrays
    devices = jax.lax.axis_size(axis_name)
    if count % devices:
        raise ValueError(f"bad_cases={count}: the number of devices, {devices}, must divide it")
    first = jax.lax.axis_index(axis_name) * (count // devices)
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count // devices), arrays)


# --- teachers ----------------------------------------------------------------------------------------


def cosine_relevance(users: str, items: str) -> Relevance:
    """A teacher that compares frozen vectors: the cosine of two columns of the context, 0 where negative.

    users, items: names of columns [U + 1, D] and [I + 1, D], such as text vectors of `SideFeatures` under
    "user_<name>" and "item_<name>", or vectors of a model that was trained for relevance.
    """

    def relevance(user: Array, item: Array, context: Context) -> Array:
        found = [jnp.asarray(context[name])[row] for name, row in ((users, user), (items, item))]
        lengths = [jnp.sqrt(jnp.sum(vectors**2, axis=-1)) for vectors in found]
        product = found[0] @ found[1].T
        return jnp.clip(product / jnp.maximum(lengths[0][:, None] * lengths[1], 1e-12), 0.0, 1.0)

    return relevance
