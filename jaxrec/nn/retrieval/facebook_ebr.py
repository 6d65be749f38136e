"""Facebook's embedding-based retrieval: cosines under a triplet loss, and ensembles by concatenation.

Huang et al., KDD 2020, arXiv:2006.11632, sections 2 and 5. The loss is `losses.hinge` of cosines, with random
negatives or, of the other items of a batch, the hardest one or two (`hardest` of `jaxrec.tasks.two_tower`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxrec.nn.layers.pairs import unit
from jaxrec.nn.retrieval.two_tower import Field, TwoTower
from jaxrec.types import Array


def facebook_ebr(
    user_fields: tuple[Field, ...],
    item_fields: tuple[Field, ...],
    *,
    dims: Sequence[int] = (256, 128),
    **fields: Any,
) -> TwoTower:
    """Towers of queries (or users) and documents (or items), whose score is their cosine.

    dims: of both towers; the paper states the width 128 alone. fields: others of `TwoTower`.
    """
    given: dict[str, Any] = {"temperature": 1.0, **fields}
    return TwoTower(user_fields, item_fields, tuple(dims), tuple(dims), cosine=True, **given)


def concatenated(members: Sequence[tuple[Array, Array]], weights: Sequence[float]) -> tuple[Array, Array]:
    """Vectors of users [U, Σ D] and items [I, Σ D] of an ensemble, section 5.2.

    Each model's vectors are divided by their length, and those of users multiplied with its weight; then a
    product is Σ a · cos over the models, which orders items as the cosine of the whole does, so one index
    serves all of them. (The paper's equation 5 prints a query's vector for the document in its last place.)

    Args:
      members: vectors of users [U, D] and items [I, D] of each model. weights: a of each.

    Raises:
      ValueError: no model, or another number of weights; a weight that is negative, or all 0.
    """
    if not members or len(members) != len(weights):
        raise ValueError(f"{len(members)} models and {len(weights)} weights; give each model one")
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights={tuple(weights)}: must be at least 0, and one above")
    users = [weight * unit(user) for (user, _), weight in zip(members, weights, strict=True)]
    return jnp.concatenate(users, axis=-1), jnp.concatenate([unit(item) for _, item in members], axis=-1)
