"""Deep interest network (Zhou et al., KDD 2018, arXiv:1706.06978).

The regularisation of its section 5.2 is `losses.mini_batch_aware`, its metric `metrics.gauc`.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from jaxrec.nn.layers.activation_unit import ActivationUnit, pool
from jaxrec.nn.layers.dice import Activation, Dice
from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.mlp import Tower, mlp_fields
from jaxrec.nn.ranking.din_base import joined
from jaxrec.types import Array


class DIN(nn.Module):
    """The history pooled with weights that depend on the target, and an MLP.

    The order of events and the side of the padding change nothing, and padding itself neither. Sows the
    weights [B, L] and the pooled history [B, D] as "weights" and "interest" into "intermediates".

    Fields:
      dims: hidden layers of the MLP. attention_dims: of the activation unit.
      activation, attention_activation: of either; a function, `Dice` or `PReLU`.
      softmax, temperature, padded_statistics: of the weights, see `ActivationUnit`. The public code is
        softmax=True, temperature=√D, with sigmoid in the unit.
      product: whether the MLP also sees interest ⊙ target, as in the public code.
      dropout, batch_norm, axis_name, bits: of the MLP, see `MLP`.
    """

    dims: Sequence[int] = (200, 80)
    attention_dims: Sequence[int] = (80, 40)
    activation: Activation = Dice
    attention_activation: Activation = Dice
    softmax: bool = False
    temperature: float = 1.0
    padded_statistics: bool = False
    product: bool = False
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, target: Array, history: Array, mask: Array, *, train: bool = False) -> Array:
        """Maps features [B, F], target [B, D], events [B, L, D] and their mask [B, L] to a logit [B].

        x are all features beside the history, those of the target too; see `nn.layers.history.WithHistory`.
        """
        unit = ActivationUnit(
            self.attention_dims,
            self.attention_activation,
            self.softmax,
            self.temperature,
            self.padded_statistics,
            axis_name=self.axis_name,
            name="attention",
        )
        weights = unit(target, history, mask, train=train)
        interest = pool(weights, history)
        self.sow("intermediates", "weights", weights)
        self.sow("intermediates", "interest", interest)
        head = joined(x, interest, target, product=self.product)
        return Tower(self.dims, **mlp_fields(self), name="tower")(head, train=train)
