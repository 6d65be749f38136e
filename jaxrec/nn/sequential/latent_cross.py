"""A recurrent encoder whose states are multiplied with their context (Latent Cross).

Source: Beutel et al., WSDM 2018, doi:10.1145/3159652.3159727. The paper's layer of ReLUs that read contexts
beside everything else learns products of them badly; here a state h becomes (1 + Σ w) ⊙ h with a vector w for
each context, so that an untrained context changes nothing.

The context is the time between events, in steps that double: before the GRU that since the event before
("pre-fusion", which changes what the GRU stores), after it that until the event to be predicted
("post-fusion", which doesn't). The latter is known at serving time, since it is now.

Departs from the paper: one context, as events here have no device and no page; the item table scores outputs
too, through a linear layer in place of one of ReLUs; and dropout of item vectors.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pointwise_attention import following
from jaxrec.nn.layers.recurrent import GRU
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.nn.sequential.hstu import check_times
from jaxrec.types import Array

GAPS = 34  # ids of gaps: 0 unknown, 1 none, 1 + number of binary digits of the seconds


def cross(h: Array, *contexts: Array) -> Array:
    """(1 + Σ w) ⊙ h: states [..., D] and context vectors [..., D] → [..., D].

    Contexts are summed, not multiplied with each other (the paper's equation for several contexts).

    >>> cross(jnp.array([2.0]), jnp.array([0.5]), jnp.array([1.0])).tolist()
    [5.0]
    """
    return h * (1.0 + sum(contexts)) if contexts else h


def gap_ids(seconds: Array) -> Array:
    """1 for no time, then 1 + the number of binary digits: whole seconds [...] → int32 [...].

    A negative gap counts as none.

    >>> gap_ids(jnp.array([0, 1, 2, 3, 4, 3600])).tolist()
    [1, 2, 3, 3, 4, 13]
    """
    digits = 32 - jax.lax.clz(jnp.maximum(seconds, 0).astype(jnp.int32))
    return 1 + digits


def gaps_before(times: Array, items: Array, segments: Array | None) -> Array:
    """Ids of the time since the event before, 0 where there is none in the slot before: [B, L] → [B, L]."""
    real = items != 0
    before = jnp.pad(times, ((0, 0), (1, 0)))[:, :-1]
    same = jnp.pad(real, ((0, 0), (1, 0)))[:, :-1] & real
    if segments is not None:
        same &= jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1] == segments
    return jnp.where(same, gap_ids(times - before), 0)


class LatentCross(nn.Module):
    """Item vectors (and context) → ReLU layer ⊙ context → GRU ⊙ context → linear layer.

    Shape names: B batch, L slots, D dim, H hidden_dim.

    Fields besides the sizes:
      pre, post: whether inputs, and states, of the GRU are multiplied with a context vector.
      concat: whether the ReLU layer reads a vector of the gap since the event before, and the linear layer
        one of the gap until the next event, beside everything else. Without these three there is no time
        and `reads_times` is false.
      context_dim: width of the vectors that are concatenated.
      context_init: of all context vectors; what multiplies starts near 1.
      dropout: of the item vectors. max_len: most recent events that training and ranking read.
      bits: random bits for dropout. dtype: of the computation; None is float32.
    """

    num_items: int
    dim: int = 64
    hidden_dim: int = 128
    context_dim: int = 16
    pre: bool = True
    post: bool = True
    concat: bool = True
    dropout: float = 0.2
    max_len: int = 50
    context_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
    bits: Bits = threefry_bits
    dtype: Any = None

    @property
    def reads_times(self) -> bool:
        """Whether it reads when events happened."""
        return self.pre or self.post or self.concat

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "hidden_dim", "context_dim", "max_len")
        init = pad_row(nn.initializers.normal(0.02))
        self.item_embedding = self.param("item_embedding", init, (self.num_items + 1, self.dim))
        context = pad_row(self.context_init)
        widths = {
            "pre_context": self.hidden_dim if self.pre else 0,
            "post_context": self.hidden_dim if self.post else 0,
            "context_before": self.context_dim if self.concat else 0,
            "context_after": self.context_dim if self.concat else 0,
        }
        self.contexts = {
            name: self.param(name, context, (GAPS, width)) for name, width in widths.items() if width
        }
        self.drop = Dropout(self.dropout, self.bits)
        self.inner = Dense(self.hidden_dim, dtype=self.dtype)
        self.gru = GRU(self.hidden_dim, dtype=self.dtype)
        self.output = Dense(self.dim, dtype=self.dtype)

    def __call__(
        self,
        items: Array,
        *,
        times: Array | None = None,
        target_times: Array | None = None,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D], zero on padding.

        Args:
          items: ids, 0 = padding or a masked item, padded on either side, [B, L].
          times: when each event happened, whole seconds, [B, L]; None: no gap is known, and nothing is
            multiplied.
          target_times: when the event that each slot predicts happened, [B, L]; None: the time in the slot
            after it, and its own in the last slot of a sequence.
          positions: ignored; a recurrence needs none.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives.

        Raises:
          ValueError: `target_times` without `times`, either is not of integers, or `times` are given to a
            model that does not read them.
        """
        del positions
        check_times(times, target_times, self.reads_times)
        real = items != 0
        before = after = jnp.zeros_like(items)
        if times is not None:
            ahead = following(times, segments) if target_times is None else target_times
            before = gaps_before(times, items, segments)
            after = jnp.where(real, gap_ids(ahead - times), 0)
        vectors = self.drop(lookup(self.item_embedding, items), train=train, rows=rows)
        x = nn.relu(self.inner(self._beside("context_before", vectors, before)))
        x = self._crossed("pre_context", x, before)
        reset = None
        if segments is not None:
            last = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
            reset = (segments != last) & (segments != 0)
        states = self._crossed("post_context", self.gru(x, update=real, reset=reset), after)
        found = self.output(self._beside("context_after", states, after))
        return jnp.where(real[..., None], found, 0.0)

    def _crossed(self, name: str, h: Array, ids: Array) -> Array:
        """States times 1 + the vectors of their contexts, where there is such a table."""
        if name not in self.contexts:
            return h
        return cross(h, lookup(self.contexts[name], ids).astype(h.dtype))

    def _beside(self, name: str, h: Array, ids: Array) -> Array:
        """States with the vectors of their contexts after them, where there is such a table."""
        if name not in self.contexts:
            return h
        return jnp.concatenate([h, lookup(self.contexts[name], ids).astype(h.dtype)], axis=-1)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        return self.item_embedding
