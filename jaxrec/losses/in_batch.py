"""The other candidates of a batch as negatives: their scores, and the softmax over them.

With an axis name the batch is that of all devices, and every device returns its share (see `jaxrec.losses`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.losses.ranking import sampled_softmax
from jaxrec.segments import pick
from jaxrec.types import Array


class Extra(NamedTuple):
    """Candidates beside those of the batch that are negatives of every query, such as uniform draws.

    vectors: [M, D]. ids: of the items, [M]; 0 is left out; None: they are never a query's own. log_prob: log
    of the probability with which each is drawn, [M]. With an axis name: this device's.
    """

    vectors: Array
    ids: Array | None = None
    log_prob: Array | None = None


class InBatch(NamedTuple):
    """Scores of a batch of pairs, for any loss that takes `accidental`.

    pos: of each query's own candidate, [b]. neg: of all N candidates, its own and extra ones too, [b, N].
    accidental: True where a candidate is no negative of the query, [b, N].
    """

    pos: Array
    neg: Array
    accidental: Array


def in_batch_scores(
    queries: Array,
    candidates: Array,
    *,
    ids: Array | None = None,
    extra: Extra | None = None,
    following: int | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> InBatch:
    """Products of every query with every candidate of the batch, and which of them are negatives.

    For a loss of your own: `found = in_batch_scores(…)`, then such as
    `bpr(found.pos, found.neg, accidental=found.accidental, where=where)`.

    Args:
      queries: [B, D]. candidates: row b is the target of query b, [B, D]. Cosines: give unit vectors. With an
        axis name: this device's examples.
      ids: of the candidates, [B]: those with the id of a query's target are no negatives of it (accidental
        hits). None: only the query's own row is none.
      extra: further negatives.
      following: leaves as negatives of the batch the targets of the next n examples, counted round its end,
        as torch-rechub's trainer has them; extra ones stay. None: all.
      where: True where the example is real, [B]; others are no negatives.

    Raises:
      ValueError: `following` is below 1, or `ids` are given without those of extra candidates.
    """
    if following is not None and following < 1:
        raise ValueError(f"following={following}: must be at least 1, or None for the whole batch")
    if extra is not None and (ids is None) != (extra.ids is None):
        raise ValueError("ids: give those of the batch and of extra candidates, or neither")
    size = queries.shape[0]
    real = jnp.ones(size, bool) if where is None else where.astype(bool)
    vectors, all_real, all_ids = _everywhere((candidates, real, ids), axis_name)
    count, first = all_real.shape[0], jnp.int32(0)
    if axis_name is not None:
        first = (jax.lax.axis_index(axis_name) * size).astype(jnp.int32)
    own = first + jnp.arange(size, dtype=jnp.int32)
    column = jnp.arange(count, dtype=jnp.int32)
    accidental = ~all_real | (column == own[:, None])
    if following is not None:
        accidental = accidental | ((column - own[:, None]) % count > following)
    if extra is not None:
        others, other_ids = _everywhere((extra.vectors, extra.ids), axis_name)
        vectors = jnp.concatenate([vectors, others])
        none_of_them = jnp.zeros((size, others.shape[0]), bool)
        if other_ids is not None:
            none_of_them = jnp.broadcast_to(other_ids == 0, none_of_them.shape)
            all_ids = jnp.concatenate([all_ids, other_ids])
        accidental = jnp.concatenate([accidental, none_of_them], axis=1)
    if ids is not None:
        accidental = accidental | (all_ids == ids[:, None])
    scores = jnp.matmul(queries, vectors.T, preferred_element_type=jnp.float32)
    pos = jnp.sum(jnp.where(jnp.arange(scores.shape[1]) == own[:, None], scores, 0.0), axis=-1)
    return InBatch(pos, scores, accidental)


def _everywhere(arrays: tuple[Array | None, ...], axis_name: str | None) -> tuple[Array, ...]:
    """The arrays of all devices, one after the other; None stays None."""
    if axis_name is None:
        return arrays  # type: ignore[return-value]
    return jax.lax.all_gather(arrays, axis_name, tiled=True)  # type: ignore[no-any-return]


def hardest_negatives(neg: Array, number: int, accidental: Array | None = None) -> tuple[Array, Array]:
    """The negatives of the largest scores, [..., number], and True where there are no more.

    Online hard negatives (Huang et al., KDD 2020, arXiv:2006.11632, section 6.1, where more than two of a
    positive hurt). The choice has no gradient, the scores have theirs. Of equal scores the first are taken.

    Args:
      neg: scores of sampled items, [..., N]. accidental: True where one is ignored, [..., N].

    Raises:
      ValueError: number is not in 1..N.
    """
    if not 1 <= number <= neg.shape[-1]:
        raise ValueError(f"number={number}: must be in 1..{neg.shape[-1]}, the number of candidates")
    left_out = jnp.zeros(neg.shape, bool) if accidental is None else jnp.broadcast_to(accidental, neg.shape)
    _, index = jax.lax.top_k(jax.lax.stop_gradient(jnp.where(left_out, -jnp.inf, neg)), number)
    return pick(neg, index), jnp.take_along_axis(left_out, index, axis=-1)


def in_batch_softmax(
    queries: Array,
    candidates: Array,
    *,
    temperature: float = 1.0,
    ids: Array | None = None,
    log_prob: Array | None = None,
    inside: bool = False,
    correct_positive: bool = True,
    extra: Extra | None = None,
    following: int | None = None,
    num_hardest: int | None = None,
    where: Array | None = None,
    weight: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy of each query's own candidate among those of the batch, with the logQ correction.

        -r_i log softmax_j(q_i·c_j / τ - log p_j)_i,  summed and divided by the number of real examples

    (Yi et al., RecSys 2019, doi:10.1145/3298689.3346996.) A candidate that comes often in batches is a
    negative more often than it should be; the correction lowers its score. With `extra` it is mixed negative
    sampling (Yang et al., WWW 2020, doi:10.1145/3366424.3386195), whose log p is that of the mixture
    (`sampling.mixed`). TensorFlow Recommenders returns the sum over the batch, and cuts p to 1e-6..1. An
    example without a negative has loss 0.

    Args:
      queries, candidates, ids, extra, following: see `in_batch_scores`.
      temperature: τ, which divides the scores; must be positive.
      log_prob: log p of each candidate, [B], in any unit: a constant added to all changes nothing. None: no
        correction.
      inside: True divides the correction too, (q·c - log p) / τ, as torch-rechub does.
      correct_positive: False leaves the own candidate's score as it is, as the loss of mixed negative
        sampling is printed; then the unit of p matters.
      num_hardest: keeps the negatives of the largest corrected scores; None: all.
      where: True where the example is real, [B].
      weight: r, such as a reward, [B]; it does not enter the denominator. An example of weight 0 is still a
        negative of others.

    Raises:
      ValueError: the temperature is not positive; log_prob is given without that of extra candidates; as
        `in_batch_scores` and `hardest_negatives`.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    if extra is not None and (log_prob is None) != (extra.log_prob is None):
        raise ValueError("log_prob: give that of the batch and of extra candidates, or neither")
    pos, neg, accidental = in_batch_scores(
        queries, candidates, ids=ids, extra=extra, following=following, where=where, axis_name=axis_name
    )
    pos, neg = pos / temperature, neg / temperature
    if log_prob is not None:
        scale = temperature if inside else 1.0
        real = jnp.ones(log_prob.shape, bool) if where is None else where
        log_prob = jnp.where(real, log_prob, 0.0)  # of padding it may be log 0
        (lowered,) = _everywhere((log_prob,), axis_name)
        if extra is not None and extra.log_prob is not None:
            (others,) = _everywhere((extra.log_prob,), axis_name)
            lowered = jnp.concatenate([lowered, others])
        neg = neg - lowered / scale
        pos = pos - log_prob / scale if correct_positive else pos
    if num_hardest is not None:
        neg, accidental = hardest_negatives(neg, num_hardest, accidental)
    return sampled_softmax(pos, neg, accidental=accidental, where=where, weight=weight, axis_name=axis_name)
