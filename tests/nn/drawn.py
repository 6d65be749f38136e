"""Weights for tests: drawn, so that no term of a formula vanishes, and without compiling an initialiser."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np


def drawn(module: Any, *inputs: Any, seed: int = 0, **options: Any) -> Any:
    """Variables of a module for given inputs; running variances are positive."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    rng = np.random.default_rng(seed)

    def leaf(path: Any, like: Any) -> np.ndarray:
        values = rng.normal(size=like.shape).astype(np.float32)
        return 0.5 + values**2 if path[-1].key == "var" else 0.6 * values

    return jax.tree_util.tree_map_with_path(leaf, {k: v for k, v in shapes.items() if k != "intermediates"})


def applied(module: Any, variables: Any, *inputs: Any, **options: Any) -> Any:
    """`module.apply` as one program: op by op each operation would be compiled for itself."""
    arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray | jax.Array)}
    rest = {name: value for name, value in options.items() if name not in arrays}
    return jax.jit(functools.partial(module.apply, **rest))(variables, *inputs, **arrays)
