"""ESCM²: counterfactual regularisation of ESMM (Wang et al., SIGIR 2022, arXiv:2204.05125).

The risks that make the difference to ESMM are losses: `inverse_propensity_risk`, `doubly_robust_risk` and
`imputation_risk` in `jaxrec.losses`, with `clipped_propensity` of the click logit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import Gate, bank, mix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.probability import product_logit
from jaxrec.types import Array


class ESCM2(nn.Module):
    """Experts mixed by one gate a tower; towers of click, conversion and, if wanted, the conversion's error.

    Fields:
      impute: whether there is a third tower, which the doubly robust risk needs and that of inverse
        propensities does not.
      error_activation: of the third tower. softplus bounds the imputed error from below alone; the public
        codes have nn.sigmoid, by which no error is imputed to be above 1 nat.
      num_experts, expert_dims: of the experts all towers share. tower_dims: of each tower.
      mlp, gate: build all MLPs and the gates, see `Tower` and `Gate`.

    Shape names: B batch, F features, E experts, D expert width, T towers (3 with `impute`, otherwise 2).
    """

    impute: bool = False
    num_experts: int = 8
    expert_dims: Sequence[int] = (256,)
    tower_dims: Sequence[int] = (64,)
    error_activation: Callable[[Array], Array] = nn.softplus
    mlp: Callable[..., nn.Module] = MLP
    gate: Callable[..., nn.Module] = Gate

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        """Maps features [B, F] to logits [B] of "ctr", "cvr" (given a click) and "ctcvr" (both).

        With `impute` also to "imputed_error" [B], in nats and never negative: what the cross-entropy of "cvr"
        is expected to be, known only where there was a click.
        """
        num_towers = 3 if self.impute else 2
        experts = bank(self.mlp, self.num_experts)(self.expert_dims, name="experts")(
            x, train=train
        )  # [B, E, D]
        gates = bank(self.gate, num_towers)(self.num_experts, name="gate")(x, train=train)  # [B, T, E]
        self.sow("intermediates", "gates", gates)
        towers = bank(Tower, num_towers, in_axes=1)(self.tower_dims, mlp=self.mlp, name="towers")(
            mix(gates, experts), train=train
        )
        ctr, cvr = towers[:, 0], towers[:, 1]
        outputs = {"ctr": ctr, "cvr": cvr, "ctcvr": product_logit(ctr, cvr)}
        return outputs | {"imputed_error": self.error_activation(towers[:, 2])} if self.impute else outputs
