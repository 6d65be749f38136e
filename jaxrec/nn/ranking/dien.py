"""Deep interest evolution network (Zhou et al., AAAI 2019, arXiv:1809.03672)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.activation_unit import INIT, pool, weights_of
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dice import Dice
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.recurrent import GRU, AttentionGRU
from jaxrec.types import Array

EVOLUTIONS = ("augru", "agru", "augru_reversed", "aigru", "gru")
ATTENTIONS = ("bilinear", "dot", None)


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
      attention: "bilinear", h W e (the paper); "dot", h e; a module, called as in `DIN`, such as
        ActivationUnit(softmax=True) (the public code); None for "gru" alone.
      softmax: whether the weights of "bilinear" and "dot" are a softmax over the history; False takes the
        scores as they are.
      sum_pooling: whether the MLP also sees the sum of the history and its product with the target, as in the
        public code, which also adds the vector of padding.
      aux_dims: hidden sigmoid layers of a network of [state, next event] that gives the auxiliary score
        (100 and 50 in the public code); None takes their inner product (the paper).
      dims, mlp: of the MLP, see `Tower`.
    """

    dims: Sequence[int] = (200, 80)
    hidden_dim: int | None = None
    evolution: Literal["augru", "agru", "augru_reversed", "aigru", "gru"] = "augru"
    attention: Literal["bilinear", "dot"] | nn.Module | None = "bilinear"
    softmax: bool = True
    sum_pooling: bool = False
    aux_dims: Sequence[int] | None = None
    mlp: Callable[..., nn.Module] = Factory(MLP, activation=Dice)

    def __post_init__(self) -> None:
        known = isinstance(self.attention, nn.Module) or self.attention in ATTENTIONS
        if self.evolution not in EVOLUTIONS or not known:
            raise ValueError(
                f"evolution={self.evolution!r}, attention={self.attention!r}: must be of {EVOLUTIONS} and "
                f"of {ATTENTIONS} or a module such as ActivationUnit()"
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
        click = Tower(self.dims, mlp=self.mlp, name="tower")(head, train=train)
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
        if isinstance(self.attention, nn.Module):
            weights = self.attention(target, states, mask, train=train)
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
        tower = Tower(self.dims, mlp=Factory(MLP, activation=nn.sigmoid), name="network")
        return tower(jnp.concatenate([state, event], axis=-1))


def same_width(what: str, a: Array, b: Array) -> None:
    """Raises ValueError unless the last axes agree."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"{what}: widths {a.shape[-1]} and {b.shape[-1]} must agree; leave hidden_dim=None")
