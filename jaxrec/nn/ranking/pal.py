"""Position bias: the chance that a position is seen (PAL), a share of the logit (shallow tower), a feature.

PAL: Guo et al., RecSys 2019, doi:10.1145/3298689.3347033. Shallow tower: Zhao et al., RecSys 2019,
doi:10.1145/3298689.3346997. Both learn from "observed", the click at the position where it happened, and
serve "ctr", which no position enters; `Positioned` and its kin read both from the columns of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup
from jaxrec.nn.layers.probability import product_logit
from jaxrec.segments import rows_by_id
from jaxrec.types import Array

ZEROS = nn.initializers.zeros


class PAL(nn.Module):
    """p(click | x, position) = p(seen | position) · p(click | x, seen).

    Data tell the factors only up to a constant, p(seen) / c and p(click | seen) · c: the order of "ctr" means
    something, its level does not.

    Fields:
      base: any model of a logit [B], called as base(x, train=…).
      num_positions: of 1..num_positions, the first being the top; each has a free probability of being seen.
      seen: a position's logit in the beginning, the same for all.
    """

    base: Any
    num_positions: int
    seen: float = 0.0

    def __post_init__(self) -> None:
        if self.num_positions < 1:
            raise ValueError(f"num_positions={self.num_positions}: must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Any, position: Array | None = None, *, train: bool = False) -> dict[str, Array]:
        """Maps what `base` reads, and positions int32 [B], to logits [B].

        "ctr" of a click on what is seen, "seen", and "observed" of both; without positions "ctr" alone. A
        position that is not in 1..num_positions gives NaN.
        """
        init = nn.initializers.constant(self.seen)
        table = self.param("seen_logits", init, (self.num_positions,))
        ctr = self.base(x, train=train)
        if position is None:
            return {"ctr": ctr}
        known = (position >= 1) & (position <= self.num_positions)
        seen = rows_by_id(table[:, None], jnp.where(known, position - 1, -1))[:, 0]
        return {"ctr": ctr, "seen": seen, "observed": product_logit(seen, ctr)}


class ShallowTower(nn.Module):
    """logit(click | x, position) = base(x) + bias + the weight of the position on the device.

    Departs from the paper: the shallow tower is a weight for each pair of device and position; its layers
    are not given.

    Fields:
      base: any model of a logit [B], called as base(x, train=…).
      num_positions: of 1..num_positions; 0 is a missing one. num_devices: kinds 0..num_devices-1.
      dropout: share of the examples whose position is missing in training, so that serving without one is
        nothing new. bits: random bits for it.
    """

    base: Any
    num_positions: int
    num_devices: int = 1
    dropout: float = 0.1
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        if self.num_positions < 1 or self.num_devices < 1:
            raise ValueError(
                f"num_positions={self.num_positions}, num_devices={self.num_devices}: must be at least 1"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Any, position: Array | None = None, device: Array | None = None, *, train: bool = False
    ) -> dict[str, Array]:
        """Maps what `base` reads, positions and devices, int32 [B] each, to logits [B].

        "ctr", with the bias but without any position, is what a missing position gives; "observed" has the
        position's weight, and is there if positions are. None for devices: all are of kind 0. A position or
        device out of range gives NaN.
        """
        bias = self.param("bias", ZEROS, ())
        table = self.param("weights", ZEROS, (self.num_devices * self.num_positions + 1, 1))
        ctr = self.base(x, train=train) + bias
        if position is None:
            return {"ctr": ctr}
        device = jnp.zeros_like(position) if device is None else device
        known = (position >= 0) & (position <= self.num_positions)
        known &= (device >= 0) & (device < self.num_devices)
        row = jnp.where(position == 0, 0, device * self.num_positions + position)  # row 0: zero, never trains
        weight = lookup(table, jnp.where(known, row, -1))[:, 0]
        kept = Dropout(self.dropout, self.bits)(jnp.ones(weight.shape), train=train) > 0.0
        return {"ctr": ctr, "observed": ctr + jnp.where(kept, weight, 0.0)}


class Positioned(nn.Module):
    """A model of x and positions behind a batch: it reads the columns, and the position where there is one.

    Fields:
      model: such as `PAL` or `ShallowTower`, whose base reads the batch. column: name of the positions.
    """

    model: Any
    column: str = "position"

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Maps columns [B] to the logits of `model`, [B] each."""
        return self.model(batch, batch.get(self.column), train=train)


class Unpositioned(nn.Module):
    """The same face for a model that knows no positions: "ctr" and "observed" are its logit."""

    base: Any

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Maps columns [B] to logits [B]."""
        logit = self.base(batch, train=train)
        return {"ctr": logit, "observed": logit}


class PositionAsFeature(nn.Module):
    """The position is one of the features that `base` reads; served as if all were shown at one position.

    What is served depends on that position (Guo et al., RecSys 2019, compare 1, 5 and 9).

    Fields:
      base: a model of a batch whose features have the column. default: the position that is served.
    """

    base: Any
    default: int = 1
    column: str = "position"

    def __post_init__(self) -> None:
        if self.default < 1:
            raise ValueError(f"default={self.default}: must be at least 1, the top")
        super().__post_init__()

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Maps columns [B] to logits [B]: "ctr" at the default position; "observed" where positions are."""
        size = next(iter(batch.values())).shape[0]
        default = jnp.full(size, self.default, jnp.int32)
        found = {"ctr": self.base({**batch, self.column: default}, train=train)}
        if self.column in batch:
            found["observed"] = self.base(batch, train=train)
        return found
