"""D2Q and Res-D2Q: a watch time's quantile within its group of durations, and the watch time from it.

Zhan et al., KDD 2022, arXiv:2206.06003. Departs from the paper: its network is not given, so the base is any
model of a logit; the residual branch reads the group of the duration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.mlp import Tower
from jaxrec.segments import rows_by_id
from jaxrec.types import Array


class D2Q(nn.Module):
    """One base predicts quantiles for all groups, whose tables make watch times of them.

    The tables are of the collection "constants", which training leaves alone: "starts" [M], the least
    duration of each group, and "times" [M, Q], see `data.tables.duration_groups`. They start as zeros and are
    given, by `tasks.watch_time`.

    Fields:
      base: any model of a logit [B] that reads the batch, the duration among its columns.
      num_groups, num_levels: M and Q, those of the tables.
      residual_dims: layers of a branch of the duration alone, whose logit is added (Res-D2Q); None: without.
      residual_dim: width of the vector of a group in it.
      duration: the column of durations, float [B].
    """

    base: Any
    num_groups: int
    num_levels: int = 1001
    residual_dims: Sequence[int] | None = None
    residual_dim: int = 8
    duration: str = "duration"

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.num_levels < 2:
            raise ValueError(
                f"num_groups={self.num_groups}, num_levels={self.num_levels}: must be at least 1 and 2"
            )
        if self.residual_dims is not None and self.num_groups < 2:
            raise ValueError(
                f"residual_dims={tuple(self.residual_dims)}: with one group there is no duration to tell; "
                "take more groups, or no residual branch"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Maps columns [B] to "quantile", a logit [B], and in evaluation to "watch_time" [B] too."""
        starts = self.variable("constants", "starts", lambda: jnp.zeros(self.num_groups))
        times = self.variable("constants", "times", lambda: jnp.zeros((self.num_groups, self.num_levels)))
        logit = self.base(batch, train=train)
        duration = batch[self.duration]
        group = jnp.searchsorted(starts.value[1:], duration, side="right").astype(jnp.int32)
        if self.residual_dims is not None:
            init = nn.initializers.normal(0.01)
            vectors = self.param("residual_embedding", init, (self.num_groups, self.residual_dim))
            logit = logit + Tower(self.residual_dims, name="residual")(
                rows_by_id(vectors, group), train=train
            )
        if train:
            return {"quantile": logit}
        return {"quantile": logit, "watch_time": time_of_quantile(nn.sigmoid(logit), group, times.value)}


def time_of_quantile(quantile: Array, group: Array, times: Array) -> Array:
    """The watch times of levels in 0..1, on straight lines between the levels of a table.

    quantile [B], group int32 [B], times [M, Q] → [B]. Levels are evenly spaced from 0 to 1.
    """
    steps = times.shape[1] - 1
    place = jnp.clip(quantile * steps, 0.0, steps)
    low = jnp.minimum(jnp.floor(place).astype(jnp.int32), steps - 1)
    below, above = times[group, low], times[group, low + 1]
    return below + (place - low) * (above - below)
