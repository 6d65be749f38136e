"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv:2402.17152, section 3).

Follows the research code for next-item prediction (meta-recsys/generative-recommenders). There attention is
divided by the padded length N, the same for every sequence, where the paper writes n; positions count from a
user's first event; and the bias reads the time of the *next* event, the one that is predicted.

Departs from it: events are found by their ids, so that padding may stand on either side, and several users
may share a packed row. Hidden slots (id 0) give exactly zero. The bias of a layer's output starts at zero,
where the code leaves it as PyTorch draws it, within ±1/√width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at
from jaxrec.nn.layers.pairs import unit as of_length_one
from jaxrec.nn.layers.pointwise_attention import NUM_BUCKETS, following, pointwise_attention
from jaxrec.nn.layers.remat import as_function
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array


def identity(x: Array) -> Array:
    """x itself, an `activation` of HSTU for linear queries, keys, values and gates."""
    return x


def unit(x: Array, epsilon: float = 1e-6) -> Array:
    """x / max(‖x‖, epsilon) in float32, [..., D], as `pairs.unit`."""
    return of_length_one(x.astype(jnp.float32), epsilon**2)


class HSTU(nn.Module):
    """Causal encoder of pointwise attention layers; a score is the cosine with an item's vector.

    Trained by `tasks.objectives.uniform_softmax`, a softmax over the target and uniform samples, of scores
    divided by a temperature.

    Shape names: B batch, L slots, D dim, H heads, V vocab_size (+ extra_rows), N = max_len + spare_slots.

    Fields besides the sizes:
      key_dim, value_dim: of each head, for queries and keys and for values and gates.
      max_len: number of most recent events that training and ranking read.
      spare_slots: how much longer than max_len the research code pads its sequences (11 in its settings). N
        sets the size of the position tables and divides the attention.
      dropout: of the input. linear_dropout: of each layer's gated attention.
      activation: of gates, values, queries and keys.
      concat_ua: whether the last product of a layer reads gates, attention and their product, [.., 3·H·e],
        in place of the product alone.
      relative_bias: by distance and time, see `layers/pointwise_attention.py`.
      time_bias: False leaves the time out of it, for data without times.
      layer_norm_output: the output is normalised by mean and variance in place of its length.
      block: queries whose scores [B, H, block, L] are in memory at a time; None: all. The values are equal.
      extra_rows: rows of the item table after num_items that are not items.
      bits: random bits for dropout. dtype: of products and attention weights, such as jnp.bfloat16; sums over
        layers, norms, scores and parameters stay float32. None is float32 throughout.
      remat: whether the backward pass computes layers again instead of keeping their activations.
    """

    num_items: int
    dim: int = 50
    num_layers: int = 2
    num_heads: int = 1
    key_dim: int = 50
    value_dim: int = 50
    max_len: int = 200
    spare_slots: int = 0
    dropout: float = 0.2
    linear_dropout: float = 0.2
    activation: Callable[[Array], Array] = nn.silu
    concat_ua: bool = False
    relative_bias: bool = True
    time_bias: bool = True
    layer_norm_output: bool = False
    norm_epsilon: float = 1e-6
    block: int | None = None
    extra_rows: int = 0
    bits: Bits = threefry_bits
    dtype: Any = None
    remat: bool = False

    @property
    def reads_times(self) -> bool:
        """Whether outputs depend on when events happened: `tasks.next_item` then gives their times."""
        return self.relative_bias and self.time_bias

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "num_heads", "key_dim", "value_dim", "max_len")
        check_sizes(self, "num_layers", "spare_slots", at_least=0)
        slots = self.max_len + self.spare_slots
        self.item_embedding = self.param(
            "item_embedding",
            pad_row(nn.initializers.truncated_normal(0.02)),
            (self.num_items + 1 + self.extra_rows, self.dim),
        )
        self.position_embedding = self.param(
            "position_embedding", nn.initializers.truncated_normal(self.dim**-0.5), (slots, self.dim)
        )
        self.drop = Dropout(self.dropout, self.bits)
        self.layers = [
            Layer(
                num_heads=self.num_heads,
                key_dim=self.key_dim,
                value_dim=self.value_dim,
                slots=slots,
                dropout=self.linear_dropout,
                activation=self.activation,
                concat_ua=self.concat_ua,
                relative_bias=self.relative_bias,
                time_bias=self.time_bias,
                norm_epsilon=self.norm_epsilon,
                block=self.block,
                bits=self.bits,
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            for i in range(self.num_layers)
        ]

    def __call__(
        self,
        items: Array,
        *,
        times: Array | None = None,
        target_times: Array | None = None,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D], zero on padding.

        Args:
          items: ids in order of time, 0 = padding on either side or a masked item, [B, L].
          times: when each event happened, whole seconds, [B, L]; None means all at the same time.
          target_times: when the event that each slot predicts happened, whole seconds, [B, L]. None: the time
            in the slot after it, and its own in the last slot of a sequence. A sequence padded on the right
            thus has the time of its last prediction in the slot after its last event, as the research code
            writes it.
          positions: ignored; events are counted from the first of their sequence.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives;
            None: dropout is drawn for all of them together.

        Raises:
          ValueError: a sequence of one user is longer than N, `target_times` is given without `times`, either
            is not of integers, or `times` are given to a model that does not read them.
        """
        del positions
        check_times(times, target_times, self.reads_times)
        check_length(items, segments, self.max_len + self.spare_slots)
        if times is not None and target_times is None:
            target_times = following(times, segments)
        real = (items != 0)[..., None]
        x = lookup(self.item_embedding, items) * math.sqrt(self.dim)
        x = x + rows_at(self.position_embedding, event_number(items, segments))
        x = jnp.where(real, self.drop(x, train=train, rows=rows), 0.0)
        for layer in self.layers:
            y = as_function(layer, remat=self.remat, train=train)(
                x, items=items, segments=segments, times=times, target_times=target_times, rows=rows
            )
            x = jnp.where(real, y, 0.0)
        return (standard if self.layer_norm_output else unit)(x, self.norm_epsilon)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first, each of length 1 (padding: 0): [V, D]."""
        return unit(self.item_embedding, self.norm_epsilon)


def check_length(items: Array, segments: Array | None, longest: int) -> None:
    """Raises ValueError for sequences of one user with more slots than positions, max_len + spare_slots."""
    if segments is None and items.shape[1] > longest:
        raise ValueError(
            f"sequences of length {items.shape[1]}: max_len + spare_slots = {longest} is the longest; "
            "cut off the oldest events"
        )


def check_times(times: Array | None, target_times: Array | None, reads_times: bool) -> None:
    """Raises ValueError for times that the model does not read, target times alone, and seconds as floats."""
    if times is not None and not reads_times:
        raise ValueError(
            "times: a model with time_bias=False or relative_bias=False does not read them; leave them out"
        )
    if target_times is not None and times is None:
        raise ValueError("target_times: needs times, the seconds of the events; give both")
    for name, seconds in (("times", times), ("target_times", target_times)):
        if seconds is not None and not jnp.issubdtype(seconds.dtype, jnp.integer):
            raise ValueError(
                f"{name}: {seconds.dtype} would lose seconds (float32 holds each one up to 2^24 only, 194 "
                "days); give int32, such as round(seconds since the user's first event)"
            )


class Layer(nn.Module):
    """One unit: gates, values, queries and keys by one product, pointwise attention, norm, gate, residual."""

    num_heads: int
    key_dim: int
    value_dim: int
    slots: int
    dropout: float
    activation: Callable[[Array], Array]
    concat_ua: bool
    relative_bias: bool
    time_bias: bool
    norm_epsilon: float
    block: int | None
    bits: Bits
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        items: Array,
        segments: Array | None,
        times: Array | None,
        target_times: Array | None,
        train: bool,
        rows: Array | None = None,
    ) -> Array:
        """Maps [B, L, D] to [B, L, D]. Arguments as of `HSTU`."""
        batch, length, dim = x.shape
        heads, wide, narrow = self.num_heads, self.num_heads * self.value_dim, self.num_heads * self.key_dim
        init = nn.initializers.normal(0.02)
        bias = None
        if self.relative_bias:
            bias = (
                self.param("position_bias", init, (2 * self.slots - 1,)),
                self.param("time_bias", init, (NUM_BUCKETS + 1,)) if self.time_bias else None,
            )
        product = Dense(
            2 * wide + 2 * narrow, use_bias=False, kernel_init=init, dtype=self.dtype, name="uvqk"
        )
        gate, value, query, key = jnp.split(
            self.activation(product(standard(x, self.norm_epsilon))),
            (wide, 2 * wide, 2 * wide + narrow),
            axis=-1,
        )
        mixed = pointwise_attention(
            query.reshape(batch, length, heads, -1),
            key.reshape(batch, length, heads, -1),
            value.reshape(batch, length, heads, -1),
            items=items,
            segments=segments,
            divisor=self.slots,
            bias=bias,
            times=times,
            target_times=target_times,
            block=self.block,
        )
        mixed = standard(mixed.reshape(batch, length, wide), self.norm_epsilon).astype(gate.dtype)
        gated = jnp.concatenate([gate, mixed, gate * mixed], axis=-1) if self.concat_ua else gate * mixed
        gated = Dropout(self.dropout, self.bits)(gated, train=train, rows=rows)
        output = Dense(dim, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype, name="output")
        return x + output(gated)


def event_number(items: Array, segments: Array | None) -> Array:
    """Number of slots between each event and its user's first one, 0 where there is no item: int32 [B, L]."""
    slot = jnp.arange(items.shape[1], dtype=jnp.int32)
    if segments is None:
        first = jnp.argmax(items != 0, axis=1, keepdims=True)
    else:
        begins = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        first = jax.lax.cummax(jnp.where(begins, slot, 0), axis=1)
    return jnp.where(items != 0, slot - first, 0)


def standard(x: Array, epsilon: float = 1e-6) -> Array:
    """Layer normalisation without parameters in float32, (x - mean) / √(variance + epsilon): [..., D]."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
