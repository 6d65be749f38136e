"""A scorer of the nodes of a tree of items: TDM (arXiv:1801.02294, section 3) and JTM (arXiv:1902.07565).

For an item that a user had, all nodes above it are positives on their levels, the leaf among them, and others
of the same levels are sampled as negatives. The model is a module with `max_len`, called as

    model(history [B, L], nodes [B, M], level, train=…) -> logits [B, M]
        ids of events, right-aligned, and of nodes, 0 is padding. By level, history is [B, D, L], the
        ancestors of the events on each level, and `level` [M] or [B, M] the number of each node's, from 0;
        else it is None.

Its variables are parameters and, with batch norm, "batch_stats".

Context columns: tree, an `index.trees.Tree` whose items are those of training, and those that `History`
reads.
Examples: example [B], and mask [B], False in a padded tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses, packing
from jaxrec.index.scored import ScoreItems
from jaxrec.index.tree_sampling import histories_by_level, layout, sample
from jaxrec.index.trees import Tree, level_of, positions_of, search
from jaxrec.tasks.interests import users_of
from jaxrec.types import Array, Batch, Context, Key, Scorer, Task, Variables

# (key, numbers of examples [B], context) -> the item [B] and the history [B, L], right-aligned
History = Callable[[Key, Array, Context], tuple[Array, Array]]
TREE = "tree"  # the column of the context
NOT_FOUND = -1e30  # a score, of an item that a search did not find


def others(max_len: int) -> History:
    """Of a pair, all other training items of its user, for matrices: `protocols.retrieval.resident`.

    Of more than max_len every (others / max_len)-th is read from a random one on, so that each is as likely.

    Raises:
      ValueError: max_len is below 1.
    """
    _check_length(max_len)

    def draw(key: Key, example: Array, context: Context) -> tuple[Array, Array]:
        user = context["pair_user"][example]
        start, count = context["excluded_start"][user], context["excluded_length"][user] - 1
        own = example - start
        place = _spread(jax.random.uniform(key, example.shape), count, max_len)
        place += (place >= own[:, None]) & (place >= 0)
        items = context["excluded"][jnp.where(place >= 0, start[:, None] + place, 0)]
        return context["pair_item"][example], jnp.where(place >= 0, items, 0)

    return draw


def before(max_len: int) -> History:
    """Of an event, the last ones before it of its user, for sequences: `protocols.next_item.resident`.

    An example is the number of the event, see `tasks.interests`.

    Raises:
      ValueError: max_len is below 1.
    """
    _check_length(max_len)

    def draw(key: Key, example: Array, context: Context) -> tuple[Array, Array]:
        length = example - context["start"][users_of(example, context)]
        return context["items"][example], packing.window(context["items"], example, length, max_len)

    return draw


def histories(
    queries: Mapping[str, Array], context: Context, max_len: int, *, ordered: bool = False
) -> Array:
    """What queries are scored with: their users' first `length` items, right-aligned, int32 [B, max_len].

    queries: columns user and length. Of more than max_len items the last ones if they are `ordered`, else
    evenly spread ones. Columns of the context: items, start.
    """
    start, length = jnp.asarray(context["start"])[queries["user"]], queries["length"]
    items = jnp.asarray(context["items"])
    if ordered:
        return packing.window(items, start + length, length, max_len)
    place = _spread(jnp.full(length.shape, 0.5), length, max_len)
    return jnp.where(place >= 0, items[jnp.where(place >= 0, start[:, None] + place, 0)], 0)


def _spread(shift: Array, count: Array, max_len: int) -> Array:
    """Places 0..count - 1 of a list, all or evenly spread ones, right-aligned: [B] twice → [B, max_len];
    else -1.

    shift: in [0, 1), of the first of the evenly spread ones.
    """
    slot = jnp.arange(max_len)
    apart = jnp.floor((slot + shift[:, None]) * (count / max_len)[:, None]).astype(jnp.int32)
    apart = jnp.minimum(apart, count[:, None] - 1)
    every = slot - (max_len - count[:, None])
    return jnp.where(count[:, None] > max_len, apart, jnp.maximum(every, -1))


def _check_length(max_len: int) -> None:
    if max_len < 1:
        raise ValueError(f"max_len={max_len}: must be at least 1")


def tree_nodes(model: Any, history: History, negatives: Sequence[int], *, by_level: bool = False) -> Task:
    """The task of telling the nodes above an item from others of their levels; predict gives logits [B, M].

    Losses: "nodes", binary cross-entropy summed over the nodes of an example, averaged over examples.

    Args:
      history: what an example is, `others` or `before`.
      negatives: of levels 1..D (`index.tree_sampling.negatives_by_level`).
      by_level: a node is scored with the history of its level (JTM, section 3.2).

    An item without a leaf makes the loss NaN: see `index.trees.check_items`.

    Raises:
      ValueError: a number of negatives is negative; while tracing: the tree has another number of levels.
    """
    columns = layout(negatives)
    level = jnp.asarray(columns.level - 1) if by_level else None
    label = (columns.number == 0).astype("float32")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        tree: Tree = context[TREE]
        history_key, sample_key = jax.random.split(key)
        item, events = history(history_key, examples["example"], context)
        nodes = sample(sample_key, tree, item, negatives)
        return {
            "history": histories_by_level(tree, events) if by_level else events,
            "nodes": jnp.where(examples["mask"][:, None], nodes.ids, 0),
            "where": nodes.real & examples["mask"][:, None],
            "mask": examples["mask"],
        }

    def init(key: Key, batch: Batch) -> Variables:
        found: Variables = model.init(key, batch["history"][:1], batch["nodes"][:1], level)
        return found

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        kept = [name for name in variables if name != "params"]
        logits, updates = model.apply(
            variables, batch["history"], batch["nodes"], level, train=True, mutable=kept
        )
        each = losses.sigmoid_cross_entropy(logits, label)
        of_example = jnp.sum(jnp.where(batch["where"], each, 0.0), axis=1)
        updates = updates if axis_name is None else jax.lax.pmean(updates, axis_name)
        return {"nodes": losses.masked_mean(of_example, batch["mask"], axis_name)}, updates

    def predict(variables: Variables, batch: Batch) -> Array:
        return model.apply(variables, batch["history"], batch["nodes"], level)

    return Task(prepare, init, value, predict)


def score_items(model: Any, variables: Variables, tree: Tree, *, by_level: bool = False) -> ScoreItems:
    """The trained model as the searches of `index` call it, with histories int32 [B, L] as queries."""

    def score(history: Array, ids: Array) -> Array:
        if not by_level:
            return model.apply(variables, history, ids)
        level = jnp.maximum(level_of(positions_of(tree, ids)) - 1, 0)
        return model.apply(variables, histories_by_level(tree, history), ids, level)

    return score


def by_beam(
    model: Any,
    *,
    width: int,
    ordered: bool = False,
    exclude: bool = True,
    by_level: bool = False,
    num_items: int | None = None,
) -> Scorer:
    """The items that a beam finds, as ranking sees them: all others share a score below every one of these.

    The context has the tree. A target that is not found ranks behind all items (`ties="pessimistic"`).

    Args:
      width: of the beam, and at most so many items are found.
      ordered: the last events are read of a long history; False: evenly spread ones, see `histories`.
      exclude: items of the history that is read are not found, so that they take no place of others.
      num_items: of the data; None: as many as the tree has room for.
    """

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        tree: Tree = context[TREE]
        events = histories(queries, context, model.max_len, ordered=ordered)
        score = score_items(model, variables, tree, by_level=by_level)

        def unseen(events: Array, ids: Array) -> Array:
            seen = (ids[:, :, None] == events[:, None]).any(axis=2) if exclude else False
            return jnp.where(seen, -jnp.inf, score(events, ids))

        most = min(width, tree.capacity)
        found = search(tree, unseen, events, most, width)
        row = jnp.arange(events.shape[0])[:, None]
        dense = jnp.full((events.shape[0], tree.capacity + 1), NOT_FOUND)
        dense = dense.at[row, found.ids].set(jnp.where(found.ids > 0, found.scores, NOT_FOUND))
        dense = jnp.where(found.finite[:, None], dense, jnp.nan)
        return dense if num_items is None else dense[:, : num_items + 1]

    return Scorer(scores)


def log_likelihood(
    model: Any,
    variables: Variables,
    tree: Tree,
    items: Array,
    history: Array,
    positions: Array,
    *,
    by_level: bool = False,
) -> Array:
    """log p of nodes for each sample, if its item were below them: items [B], positions [B, M] → [B, M].

    A leaf stands for the item, whose vector it shares, wherever it is. An item of 0 has 0.
    """
    inner = positions < tree.leaves.shape[0] - 1
    ids = jnp.where(inner, tree.capacity + 1 + positions, items[:, None])
    ids = jnp.where((items != 0)[:, None], ids, 0)
    level = None
    if by_level:
        history, level = histories_by_level(tree, history), level_of(positions) - 1
    logits = model.apply(variables, history, ids, level)
    return jnp.where((items != 0)[:, None], jax.nn.log_sigmoid(logits), 0.0)
