"""Functions under test as one program: op by op, each operation and shape would be compiled for itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@functools.cache
def _program(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    return jax.jit(function, static_argnames=names)


def run(function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """`function` compiled, its outputs as NumPy arrays; options that are no arrays are constants."""
    constants = [name for name, value in options.items() if not isinstance(value, np.ndarray | jax.Array)]
    return jax.tree.map(np.asarray, _program(function, tuple(sorted(constants)))(*inputs, **options))
