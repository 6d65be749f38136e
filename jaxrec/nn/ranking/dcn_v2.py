"""DCN-V2, deep and cross networks (Wang et al., WWW 2021, arXiv:2008.13535)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.interaction import INIT, CrossNetwork
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array


class DCNv2(nn.Module):
    """A cross network with an MLP after it, beside it, both or neither, and a linear layer to one logit.

    Fields:
      cross: `CrossNetwork`, of full or low rank, `CrossNetworkMix` or `CrossNetworkV1`; None: the first with
        its defaults.
      stacked_dims: widths of the MLP that reads the cross network, () for none.
      parallel_dims: widths of the MLP that reads the features, () for none.
      mlp: builds both, see `Tower`.
    """

    cross: nn.Module | None = None
    stacked_dims: Sequence[int] = ()
    parallel_dims: Sequence[int] = (768, 768)
    mlp: Callable[..., nn.Module] = Factory(MLP, kernel_init=INIT)

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, d] to a logit [B]."""
        crossed = (self.cross or CrossNetwork(name="cross_network"))(x)
        self.sow("intermediates", "crossed", crossed)
        outputs = [self.mlp(self.stacked_dims, name="stacked")(crossed, train=train)]
        if self.parallel_dims:
            outputs.append(self.mlp(self.parallel_dims, name="parallel")(x, train=train))
        return nn.Dense(1, kernel_init=INIT, name="logit")(jnp.concatenate(outputs, axis=-1))[..., 0]
