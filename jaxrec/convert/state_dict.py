"""Which array of a PyTorch state_dict stands where in our variables, and the way there and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.nn.layers.features import Categorical
from jaxrec.types import Variables

State = Mapping[str, np.ndarray]
IGNORED = "num_batches_tracked"  # of PyTorch's batch norm: counts steps, and nothing reads it


class Location(NamedTuple):
    """One array of ours, or one member of it.

    path: from the collection on, such as ("params", "towers", "layer_0", "kernel").
    member: numbers along the leading axes, where a bank holds several of theirs in one array; None adds an
        axis of length 1, where theirs is [1, n] and ours [n]; a slice keeps an axis.
    turned: whether theirs is [out, in] and ours [in, out], or more axes the other way round.
    padded: whether ours is a table with one more row in front, for the padding id 0: theirs starts with the
        first value, so that our ids are theirs plus 1.
    order: along `axis` of theirs, the numbers of its entries in our order; () where that is the same.
    """

    path: tuple[str, ...]
    member: tuple[int | slice | None, ...] = ()
    turned: bool = False
    padded: bool = False
    order: tuple[int, ...] = ()
    axis: int = 0


Locations = dict[str, Location]


class Converted(NamedTuple):
    """A module, its variables, and where each array of the other code base stands in them."""

    module: Any
    variables: Variables
    locations: Locations


def convert(module: Any, state: State, locations: Locations, *inputs: Any, **options: Any) -> Converted:
    """A module with the weights of a state_dict; `inputs` and `options` are what it could be applied to.

    Raises:
      ValueError: a parameter is missing, not understood, not finite, or of another shape than the module's.
    """
    state = {key: value for key, value in state.items() if not key.endswith(IGNORED)}
    missing, unknown = sorted(set(locations) - set(state)), sorted(set(state) - set(locations))
    if missing or unknown:
        raise ValueError(
            f"missing: {', '.join(missing) or 'none'}; not understood: {', '.join(unknown) or 'none'}; "
            "a state_dict must hold exactly the parameters of one model"
        )
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    for key, location in locations.items():
        value = np.asarray(state[key])
        if not np.issubdtype(value.dtype, np.floating) or not np.isfinite(value).all():
            raise ValueError(f"{key}: {value.dtype} {value.shape} must hold finite floating-point weights")
        ours = _part(variables, location)
        if ours.shape != value.shape:
            raise ValueError(f"{key}: shape {value.shape}, but the other parameters imply {ours.shape}")
        ours[...] = np.take(value, location.order, location.axis) if location.order else value
    return Converted(module, variables, locations)


def to_state(variables: Variables, locations: Locations) -> dict[str, np.ndarray]:
    """The way back, of variables or gradients of them: those of `locations` whose collection is there."""
    variables = jax.tree.map(np.asarray, variables)
    state = {
        key: np.array(_part(variables, location))
        for key, location in locations.items()
        if location.path[0] in variables
    }
    for key, location in locations.items():
        if key in state and location.order:
            state[key] = np.take(state[key], np.argsort(location.order), location.axis)
    return state


def _part(variables: Any, location: Location) -> np.ndarray:
    """A view of what stands at a location, in the shape it has on the other side."""
    for name in location.path:
        variables = variables[name]
    value = variables[location.member][1:] if location.padded else variables[location.member]
    return value.T if location.turned else value


def dense(key: str, path: tuple[str, ...], *member: int, use_bias: bool = True) -> Locations:
    """Of a torch Linear `key` and a Flax Dense at `path` in the parameters."""
    kernel = {f"{key}.weight": Location(("params", *path, "kernel"), member, turned=True)}
    return kernel | ({f"{key}.bias": Location(("params", *path, "bias"), member)} if use_bias else {})


def batch_norm(key: str, path: tuple[str, ...], *member: int) -> Locations:
    """Of a torch BatchNorm1d `key` and a Flax BatchNorm at `path`."""
    return {
        f"{key}.weight": Location(("params", *path, "scale"), member),
        f"{key}.bias": Location(("params", *path, "bias"), member),
        f"{key}.running_mean": Location(("batch_stats", *path, "mean"), member),
        f"{key}.running_var": Location(("batch_stats", *path, "var"), member),
    }


def tables(state: State, key: str, path: tuple[str, ...]) -> tuple[tuple[Categorical, ...], Locations]:
    """Embedding tables `key.<feature>.weight`, in their order: our fields, and the locations of their tables.

    Every table gets a row in front for the padding id 0, so a batch holds their ids plus 1.
    """
    names = [found[1] for k in state if (found := re.fullmatch(rf"{re.escape(key)}\.(.+)\.weight", k))]
    if not names:
        raise ValueError(f"{key}.<feature>.weight: no such table; the file has {', '.join(sorted(state))}")
    sizes = {name: shape(state, f"{key}.{name}.weight") for name in names}
    fields = tuple(Categorical(name, size[0] + 1, size[1]) for name, size in sizes.items())
    paths = {name: ("params", *path, f"{name}_embedding") for name in names}
    return fields, {f"{key}.{name}.weight": Location(paths[name], padded=True) for name in names}


def shape(state: State, key: str) -> tuple[int, ...]:
    """The shape of one array.

    Raises:
      ValueError: it is not there.
    """
    if key not in state:
        raise ValueError(f"{key}: missing; the file has {', '.join(sorted(state)) or 'nothing'}")
    return tuple(state[key].shape)


def count(state: State, pattern: str, *, least: int = 1) -> int:
    """How many numbers, from 0 on, `pattern` finds in the names: 1 + the largest of its first group.

    Raises:
      ValueError: fewer than `least`.
    """
    found = 1 + max((int(hit[1]) for key in state if (hit := re.match(pattern, key))), default=-1)
    if found < least:
        raise ValueError(f"{pattern}: found in no name; the file has {', '.join(sorted(state)) or 'nothing'}")
    return found
