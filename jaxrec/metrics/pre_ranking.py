"""How much of what a ranker would show a cheaper pre-ranking keeps."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrec.types import Array


def recall_of_ranker(pre_ranked: Array, ranked: Array, *, keep: int, shown: int) -> Array:
    """Share of the ranker's best candidates that pre-ranking keeps, |top K ∩ top M| / M: [..., C] → [...].

    COLD (Wang et al., DLP-KDD 2020, arXiv:2007.16122, section 4.1). The order of both is by score, times the
    bid where there is one. Of the ranker's equal scores the first come first; equal scores of pre-ranking
    count against it: it keeps those that the ranker does not show.

    Args:
      pre_ranked, ranked: finite scores of the C candidates of each request, [..., C].
      keep: K, how many go on to the ranker. shown: M, how many the ranker shows.

    Raises:
      ValueError: K or M is not in 1..C.

    >>> float(recall_of_ranker(jnp.array([3.0, 2.0, 1.0]), jnp.array([0.3, 0.1, 0.2]), keep=2, shown=2))
    0.5
    """
    count = pre_ranked.shape[-1]
    if not (1 <= keep <= count and 1 <= shown <= count):
        raise ValueError(f"keep={keep}, shown={shown}: must be in 1..{count}, the number of candidates")
    place = jnp.argsort(jnp.argsort(-ranked, axis=-1, stable=True), axis=-1)
    wanted = place < shown
    order = jnp.lexsort((wanted, -pre_ranked), axis=-1)[..., :keep]
    return jnp.sum(jnp.take_along_axis(wanted, order, axis=-1), axis=-1) / shown
