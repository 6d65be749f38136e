"""Multi-channel user interest memory network (Pi et al., KDD 2019, arXiv:1905.09248).

Its regularisation is `losses.memory_utilisation`. `remember` and `answer` are its two halves as a server runs
them: one keeps a user's state up to date, event by event, the other scores a target against it.

Departs from the public code: the mean of all that was written, times the target, is no input of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.activation_unit import ActivationUnit, pool
from jaxrec.nn.layers.dice import Dice
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.memory import InterestMemory, MemoryState
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class MIMN(nn.Module):
    """Events are written into a memory whatever the target; the target reads it, and an MLP reads both.

    The MLP sees the features, what the memory answers to the target, and the channels of the induction unit
    pooled with weights that depend on the target. Sows the state as "state", the answer [B, D] as "answer"
    and the pooled channels [B, D] as "interest" into "intermediates".

    Padding may stand on either side of a history and changes nothing. Without an event the target reads the
    learned initial memory.

    Fields:
      dims: hidden layers of the MLP.
      memory: in the docstring of `InterestMemory` stand the values of the public code, which also has
        rebalance="shift", strength=True and key_memory=True.
      attention: weighs the channels, called as in `DIN`; not used where memory.induction is 0.
      sum_pooling: whether the MLP also sees the sum of all events, as in the public code.
      mlp: builds the MLP, see `Tower`.
    """

    dims: Sequence[int] = (200, 80)
    memory: InterestMemory = InterestMemory()
    attention: nn.Module = ActivationUnit(softmax=True)
    sum_pooling: bool = False
    mlp: Callable[..., nn.Module] = Factory(MLP, activation=Dice)

    def setup(self) -> None:
        self.tower = Tower(self.dims, mlp=self.mlp)

    def __call__(
        self, x: Array, target: Array, history: Array, mask: Array, *, train: bool = False
    ) -> Array | dict[str, Array]:
        """Maps features [B, F], target [B, D], events [B, L, D] and their mask [B, L] to a logit [B].

        x are all features beside the history, those of the target too; see `nn.layers.history.WithHistory`.
        In training it gives {"click": [B], "usage": [B, M]}, the latter for `losses.memory_utilisation`.
        """
        return self.score(x, target, self.update(history, mask), train=train)

    def update(self, history: Array, mask: Array, state: MemoryState | None = None) -> MemoryState:
        """The state after events [B, L, D], mask [B, L], that follow `state`; None: they are the first."""
        return self.memory(history, mask, state)

    def score(
        self, x: Array, target: Array, state: MemoryState, *, train: bool = False
    ) -> Array | dict[str, Array]:
        """The rest of `__call__`, from a state."""
        answer = self.memory.read(target, state)
        parts = [x, answer]
        if self.memory.induction:
            everywhere = jnp.ones(state.channels.shape[:2], bool)
            weights = self.attention(target, state.channels, everywhere, train=train)
            parts.append(pool(weights, state.channels))
            self.sow("intermediates", "interest", parts[-1])
        if self.sum_pooling:
            parts.append(state.total)
        self.sow("intermediates", "state", state)
        self.sow("intermediates", "answer", answer)
        click = self.tower(jnp.concatenate(parts, axis=-1), train=train)
        return {"click": click, "usage": self.memory.balance(state)} if train else click


def remember(served: WithHistory, batch: Mapping[str, Array], state: MemoryState | None = None) -> Any:
    """A user's state after the events of `batch`, a pure function of variables, batch and state.

        state = served.apply(variables, batch, state, method=remember)

    batch: columns of the histories, events since `state`; others are not read.
    """
    unread = jnp.zeros(len(batch[served.histories[0]]), jnp.int32)
    others = {field.name: unread for field in served.embedding.fields if field.name not in served.histories}
    (_, _, history, mask), _ = served.inputs({**batch, **others})
    return served.model.update(history, mask, state)  # type: ignore[attr-defined]


def answer(served: WithHistory, batch: Mapping[str, Array], state: MemoryState) -> Any:
    """Logits [B] of the targets of `batch` from states; histories in the batch are not read.

    logits = served.apply(variables, batch, state, method=answer)
    """
    none = jnp.zeros((len(state.read), 1), jnp.int32)
    (x, target, _, _), _ = served.inputs({**batch, **dict.fromkeys(served.histories, none)})
    return served.model.score(x, target, state)  # type: ignore[attr-defined]
