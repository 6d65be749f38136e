"""A few labelled impressions and a small multi-task model for the tests of tasks and training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrec.tasks.multitask import Target
from jaxrec.types import Array

NUM_ROWS, BATCH = 11, 8


def columns(seed: int = 0, **other: Any) -> dict[str, Any]:
    """Features, a click, and a conversion whose label is NaN where there was no click."""
    rng = np.random.default_rng(seed)
    click = rng.random(NUM_ROWS) < 0.6
    bought = rng.integers(0, 2, NUM_ROWS).astype(np.float32)
    found = {
        "x": rng.normal(size=(NUM_ROWS, 3)).astype(np.float32),
        "label/click": click.astype(np.float32),
        "label/buy": np.where(click, bought, np.nan).astype(np.float32),
        "space/buy": click,
    }
    return {name: jnp.asarray(column) for name, column in (found | other).items()}


def rows(*ids: int) -> dict[str, Any]:
    """A step's rows: these impressions, and a masked tail."""
    mask = np.arange(BATCH) < len(ids)
    return {"example": jnp.array([*ids, *[0] * (BATCH - len(ids))], jnp.int32), "mask": jnp.asarray(mask)}


class Bottom(nn.Module):
    """A shared layer, marked as what tasks share, and a linear head a task."""

    dim: int = 4
    num_tasks: int = 2
    batch_norm: bool = False

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        x = nn.Dense(self.dim, name="bottom")(batch["x"])
        if self.batch_norm:
            x = nn.BatchNorm(not train, momentum=0.9, name="norm")(x)
        x = self.perturb("shared", nn.tanh(x))
        return nn.Dense(self.num_tasks, name="heads")(x)

    def size(self) -> Array:
        """Something that depends on parameters alone."""
        return jnp.sum(self.get_variable("params", "bottom")["kernel"] ** 2)


TARGETS = (Target("click", 0, "label/click"), Target("buy", 1, "label/buy", space="space/buy"))
