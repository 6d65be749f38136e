"""Accuracy of ranked lists, one value per list, for users with several relevant items.

A metric reads a list of ids and the relevant ids (`list_recall`), or what was made of them before: which
places of the list are hits, and the number of relevant items (`recall_of_hits`), so that the relevant ids
need not be kept. With one relevant item, recall, NDCG and MAP are those of its rank (`metrics.ranking`).

Shape names: N length of the list, A relevant items. Leading axes are free; a mean over users is the caller's.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from jaxrec.metrics.ranking import check_cutoff
from jaxrec.types import Array

# --- from ranked ids and relevant ids ---


def list_recall(ranked: Array, relevant: Array, *, k: int, padding: int = 0) -> Array:
    """Share of a user's relevant items G among the first k of the list, Σ h / |G|.

    All `list_*` metrics take ids in ranked order, [..., N], and the relevant ids in any order, [..., A], both
    padded with `padding`, and return [...]. Repeated ids count once, and a user without relevant items gets
    0: leave such users out of a mean. A list shorter than k misses the rest.
    """
    return recall_of_hits(*hits_of_list(ranked, relevant, padding=padding), k=k)


def list_precision(ranked: Array, relevant: Array, *, k: int, padding: int = 0) -> Array:
    """Share of relevant items among the first k, Σ h / k, even if the list is shorter. See `list_recall`."""
    return precision_of_hits(hits_of_list(ranked, relevant, padding=padding)[0], k=k)


def list_hit(ranked: Array, relevant: Array, *, k: int, padding: int = 0) -> Array:
    """1 where one of the relevant items is among the first k, else 0. See `list_recall`."""
    return jnp.sign(list_precision(ranked, relevant, k=k, padding=padding))


def list_mrr(ranked: Array, relevant: Array, *, k: int, padding: int = 0) -> Array:
    """1 / rank of the first relevant item among the first k, 0 if none is. See `list_recall`."""
    hits, _ = hits_of_list(ranked, relevant, padding=padding)
    hits = hits[..., : check_cutoff(k)]
    return (hits / (1.0 + jnp.arange(hits.shape[-1]))).max(axis=-1)


def list_ndcg(
    ranked: Array,
    relevant: Array,
    *,
    k: int,
    padding: int = 0,
    ideal: Literal["relevant", "full"] = "relevant",
) -> Array:
    """NDCG at k, see `ndcg_of_hits` and `list_recall`."""
    return ndcg_of_hits(*hits_of_list(ranked, relevant, padding=padding), k=k, ideal=ideal)


def list_map(
    ranked: Array,
    relevant: Array,
    *,
    k: int,
    padding: int = 0,
    divide_by: Literal["achievable", "relevant", "k"] = "achievable",
) -> Array:
    """Average precision at k, see `map_of_hits` and `list_recall`."""
    return map_of_hits(*hits_of_list(ranked, relevant, padding=padding), k=k, divide_by=divide_by)


# --- from hits ---


def hits_of_list(ranked: Array, relevant: Array, *, padding: int = 0) -> tuple[Array, Array]:
    """h: 1 where an id of the list is relevant and no repeat, else 0, [..., N]; and |G|, [...].

    ranked [..., N], relevant [..., A]: see `list_recall`.
    """
    hits = jnp.any(ranked[..., :, None] == relevant[..., None, :], axis=-1) & (ranked != padding)
    ordered = jnp.sort(relevant, axis=-1)
    new = jnp.concatenate(
        [jnp.ones_like(ordered[..., :1], bool), ordered[..., 1:] != ordered[..., :-1]], axis=-1
    )
    distinct = (new & (ordered != padding)).sum(axis=-1)
    return (hits & _is_first_occurrence(ranked)).astype(jnp.float32), distinct


def recall_of_hits(hits: Array, num_relevant: Array, *, k: int) -> Array:
    """Recall at k, Σ h / |G|: [..., N], [...] → [...]; see `list_recall`."""
    return hits[..., : check_cutoff(k)].sum(axis=-1) / jnp.maximum(num_relevant, 1)


def precision_of_hits(hits: Array, *, k: int) -> Array:
    """Precision at k, Σ h / k: [..., N] → [...]; see `list_precision`."""
    return hits[..., : check_cutoff(k)].sum(axis=-1) / k


def ndcg_of_hits(
    hits: Array, num_relevant: Array, *, k: int, ideal: Literal["relevant", "full"] = "relevant"
) -> Array:
    """NDCG at k, Σ h_j / log2(1 + j) over that of an ideal list: [..., N], [...] → [...].

    Järvelin and Kekäläinen, TOIS 2002, with gains of 0 and 1 and every place discounted.

    ideal: "relevant" has the first min(k, |G|) places relevant, all relevant items counting, not only the
      retrieved ones (a mistake in several published codes): with one of two at rank 1 and the other missed
      it is 1 / (1 + 1/log2 3). "full" has all k, whatever |G|, as RecTools: users with fewer than k relevant
      items cannot reach 1.
    """
    if ideal not in ("relevant", "full"):
        raise ValueError(f"ideal={ideal!r}: must be 'relevant' or 'full'")
    hits = hits[..., : check_cutoff(k)]
    places = num_relevant[..., None] if ideal == "relevant" else k
    best = jnp.where(jnp.arange(k) < places, 1.0 / jnp.log2(2.0 + jnp.arange(k)), 0.0).sum(axis=-1)
    return (hits / jnp.log2(2.0 + jnp.arange(hits.shape[-1]))).sum(axis=-1) / jnp.maximum(best, 1.0)


def map_of_hits(
    hits: Array,
    num_relevant: Array,
    *,
    k: int,
    divide_by: Literal["achievable", "relevant", "k"] = "achievable",
) -> Array:
    """Average precision at k, Σ h_j · precision@j over a number of items: [..., N], [...] → [...].

    Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.4, cut at k.

    divide_by: "achievable" is min(k, |G|), so that a perfect list has 1 (RecBole); "relevant" is |G|, which
      k < |G| keeps below 1 (RecTools); "k" is k (RecTools with `divide_by_k`).
    """
    hits = hits[..., : check_cutoff(k)]
    precision = hits.cumsum(axis=-1) / (1.0 + jnp.arange(hits.shape[-1]))
    if divide_by not in ("achievable", "relevant", "k"):
        raise ValueError(f"divide_by={divide_by!r}: must be 'achievable', 'relevant' or 'k'")
    size = jnp.maximum(num_relevant, 1)
    if divide_by != "relevant":
        size = jnp.minimum(size, k) if divide_by == "achievable" else jnp.full_like(size, k)
    return (hits * precision).sum(axis=-1) / size


def serendipity_of_hits(
    hits: Array, ranked: Array, popularity_rank: Array, *, k: int, num_items: int
) -> Array:
    """Hits that a list by popularity has later: Σ h_j · max(popularity rank − j, 0) / (I · k), [...].

    The definition of RecTools 0.19 (`rectools.metrics.Serendipity`), after Murakami, Mori and Orihara, JSAI
    2007, and Ge, Delgado-Battenfeld and Jannach, RecSys 2010: the rank gives an item the probability
    (I + 1 − rank) / I of being liked, for the user and by popularity, and a hit counts by how much the user's
    is higher.

    hits, ranked: [..., N]. popularity_rank: 1 for the most popular items, those of equal popularity alike
    and without gaps, I + 1 for those that nobody met, indexed by id, [V]; `metrics.popularity_rank` has it.
    """
    hits, ranked = hits[..., : check_cutoff(k)], ranked[..., :k]
    surprise = jnp.maximum(popularity_rank[ranked] - (1 + jnp.arange(hits.shape[-1])), 0)
    return (hits * surprise).sum(axis=-1) / (num_items * k)


def _is_first_occurrence(ids: Array) -> Array:
    """True where an id does not occur further left: [..., N] → bool [..., N]."""
    earlier = jnp.tril(jnp.ones((ids.shape[-1], ids.shape[-1]), bool), k=-1)
    return ~jnp.any((ids[..., :, None] == ids[..., None, :]) & earlier, axis=-1)
