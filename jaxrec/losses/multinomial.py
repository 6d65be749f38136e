"""The likelihood of all items of a user at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.types import Array


def multinomial(
    scores: Array,
    x: Array,
    *,
    include_padding: bool = False,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Negative log-likelihood of rows under a softmax over items, -Σ_i x_i log softmax(scores)_i, in nats.

    The sum over a row's items and the mean over rows, without the coefficient that no parameter enters
    (Liang et al., WWW 2018, equation 2).

    Args:
      scores: of all ids, padding first, [..., V].
      x: how often a user has each item, 0 or 1 for implicit feedback, [..., V].
      include_padding: whether id 0 is a candidate, as in RecBole.
      where: True where the row is real, [...].

    >>> round(float(multinomial(jnp.zeros((1, 5)), jnp.array([[0, 1, 1, 0, 0]]))), 4)  # 2 ln 4
    2.7726
    """
    first = 0 if include_padding else 1
    log_probs = jax.nn.log_softmax(scores[..., first:].astype(jnp.float32), axis=-1)
    return masked_mean(-jnp.sum(x[..., first:] * log_probs, axis=-1), where, axis_name)
