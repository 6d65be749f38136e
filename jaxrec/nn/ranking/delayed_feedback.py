"""The delayed feedback model: whether a click converts, and how fast (Chapelle, KDD 2014, section 4).

The paper's two functions are linear in the same sparse features, as with dims=(); here they may be towers
over shared embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class DelayedFeedback(nn.Module):
    """Two towers: the logit of a conversion, and the logarithm of the rate of its delay.

    dims, mlp: of the hidden layers of both, see `Tower`.
    """

    dims: Sequence[int] = ()
    mlp: Callable[..., nn.Module] = Factory(MLP)

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        """Maps features [B, F] to {"conversion": logit [B], "log_rate": [B]}, per unit of the delays."""
        return {
            name: Tower(self.dims, mlp=self.mlp, name=name)(x, train=train)
            for name in ("conversion", "log_rate")
        }
