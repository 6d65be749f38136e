"""Lists that trade accuracy for diversity: controllable aggregation of retrieved candidates.

Of a user's candidates a list S of N maximises Q(S) = Σ_{i in S} f(i) + λ Σ_{i, j in S} g(i, j), where f is
the score of an item and g(i, j) is 1 if the two have different categories, else 0 (ComiRec: Cen et al., KDD
2020, section 3.4, equations 9 to 11). The paper's greedy form adds the item of largest
f(i) + λ Σ_{k in S} g(i, k) until there are N. As g is 1 but for items of the same category, the sum is the
length of S less the items of i's category in it: the same item is the largest of
f(i) - λ |{k in S of i's category}|.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.index.chunked import Best
from jaxrec.types import Array


def aggregate(scores: Array, ids: Array, categories: Array, k: int, *, balance: float | Array) -> Best:
    """The greedy list of k candidates in the order in which they are chosen: [Q, C] → scores f, ids [Q, k].

    With balance 0 the list is that of the best scores, as `several.merge` has it; the larger the balance, the
    more categories share a list. Of equal values the larger score comes first, then the smaller id.

    Args:
      scores, ids: of each query's candidates, each id once, 0 for none, such as of `several.merge` or
        `chunked.top_k`; in any order. The result depends on how many there are: the paper takes the N best of
        each vector.
      categories: of each id, integers [V]; that of an item without a known one is a category, too.
      k: N, length of the lists. A list of fewer candidates ends in the score -inf and the id 0.
      balance: λ, in units of scores, not negative; traced or not.

    `finite`: no score of a candidate is NaN or +inf.

    Raises:
      ValueError: k is below 1, the balance is a negative or no number, or the shapes do not fit.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    if not isinstance(balance, jax.core.Tracer) and not bool(jnp.all(jnp.asarray(balance) >= 0)):
        raise ValueError(f"balance={balance}: must be a number of 0 or more")
    if scores.ndim != 2 or scores.shape != ids.shape or jnp.ndim(categories) != 1:
        raise ValueError(
            f"scores {list(scores.shape)}, ids {list(ids.shape)}, categories {list(jnp.shape(categories))}: "
            "must be [Q, C] twice and [V]"
        )
    lowered = jnp.where(ids > 0, -scores, jnp.inf)
    lowered, ids = jax.lax.sort((lowered, ids), dimension=1, num_keys=2)
    finite = ~(jnp.isnan(lowered) | (lowered == -jnp.inf)).any(axis=1)
    of_items = jnp.asarray(categories)[ids]

    def greedy(score: Array, ids: Array, category: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            left, same = carry
            best = jnp.argmax(jnp.where(left > -jnp.inf, left - balance * same, -jnp.inf))
            found = left[best], jnp.where(left[best] > -jnp.inf, ids[best], 0)
            same = same + (category == category[best])
            return (left.at[best].set(-jnp.inf), same), found

        return jax.lax.scan(step, (score, jnp.zeros_like(score)), None, length=k)[1]

    chosen, chosen_ids = jax.vmap(greedy)(-lowered, ids, of_items)
    return Best(chosen, chosen_ids, finite)


def value(scores: Array, ids: Array, categories: Array, *, balance: float | Array) -> Array:
    """Q of lists, [..., N] twice → [...]: what `aggregate` makes large, over ordered pairs of places.

    Places of id 0 do not count.
    """
    real = ids > 0
    of_items = jnp.where(real, jnp.asarray(categories)[ids], 0)
    pair = real[..., :, None] & real[..., None, :]
    differs = pair & (of_items[..., :, None] != of_items[..., None, :])
    return jnp.where(real, scores, 0).sum(axis=-1) + balance * differs.sum(axis=(-2, -1))
