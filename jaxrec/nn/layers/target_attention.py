"""Attention of a target over a long history: which behaviours to read, and what they add up to."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()


def top_k(scores: Array, mask: Array, k: int, *, padding_score: float = -math.inf) -> tuple[Array, Array]:
    """The slots of the k highest scores, oldest first, and which of them are real: [..., L] → [..., k] twice.

    Of equal scores the later slot wins, the most recent behaviour in right-aligned histories. Where fewer
    than k slots are real, padding fills up, and counts as not found. No gradient flows back.

    Args:
      scores: relevance, [..., L]. mask: True where the slot may be chosen, [..., L].
      k: how many; all L slots if there are no more.
      padding_score: what masked slots compete with. The default never lets them win against a real one.

    Raises:
      ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k}: a search has to return at least 1 behaviour")
    length = scores.shape[-1]
    scores = jnp.where(mask, jax.lax.stop_gradient(scores), padding_score).astype(jnp.float32)
    _, flipped = jax.lax.top_k(scores[..., ::-1], min(k, length))  # of equal values the first wins
    indices = jnp.sort(length - 1 - flipped, axis=-1)
    return indices, jnp.take_along_axis(mask, indices, axis=-1)


class TargetAttention(nn.Module):
    """Multi-head attention with the target as the only query (Pi et al., arXiv:2006.05639, section 3.3).

        a_h = softmax((W_k z_j)·(W_q e) / √d)   head_h = Σ_j a_hj W_v z_j   out = [head_1 … head_H] W_o

    No projection of the history is ever formed: W_k is applied to the query and W_v to the weighted sum,
    which is the same and takes memory of H × D an example instead of L × dim. There are no biases. A row
    whose history is all masked gives zeros and finite gradients.

    Shape names: B batch, L history, Q target width, D behaviour width, H heads.

    Fields:
      dim: of queries and keys over all heads, a multiple of num_heads; None: the width of the target.
      project_values: False leaves W_v and W_o out, so that every head is a sum of whole behaviours (SIM);
        True is the form of Vaswani et al. (ETA), with the target's width again as that of the output.
      scale: whether scores are divided by √(dim / num_heads).
      dropout: of the attention weights.
      mask_value: of masked scores; -inf hides them exactly. With a finite one a row that is all masked
        gives the plain mean of its slots.
    """

    num_heads: int = 1
    dim: int | None = None
    project_values: bool = True
    scale: bool = True
    dropout: float = 0.0
    mask_value: float = -math.inf
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, target: Array, history: Array, mask: Array, *, train: bool = False) -> Array:
        """Maps [B, Q], [B, L, D] and bool [B, L] to [B, Q], or [B, H · D] without `project_values`."""
        dim, heads, width = self.dim or target.shape[-1], self.num_heads, history.shape[-1]
        if heads < 1 or dim % heads:
            raise ValueError(f"num_heads={heads}: must be at least 1 and divide dim={dim}")
        query = self._kernel("query", target.shape[-1], dim)
        key = self._kernel("key", width, dim).reshape(width, heads, -1)

        projected = jnp.einsum("bhd,ehd->bhe", (target @ query).reshape(-1, heads, dim // heads), key)
        scores = jnp.einsum("bhe,ble->bhl", projected, history)
        scores = scores / math.sqrt(dim // heads) if self.scale else scores
        weights = masked_softmax(scores, mask[:, None], self.mask_value)
        self.sow("intermediates", "weights", weights)
        weights = Dropout(self.dropout, self.bits)(weights, train=train)
        mixed = jnp.einsum("bhl,ble->bhe", weights, history)
        if not self.project_values:
            return mixed.reshape(-1, heads * width)

        value = self._kernel("value", width, dim).reshape(width, heads, -1)
        values = jnp.einsum("bhe,ehd->bhd", mixed, value).reshape(-1, dim)
        return values @ self._kernel("output", dim, target.shape[-1])

    def _kernel(self, name: str, rows: int, columns: int) -> Array:
        return self.param(f"{name}_kernel", INIT, (rows, columns))


def masked_softmax(scores: Array, mask: Array, mask_value: float = -math.inf) -> Array:
    """Softmax over the last axis where `mask` is True, [..., L] → [..., L]; a row with no True gives zeros.

    A finite mask_value stands in for masked scores instead: then such a row is uniform.

    >>> masked_softmax(jnp.zeros((2, 2)), jnp.array([[True, True], [False, False]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    exact = math.isinf(mask_value)
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30 if exact else mask_value), axis=-1)
    return jnp.where(mask, weights, 0.0) if exact else weights
