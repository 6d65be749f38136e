"""Two towers, trained on observed pairs against the other items of a batch and items drawn for all of it.

Context columns: pair_user, pair_item [P] (`protocols.retrieval.resident`), user_id [U + 1], item_id [I + 1],
item_log_frequency [I + 1] and the features that the model reads (`data.events.side_features.tower_columns`).
pair_age [P], the age of each example, if the model reads it. Examples: example [B], a pair each, and mask
[B], False in a padded tail.

    in the batch                       two_tower(model)
    without the correction             two_tower(model, corrected=False)
    mixed negatives                    two_tower(model, negatives=1024)
    drawn negatives alone              two_tower(model, negatives=1024, in_batch=False)
    a triplet loss of the hardest      two_tower(model, losses.hinge, hardest=2, corrected=False)
    of drawn items and two hard ones   two_tower(model, losses.hinge, negatives=200, hard=2, corrected=False)
    frequencies of a stream            two_tower(model, frequency=sampling.streaming_frequency(num_items + 1))

Negatives of each pair's own are those of `tasks.pairs.pairwise`, which trains the same models. A trained
model is ranked as one of pairs is, by the final vectors of all users and items (`pairs.ranked`): a user or an
item without a pair in training has an id of 0, and is found by its features.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrec import losses, sampling
from jaxrec.tasks.encoder import numbered, takes
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables

# (scores of observed items [B], of others [B, N], accidental=[B, N], where=[B], axis_name=…) -> scalar
Loss = Callable[..., Array]
DRAWN = "drawn"  # a batch's column of items that are negatives of all examples
STREAM = "stream"  # the collection of a task's variables that a `StreamingFrequency` remembers


class TowerModel(Protocol):
    """A model of two towers as the task uses it: a `tasks.pairs.PairModel` with `temperature` and

    users(user [B], context, *, target [B], rows [B], train) -> [B, D]
        Rows of users, from 1; target: the item that each is to find; rows: numbers that noise derives from.
        One that reads the age of an example takes `age` [B] too.
    items(item [N], context, *, rows [N], train) -> [N, D]

    Its variables are parameters and, if it has batch norm, "batch_stats".
    """

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def temperature(self) -> float: ...


def two_tower(
    model: TowerModel,
    loss: Loss = losses.sampled_softmax,
    *,
    in_batch: bool = True,
    negatives: int = 0,
    corrected: bool = True,
    hardest: int | None = None,
    hard: int | None = None,
    same: str | None = None,
    frequency: sampling.StreamingFrequency | None = None,
) -> Task:
    """The task of scoring a pair's item above other items; predict gives the observed items' scores [B].

    Items that equal an example's own are no negatives of it, nor are those of a padded tail.

    Args:
      loss: of scores, with `accidental`, `where` and `axis_name`: `losses.sampled_softmax`, `losses.hinge`,
        `losses.bpr`, ….
      in_batch: the items of the other pairs of the batch are negatives.
      negatives: M, items that are drawn uniformly for the whole batch (mixed negative sampling: Yang et al.,
        WWW 2020, doi:10.1145/3366424.3386195); the number of devices must divide it.
      corrected: from every score, the observed item's too, the logarithm of the probability is taken with
        which the item is among the candidates: its share of pairs and 1 / items, mixed as B : M are, where B
        counts real pairs. For a softmax; drawn items alone are equally probable, so that it changes nothing.
      hardest: only so many negatives enter the loss, those of the highest scores. None: all.
      hard: of the batch's items only so many are negatives, those of the highest scores, beside all that are
        drawn (Huang et al., KDD 2020, arXiv:2006.11632, section 6.1: at most two, beside random ones). None:
        all of the batch.
      same: a column of the context by item, such as "item_view": only items of the same value are negatives.
      frequency: estimates how often an item is in a batch from the batches so far, this one among them, in
        place of `item_log_frequency`, which counts training pairs (Yi et al., 2019, section 4). Its state is
        the collection "stream" of the variables.

    Raises:
      ValueError: no negatives at all; a number out of range; a frequency that would correct nothing.
    """
    _check(in_batch, negatives, corrected, hardest, hard, frequency)

    def init(key: Key, batch: Batch) -> Variables:
        found: Variables = model.init(
            key, batch["user"][:1], batch["item"][:1, None], batch[SHARED], train=False
        )
        return found if frequency is None else {**found, STREAM: frequency.init()._asdict()}

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        users, items, drawn, updates = _vectors(model, variables, batch, key, axis_name)
        shares: Array | None = None
        state: Variables = {}
        if corrected and in_batch:
            shares, state = _shares(variables, batch, frequency, axis_name)
        pos, neg, accidental = _scores(
            batch,
            users / model.temperature,
            items,
            drawn,
            shares,
            in_batch=in_batch,
            same=same,
            axis_name=axis_name,
        )
        neg, accidental = _chosen(neg, accidental, negatives, hardest, hard)
        mean = loss(pos, neg, accidental=accidental, where=batch["mask"], axis_name=axis_name)
        return {"pairs": mean}, {**updates, **state}

    def predict(variables: Variables, batch: Batch) -> Array:
        scores = model.apply(variables, batch["user"], batch["item"][:, None], batch[SHARED], train=False)
        return scores[:, 0]

    return Task(functools.partial(_prepare, model, negatives), init, value, predict)


def _check(
    in_batch: bool, negatives: int, corrected: bool, hardest: int | None, hard: int | None, frequency: Any
) -> None:
    if frequency is not None and not (corrected and in_batch):
        raise ValueError(
            f"frequency: corrects scores of a batch's items, but corrected={corrected} and in_batch="
            f"{in_batch}; leave it out"
        )
    if negatives < 0 or not (in_batch or negatives):
        raise ValueError(
            f"in_batch={in_batch}, negatives={negatives}: take the batch's items, draw one at least, or both"
        )
    if hardest is not None and (hardest < 1 or (not in_batch and hardest > negatives)):
        raise ValueError(
            f"hardest={hardest}: must be at least 1, and at most {negatives} (negatives) without in_batch"
        )
    if hard is not None and (hard < 1 or hardest is not None or not (in_batch and negatives)):
        raise ValueError(
            f"hard={hard}: must be at least 1, beside drawn items (negatives={negatives}), with "
            f"in_batch={in_batch} and without hardest={hardest}, which chooses among all"
        )


def _chosen(
    neg: Array, accidental: Array, drawn: int, hardest: int | None, hard: int | None
) -> tuple[Array, Array]:
    """The negatives that enter the loss, and which of them are none: [B, N] both; the last are the drawn."""
    if hardest is not None:
        return losses.hardest_negatives(neg, hardest, accidental)
    if hard is None:
        return neg, accidental
    size = neg.shape[1] - drawn
    found = losses.hardest_negatives(neg[:, :size], hard, accidental[:, :size])
    rest = neg[:, size:], accidental[:, size:]
    return jnp.concatenate([found[0], rest[0]], axis=1), jnp.concatenate([found[1], rest[1]], axis=1)


def _prepare(
    model: TowerModel, negatives: int, key: Key, examples: Mapping[str, Array], context: Context
) -> Batch:
    """The batch of examples, with the items that are drawn for it."""
    number = examples["example"]
    batch = {
        "user": context["pair_user"][number] + 1,
        "item": context["pair_item"][number],
        "mask": examples["mask"],
        "row": jnp.arange(number.shape[0], dtype=jnp.int32),
        SHARED: dict(context),
    }
    if "pair_age" in context and takes(model, "age", "users"):
        batch["age"] = context["pair_age"][number]
    if negatives:
        num_items = context["item_id"].shape[0] - 1
        batch[DRAWN] = sampling.uniform(key, (negatives,), num_items=num_items)[0]
    return batch


def _scores(
    batch: Batch,
    users: Array,
    items: Array,
    drawn: Array | None,
    shares: Array | None,
    *,
    in_batch: bool,
    same: str | None,
    axis_name: str | None,
) -> losses.InBatch:
    """Scores of the observed items [b] and of all candidates [b, N].

    shares: log of each item's share of pairs, by which scores are corrected; None: they are not.
    """
    pos, neg, accidental = losses.in_batch_scores(
        users,
        items,
        ids=batch["item"],
        extra=None if drawn is None else losses.Extra(drawn, batch[DRAWN]),
        where=batch["mask"],
        axis_name=axis_name,
    )
    ids, size = _candidates(batch, axis_name)
    if same is not None:
        group = jnp.asarray(batch[SHARED][same])
        accidental = accidental | (group[ids] != group[batch["item"]][:, None])
    if shares is not None:
        log_prob = _log_probability(shares, _number_of_real(batch, axis_name), ids.shape[0] - size)
        pos = pos - jnp.where(batch["mask"], log_prob[batch["item"]], 0.0)
        neg = neg - jnp.where(accidental, 0.0, log_prob[ids])
    if not in_batch:
        neg, accidental = neg[:, size:], accidental[:, size:]
    return losses.InBatch(pos, neg, accidental)


def _vectors(
    model: TowerModel, variables: Variables, batch: Batch, key: Key, axis_name: str | None
) -> tuple[Array, Array, Array | None, Variables]:
    """Vectors of users [b, D], of their items [b, D] and of drawn ones [m, D], and updated collections."""
    variables = {name: tree for name, tree in variables.items() if name != STREAM}
    kept = [name for name in variables if name != "params"]
    context, rows = batch[SHARED], batch["row"]
    user_key, item_key = jax.random.split(key)

    def applied(method: str, number: Array, rng: Key, rows: Array, **given: Any) -> tuple[Array, Variables]:
        options = {**numbered(model, rows, method), **given}
        found, changed = model.apply(
            variables,
            number,
            context,
            train=True,
            method=method,
            mutable=kept,
            rngs={"dropout": rng},
            **options,
        )
        return found, changed

    age = {"age": batch["age"]} if "age" in batch else {}
    users, of_users = applied("users", batch["user"], user_key, rows, target=batch["item"], **age)
    item = batch["item"]
    if DRAWN in batch:
        count = batch[DRAWN].shape[0]
        first, total = 0, rows.shape[0]
        if axis_name is not None:
            first, total = jax.lax.axis_index(axis_name) * count, total * jax.lax.axis_size(axis_name)
        item = jnp.concatenate([item, batch[DRAWN]])
        rows = jnp.concatenate([rows, total + first + jnp.arange(count, dtype=rows.dtype)])
    items, of_items = applied("items", item, item_key, rows)
    updates = _merged(variables, of_users, of_items) if kept else {}
    updates = updates if axis_name is None else jax.lax.pmean(updates, axis_name)
    size = batch["item"].shape[0]
    return users, items[:size], items[size:] if DRAWN in batch else None, updates


def _merged(before: Variables, *after: Variables) -> Variables:
    """Collections of which each call of a module has changed the part of its tower."""

    def changed(old: Array, *new: Array) -> Array:
        return old + sum((value - old for value in new), jnp.zeros_like(old))

    return {name: jax.tree.map(changed, before[name], *(part[name] for part in after)) for name in after[0]}


def _candidates(batch: Batch, axis_name: str | None) -> tuple[Array, int]:
    """Ids of all candidates [N], those of the batch first, and the number of these."""
    ids = batch["item"]
    drawn = batch.get(DRAWN)
    if axis_name is not None:
        ids = jax.lax.all_gather(ids, axis_name, tiled=True)
        drawn = None if drawn is None else jax.lax.all_gather(drawn, axis_name, tiled=True)
    size = ids.shape[0]
    return (ids if drawn is None else jnp.concatenate([ids, drawn])), size


def _number_of_real(batch: Batch, axis_name: str | None) -> Array:
    """How many pairs of a batch are real on all devices, fewer in a padded tail; at least 1."""
    number = jnp.sum(batch["mask"], dtype=jnp.float32)
    return jnp.maximum(number if axis_name is None else jax.lax.psum(number, axis_name), 1.0)


def _shares(
    variables: Variables,
    batch: Batch,
    frequency: sampling.StreamingFrequency | None,
    axis_name: str | None,
) -> tuple[Array, Variables]:
    """Log of the share of pairs with each item, [I + 1], and what is remembered of the batches so far."""
    counted = jnp.asarray(batch[SHARED]["item_log_frequency"])
    if frequency is None:
        return counted, {}
    stream = frequency.update(
        sampling.Stream(**variables[STREAM]), batch["item"], batch["mask"], axis_name=axis_name
    )
    in_a_batch = frequency.log_probability(stream, jnp.arange(counted.shape[0]))
    return in_a_batch - jnp.log(_number_of_real(batch, axis_name)), {STREAM: stream._asdict()}


def _log_probability(share: Array, size: Array, negatives: int) -> Array:
    """Log of each item's probability among `size` items of pairs and `negatives` uniform ones, [I + 1].

    share: log of its share of pairs.
    """
    if not negatives:
        return share
    total, num_items = size + negatives, share.shape[0] - 1
    uniform = math.log(negatives) - jnp.log(total) - math.log(num_items)
    return jnp.logaddexp(share + jnp.log(size / total), uniform)
