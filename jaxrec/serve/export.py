"""A run as a folder that answers without jaxrec: `export(load(run), folder)`.

    program.bin     the model as a `jax.export` artefact for CPU, CUDA and TPU, for any number of examples
    weights.npz     its parameters, an argument of the program
    items.json      raw ids of the items: entry i - 1 has the number i (runs of events)
    users.json      those of the users (of a click model that reads them)
    columns.json    how raw columns become inputs (runs of labelled rows)
    reader.py       answers from these files; needs jax, flatbuffers and NumPy alone
    export.json     format number, what the program reads and gives, where the run comes from

`docs/export.md` says which models can be exported, and how long such a file can be read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export as jax_export

from jaxrec.data.tables.features import MISSING, Buckets, Category, Encoders, FeatureSpec, Number, Tags
from jaxrec.serve.files import umask
from jaxrec.serve.onnx import to_onnx
from jaxrec.serve.programs import Program, make_program, trace, weights_of
from jaxrec.serve.run_folder import Kept

if TYPE_CHECKING:
    from jaxrec.serve.load import Run

FORMAT = 1  # of export.json
FILES = (
    "program.bin", "weights.npz", "items.json", "users.json", "seen.json", "columns.json", "reader.py",
    "model.onnx", "export.json",
)  # fmt: skip
READERS = Path(__file__).parent / "readers"
READER_OF = {
    "table": "rows.py",
    "clicks": "clicks.py",
    "factors": "users.py",
    "profile": "classes.py",
}  # of other kinds: items.py


def export(run: Run, folder: str | Path, *, k: int = 100, onnx: bool = False) -> None:
    """Writes a run as a program that needs jax and flatbuffers alone, in place of an earlier export.

    Args:
      run: of `serve.load`, whose seed's parameters are written.
      folder: made, with the folders above it.
      k: longest list of a run that recommends; the reader gives any shorter one.
      onnx: writes model.onnx too.

    Raises:
      ValueError: k is below 1, the model can't be traced for any number of examples or converted to ONNX,
        or the folder holds other files.
      ImportError: flatbuffers, or for ONNX jax2onnx, is not installed.
      OSError: a file can't be written; then the folder stays as it was.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("an export needs flatbuffers, which is not installed: pip install 'jaxrec[export]'")
    folder = Path(folder)
    check_folder(folder)
    kept, weights = run.kept, weights_of(run.variables)
    program = make_program(kept, weights, k=k, mean=run.seed == "mean")
    traced = trace(program, weights, name=kept.name)
    content: dict[str, Callable[[Path], Any]] = {
        "program.bin": lambda path: path.write_bytes(traced.serialize()),
        "weights.npz": lambda path: _write_arrays(path, weights),
        "reader.py": lambda path: shutil.copyfile(READERS / READER_OF.get(kept.kind, "items.py"), path),
    }
    if onnx:
        model = to_onnx(kept, weights, mean=run.seed == "mean")
        content["model.onnx"] = lambda path: path.write_bytes(model)
    tables: dict[str, Any] = {}
    if kept.kind == "table":
        tables["columns.json"] = describe_columns(kept)
    else:
        tables["items.json"] = kept.vocabulary["item"].tolist()
    if "users" in program.inputs:
        tables["users.json"] = kept.vocabulary["user"].tolist()
    if kept.kind == "factors" and kept.protocol.seen != "keep":
        assert kept.histories is not None
        ends = np.asarray(kept.histories.offsets)[1:-1]
        tables["seen.json"] = [part.tolist() for part in np.split(np.asarray(kept.histories.items), ends)]
    tables["export.json"] = _describe(run, program, traced, k)
    with written_whole(folder) as place:
        for name, write in content.items():
            write(place / name)
        for name, table in tables.items():
            _write_json(place / name, table)


def _describe(run: Run, program: Program, traced: jax_export.Exported, k: int) -> dict[str, Any]:
    """What export.json says."""
    kept = run.kept
    about: dict[str, Any] = {
        "format": FORMAT,
        "kind": kept.kind,
        "name": kept.name,
        "seed": run.seed,
        "platforms": traced.platforms,
        "jax": jax.__version__,
        "calling_convention": traced.calling_convention_version,
        "inputs": {name: f"{spec.dtype}{list(spec.shape)}" for name, spec in program.inputs.items()},
        "protocol": kept.protocol._asdict(),
        "data": kept.data,
        "made_by": kept.made_by,
    }
    if kept.kind in ("table", "clicks"):
        about["labels"] = list(kept.outputs)
    if kept.kind == "profile":
        about["classes"] = list(kept.outputs)
    if kept.kind in ("table", "profile"):
        return about
    about |= {"times": "times" in program.inputs, "users": "users" in program.inputs}
    if kept.kind == "clicks":
        return about
    if "actions" in program.inputs:
        about["actions"] = int(kept.module.num_actions)
    return about | {"k": min(k, len(kept.vocabulary["item"])), "seen": kept.protocol.seen}


# --- vocabulary --------------------------------------------------------------------------------------


def describe_columns(kept: Kept) -> list[dict[str, Any]]:
    """How the encoders of a table make inputs of raw columns, in JSON types; `readers/rows.py` reads it."""
    assert kept.encoders is not None
    return [_describe_column(spec, kept.encoders) for spec in kept.encoders.specs]


def _describe_column(spec: FeatureSpec, encoders: Encoders) -> dict[str, Any]:
    known = next(field.raw for field in encoders.fields if field.name == spec.name)
    found: dict[str, Any] = {"name": spec.name, "column": spec.column or spec.name}
    if isinstance(spec, Buckets):
        return found | {"kind": "buckets", "edges": known[1:].tolist()}
    if isinstance(spec, Number):
        mean, deviation = encoders.scales[spec.name]
        shift, scale = (mean, deviation) if spec.standardise else (0.0, 1.0)
        indicator = spec.missing == "indicator"
        number = {"kind": "number", "log": spec.log, "indicator": indicator}
        return found | number | {"mean": mean, "shift": shift, "scale": scale}
    ids = {str(value): number for number, value in enumerate(known.tolist(), 3)}
    ids |= {str(value): MISSING for value in ("", *spec.missing)}
    if isinstance(spec, Category):
        return found | {"kind": "category", "ids": ids}
    assert isinstance(spec, Tags)
    width = encoders.widths[spec.name]
    return found | {"kind": "tags", "ids": ids, "width": width, "all": spec.max_values is None}


# --- files -------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raises ValueError for a place that has anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder")
    others = sorted(p.name for p in folder.iterdir() if p.name not in FILES) if folder.exists() else []
    if others:
        raise ValueError(f"{folder}: holds {others[0]}, which is of no export; name a new or an empty folder")


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` at the end, or is removed on an error.

    Raises:
      OSError: something can't be written, naming `folder`.
    """
    place = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
        place.chmod(0o777 & ~umask())  # mkdtemp gives 0700
        yield place
        _replace(place, folder)
    except OSError as error:
        raise OSError(f"{folder}: the export could not be written ({error.strerror or error})") from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _replace(place: Path, folder: Path) -> None:
    """Moves a folder to a place, in which an earlier one may stand."""
    if not folder.exists():
        os.rename(place, folder)
        return
    earlier = place.with_suffix(".earlier")
    os.rename(folder, earlier)
    try:
        os.rename(place, folder)
    except OSError:
        os.rename(earlier, folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(
        json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
