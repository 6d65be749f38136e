"""Deep interest evolution network (Zhou et al., AAAI 2019, arXiv:1809.03672)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.activation_unit import INIT, ActivationUnit, pool, weights_of
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dice import Activation, Dice
from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.mlp import Tower, mlp_fields
from jaxrec.nn.layers.recurrent import GRU, AttentionGRU
from jaxrec.types import Array

EVOLUTIONS = ("augru", "agru", "augru_reversed", "aigru", "gru")
ATTENTIONS = ("bilinear", "unit", "dot", None)


class DIEN(nn.Module):
    """A GRU extracts interests from the history, attention to the target decides how a second one goes on.

    Time runs from left to right. Padding carries the state, so it may stand on either side and changes
    nothing. A user without history has interest 0. Sows the states [B, L, H], those on padding repeating the
    last, as "states", the attention [B, L] as "weights" and the final interest [B, H] as "interest".

    Fields:
      hidden_dim: H of both GRUs; None for the width D of the history, which "unit", "dot" and an inner
        product in the auxiliary loss need.
      evolution: of the second GRU. "augru" (DIEN), "agru", "augru_reversed" (the public code): see
        `AttentionGRU`. "aigru": a GRU of inputs scaled by attention. "gru": two layers, and the states of the
        second are pooled by attention, or without attention the last one is taken.
      attention: "bilinear", h W e (the paper); "unit", DIN's activation unit (the public code); "dot", h e;
        None for "gru" alone. softmax: over the history; False takes the scores as they are.
      attention_dims, attention_activation: of the unit.
      sum_pooling: whether the MLP also sees the sum of the history and its product with the target, as in the
        public code, which also adds the vector of padding.
      aux_dims: hidden sigmoid layers of a network of [state, next event] that gives the auxiliary score
        (100 and 50 in the public code); None takes their inner product (the paper).
      dims: hidden layers of the MLP. activation, dropout, batch_norm, axis_name, bits: of it, see `MLP`.
    """

    dims: Sequence[int] = (200, 80)
    hidden_dim: int | None = None
    evolution: Literal["augru", "agru", "augru_reversed", "aigru", "gru"] = "augru"
    attention: Literal["bilinear", "unit", "dot"] | None = "bilinear"
    softmax: bool = True
    attention_dims: Sequence[int] = (80, 40)
    attention_activation: Activation = Dice
    sum_pooling: bool = False
    aux_dims: Sequence[int] | None = None
    activation: Activation = Dice
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        if self.evolution not in EVOLUTIONS or self.attention not in ATTENTIONS:
            raise ValueError(
                f"evolution={self.evolution!r}, attention={self.attention!r}: must be of {EVOLUTIONS} and "
                f"of {ATTENTIONS}"
            )
        if self.attention is None and self.evolution != "gru":
            raise ValueError(
                f'attention=None: evolution={self.evolution!r} reads it; only "gru" does without'
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Array,
        target: Array,
        history: Array,
        mask: Array,
        *,
        negatives: Array | None = None,
        train: bool = False,
    ) -> Array | dict[str, Array]:
        """Maps features [B, F], target [B, D], events [B, L, D] and their mask [B, L] to a logit [B].

        x are all features beside the history, those of the target too; see `nn.layers.history.WithHistory`.

        With `negatives`, vectors [B, L, D] of an event that did not happen in the place of each, it gives
        {"click": [B], "next": [B, L - 1], "negative": [B, L - 1], "steps": bool [B, L - 1]}: logits of
        the next event being the real one and the negative, and which steps are real, for
        `losses.next_behaviour`. Serving needs none.
        """
        hidden = self.hidden_dim or history.shape[-1]
        states = GRU(hidden, name="extractor")(history, update=mask)
        interest = self._evolved(states, target, mask, hidden, train)
        self.sow("intermediates", "states", states)
        self.sow("intermediates", "interest", interest)
        parts = [x, interest]
        if self.sum_pooling:
            total = pool(mask.astype(history.dtype), history)
            parts += [total, total * target]
        head = jnp.concatenate(parts, axis=-1)
        click = Tower(self.dims, **mlp_fields(self), name="tower")(head, train=train)
        if negatives is None:
            return click
        score = NextScore(self.aux_dims, name="auxiliary")
        return {
            "click": click,
            "next": score(states[:, :-1], history[:, 1:]),
            "negative": score(states[:, :-1], negatives[:, 1:]),
            "steps": mask[:, 1:] & mask[:, :-1],
        }

    def _evolved(self, states: Array, target: Array, mask: Array, hidden: int, train: bool) -> Array:
        """The final interest, [B, H]."""
        if self.evolution == "gru":
            states = GRU(hidden, name="evolver")(states, update=mask)
            return (
                states[:, -1]
                if self.attention is None
                else pool(self._weights(states, target, mask, train), states)
            )
        weights = self._weights(states, target, mask, train)
        if self.evolution == "aigru":
            return GRU(hidden, name="evolver")(weights[..., None] * states, update=mask)[:, -1]
        return AttentionGRU(hidden, self.evolution, name="evolver")(states, weights, update=mask)[:, -1]

    def _weights(self, states: Array, target: Array, mask: Array, train: bool) -> Array:
        """How much each state matters for the target, [B, L]."""
        if self.attention == "unit":
            unit = ActivationUnit(
                self.attention_dims,
                self.attention_activation,
                self.softmax,
                axis_name=self.axis_name,
                name="attention",
            )
            weights = unit(target, states, mask, train=train)
        else:
            keys = states
            if self.attention == "bilinear":
                keys = Dense(target.shape[-1], use_bias=False, kernel_init=INIT, name="attention")(states)
            same_width("attention of the target and the states", target, keys)
            weights = weights_of(jnp.einsum("bld,bd->bl", keys, target), mask, softmax=self.softmax)
        self.sow("intermediates", "weights", weights)
        return weights


class NextScore(nn.Module):
    """Whether an event follows a state: their inner product, or with `dims` a network of both."""

    dims: Sequence[int] | None = None

    @nn.compact
    def __call__(self, state: Array, event: Array) -> Array:
        """Maps [B, L, H] and [B, L, D] to logits [B, L]."""
        if self.dims is None:
            same_width("inner product of states and events", state, event)
            return jnp.sum(state * event, axis=-1)
        return Tower(self.dims, nn.sigmoid, name="network")(jnp.concatenate([state, event], axis=-1))


def same_width(what: str, a: Array, b: Array) -> None:
    """Raises ValueError unless the last axes agree."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"{what}: widths {a.shape[-1]} and {b.shape[-1]} must agree; leave hidden_dim=None")
