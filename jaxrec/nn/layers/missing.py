"""Numbers that may be missing: a learned value for each column, or a flag beside a given one.

The learned values are the "missing value layer" of Meituan's ranker (technical blog of 2018-03-29, whose text
describes it; its formula is a picture).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.types import Array


class MissingValues(nn.Module):
    """x where it is present, else a value v of the column: [B, F] → [B, F], or [B, 2F] with flags.

    A dense layer after it with `flags` has a vector of its own for each missing column (W x + U m), of which
    a learned v alone is the special case U = W diag(v). So filling in means and adding flags is not weaker
    than the learned values; those need F parameters in place of F times the width of the layer.

    Fields:
      fill: the value of each column, such as the training mean: where learning starts, or what stays; a
        number for all of them.
      learned: whether the values are parameters.
      flags: whether 0 and 1 for present and missing are given too, after the numbers.
    """

    fill: Sequence[float] | float = 0.0
    learned: bool = True
    flags: bool = False

    @nn.compact
    def __call__(self, x: Array, missing: Array) -> Array:
        """Maps numbers [B, F] and which are missing, bool [B, F]; what stands there, NaN too, is not read."""
        width = x.shape[-1]
        if not isinstance(self.fill, (int, float)) and len(self.fill) != width:
            raise ValueError(
                f"fill has {len(self.fill)} values, the input {width} columns; give one for each"
            )
        start = jnp.broadcast_to(jnp.asarray(self.fill, jnp.float32), (width,))
        values = self.param("value", lambda key: start) if self.learned else start
        missing = missing.astype(bool)
        present = jnp.where(missing, 0.0, x)
        found = jnp.where(missing, values.astype(present.dtype), present)
        return jnp.concatenate([found, missing.astype(found.dtype)], axis=-1) if self.flags else found


class WithMissing(nn.Module):
    """Columns of numbers, and for each a column that is above 0 where it is missing, by `MissingValues`.

    Stands in the place of `FeatureEmbedding` in `Featured`. columns: names of the numbers; that of the flag
    ends in `suffix`, as `data.tables.features.Number(missing="indicator")` names it.
    """

    columns: Sequence[str]
    layer: nn.Module
    suffix: str = "_missing"

    def __call__(self, batch: Mapping[str, Array]) -> Array:
        """Maps a batch to [B, F], or [B, 2F] with flags."""
        absent = [n for name in self.columns for n in (name, name + self.suffix) if n not in batch]
        if absent:
            raise ValueError(f"columns {absent} are not in the batch, which has {sorted(batch)}")
        x = jnp.stack([jnp.asarray(batch[name]) for name in self.columns], axis=-1)
        flags = jnp.stack([jnp.asarray(batch[name + self.suffix]) for name in self.columns], axis=-1)
        found: Array = self.layer(x, flags > 0)
        return found
