"""A finished run as a folder: what answers questions later, without the code that trained it.

    run.json        format number, kind, module (`serve.modules`), protocol, metrics, …; written last
    variables.npz   arrays of the module, each with a leading axis of seeds
    vocabulary.npz  raw ids of items and users
    histories.npz   all events of the known users
    encoders.npz    known values of each feature; their specs are in run.json

A folder that has run.json is whole: run.json names every array file with its SHA-256. No file holds pickles.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.tables.encoder_arrays import encoders_from_arrays, encoders_to_arrays
from jaxrec.data.tables.features import Encoders
from jaxrec.serve import modules
from jaxrec.serve.files import replacing, text
from jaxrec.types import Protocol, Variables

FORMAT = 1  # of run.json; another number is refused
RUN = "run.json"
Kind = Literal[
    "sequence", "session", "multi-interest", "actions", "table", "clicks", "factors", "baseline", "profile"
]


class Histories(NamedTuple):
    """All events of the known users, oldest first.

    items: ids from 1, int32 [N]; user u (from 0) has items[offsets[u] : offsets[u + 1]]. offsets: int64
    [U + 1]. times: seconds since 1970, int64 [N], or None. actions: what users did, from 1, int32 [N], or
    None.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    actions: np.ndarray | None = None


class Kept(NamedTuple):
    """What is kept of a finished run.

    kind: how it is asked: "sequence" (an encoder behind `tasks.next_item`), "session" (behind
        `tasks.next_click`), "multi-interest" (behind `tasks.interests`), "actions" (of items and actions,
        behind `tasks.generative`), "table" (a module of the columns of encoders), "clicks" (a module of the
        columns of `tasks.ctr.behaviours`: pairs of a user and an item after a history), "factors" (behind
        `tasks.pairs`: it knows the users of the run alone), "baseline", "profile" (behind `tasks.profile`:
        the classes of users).
    name: of the row, such as "sasrec-ce".
    module: a Linen module; of a baseline its `Retriever` or `Scorer`, of functions with an import path; of
        factors `tasks.pairs.FACTORS`, whose variables are final vectors, a `Retriever` or `Scorer` too, or a
        Linen module of all scores.
    variables: arrays with a leading axis of seeds, in nested dicts. seeds: their numbers.
    vocabulary: {"item": raw ids [V], "user": raw ids [U]}, id i being raw[i - 1]; {} of a table.
    histories: of the users in their order, None of a table. Of sessions there may be some without users.
    encoders: of a table, of its raw columns.
    columns: what the raw columns are, {name: "categorical" or "numeric"}; of clicks {name: "user" or "item"},
        empty where they have these names.
    outputs: of tables and clicks, {label: which output of the module is its logit}, as of
        `tasks.multitask.Target`; of actions, {a positive action as text: the column of its logit}; of
        profiles, {class: its number, from 0}.
    length: of clicks: most recent events of a history that are read.
    protocol, metrics, validation: {metric: a number a seed}, of test and validation queries.
    counts: training events of each item, int64 [V + 1], for users without a history; None: counted in
        the histories.
    settings: of the run. data: the file it was trained on, {"file": name, "sha256": …}. made_by: the
        provenance of the training (`provenance.manifest`).
    """

    kind: Kind
    name: str
    module: Any
    variables: Variables
    seeds: tuple[int, ...]
    vocabulary: Mapping[str, np.ndarray] = {}
    histories: Histories | None = None
    encoders: Encoders | None = None
    outputs: Mapping[str, int | str | None] = {}
    length: int = 0
    columns: Mapping[str, str] = {}
    protocol: Protocol = Protocol()
    metrics: Mapping[str, tuple[float, ...]] = {}
    validation: Mapping[str, tuple[float, ...]] = {}
    counts: np.ndarray | None = None
    settings: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}
    made_by: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        """Name, kind, seeds and test metrics: arrays and settings are too many to be printed."""
        metrics = ", ".join(
            f"{name}={'/'.join(f'{value:.4g}' for value in values)}" for name, values in self.metrics.items()
        )
        return f"Kept({self.name!r}, kind={self.kind!r}, seeds={self.seeds}, metrics: {metrics or 'none'})"


JSON_FIELDS = ("kind", "name", "seeds", "outputs", "length", "columns", "metrics", "validation", "settings",
               "data", "made_by")  # fmt: skip


# --- writing -----------------------------------------------------------------------------------------


