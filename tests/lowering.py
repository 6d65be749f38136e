"""What a program becomes on accelerators that the machine need not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.interpreters import mlir


def repeated_float_adds(traced: jax.stages.Traced, platform: str) -> list[str]:
    """The float scatters of a program, lowered for a platform, that add and may meet an id twice."""
    module = traced.lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
    found: list[str] = []

    def visit(operation: Any) -> Any:
        if operation.name == "stablehlo.scatter" and _adds_floats(operation):
            found.append(f"{operation.results[0].type} at {operation.location}")
        return mlir.ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _adds_floats(scatter: Any) -> bool:
    attributes = scatter.attributes
    if "unique_indices" in attributes and attributes["unique_indices"].value:
        return False
    inner = {operation.operation.name for block in scatter.regions[0] for operation in block}
    kind = str(mlir.ir.RankedTensorType(scatter.results[0].type).element_type)
    return "stablehlo.add" in inner and kind.startswith(("f", "bf"))


def closed_over(run: Callable[..., Any], *arguments: Any) -> int:
    """Entries of the largest array that a function reads and is not given: a constant of its program."""
    constants = jax.make_jaxpr(run)(*arguments).consts
    return max((int(np.size(constant)) for constant in constants), default=0)
