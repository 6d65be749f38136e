"""Deep interest network (Zhou et al., KDD 2018, arXiv:1706.06978).

The regularisation of its section 5.2 is `losses.mini_batch_aware`, its metric `metrics.gauc`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.activation_unit import ActivationUnit, pool
from jaxrec.nn.layers.dice import Dice
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.ranking.din_base import joined
from jaxrec.types import Array


class DIN(nn.Module):
    """The history pooled with weights that depend on the target, and an MLP.

    The order of events and the side of the padding change nothing, and padding itself neither. Sows the
    weights [B, L] and the pooled history [B, D] as "weights" and "interest" into "intermediates".

    Fields:
      dims: hidden layers of the MLP.
      attention: `ActivationUnit`, or another module that maps a target [B, D], events [B, L, D] and their
        mask [B, L] to weights [B, L]. The public code is ActivationUnit(activation=nn.sigmoid, softmax=True,
        temperature=√D).
      product: whether the MLP also sees interest ⊙ target, as in the public code.
      mlp: builds the MLP, see `Tower`.
    """

    dims: Sequence[int] = (200, 80)
    attention: nn.Module = ActivationUnit()
    product: bool = False
    mlp: Callable[..., nn.Module] = Factory(MLP, activation=Dice)

    @nn.compact
    def __call__(self, x: Array, target: Array, history: Array, mask: Array, *, train: bool = False) -> Array:
        """Maps features [B, F], target [B, D], events [B, L, D] and their mask [B, L] to a logit [B].

        x are all features beside the history, those of the target too; see `nn.layers.history.WithHistory`.
        """
        weights = self.attention(target, history, mask, train=train)
        interest = pool(weights, history)
        self.sow("intermediates", "weights", weights)
        self.sow("intermediates", "interest", interest)
        head = joined(x, interest, target, product=self.product)
        return Tower(self.dims, mlp=self.mlp, name="tower")(head, train=train)
