"""ESM²: post-click behaviour decomposition (Wen et al., SIGIR 2020, arXiv:1910.07099).

Departs from the paper: one logit a tower in place of a two-way softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.probability import mixture_logit, product_logit
from jaxrec.types import Array


class ESM2(nn.Module):
    """ESMM with an action between click and purchase (cart or wish list), after which a purchase is likelier.

    Supervised over all examples are "ctr", "ctavr" and "ctcvr"; the others follow as products and mixtures.

    Fields as of `Tower`, for all towers. Shape names: B batch, F features.
    """

    tower_dims: Sequence[int] = (512, 256, 128, 32)
    mlp: Callable[..., nn.Module] = Factory(MLP, dropout=0.5)

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        """Maps features [B, F] to the logits [B] of seven probabilities.

        "ctr": of a click. "avr": of the action, given a click. "cvr_after_action" and "cvr_otherwise": of a
        purchase, given a click with the action, or without it. "cvr": of a purchase, given a click. "ctavr":
        of click and action. "ctcvr": of click and purchase.
        """
        towers = bank(Tower, 4)(self.tower_dims, mlp=self.mlp, name="towers")(x, train=train)
        ctr, avr, after, otherwise = towers.T
        cvr = mixture_logit(avr, after, otherwise)
        return {
            "ctr": ctr,
            "avr": avr,
            "cvr_after_action": after,
            "cvr_otherwise": otherwise,
            "cvr": cvr,
            "ctavr": product_logit(ctr, avr),
            "ctcvr": product_logit(ctr, cvr),
        }
