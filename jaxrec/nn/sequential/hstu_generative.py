"""HSTU over alternating items and actions (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2).

Each event becomes two tokens: its item, then what the user did with it. From all of one user's events in one
causal sequence Φ0, a0, Φ1, a1, ... one pass answers both questions:

  ranking    at Φi: which action follows, with the candidate itself inside the sequence (target-aware);
  retrieval  at ai: which item comes next, of interest where its action is positive.

Blocks, positions and the division by the padded length are those of `hstu.py`, over tokens in place of
events. The paper's ranking model has further features and a head for each of its tasks; here an action is one
of A.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at
from jaxrec.nn.layers.pointwise_attention import following
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.nn.sequential.hstu import Layer, check_length, check_times, event_number, standard, unit
from jaxrec.types import Array


class GenerativeHSTU(nn.Module):
    """Causal encoder of items and actions with a head for retrieval and one for ranking.

    Shape names: B batch, L events, D dim, A num_actions, V num_items + 1.

    Fields are those of `HSTU`, except:
      num_actions: actions are 1..A, such as ratings; 0 is not known (yet) and has no token.
      max_len: most events of a row; it has 2 (max_len + spare_slots) tokens.
      head_dim: inner width of the ranking head.
    """

    num_items: int
    num_actions: int
    dim: int = 50
    num_layers: int = 2
    num_heads: int = 1
    key_dim: int = 50
    value_dim: int = 50
    max_len: int = 200
    spare_slots: int = 0
    head_dim: int = 64
    dropout: float = 0.2
    linear_dropout: float = 0.2
    time_bias: bool = True
    norm_epsilon: float = 1e-6
    block: int | None = None
    bits: Bits = threefry_bits
    dtype: Any = None

    @property
    def reads_times(self) -> bool:
        """Whether outputs depend on when events happened: `tasks.generative` then gives their times."""
        return self.time_bias

    def setup(self) -> None:
        check_sizes(self, "num_items", "num_actions", "dim", "num_heads", "key_dim", "value_dim", "max_len")
        check_sizes(self, "num_layers", at_least=0)
        tokens = 2 * (self.max_len + self.spare_slots)
        init = pad_row(nn.initializers.truncated_normal(0.02))
        self.item_embedding = self.param("item_embedding", init, (self.num_items + 1, self.dim))
        self.action_embedding = self.param("action_embedding", init, (self.num_actions + 1, self.dim))
        self.position_embedding = self.param(
            "position_embedding", nn.initializers.truncated_normal(self.dim**-0.5), (tokens, self.dim)
        )
        self.drop = Dropout(self.dropout, self.bits)
        self.layers = [
            Layer(
                num_heads=self.num_heads,
                key_dim=self.key_dim,
                value_dim=self.value_dim,
                slots=tokens,
                dropout=self.linear_dropout,
                activation=nn.silu,
                concat_ua=False,
                relative_bias=True,
                time_bias=self.time_bias,
                norm_epsilon=self.norm_epsilon,
                block=self.block,
                bits=self.bits,
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            for i in range(self.num_layers)
        ]
        self.head = nn.Sequential(
            [Dense(self.head_dim, dtype=self.dtype), nn.silu, Dense(self.num_actions, dtype=self.dtype)]
        )

    def __call__(
        self,
        items: Array,
        actions: Array,
        *,
        times: Array | None = None,
        target_times: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """Maps events [B, L] to {"hidden": [B, L, D], "action": [B, L, A]}.

        hidden: the state after each event and its action, of length 1, so that a product with `item_table` is
        a cosine; 0 where the action is 0. action: logits of actions 1..A for each event's item, which read
        neither its own action nor anything later; 0 on padding. A candidate is an event at the end whose
        action is 0.

        Args:
          items, actions: ids in order of time, 0 = padding on either side, [B, L].
          times: when each event happened, whole seconds, [B, L]; None: all at once. An action is predicted
            for the time of its event.
          target_times: when the item after each event was chosen, whole seconds, [B, L]. None: the time in
            the slot after it, and its own in a row's or segment's last slot.
          segments, rows: as of `HSTU`.

        Raises:
          ValueError: a row of one user is longer than max_len + spare_slots; as of `HSTU` for the times.
        """
        check_length(items, segments, self.max_len + self.spare_slots)
        check_times(times, target_times, self.time_bias)
        actions = jnp.where(items != 0, actions, 0)
        tokens = in_turn(items, actions)
        if times is not None:
            target_times = in_turn(
                times, following(times, segments) if target_times is None else target_times
            )
            times = in_turn(times, times)
        segments = None if segments is None else in_turn(segments, segments)
        real = (tokens != 0)[..., None]
        x = in_turn(lookup(self.item_embedding, items), lookup(self.action_embedding, actions))
        x = x * math.sqrt(self.dim)
        x = x + rows_at(self.position_embedding, event_number(tokens, segments))
        x = jnp.where(real, self.drop(x, train=train, rows=rows), 0.0)
        for layer in self.layers:
            y = layer(
                x,
                items=tokens,
                segments=segments,
                times=times,
                target_times=target_times,
                train=train,
                rows=rows,
            )
            x = jnp.where(real, y, 0.0)
        content, action = x[:, ::2], x[:, 1::2]
        logits = self.head(standard(content, self.norm_epsilon)).astype(jnp.float32)
        return {
            "hidden": unit(action, self.norm_epsilon),
            "action": jnp.where((items != 0)[..., None], logits, 0.0),
        }

    def item_table(self) -> Array:
        """Vectors of all ids, padding first, each of length 1 (padding: 0): [V, D]."""
        return unit(self.item_embedding, self.norm_epsilon)


def in_turn(first: Array, second: Array) -> Array:
    """first[:, 0], second[:, 0], first[:, 1], ...: two of [B, L, ...] → [B, 2L, ...].

    >>> in_turn(jnp.array([[1, 2]]), jnp.array([[7, 8]])).tolist()
    [[1, 7, 2, 8]]
    """
    both = jnp.stack([first, second], axis=2)
    return both.reshape(both.shape[0], -1, *both.shape[3:])
