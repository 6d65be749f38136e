"""Weights for tests: drawn, so that no term of a formula vanishes, and without compiling an initialiser.

Equal modules share what was traced and compiled for one of them: most tests ask for the same few.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_SHAPES: dict[Any, Any] = {}
_PROGRAMS: dict[Any, Callable[..., Any]] = {}


def drawn(module: Any, *inputs: Any, seed: int = 0, **options: Any) -> Any:
    """Variables of a module for given inputs; running variances are positive."""
    shapes = _once(
        _SHAPES,
        lambda: (module, _forms(inputs), _forms(options), jax.dtypes.canonicalize_dtype(float)),
        lambda: jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options)),
    )
    rng = np.random.default_rng(seed)

    def leaf(path: Any, like: Any) -> np.ndarray:
        values = rng.normal(size=like.shape).astype(np.float32)
        return 0.5 + values**2 if path[-1].key == "var" else 0.6 * values

    return jax.tree_util.tree_map_with_path(leaf, {k: v for k, v in shapes.items() if k != "intermediates"})


def applied(module: Any, variables: Any, *inputs: Any, **options: Any) -> Any:
    """`module.apply` as one program: op by op each operation would be compiled for itself."""
    arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray | jax.Array)}
    rest = {name: value for name, value in options.items() if name not in arrays}
    program = _once(
        _PROGRAMS,
        lambda: (module, _forms(rest)),
        lambda: jax.jit(functools.partial(module.apply, **rest)),
    )
    return program(variables, *inputs, **arrays)


def _once(known: dict[Any, Any], key: Callable[[], Any], make: Callable[[], Any]) -> Any:
    """What was made for an equal key; made anew where the key cannot be hashed."""
    try:
        found = key()
        hash(found)
    except TypeError:
        return make()
    if found not in known:
        known[found] = make()
    return known[found]


def _forms(tree: Any) -> Any:
    """Shapes and types of a tree's arrays, and its other leaves themselves."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = (np.ndarray, jax.Array, jax.ShapeDtypeStruct)
    return tuple((x.shape, x.dtype) if isinstance(x, arrays) else x for x in leaves), structure
