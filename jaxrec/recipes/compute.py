"""How the blocks of a model are computed: settings that change a result by rounding, or not at all."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

LATER = "later"  # in a field's metadata: a run's settings name it only where it has not its default


def later(default: Any) -> Any:
    """A field that came after runs were kept, whose settings do not name it; they have its default."""
    return dataclasses.field(default=default, metadata={LATER: True})


@dataclasses.dataclass(frozen=True)
class DataType:
    """The setting of models whose products can be computed in less precision."""

    dtype: Literal["float32", "bfloat16"] = later("float32")  # of products; parameters stay float32


@dataclasses.dataclass(frozen=True)
class Compute(DataType):
    """The settings of models that are made of blocks, too."""

    remat: bool = later(False)  # blocks are computed again in the backward pass, for less memory


def dtype_of(recipe: Any) -> Any:
    """The `dtype` of a recipe as modules take it."""
    return None if recipe.dtype == "float32" else jnp.bfloat16


def without_defaults(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass, without those of later fields that have their defaults."""
    left_out = {
        field.name
        for field in dataclasses.fields(config)
        if field.metadata.get(LATER) and values.get(field.name) == field.default
    }
    return {name: value for name, value in values.items() if name not in left_out}
