"""Variables that a run begins with in place of those it would draw: checked, described, put into its state.

A tree as `Fitted.variables` is: with a leading axis of seeds, or without one, so that all seeds begin alike.
What a task learns anew, such as the head behind a pre-trained body, is named apart and drawn as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.train.identity import described_array
from jaxrec.types import Array, Variables

# prefixes of paths, such as ["params/head"], or (variables) -> a tree of bool, as the masks of optax are
Marks = Sequence[str] | Callable[[Variables], Any]
# (variables as drawn, with an axis of seeds; these seeds) -> those to begin with, with the same axis
MakeInitial = Callable[[Variables, Sequence[int]], Variables]
SHOWN = 5  # of a long list of paths


class Initial(NamedTuple):
    """Values by path, such as "params/head/kernel"; by_seed: whether each has a leading axis of seeds."""

    values: Mapping[str, Any]
    by_seed: bool


def check_marks(initial: Any, newly_initialised: Marks) -> None:
    """Raises ValueError for marks of variables to be drawn where none are given, so that all are drawn."""
    if initial is None and newly_initialised:
        raise ValueError(
            f"newly_initialised={newly_initialised!r}: goes with initial; without it all is drawn"
        )


def check_initial(
    initial: Variables, newly_initialised: Marks, expected: Variables, num_seeds: int
) -> Initial:
    """The values that a run of these seeds begins with. expected: the shapes of what its task draws.

    Raises:
      ValueError: a variable is missing that is not marked as newly initialised, one is not the task's, has
        another shape or type, or a value that is not finite; a prefix fits nothing, or nothing is left.
    """
    wanted, given = _by_path(expected), _by_path(initial)
    new, left_out = _marked(newly_initialised, expected, initial)
    wanted = {path: leaf for path, leaf in wanted.items() if path not in new}
    given = {path: leaf for path, leaf in given.items() if path not in left_out}
    if not wanted:
        raise ValueError("newly_initialised: marks every variable, so that nothing is left of initial")
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing:
        raise ValueError(
            f"initial: lacks {_listed(missing)}, which the task has; give them, or name them in "
            "newly_initialised to have them drawn as usual"
        )
    if extra:
        raise ValueError(
            f"initial: the task has no {_listed(extra)}, but {_listed(sorted(wanted))}; leave them out, or "
            "give the variables of the same model"
        )
    values = {path: _array(given[path]) for path in sorted(wanted)}
    by_seed = _has_seeds_axis(values, wanted, num_seeds)
    for path, value in values.items():
        if jnp.issubdtype(value.dtype, jnp.inexact):
            bad = value.size - int(np.isfinite(np.asarray(value)).sum())
            if bad:
                raise ValueError(
                    f"initial: {path}: {bad:,} of {value.size:,} values are NaN or infinite; take an earlier "
                    "checkpoint, or train it with a lower learning rate"
                )
    return Initial(values, by_seed)


def _array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _by_path(tree: Variables) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_path(path): leaf for path, leaf in leaves}


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _marked(marks: Marks, expected: Variables, initial: Variables) -> tuple[set[str], set[str]]:
    """Paths that are newly initialised: of what is drawn, and of what was given."""
    if callable(marks):
        trees = [_by_path(marks(tree)) for tree in (expected, initial)]
        drawn, given = ({path for path, marked in tree.items() if marked} for tree in trees)
        return drawn, given
    prefixes = [marks] if isinstance(marks, str) else list(marks)
    paths = _by_path(expected).keys()
    for prefix in prefixes:
        if not any(_is_below(path, prefix) for path in paths):
            raise ValueError(
                f"newly_initialised: {prefix!r} fits no variable of the task; it has {_listed(sorted(paths))}"
            )
    found = (
        {path for path in every if any(_is_below(path, prefix) for prefix in prefixes)}
        for every in (paths, _by_path(initial).keys())
    )
    return next(found), next(found)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix.rstrip('/')}/")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def _has_seeds_axis(values: Mapping[str, Any], wanted: Mapping[str, Any], num_seeds: int) -> bool:
    """Whether all values have a leading axis of seeds. Raises ValueError for any other shape or type."""
    alone: list[str] = []
    by_seed: list[str] = []
    for path, value in values.items():
        shape, dtype = tuple(wanted[path].shape), wanted[path].dtype
        if value.dtype != dtype or value.shape not in (shape, (num_seeds, *shape)):
            raise ValueError(
                f"initial: {path} is {value.dtype}{list(value.shape)}, expected {dtype}{list(shape)}, or "
                f"{dtype}{[num_seeds, *shape]} with values for each of {num_seeds} seeds; give the variables "
                "of the same model and seeds, or name it in newly_initialised to have it drawn as usual"
            )
        (alone if value.shape == shape else by_seed).append(path)
    if alone and by_seed:
        raise ValueError(
            f"initial: {_listed(by_seed)} with an axis of seeds and {_listed(alone)} without; give all with, "
            "or all without"
        )
    return bool(by_seed)


def pick_seeds(
    tree: Variables | MakeInitial | None,
    checked: Initial | None,
    seeds: Sequence[int],
    chosen: Sequence[int],
) -> Variables | MakeInitial | None:
    """The part of given variables that belongs to some of the seeds, as `check_initial` takes it again."""
    if tree is None or callable(tree) or checked is None or not checked.by_seed:
        return tree
    at = np.array([list(seeds).index(seed) for seed in chosen])

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf[at] if _path(path) in checked.values else leaf

    picked: Variables = jax.tree_util.tree_map_with_path(pick, tree)
    return picked


def description(checked: Initial, num_seeds: int) -> dict[str, list[str]]:
    """Type, shape and checksum of every value, for each seed: a run that begins otherwise is another one."""
    found = {}
    for path, value in checked.values.items():
        array = np.asarray(value)
        each = list(array) if checked.by_seed else [array]
        found[path] = [described_array(np.asarray(one)) for one in each]
        found[path] *= num_seeds // len(found[path])
    return found


def put_in(drawn: Variables, values: Mapping[str, Array]) -> Variables:
    """Drawn variables of one seed, with the given ones in place of those of the same path."""
    merged: Variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: values.get(_path(path), leaf), drawn
    )
    return merged
