"""Explicit feedback of both kinds: a user's vector is near liked items and far from rejected ones.

There is no one paper of this form. `feedback_pair` and `feedback_margins` compare a user's vector with the
mean vectors of liked and of disliked items, by cosines: with products the loss would have no lower bound. The
items should be those of later events; the items of a history are in the user's vector already, and such a
term is met by copying them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.ids import nan_outside
from jaxrec.losses.reduce import MASKED, masked_mean
from jaxrec.losses.vectors import l2_normalise
from jaxrec.segments import rows_by_id
from jaxrec.types import Array


def list_cosines(users: Array, vectors: Array, where: Array) -> tuple[Array, Array]:
    """Cosine of each user's vector and the mean of a list, and whether the list has an item.

    Args:
      users: [..., D]. vectors: of the items of each list, [..., N, D]. where: which are real, bool [..., N].

    Returns:
      [...], 0 with a gradient of 0 where there is none, and bool [...].
    """
    real = where[..., None]
    number = jnp.maximum(jnp.sum(where, axis=-1, keepdims=True), 1).astype(jnp.float32)
    means = jnp.sum(jnp.where(real, vectors.astype(jnp.float32), 0.0), axis=-2) / number
    cosines = jnp.sum(l2_normalise(users.astype(jnp.float32)) * l2_normalise(means), axis=-1)
    some = jnp.any(where, axis=-1)
    return jnp.where(some, cosines, 0.0), some


def feedback_pair(
    users: Array,
    liked: Array,
    disliked: Array,
    *,
    liked_where: Array,
    disliked_where: Array,
    temperature: float = 0.2,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """-log σ((cos(u, p) - cos(u, n)) / τ), p and n the means of liked and of disliked items.

    The mean is over users with both lists. It depends on the direction of u alone.

    Args:
      users: u, [..., D]. liked, disliked: vectors of the items of each list, [..., P, D] and [..., N, D].
      liked_where, disliked_where: which of them are real, bool [..., P] and [..., N].
      temperature: τ; must be positive.
      where: True where the user is real, [...].
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    near, some_liked = list_cosines(users, liked, liked_where)
    far, some_disliked = list_cosines(users, disliked, disliked_where)
    both = some_liked & some_disliked
    both = both if where is None else both & where
    return masked_mean(jax.nn.softplus((far - near) / temperature), both, axis_name)


def feedback_margins(
    users: Array,
    liked: Array,
    disliked: Array,
    *,
    liked_where: Array,
    disliked_where: Array,
    liked_margin: float = 0.8,
    disliked_margin: float = 0.2,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """max(0, m_p - cos(u, p)) + max(0, cos(u, n) - m_n), a term for each list that there is.

    What is far enough from a user is not pushed further, so that items which many like keep their place. The
    mean is over users with a list.

    Args:
      liked_margin, disliked_margin: m_p and m_n, in -1..1. Others: see `feedback_pair`.
    """
    check_cosine_margins(liked_margin=liked_margin, disliked_margin=disliked_margin)
    near, some_liked = list_cosines(users, liked, liked_where)
    far, some_disliked = list_cosines(users, disliked, disliked_where)
    terms = jnp.where(some_liked, jnp.maximum(0.0, liked_margin - near), 0.0)
    terms = terms + jnp.where(some_disliked, jnp.maximum(0.0, far - disliked_margin), 0.0)
    either = some_liked | some_disliked
    return masked_mean(terms, either if where is None else either & where, axis_name)


def check_cosine_margins(**margins: float) -> None:
    """Raises ValueError for a margin, by its name, that is no cosine."""
    for name, margin in margins.items():
        if not -1 <= margin <= 1:
            raise ValueError(f"{name}={margin}: must be in -1..1, as cosines are")


def not_to_recommend(
    hidden: Array,
    table: Array,
    items: Array,
    *,
    where: Array | None = None,
    weight: Array | None = None,
    block: int = 4096,
    axis_name: str | None = None,
) -> Array:
    """-log(1 - p(item)) of rejected items, p the softmax over all items.

    (Wang et al., RecSys 2023, arXiv:2308.12256.) Its gradient by the item's own score is p, at most 1, and
    fades as p does; the cross-entropy with a negative weight has no lower bound. 1 - p is the mass of all
    other items, in blocks of items: [users, items] is never materialised.

    Args:
      hidden: output of the model, [..., D].
      table: item vectors, [V + 1, D]; vector 0 is padding and no candidate.
      items: ids of the rejected items, [...]; a real one outside 1..V makes the loss NaN.
      where: True where there is one, [...].
      weight: of each, such as 10 for a dislike and 1 for a skip, [...]; it does not enter the denominator.
      block: items per block.

    Raises ValueError for fewer than two items: then p is 1 whatever the scores.
    """
    if table.shape[0] < 3:
        raise ValueError(f"table: {table.shape[0] - 1} items besides padding: at least 2 are needed")
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1")
    flat = hidden.reshape(-1, hidden.shape[-1])
    size = min(block, table.shape[0] - 1)
    extra = (1 - table.shape[0]) % size
    ids = jnp.arange(1, table.shape[0] + extra, dtype=jnp.int32).reshape(-1, size)
    blocks = jnp.pad(table[1:], ((0, extra), (0, 0))).reshape(-1, size, table.shape[1])
    own = items.reshape(-1, 1)

    @jax.checkpoint
    def add_mass(mass: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        scores = jnp.matmul(flat, part[0].T, preferred_element_type=jnp.float32)
        others = (part[1] < table.shape[0]) & (part[1] != own)
        return jnp.logaddexp(mass, jax.nn.logsumexp(jnp.where(others, scores, MASKED), axis=-1)), None

    start = flat[:, 0].astype(jnp.float32) * 0.0 + MASKED  # varies over the mesh axes of the rest
    mass, _ = jax.lax.scan(add_mass, start, (blocks, ids))
    score = jnp.sum(hidden * rows_by_id(table, items, clip=True), axis=-1, dtype=jnp.float32)
    score = nan_outside(score, items, table.shape[0], where=where)
    terms = jax.nn.softplus(score - mass.reshape(items.shape))
    return masked_mean(terms if weight is None else weight * terms, where, axis_name)
