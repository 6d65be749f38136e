"""SDM: one vector from the present session and what came before (Lv et al., CIKM 2019, arXiv:1909.00385).

Departs from the paper: the session is the last `short_len` events, whatever the time between them, and the
events before it are one set (the paper: the seven days before it).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import attend, causal_mask
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dice import Activation
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.interests import of_items, weights_over
from jaxrec.nn.layers.pairs import check_fields
from jaxrec.nn.layers.recurrent import LSTM
from jaxrec.types import Array, Interests

SIZES = ("num_items", "dim", "max_len", "short_len", "num_heads", "num_layers")  # at least 1


class SessionAndPast(nn.Module):
    """A session and a past as vectors: LSTM, attention and user attention; sets by field; a gate.

        e = tanh(W_u x_u),  h = LN(H + attention(H)), H = LSTM(session),  s_t = Σ_k≤t softmax(h_k·e) h_k
        p = tanh(W z),  z: by field Σ_k softmax(g_k·e) g_k, side by side
        G = σ(W_1 e + W_2 s_t + W_3 p + b),  o_t = (1 - G) ⊙ p + G ⊙ s_t

    Shape names: B batch, S session, T past, F fields, D dim, P width of the profile.

    Fields besides the sizes:
      num_layers: LSTMs, from the second on with a residual. dropout: of their inputs and outputs.
      input_layer: tanh of a linear layer before the LSTM. query_norm: attention by LN(H) to H, without a
        residual. masked: False is the code of fun-rec, where padding is read by LSTM and attention, in which
        queries see later events, and padded ones all slots evenly. All three are False, False, True in the
        paper, and the reverse in fun-rec.
      activation: of e, p and the layer before the LSTM, in place of tanh.
      head_dim: width of a head of the attention; None for dim / num_heads, which must be whole.
    """

    dim: int
    num_heads: int = 4
    num_layers: int = 1
    dropout: float = 0.2
    input_layer: bool = False
    query_norm: bool = False
    masked: bool = True
    norm_epsilon: float = 1e-6
    activation: Activation = jnp.tanh
    head_dim: int | None = None
    bits: Bits = threefry_bits
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers={self.num_layers}: must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        profile: Array,
        session: Array,
        past: tuple[Array, ...],
        session_mask: Array,
        past_mask: Array,
        *,
        train: bool,
        rows: Array | None = None,
    ) -> Array:
        """Maps a profile [B, P], a session [B, S, E] and F fields of a past [B, T, D] to o_t: [B, S, D].

        session_mask, past_mask: True where there is an event, [B, S] and [B, T]. rows: see `Dropout`.
        """
        e = self.activation(Dense(self.dim, dtype=self.dtype, name="profile")(profile))  # [B, D]
        states = self._states(session, session_mask, train, rows)
        visible = causal_mask(session_mask.astype(jnp.int32))
        if not self.masked:
            visible, past_mask = jnp.ones_like(visible), jnp.ones_like(past_mask)
        scores = jnp.einsum("bsd,bd->bs", states, e)
        shares = weights_over(jnp.broadcast_to(scores[:, None], visible.shape), visible, axis=-1)
        s = jnp.einsum("bqs,bsd->bqd", shares, states)
        pooled = [
            jnp.einsum("bt,btd->bd", weights_over(jnp.einsum("btd,bd->bt", g, e), past_mask, axis=-1), g)
            for g in past
        ]
        p = self.activation(Dense(self.dim, dtype=self.dtype, name="past")(jnp.concatenate(pooled, axis=-1)))
        self.sow("intermediates", "pooled", tuple(pooled))
        self.sow("intermediates", "session", s)
        return self._fused(e[:, None], s, p[:, None])

    def _states(self, x: Array, mask: Array, train: bool, rows: Array | None) -> Array:
        """h of a session, [B, S, D]."""
        update = mask if self.masked else None
        if self.input_layer:
            x = self.activation(Dense(self.dim, dtype=self.dtype, name="input")(x))
        drop = [Dropout(self.dropout, self.bits, name=f"drop_{i}") for i in range(self.num_layers + 1)]
        x = drop[0](x, train=train, rows=rows)
        for i in range(self.num_layers):
            new = LSTM(self.dim, dtype=self.dtype, name=f"lstm_{i}")(x, update=update)
            x = drop[i + 1](new + x if i else new, train=train, rows=rows)
        self.sow("intermediates", "lstm", x)
        queries = x
        norm = functools.partial(nn.LayerNorm, self.norm_epsilon, dtype=self.dtype, use_fast_variance=False)
        if self.query_norm:
            queries = norm(name="query_norm")(x)
            self.sow("intermediates", "queries", queries)
        mixed = self._attention(queries, x, mask)
        self.sow("intermediates", "attention", mixed)
        found = mixed if self.query_norm else x + mixed
        found = norm(name="norm")(found)
        self.sow("intermediates", "states", found)
        return found

    def _attention(self, queries: Array, x: Array, mask: Array) -> Array:
        if self.num_heads < 1 or (self.head_dim is None and self.dim % self.num_heads):
            raise ValueError(f"num_heads={self.num_heads}: must be at least 1 and divide dim={self.dim}")
        shape = (self.num_heads, self.head_dim or self.dim // self.num_heads)
        query, key, value = (
            nn.DenseGeneral(shape, dtype=self.dtype, name=name)(of).swapaxes(1, 2)  # [B, H, S, d]
            for name, of in (("query", queries), ("key", x), ("value", x))
        )
        if self.masked:
            mixed = attend(query, key, value, causal_mask(mask.astype(jnp.int32)))
        else:
            by_query = jnp.broadcast_to(mask[..., None], (*mask.shape, mask.shape[1]))
            mixed = attend(query, key, value, by_query, mask_value=-1e9)
        return nn.DenseGeneral(self.dim, axis=(-2, -1), dtype=self.dtype, name="output")(mixed.swapaxes(1, 2))

    def _fused(self, e: Array, s: Array, p: Array) -> Array:
        parts = [
            Dense(self.dim, use_bias=name == "gate_past", dtype=self.dtype, name=name)(x)
            for name, x in (("gate_user", e), ("gate_session", s), ("gate_past", p))
        ]
        gate = nn.sigmoid(sum(parts[1:], parts[0]))
        return (1.0 - gate) * p + gate * s


class SDM(nn.Module):
    """The vector of the last step of `SessionAndPast`, scored with a separate table of items.

    Shape names: B batch, L slots, D dim, V vocab_size, n fields of side information.

    Fields besides the sizes:
      short_len: events of the session; those before it are the past.
      side_sizes: how many values each field of an item has, ids from 1; their ids are the variable "side"
        [V, n] of the collection "constants", which starts as zeros and is given, as in `MIND`.
      num_users: of a table of user embeddings, the profile; 0: one learned vector for all.
      tied: items are scored with the vectors that the history has.
      num_heads, num_layers, dropout: of `SessionAndPast`.
      item_std: of the normal initialisation of tables. dtype: of the computation.
    """

    num_items: int
    dim: int = 64
    max_len: int = 50
    short_len: int = 10
    side_sizes: tuple[int, ...] = ()
    num_heads: int = 4
    num_layers: int = 1
    dropout: float = 0.2
    num_users: int = 0
    tied: bool = False
    item_std: float = 0.05
    bits: Bits = threefry_bits
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        drawn = nn.initializers.normal(self.item_std)
        table = (self.num_items + 1, self.dim)
        self.item_embedding = self.param("item_embedding", pad_row(drawn), table)
        if not self.tied:
            self.output_embedding = self.param("output_embedding", pad_row(drawn), table)
        self.side_embeddings = [
            self.param(f"side_embedding_{field}", pad_row(drawn), (size + 1, self.dim))
            for field, size in enumerate(self.side_sizes)
        ]
        if self.side_sizes:
            shape = (self.num_items + 1, len(self.side_sizes))
            self.side = self.variable("constants", "side", lambda: jnp.zeros(shape, jnp.int32))
        init = pad_row(drawn) if self.num_users else drawn
        self.user_embedding = self.param("user_embedding", init, (self.num_users + 1, self.dim))
        self.fusion = SessionAndPast(
            self.dim, self.num_heads, self.num_layers, self.dropout, bits=self.bits, dtype=self.dtype
        )

    def __call__(
        self, items: Array, *, train: bool, rows: Array | None = None, users: Array | None = None
    ) -> Interests:
        """Maps ids of items, 0 = padding, right-aligned, [B, L] to one vector, K = 1.

        rows: number of each row, which dropout derives from. users: ids [B], where `num_users` is not 0.
        """
        return of_items(items, self.steps(items, train=train, rows=rows, users=users)[:, -1:])

    def steps(
        self, items: Array, *, train: bool = False, rows: Array | None = None, users: Array | None = None
    ) -> Array:
        """The vector after each event of the session, [B, S, D]."""
        if (users is None) != (self.num_users == 0):
            raise ValueError(f"num_users={self.num_users}: give users [B] with their number, or neither")
        missing = max(self.short_len + 1 - items.shape[1], 0)
        items = jnp.pad(items, ((0, 0), (missing, 0)))
        fields = [self._cast(part) for part in self._fields(items)]
        past, session = items[:, : -self.short_len], items[:, -self.short_len :]
        own = self.user_embedding[0] if users is None else lookup(self.user_embedding, users)
        return self.fusion(
            self._cast(jnp.broadcast_to(own, (items.shape[0], self.dim))),
            jnp.concatenate([part[:, -self.short_len :] for part in fields], axis=-1),
            tuple(part[:, : -self.short_len] for part in fields),
            session != 0,
            past != 0,
            train=train,
            rows=rows,
        )

    def _fields(self, items: Array) -> list[Array]:
        """Vectors of the ids and of each field, [B, L, D] each."""
        own = lookup(self.item_embedding, items)
        if not self.side_sizes:
            return [own]
        ids = jnp.asarray(self.side.value)[items]
        return [own, *(lookup(table, ids[..., s]) for s, table in enumerate(self.side_embeddings))]

    def _cast(self, x: Array) -> Array:
        return x if self.dtype is None else x.astype(self.dtype)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first, as they are scored: [V, D]."""
        return self.item_embedding if self.tied else self.output_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """The vector itself, [B, D]."""
        return interests.vectors[:, 0]
