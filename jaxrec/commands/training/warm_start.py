"""Variables that a run begins with: those of an earlier run, and vectors that are given.

Rows of tables belong to raw ids. Which axes of a variable have a row for each id is read from the model: they
are those that are longer in the same model of a larger vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrec.commands.training.prepared import Prepared, Shapes
from jaxrec.data.tables.features import Encoders
from jaxrec.serve import run_folder
from jaxrec.serve.run_folder import Kept
from jaxrec.types import Variables

PARAMS = "params"


def initial_options(prepared: Prepared, model: str, warm_start: str, seeds: Sequence[int]) -> dict[str, Any]:
    """`initial` and `newly_initialised` of `train.fit.fit` for a run; {} where all variables are drawn.

    warm_start: the folder of a finished run of the same model, or "".

    Raises:
      ValueError: the folder holds no finished run, or one of another model, of other sizes, or with another
        number of seeds than 1 or that of `seeds`; it has no id in common with this run.
    """
    if warm_start:
        kept = run_folder.read(warm_start)
        return {"initial": carried_over(prepared, kept, model, warm_start, seeds)}
    if prepared.constants:
        return {"initial": dict(prepared.constants), "newly_initialised": [PARAMS]}
    return {}


def carried_over(
    prepared: Prepared, kept: Kept, model: str, folder: str, seeds: Sequence[int]
) -> Callable[[Variables, Sequence[int]], Variables]:
    """(drawn variables, seeds) -> those of an earlier run, with drawn rows for ids that it did not have.

    What training alone has, such as the states of sessions read side by side, stays as it is drawn.

    Raises:
      ValueError: as `initial_options`.
    """
    where, shapes = f"warm_start={folder!r}", prepared.shapes
    if shapes is None:
        raise ValueError(
            f"{where}: a run of {model} keeps its final vectors or counts, not the parameters that it was "
            "trained from; train it anew"
        )
    before = kept.settings.get("model", kept.name)
    if before != model:
        raise ValueError(f"{where}: is a run of {before}, not of {model}; name a run of the same model")
    if len(kept.seeds) not in (1, len(seeds)):
        raise ValueError(
            f"{where}: has {len(kept.seeds)} seeds and this run {len(seeds)}; give as many, or start from a "
            "run of one seed"
        )
    rows = _rows_of_ids(where, vocabularies_of(kept), prepared.vocabularies)
    axes = axes_of_ids(shapes, list(rows))
    values = _by_path(kept.variables)
    expected = _by_path(shapes({}))
    constants = _by_path(prepared.constants)
    for path, shape in expected.items():
        if path not in constants:
            _check_shape(where, path, values, shape.shape, axes.get(path, {}), rows)

    def initial(drawn: Variables, drawn_seeds: Sequence[int]) -> Variables:
        at = [0 if len(kept.seeds) == 1 else list(seeds).index(seed) for seed in drawn_seeds]

        def of_path(path: tuple[Any, ...], leaf: Any) -> Any:
            name, array = _path(path), np.asarray(leaf)
            if name not in expected:
                return array
            if name in constants:
                return np.broadcast_to(constants[name], array.shape)
            old = np.asarray(values[name])[at]
            return move_rows(old, array, {axis + 1: rows[v] for axis, v in axes.get(name, {}).items()})

        moved: Variables = jax.tree_util.tree_map_with_path(of_path, drawn)
        return moved

    return initial


def vocabularies_of(kept: Kept) -> dict[str, np.ndarray]:
    """Raw ids of a run by vocabulary, in the order of their numbers."""
    if kept.encoders is not None:
        return known_values(kept.encoders)
    return {name: np.asarray(raw) for name, raw in kept.vocabulary.items()}


def known_values(encoders: Encoders) -> dict[str, np.ndarray]:
    """Values of each vocabulary of encoders, in the order of their ids."""
    return {field.vocabulary: field.raw for field in encoders.fields if field.kind != "numeric"}


def axes_of_ids(shapes: Shapes, names: Sequence[str]) -> dict[str, dict[int, str]]:
    """{path of a variable: {axis: vocabulary whose ids it has}}."""
    plain = _by_path(shapes({}))
    found: dict[str, dict[int, str]] = {}
    for name in names:
        for path, larger in _by_path(shapes({name: 1})).items():
            for axis, (a, b) in enumerate(zip(plain[path].shape, larger.shape, strict=True)):
                if a != b:
                    found.setdefault(path, {})[axis] = name
    return found


def move_rows(old: np.ndarray, drawn: np.ndarray, rows: Mapping[int, np.ndarray]) -> np.ndarray:
    """`drawn` with the values of `old` wherever all axes have a row of it.

    rows: {axis: for each id the row of the old axis, -1 for none}. Rows before the first id (padding, missing
    values) stand at the start of both.

    >>> move_rows(np.array([0, 1, 2]), np.array([7, 8, 9, 10]), {0: np.array([1, -1, 0])}).tolist()
    [0, 2, 9, 1]
    """
    index = []
    for axis, size in enumerate(drawn.shape):
        if axis not in rows:
            index.append(np.arange(size))
            continue
        first = size - len(rows[axis])
        index.append(np.concatenate([np.arange(first), np.where(rows[axis] < 0, -1, rows[axis] + first)]))
    known = functools.reduce(np.logical_and.outer, [at >= 0 for at in index], np.array(True))
    return np.where(known, old[np.ix_(*(np.maximum(at, 0) for at in index))], drawn).astype(drawn.dtype)


def _rows_of_ids(
    where: str, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """{vocabulary: for each id of now its place among the ids before, -1 for none}."""
    found = {}
    for name, raw in now.items():
        place = {str(value): at for at, value in enumerate(before.get(name, np.empty(0)).tolist())}
        found[name] = np.array([place.get(str(value), -1) for value in raw.tolist()], np.int64)
    if found and all((at < 0).all() for at in found.values()):
        raise ValueError(
            f"{where}: has no {' or '.join(found)} in common with this data; name a run on data of the same "
            "ids, or leave the option out"
        )
    return found


def _check_shape(
    where: str,
    path: str,
    values: Mapping[str, Any],
    wanted: tuple[int, ...],
    axes: Mapping[int, str],
    rows: Mapping[str, np.ndarray],
) -> None:
    """Raises ValueError unless an earlier run has a variable of this shape, axes of ids left aside."""
    found = tuple(values[path].shape[1:]) if path in values else ()
    same = len(found) == len(wanted) and all(
        axis in axes or found[axis] == wanted[axis] for axis in range(len(wanted))
    )
    if not same:
        shown = f"has the shape {list(found)} there" if path in values else "is not in it"
        raise ValueError(
            f"{where}: {path}, here of shape {list(wanted)}, {shown}; give the settings of that run"
        )


def _by_path(tree: Variables) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_path(path): leaf for path, leaf in leaves}


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
