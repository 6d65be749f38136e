"""Variables that a run begins with: those of an earlier run, and vectors that are given.

Rows of tables belong to raw ids. Which axes of a variable have a row for each id is read from the model: they
are those that are longer in the same model of a larger vocabulary.

A run that grows (`grow`) keeps all ids of the earlier one, with their numbers; what its optimiser remembers
of their rows is carried over as well. New rows are drawn, and the optimiser remembers nothing of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.commands.training.prepared import Prepared, Shapes
from jaxrec.data import vocab
from jaxrec.data.tables.features import Encoders
from jaxrec.serve import run_folder
from jaxrec.serve.run_folder import Kept
from jaxrec.train.checkpoint import CHECKPOINTS, Checkpoints, Stored, stored
from jaxrec.train.state import TrainState
from jaxrec.types import Variables

PARAMS = "params"
TRAINING = "training"  # folder of checkpoints in that of a run


def initial_options(
    prepared: Prepared, model: str, warm_start: str, seeds: Sequence[int], *, grow: bool = False
) -> dict[str, Any]:
    """`initial`, `newly_initialised` and `carry` of `train.fit.fit` for a run; {} where all is drawn.

    warm_start: the folder of a finished run of the same model, or "". grow: ids stay, and the optimiser goes
    on where that run ended.

    Raises:
      ValueError: the folder holds no finished run, or one of another model, of other sizes, or with another
        number of seeds than 1 or that of `seeds`; it has no id in common with this run. With grow also: an id
        of that run is lost or has another number; its folder has no checkpoint.
    """
    if prepared.begin is not None:
        return {"initial": prepared.begin}
    if warm_start:
        kept = run_folder.read(warm_start)
        initial = {"initial": carried_over(prepared, kept, model, warm_start, seeds)}
        return {**initial, "carry": grown(prepared, kept, warm_start, seeds)} if grow else initial
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
            f"{where}: a run of {model} keeps final vectors, counts or clusters of its items, not parameters "
            "that another run can begin with; train it anew"
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


def grown(
    prepared: Prepared, kept: Kept, folder: str, seeds: Sequence[int]
) -> Callable[[TrainState, Sequence[int]], TrainState]:
    """(the first state of a run, its seeds) -> the same with what an earlier run's optimiser remembered.

    That is at its end; also what a weighting of losses learned. New rows have what an optimiser begins with.

    Raises:
      ValueError: as `initial_options`; from what is returned: the run had another optimiser.
    """
    where, shapes = f"warm_start={folder!r}", prepared.shapes
    before = vocabularies_of(kept)
    try:
        for name, now in prepared.vocabularies.items():
            vocab.check_extends(name, before[name], now)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; or leave --grow out to find rows by their raw ids") from None
    checkpoints, found = _checkpoint_of(where, Path(folder) / TRAINING, kept.seeds)
    there = list(found.description["seeds"])
    assert shapes is not None  # `carried_over` has seen to that
    rows = _rows_of_ids(where, before, prepared.vocabularies)
    expected = _by_path(shapes({}))
    axes = {path: of for path, of in axes_of_ids(shapes, list(rows)).items() if path.startswith(PARAMS)}

    def axes_of(path: str, leaf: Any) -> Mapping[int, str]:
        """Those of the parameter with whose path that of an array of the state ends, of the same shape."""
        for name, of in axes.items():
            if path.endswith(name.replace(PARAMS, "/model", 1)) and leaf.shape[1:] == expected[name].shape:
                return of
        return {}

    def as_before(path: tuple[Any, ...], leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[np.zeros(len(there), int)]
        shape = [len(there), *leaf.shape[1:]]
        for axis, name in axes_of(_path(path), leaf).items():
            shape[axis + 1] += len(before[name]) - len(rows[name])
        return jnp.zeros(shape, leaf.dtype)

    def carry(state: TrainState, drawn_seeds: Sequence[int]) -> TrainState:
        places = [0 if len(kept.seeds) == 1 else list(seeds).index(seed) for seed in drawn_seeds]
        at = np.array([there.index(kept.seeds[place]) for place in places])
        like = jax.tree_util.tree_map_with_path(as_before, state)
        with Checkpoints(checkpoints, found.description) as kept_there:
            ended = kept_there.restore({"state": like, "best": like.variables})[0]["state"]

        def moved(path: tuple[Any, ...], drawn: Any, old: Any) -> Any:
            moves = {axis + 1: rows[name] for axis, name in axes_of(_path(path), drawn).items()}
            return jnp.asarray(move_rows(np.asarray(old)[at], np.asarray(drawn), moves))

        opt_state = jax.tree_util.tree_map_with_path(moved, state.opt_state, ended.opt_state)
        learned = jax.tree.map(lambda old: old[at], (ended.params["weighting"], ended.weighting))
        params = {**state.params, "weighting": learned[0]}
        return state.replace(opt_state=opt_state, params=params, weighting=learned[1])

    return carry


def _checkpoint_of(where: str, folder: Path, seeds: Sequence[int]) -> tuple[Path, Stored]:
    """The longest run below a work directory that has all these seeds. Raises ValueError if there is none."""
    runs = [(path, stored(path)) for path in sorted(folder.glob(f"**/{CHECKPOINTS}"))]
    whole = [(path, of) for path, of in runs if of is not None and {*seeds} <= {*of.description["seeds"]}]
    if not whole:
        raise ValueError(
            f"{where}: has no checkpoint in {TRAINING}/ of its seeds {[*seeds]} together to go on from; "
            "leave --grow out"
        )
    return max(whole, key=lambda run: len(run[1].position["history"]))


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