def write(folder: str | Path, kept: Kept) -> None:
    """Keeps a run in a folder, in place of one that is there. run.json comes last.

    Raises:
      ValueError: the module can't be kept (`modules.describe`), arrays and seeds disagree, or a value is
        none of JSON.
      OSError: a file can't be written, naming it. None is left half written.
    """
    folder = Path(folder)
    check(kept)
    arrays: dict[str, dict[str, np.ndarray]] = {"variables": _flat(kept.variables)}
    if kept.vocabulary:
        arrays["vocabulary"] = {name: np.asarray(raw) for name, raw in kept.vocabulary.items()}
    events = {} if kept.histories is None else kept.histories._asdict()
    events |= {"counts": kept.counts}
    events = {name: np.asarray(array) for name, array in events.items() if array is not None}
    if events:
        arrays["histories"] = events
    document: dict[str, Any] = {name: getattr(kept, name) for name in JSON_FIELDS}
    document |= {"module": modules.describe(kept.module), "protocol": kept.protocol._asdict()}
    if kept.encoders is not None:
        document["encoders"], arrays["encoders"] = encoders_to_arrays(kept.encoders)
    content = {name: _npz(found, name) for name, found in arrays.items()}
    document["dtypes"] = {
        name: {key: array.dtype.name for key, array in found.items() if array.dtype.kind == "V"}
        for name, found in arrays.items()
    }
    document["sha256"] = {f"{name}.npz": hashlib.sha256(data).hexdigest() for name, data in content.items()}
    try:
        shown = json.dumps(
            {"format": FORMAT, **document}, indent=1, allow_nan=False, ensure_ascii=False, default=_plain
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: run.json can't hold this run: {error}") from None
    files: dict[Path, Callable[[IO[bytes]], Any]] = {
        folder / f"{name}.npz": _bytes(data) for name, data in content.items()
    }
    with replacing({**files, folder / RUN: text(shown + "\n")}) as put:
        (folder / RUN).unlink(missing_ok=True)  # between two runs it is none
        for name in ("variables", "vocabulary", "histories", "encoders"):
            if name not in arrays:
                (folder / f"{name}.npz").unlink(missing_ok=True)
        put()


def check(kept: Kept) -> None:
    """Raises ValueError unless the parts of a run belong together."""
    if kept.kind not in get_args(Kind):
        raise ValueError(f"kind={kept.kind!r}: must be one of {', '.join(get_args(Kind))}")
    count = len(kept.seeds)
    if count < 1 or len(set(kept.seeds)) < count:
        raise ValueError(f"seeds={kept.seeds}: must be one or more, each once")
    for name, array in _flat(kept.variables).items():
        if array.ndim < 1 or array.shape[0] != count:
            raise ValueError(
                f"variables: {name} has shape {array.shape}; the leading axis must be that of {count} seeds"
            )
    for part in ("metrics", "validation"):
        for name, values in getattr(kept, part).items():
            if len(values) != count:
                raise ValueError(f"{part}: {name} has {len(values)} values for {count} seeds")
    if kept.kind == "table" and kept.encoders is None:
        raise ValueError("kind='table': needs the encoders of its raw columns")
    if kept.kind == "actions" and (
        not kept.outputs or kept.histories is None or kept.histories.actions is None
    ):
        raise ValueError("kind='actions': needs histories with actions, and outputs, those that are positive")
    if kept.kind in ("table", "clicks", "profile") and not kept.outputs:
        raise ValueError(f"kind={kept.kind!r}: needs outputs, {{label: output of the module}}")
    if kept.kind == "clicks" and (kept.length < 1 or kept.histories is None or "user" not in kept.vocabulary):
        raise ValueError(
            f"kind='clicks': length={kept.length}: needs the number of events that the module reads, at "
            "least 1, and histories of users with ids"
        )
    if kept.kind != "table" and "item" not in kept.vocabulary:
        raise ValueError(f"kind={kept.kind!r}: needs the raw ids of items, vocabulary['item']")
    if kept.histories is not None:
        _check_histories(kept.histories, kept.vocabulary)
    if kept.counts is not None and len(kept.counts) != len(kept.vocabulary.get("item", ())) + 1:
        raise ValueError(f"counts: {len(kept.counts):,} numbers; must be one for padding and each item")


def _check_histories(histories: Histories, vocabulary: Mapping[str, np.ndarray]) -> None:
    items, offsets, times, actions = (None if part is None else np.asarray(part) for part in histories)
    assert items is not None and offsets is not None
    if offsets.ndim != 1 or not offsets.size or offsets[0] or offsets[-1] != len(items):
        raise ValueError(f"histories: offsets must ascend from 0 to {len(items):,}, the number of events")
    if (np.diff(offsets) < 0).any():
        raise ValueError("histories: offsets must ascend")
    if "user" in vocabulary and len(offsets) - 1 != len(vocabulary["user"]):
        raise ValueError(
            f"histories: of {len(offsets) - 1:,} users, but {len(vocabulary['user']):,} have ids"
        )
    if items.size and (items.min() < 1 or items.max() > len(vocabulary.get("item", ()))):
        raise ValueError("histories: an item is none of 1..num_items; number it by vocabulary['item']")
    if times is not None and len(times) != len(items):
        raise ValueError(f"histories: {len(times):,} times for {len(items):,} events")
    if actions is not None and (len(actions) != len(items) or actions.min(initial=1) < 1):
        raise ValueError(f"histories: {len(actions):,} actions for {len(items):,} events; each is at least 1")


def _flat(tree: Any, path: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Arrays of nested mappings by `a/b/c`."""
    if isinstance(tree, Mapping):
        found: dict[str, np.ndarray] = {}
        for name, part in tree.items():
            if not isinstance(name, str) or "/" in name:
                raise ValueError(f"variables: {'/'.join((*path, str(name)))}: names must be text without '/'")
            found |= _flat(part, (*path, name))
        return found
    shown = "/".join(path)
    if isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key):
        raise ValueError(f"variables: {shown} is a random key, which is not kept; leave it out")
    array = np.asarray(tree)
    if array.dtype.kind == "O":
        raise ValueError(f"variables: {shown} is a {type(tree).__name__}; must be an array in nested dicts")
    return {shown: array}


def _npz(arrays: Mapping[str, np.ndarray], where: str) -> bytes:
    """Arrays in NumPy's format; types that it has not, such as bfloat16, as bytes."""
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            raise ValueError(f"{where}: {name} is an array of objects; must be numbers or text")
    stream = io.BytesIO()
    plain = {
        name: array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array
        for name, array in arrays.items()
    }
    np.savez(stream, allow_pickle=False, **plain)
    return stream.getvalue()


def _bytes(data: bytes) -> Callable[[IO[bytes]], Any]:
    return lambda file: file.write(data)


def _plain(value: Any) -> Any:
    """NumPy numbers, tuples in arrays and paths as JSON has them."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}")


# --- reading -----------------------------------------------------------------------------------------


def read(folder: str | Path) -> Kept:
    """The run that a folder keeps; its module is built anew (`modules.build`).

    Raises:
      ValueError: there is no finished run, it has another format, a file is damaged or from another run, or
        the module can't be built any more.
      OSError: a file can't be read.
    """
    folder = Path(folder)
    document = _document(folder)
    try:
        kept = _kept(folder, document)
        check(kept)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / RUN}: a part is missing or of another form ({type(error).__name__}: {error}): it was "
            "changed; train again"
        ) from None
    return kept


def _kept(folder: Path, document: Mapping[str, Any]) -> Kept:
    arrays = {
        name.removesuffix(".npz"): _arrays(folder / name, digest, document["dtypes"])
        for name, digest in document["sha256"].items()
    }
    fields = {name: document[name] for name in JSON_FIELDS}
    fields["seeds"] = tuple(fields["seeds"])
    for part in ("metrics", "validation"):
        fields[part] = {name: tuple(values) for name, values in fields[part].items()}
    events = dict(arrays.get("histories", {}))
    counts = events.pop("counts", None)
    encoders = document.get("encoders")
    return Kept(
        **fields,
        module=modules.build(document["module"]),
        variables=_nested(arrays["variables"]),
        vocabulary=arrays.get("vocabulary", {}),
        histories=Histories(**events) if events else None,
        counts=counts,
        encoders=None if encoders is None else encoders_from_arrays(encoders, arrays.get("encoders", {})),
        protocol=Protocol(**{**document["protocol"], "ks": tuple(document["protocol"]["ks"])}),
    )


def _document(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    if not path.is_file():
        what = "no such folder" if not folder.is_dir() else f"has no {RUN}"
        raise ValueError(f"{folder}: {what}: not a finished run; `jaxrec train … --run {folder}` makes one")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}); copy the folder again, or train again") from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path}: has format {found!r}, this version of jaxrec reads {FORMAT}; use the version that made "
            "it, or train again"
        )
    needed = {*JSON_FIELDS, "module", "protocol", "dtypes", "sha256"}
    missing = sorted(needed - set(document))
    if missing or "variables.npz" not in document["sha256"]:
        raise ValueError(
            f"{path}: lacks {', '.join(missing) or 'variables.npz'}: it was changed; train again"
        )
    return document


def _arrays(path: Path, digest: str, dtypes: Mapping[str, Mapping[str, str]]) -> dict[str, np.ndarray]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: is missing, but {RUN} names it; copy the whole folder") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(
            f"{path}: is not the file that {RUN} names (its SHA-256 differs): it was cut short, changed, or "
            "comes from another run; copy the whole folder again"
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: can't be read ({error}); train again") from None
    for name, dtype in dtypes.get(path.stem, {}).items():
        arrays[name] = arrays[name].view(jnp.dtype(dtype))
    return arrays


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *path, last = name.split("/")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = array
    return tree
