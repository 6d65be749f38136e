"""TIGER: the next item's semantic id, code by code (Rajput et al., NeurIPS 2023, arXiv:2305.05065, 3.2).

A T5 encoder-decoder (Raffel et al., JMLR 2020, arXiv:1910.10683): root-mean-square norms before each layer,
no biases, a bias of attention by relative position that all layers of a stack share, no scaling of products.
The encoder reads the codes of the history, D an item, and the decoder names the D codes of the next item.

Departs from the paper: the softmax of a step is over the K codes of its level, as the step tells the level;
the paper's is over the whole vocabulary. There is no end token, as all tuples have D codes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import rows_at
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.types import Array

KeysValues = tuple[Array, Array]  # of one layer, [..., S, H, d] each


class Memory(NamedTuple):
    """What the decoder reads of a history of T tokens.

    keys_values: of each decoder layer, [B, T, H, d] twice. mask: which tokens are real, bool [B, T]; where W
    histories share a row, which tokens are of each, bool [B, W, T].
    """

    keys_values: tuple[KeysValues, ...]
    mask: Array


def buckets(query: np.ndarray, key: np.ndarray, *, number: int, longest: int, both: bool) -> np.ndarray:
    """T5's buckets of relative positions key - query: [Q] and [S] → int [Q, S].

    Half of the buckets are for one distance each, the other half for ranges that grow with the logarithm of
    the distance up to `longest`. both: keys may come after the query, for which half of all buckets are.

    >>> buckets(np.array([2]), np.arange(4), number=8, longest=16, both=True).tolist()
    [[2, 1, 0, 5]]
    """
    distance = query[:, None] - key[None, :]
    number = number // 2 if both else number
    side = np.where(distance < 0, number, 0) if both else 0
    distance = np.abs(distance) if both else np.maximum(distance, 0)
    exact = number // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(longest / exact)
    far = np.minimum(exact + (ratio * (number - exact)).astype(int), number - 1)
    return side + np.where(distance < exact, distance, far)


def linear(features: int, std: float, **options: Any) -> Dense:
    """A layer without biases, whose kernel begins normal."""
    return Dense(features, use_bias=False, kernel_init=nn.initializers.normal(std), **options)


class Attention(nn.Module):
    """Multi-head attention of T5: no biases, products not scaled, a bias of scores given. E is dim."""

    dim: int
    num_heads: int
    head_dim: int
    dropout: float = 0.0
    bits: Bits = threefry_bits

    def setup(self) -> None:
        width = self.num_heads * self.head_dim

        self.query = linear(width, (self.dim * self.head_dim) ** -0.5)
        self.key, self.value = linear(width, self.dim**-0.5), linear(width, self.dim**-0.5)
        self.output = linear(self.dim, width**-0.5)
        self.drop = Dropout(self.dropout, self.bits)

    def keys_values(self, source: Array) -> KeysValues:
        """Keys and values of tokens, [..., S, E] → [..., S, H, d] twice."""
        return self._heads(self.key(source)), self._heads(self.value(source))

    def __call__(
        self,
        x: Array,
        read: KeysValues,
        visible: Array,
        bias: Array | None = None,
        *,
        train: bool = False,
        rows: Array | None = None,
    ) -> Array:
        """Maps queries [..., Q, E] to [..., Q, E]. A query that sees nothing gets zeros.

        read: keys and values [..., S, H, d]. visible: bool, and bias: what is added to scores, both broadcast
        to [..., H, Q, S].
        """
        query = self._heads(self.query(x))
        scores = jnp.einsum("...qhd,...khd->...hqk", query, read[0], preferred_element_type=jnp.float32)
        scores = jnp.where(visible, scores if bias is None else scores + bias, -1e30)
        weights = (jax.nn.softmax(scores, axis=-1) * visible.any(axis=-1, keepdims=True)).astype(x.dtype)
        weights = self.drop(weights, train=train, rows=rows)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, read[1])
        return self.output(mixed.reshape(*x.shape[:-1], -1))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)


class FeedForward(nn.Module):
    """Two linear layers without biases, ReLU between them: [..., E] → [..., E]."""

    inner_dim: int
    dropout: float = 0.0
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, rows: Array | None = None) -> Array:
        dim = x.shape[-1]
        inner = linear(self.inner_dim, dim**-0.5, name="inner")
        out = linear(dim, self.inner_dim**-0.5, name="output")
        return out(Dropout(self.dropout, self.bits)(nn.relu(inner(x)), train=train, rows=rows))


class Layer(nn.Module):
    """A layer of the encoder, or with `crossed` of the decoder, which reads the history between its two."""

    dim: int
    num_heads: int
    head_dim: int
    inner_dim: int
    crossed: bool
    dropout: float = 0.0
    bits: Bits = threefry_bits

    def setup(self) -> None:
        sizes = (self.dim, self.num_heads, self.head_dim, self.dropout, self.bits)
        self.attention, self.norm = Attention(*sizes), nn.RMSNorm()
        if self.crossed:
            self.cross, self.cross_norm = Attention(*sizes), nn.RMSNorm()
        self.forward = FeedForward(self.inner_dim, self.dropout, self.bits)
        self.forward_norm = nn.RMSNorm()
        self.drop = Dropout(self.dropout, self.bits)

    def __call__(
        self,
        x: Array,
        visible: Array,
        bias: Array,
        *,
        past: KeysValues | None = None,
        memory: KeysValues | None = None,
        memory_mask: Array | None = None,
        train: bool = False,
        rows: Array | None = None,
    ) -> tuple[Array, KeysValues]:
        """Maps tokens [B, …, S, E] to the same, and gives the keys and values of the past and of these.

        past: of earlier tokens, [B, …, P, H, d]; None: there are none. memory, memory_mask: of a decoder
        layer, see `Memory`; where histories share a row, x is [B, W, S, E], a tuple of each.
        """
        options: dict[str, Any] = {"train": train, "rows": rows}
        normed = self.norm(x)
        read = self.attention.keys_values(normed)
        if past is not None:
            read = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-3), past, read)
        x = x + self.drop(self.attention(normed, read, visible, bias, **options), **options)
        if memory is not None and memory_mask is not None:
            normed = self.cross_norm(x).reshape(x.shape[0], -1, x.shape[-1])
            if memory_mask.ndim == 3:
                seen = jnp.repeat(memory_mask, x.shape[-2], axis=1)[:, None]
            else:
                seen = memory_mask[:, None, None, :]
            found = self.cross(normed, memory, seen, **options)
            x = x + self.drop(found.reshape(x.shape), **options)
        return x + self.drop(self.forward(self.forward_norm(x), **options), **options), read


class TIGER(nn.Module):
    """The encoder-decoder over codes.

    Shape names: B histories, L items, D depth, K num_codes, W tuples of a history, E dim, T tokens.

    Fields:
      num_codes, depth: K and D of the semantic ids. dim: E. num_heads, head_dim: of attention. inner_dim: of
      feed-forward layers. num_layers: of the encoder, and of the decoder. max_len: most items of a history.
      num_users: tokens of users, of which one stands at the front; user u has that of u modulo their number.
      0: none. num_buckets, longest: see `buckets`. dropout: of embeddings, attention weights and layers.
    """

    num_codes: int = 256
    depth: int = 4
    dim: int = 128
    num_heads: int = 6
    head_dim: int = 64
    inner_dim: int = 1024
    num_layers: int = 4
    max_len: int = 20
    num_users: int = 2000
    num_buckets: int = 32
    longest: int = 128
    dropout: float = 0.1
    bits: Bits = threefry_bits

    def setup(self) -> None:
        sizes = ("num_codes", "depth", "dim", "num_heads", "head_dim", "inner_dim", "num_layers", "max_len")
        check_sizes(**{name: getattr(self, name) for name in sizes})
        if self.num_users < 0 or self.num_buckets < 4 or self.longest <= self.num_buckets // 2:
            raise ValueError(
                f"num_users={self.num_users}, num_buckets={self.num_buckets}, longest={self.longest}: must "
                "be at least 0 and 4, and longest above half of num_buckets"
            )
        init = nn.initializers.normal(1.0)
        self.code_embedding = self.param("code_embedding", init, (self.depth * self.num_codes, self.dim))
        self.start = self.param("start", init, (self.dim,))
        if self.num_users:
            self.user_embedding = self.param("user_embedding", init, (self.num_users, self.dim))
        shape, std = (self.num_buckets, self.num_heads), nn.initializers.normal(self.dim**-0.5)
        self.encoder_bias = self.param("encoder_bias", std, shape)
        self.decoder_bias = self.param("decoder_bias", std, shape)
        of_layer = (self.dim, self.num_heads, self.head_dim, self.inner_dim)
        rest = (self.dropout, self.bits)
        self.encoder = [Layer(*of_layer, False, *rest) for _ in range(self.num_layers)]
        self.decoder = [Layer(*of_layer, True, *rest) for _ in range(self.num_layers)]
        self.encoder_norm, self.decoder_norm = nn.RMSNorm(), nn.RMSNorm()
        self.drop = Dropout(self.dropout, self.bits)

    def __call__(
        self,
        codes: Array,
        mask: Array,
        targets: Array,
        users: Array | None = None,
        *,
        train: bool = False,
        rows: Array | None = None,
    ) -> Array:
        """Logits of each target's codes, the codes before them given: [B, D, K]. Arguments: see `encode`.

        targets: int32 [B, D].
        """
        memory = self.encode(codes, mask, users, train=train, rows=rows)
        return self.decode(memory, targets[:, None], train=train, rows=rows)[:, 0]

    def encode(
        self,
        codes: Array,
        mask: Array,
        users: Array | None = None,
        *,
        train: bool = False,
        rows: Array | None = None,
    ) -> Memory:
        """What the decoder reads of histories.

        codes: of items in order of time, the oldest first and padding on the right, int32 [B, L, D]. mask:
        which items are real, bool [B, L]. users: ids [B], read where the model has tokens of users. rows: see
        `Dropout`.

        Raises:
          ValueError: L is above max_len, D is not the depth, or users are missing.
        """
        batch, length, depth = codes.shape
        if length > self.max_len or depth != self.depth:
            raise ValueError(
                f"histories of {length} items of {depth} codes: must have at most max_len={self.max_len} "
                f"items of depth={self.depth} codes"
            )
        x = self._embedded(jnp.where(mask[..., None], codes, 0), 0).reshape(batch, length * depth, self.dim)
        real = jnp.repeat(mask, depth, axis=1)
        if self.num_users:
            if users is None:
                raise ValueError(f"users=None: the model has num_users={self.num_users} tokens; give ids [B]")
            front = rows_at(self.user_embedding, users % self.num_users)[:, None]
            x = jnp.concatenate([front, x], axis=1)
            real = jnp.concatenate([jnp.ones((batch, 1), bool), real], axis=1)
        return Memory(self._encoded(x, real[:, None, None, :], train=train, rows=rows), real)

    def packed(
        self,
        codes: Array,
        users: Array,
        segments: Array,
        targets: Array,
        *,
        train: bool = False,
        rows: Array | None = None,
    ) -> Array:
        """`__call__` of W histories in each row, one after the other: logits of their targets, [B, W, D, K].

        codes: what each token of a row is, int32 [B, T]: code c of level l as l · K + c. users: of the token
        of a user, which begins a history, the user's id from 1; 0 of other tokens, [B, T]. segments: to which
        history a token belongs, 1 .. W, 0 for none, [B, T]. targets: int32 [B, W, D]; those of a history
        without a token mean nothing. rows: see `Dropout`.
        """
        x = rows_at(self.code_embedding, codes)
        if self.num_users:
            of_users = rows_at(self.user_embedding, users % self.num_users)
            x = jnp.where((users > 0)[..., None], of_users, x)
        same = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        read = self._encoded(x, same[:, None], train=train, rows=rows)
        number = 1 + jnp.arange(targets.shape[1])
        memory = Memory(read, segments[:, None, :] == number[:, None])
        return self.decode(memory, targets, train=train, rows=rows)

    def _encoded(
        self, x: Array, visible: Array, *, train: bool, rows: Array | None
    ) -> tuple[KeysValues, ...]:
        """Keys and values for each decoder layer of tokens [B, T, E]. visible: see `Attention`."""
        options: dict[str, Any] = {"train": train, "rows": rows}
        place = np.arange(x.shape[1])
        bias = self._bias(self.encoder_bias, place, place, both=True)
        x = self.drop(x, **options)
        for layer in self.encoder:
            x, _ = layer(x, visible, bias, **options)
        x = self.drop(self.encoder_norm(x), **options)
        return tuple(layer.cross.keys_values(x) for layer in self.decoder)

    def decode(
        self, memory: Memory, tuples: Array, *, train: bool = False, rows: Array | None = None
    ) -> Array:
        """Logits of the codes of W tuples, those before them given: int32 [B, W, D] → [B, W, D, K]."""
        batch, number, depth = tuples.shape
        start = jnp.broadcast_to(self.start, (batch, number, 1, self.dim))
        x = jnp.concatenate([start, self._embedded(tuples[..., : depth - 1], 0)], axis=2)
        return self._decoded(memory, x, None, 0, train=train, rows=rows)[0]

    def next_code(
        self, memory: Memory, past: tuple[KeysValues, ...], codes: Array | None, level: int
    ) -> tuple[Array, tuple[KeysValues, ...]]:
        """Logits of code number `level` of W beginnings, from the code before it alone: [B, W, K].

        past: keys and values of each layer, [B, W, level, H, d] twice; of level 0 those of `no_past`. codes:
        int32 [B, W]; None at level 0, where W is 1. Also returns the past of the next level.
        """
        batch = memory.mask.shape[0]
        if codes is None:
            x = jnp.broadcast_to(self.start, (batch, 1, 1, self.dim))
        else:
            x = self._embedded(codes[..., None], level - 1)
        logits, past = self._decoded(memory, x, past, level, train=False, rows=None)
        return logits[:, :, 0], past

    def no_past(self, batch: int) -> tuple[KeysValues, ...]:
        """The past of level 0, [B, 1, 0, H, d] of each layer."""
        empty = jnp.zeros((batch, 1, 0, self.num_heads, self.head_dim))
        return ((empty, empty),) * self.num_layers

    def _decoded(
        self,
        memory: Memory,
        x: Array,
        past: tuple[KeysValues, ...] | None,
        first: int,
        *,
        train: bool,
        rows: Array | None,
    ) -> tuple[Array, tuple[KeysValues, ...]]:
        """Logits [B, W, S, K] of levels first .. first + S - 1 from their input tokens [B, W, S, E]."""
        options: dict[str, Any] = {"train": train, "rows": rows}
        number = x.shape[2]
        query, key = first + np.arange(number), np.arange(first + number)
        visible = jnp.asarray(key <= query[:, None])
        bias = self._bias(self.decoder_bias, query, key, both=False)
        x, read = self.drop(x, **options), []
        for i, layer in enumerate(self.decoder):
            of_layer: dict[str, Any] = {"memory": memory.keys_values[i], "memory_mask": memory.mask}
            before = None if past is None else past[i]
            x, found = layer(x, visible, bias, past=before, **of_layer, **options)
            read.append(found)
        x = self.drop(self.decoder_norm(x), **options) * self.dim**-0.5
        table = self.code_embedding.reshape(self.depth, self.num_codes, self.dim)[first : first + number]
        return jnp.einsum("bwse,ske->bwsk", x, table).astype(jnp.float32), tuple(read)

    def _embedded(self, codes: Array, first: int) -> Array:
        """Vectors of codes of levels first, first + 1, … along the last axis: [..., S] → [..., S, E].

        A code that is not in 0..K-1, which would be one of another level, gives NaN.
        """
        levels = first + jnp.arange(codes.shape[-1])
        known = (codes >= 0) & (codes < self.num_codes)
        return rows_at(self.code_embedding, jnp.where(known, codes + self.num_codes * levels, -1))

    def _bias(self, table: Array, query: np.ndarray, key: np.ndarray, *, both: bool) -> Array:
        """What relative positions add to scores, [H, Q, S]."""
        of_pair = buckets(query, key, number=self.num_buckets, longest=self.longest, both=both)
        return jnp.einsum("qkn,nh->hqk", jax.nn.one_hot(of_pair, self.num_buckets), table)
