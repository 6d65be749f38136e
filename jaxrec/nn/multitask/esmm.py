"""Entire-space multi-task model (Ma et al., SIGIR 2018, arXiv:1804.07931).

Departs from the paper: fields are concatenated, not summed within a group, and one logit a tower takes the
place of a two-way softmax, which is the same family of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.probability import product_logit
from jaxrec.types import Array


class ESMM(nn.Module):
    """A click tower and a conversion tower; supervised are click and click-and-conversion, over all examples.

    Conversion after a click is a factor of a product and has no loss of its own. Gradients of the product
    reach both towers.

    Fields as of `Tower`, for both towers. Shape names: B batch, F features.
    """

    tower_dims: Sequence[int] = (360, 200, 80)
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        """Maps features [B, F] to logits [B] of three probabilities.

        "ctr": of a click. "cvr": of a conversion, given a click. "ctcvr": of both, never above either.
        """
        towers = bank(Tower, 2)(self.tower_dims, mlp=self.mlp, name="towers")(x, train=train)
        ctr, cvr = towers[:, 0], towers[:, 1]
        return {"ctr": ctr, "cvr": cvr, "ctcvr": product_logit(ctr, cvr)}
