"""Result files, one JSON per (experiment, data set, model): `results/<experiment>/<dataset>/<model>.json`.

A file has a `Result`, the mean and standard deviation over its seeds, and a manifest (commit, library
versions, device). It is written atomically, and checked when it is read.

A result never replaces one that was measured differently. The same configuration, protocol and seeds, under
the same settings of JAX, replace the file; anything else is a variant, stored as `<model>.<hash>.json` with
the hash of the configuration, and tables show both and what differs. The fields that say where files are
written (`FOLDER_FIELDS`) are no part of that.

The values of each user or group, if they were kept, lie in `values/` beside the file, which names them (see
`report.values`). The result file is written last, so a result is never without its values. Searches of
settings (`jaxrec.tuning`) lie in `sweeps/` there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec import provenance
from jaxrec.provenance import FOLDER_FIELDS
from jaxrec.report import values as by_user
from jaxrec.types import Protocol, Result, Values

SCHEMA = 1
BY_AUTHORS = ", by the authors"  # the end of a selection that we did not make
STUDIES = "sweeps"  # folder of searches of settings, in that of the results
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+@-]*(?:\.[A-Za-z0-9_+@-]+)*")


class Record(NamedTuple):
    """A result as read from disk.

    variant: "" or the hash in the file name; manifest: commit, versions, device, as given to `write_result`;
    values: the file of values by user or group, its sha256 and that of the test cases; empty without.
    path: the file it was read from; None for a result that was not read.
    """

    result: Result
    manifest: Mapping[str, Any]
    variant: str = ""
    values: Mapping[str, str] = {}
    path: Path | None = None


class MeanAndStd(NamedTuple):
    """Mean and sample standard deviation over seeds (divisor n - 1; None for one seed)."""

    mean: float
    std: float | None


def mean_and_std(values: Sequence[float]) -> MeanAndStd:
    """Mean and sample standard deviation of one value per seed, [n] with n ≥ 1.

    >>> mean_and_std([1.0, 3.0])
    MeanAndStd(mean=2.0, std=1.4142135623730951)
    """
    std = statistics.stdev(values) if len(values) > 1 else None
    return MeanAndStd(statistics.fmean(values), std)


def write_result(
    result: Result,
    folder: str | Path,
    *,
    manifest: Mapping[str, Any] | None = None,
    values: Values | None = None,
) -> Path:
    """Writes a result and returns its file; see the top of this file for what it replaces.

    Args:
      result: one finite value per seed for each metric.
      folder: the results folder, created if absent.
      manifest: what the result depends on besides its configuration (`jaxrec.provenance.manifest()`).
      values: those of each user or group, kept beside the file.

    Raises:
      ValueError: a name that cannot be a file name, a metric that is not finite or has not one value per
        seed, a configuration that JSON cannot represent.
    """
    document = _document(result, manifest or {})
    # As it will be read, so that the written result compares equal to the read one.
    checked = _parse(json.loads(_to_text(document)), f"result of {result.experiment}/{result.model}")
    target = Path(folder) / result.experiment / result.dataset
    path = target / f"{result.model}.json"
    own = result_hash(checked, document["manifest"])
    if path.exists():
        record = read_result(path)
        if result_hash(record.result, record.manifest) != own:
            path = target / f"{result.model}.{own}.json"
    before = read_result(path).values if path.exists() else {}
    target.mkdir(parents=True, exist_ok=True)
    if values is not None:
        content = by_user.to_bytes(values, result.seeds, list(result.metrics))
        document["values"] = {
            "file": by_user.file_name(path, content),
            "sha256": by_user.digest(content),
            "cases": by_user.cases_digest(values),
        }
        kept = target / document["values"]["file"]
        kept.parent.mkdir(exist_ok=True)
        write_atomically(kept, content)
    own_values, old_values = document.get("values", {}).get("file"), before.get("file")
    try:
        write_atomically(path, _to_text(document) + "\n")
    except BaseException:
        if own_values and own_values != old_values:
            (target / own_values).unlink(missing_ok=True)
        raise
    if old_values and own_values != old_values:
        (target / old_values).unlink(missing_ok=True)
    return path


def result_hash(result: Result, manifest: Mapping[str, Any] | None = None) -> str:
    """Hash, 8 hex digits, of what a number was measured with: configuration, protocol and seeds.

    Settings of JAX that change numbers (`manifest["settings"]`) count too where they are not the defaults.
    """
    config = {name: value for name, value in result.config.items() if name not in FOLDER_FIELDS}
    protocol = result.protocol._asdict()
    measured: dict[str, Any] = {"config": config, "protocol": protocol, "seeds": result.seeds}
    changed = provenance.non_default_settings((manifest or {}).get("settings", {}))
    if changed:
        measured["settings"] = changed
    text = json.dumps(_as_json(measured, "config"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_result(path: str | Path) -> Record:
    """Reads one result file.

    Raises:
      ValueError: not JSON (truncated, corrupt), another schema, a missing field, a value that is not finite,
        a mean that does not agree with its values, or a path that does not agree with the names in it.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path}: not a complete JSON file ({error}): {_REMEDY}") from error
    result = _parse(document, str(path))
    rest = path.stem.removeprefix(result.model)
    names = (result.experiment, result.dataset, result.model)
    if (path.parent.parent.name, path.parent.name, path.stem.removesuffix(rest)) != names or rest not in (
        "",
        f".{result_hash(result, document['manifest'])}",
    ):
        raise ValueError(
            f"{path}: has the result {'/'.join(names)}, which belongs to another path: {_REMEDY}"
        )
    values = document.get("values", {})
    if not (isinstance(values, dict) and all(isinstance(text, str) for text in values.values())):
        raise ValueError(f"{path}: field 'values' is {values!r}, of the wrong type: {_REMEDY}")
    return Record(result, document["manifest"], rest.removeprefix("."), values, path)


def read_results(folder: str | Path) -> list[Record]:
    """All results of a folder, sorted by experiment, data set, model and variant; [] without the folder."""
    records = [read_result(path) for path in Path(folder).glob("*/*/*.json")]
    return sorted(records, key=lambda r: (r.result.experiment, r.result.dataset, r.result.model, r.variant))


_REMEDY = "restore it from git, or delete it and run the experiment again"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "experiment": str,
    "dataset": str,
    "model": str,
    "config": dict,
    "protocol": dict,
    "seeds": list,
    "metrics": dict,
    "published": dict,
    "source": str,
    "steps": int,
    "seconds": (int, float),
    "compile_seconds": (int, float),
    "note": str,
    "manifest": dict,
}
_OPTIONAL = {"incomparable": "", "baseline": None}  # fields that older files lack, and their values there


def _document(result: Result, manifest: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {}
    for name, given in result.metrics.items():
        values = [float(value) for value in given]
        if len(values) != len(result.seeds):
            raise ValueError(
                f"metric {name}: {len(values)} values for {len(result.seeds)} seeds: give one per seed"
            )
        for seed, value in zip(result.seeds, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"metric {name}, seed {seed}: {value}: must be finite: the run diverged or the "
                    "metric is undefined; find out why instead of storing it"
                )
        metrics[name] = {"values": values, **(mean_and_std(values)._asdict() if values else {})}
    fields = {**result._asdict(), "protocol": result.protocol._asdict(), "metrics": metrics}
    return {"schema": SCHEMA, **_as_json(fields, "result"), "manifest": _as_json(manifest, "manifest")}


def _parse(document: Any, where: str) -> Result:
    """A `Result` from a document of this schema, after checking every rule; `where` starts the error."""

    def require(holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{where}: {rule}: {_REMEDY}")

    require(isinstance(document, dict), f"{type(document).__name__} where an object was expected")
    found = document.get("schema")
    require(found == SCHEMA, f"schema {found!r} where {SCHEMA} was expected")
    document = {**_OPTIONAL, **document}
    for name, kind in {**_FIELDS, "incomparable": str}.items():
        require(name in document, f"no field {name!r}")
        value = document[name]
        valid = isinstance(value, kind) and not isinstance(value, bool)
        require(valid, f"field {name!r} is {value!r}, of the wrong type")
    given = document["baseline"]
    require(given is None or isinstance(given, bool), f"field 'baseline' is {given!r}, of the wrong type")
    for name in ("experiment", "dataset", "model"):
        value = document[name]
        rule = f"{name} {value!r} cannot name a file: use letters, digits and - _ + @ ."
        require(FILE_NAME.fullmatch(value) is not None, rule)
    require(
        set(document["protocol"]) == set(Protocol._fields),
        f"protocol must have the fields {Protocol._fields}",
    )
    require(isinstance(document["protocol"]["ks"], list), "protocol ks is not a list")
    seeds = document["seeds"]
    require(
        bool(seeds) and all(type(seed) is int for seed in seeds),
        f"seeds {seeds}: need integers, at least one",
    )
    require(len(set(seeds)) == len(seeds), f"seeds {seeds}: one occurs twice")
    for name in ("steps", "seconds", "compile_seconds"):
        value = document[name]
        require(math.isfinite(value) and value >= 0, f"{name}={value}: must be finite and at least 0")
    for name, value in document["published"].items():
        require(_is_finite(value), f"published {name}={value!r}: must be a finite number")
    require(not document["published"] or bool(document["source"]), "published values without a source")
    needless = bool(document["incomparable"]) and not document["published"]
    require(not needless, "a reason why published values are not comparable, without such values")
    require(bool(document["metrics"]), "no metrics")
    metrics = {}
    for name, entry in document["metrics"].items():
        values = entry.get("values") if isinstance(entry, dict) else None
        require(
            isinstance(values, list) and len(values) == len(seeds), f"metric {name}: not one value per seed"
        )
        assert isinstance(values, list)
        require(all(_is_finite(value) for value in values), f"metric {name}: {values}: must be finite")
        mean, std = mean_and_std(values)
        same = _agrees(entry.get("mean"), mean) and _agrees(entry.get("std"), std)
        require(same, f"metric {name}: mean or std does not agree with its values")
        metrics[name] = tuple(values)
    protocol = {**document["protocol"], "ks": tuple(document["protocol"]["ks"])}
    fields = {name: document[name] for name in Result._fields}
    result = Result(**{**fields, "protocol": Protocol(**protocol), "seeds": tuple(seeds), "metrics": metrics})
    return result if given is not None else result._replace(baseline=_is_old_baseline(result))


def _is_old_baseline(result: Result) -> bool:
    """Whether a result from before the field `baseline` is one.

    It has no training steps, its parameters are not those of a published checkpoint (whose authors chose
    them), and it was measured on a split: times have none.
    """
    protocol = result.protocol
    return result.steps == 0 and not protocol.selection.endswith(BY_AUTHORS) and protocol.split != "none"


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _agrees(stored: Any, value: float | None) -> bool:
    if value is None or not _is_finite(stored):
        return stored is value
    return math.isclose(stored, value, rel_tol=1e-9, abs_tol=1e-12)


def _as_json(value: Any, where: str) -> Any:
    """The value in JSON types: NumPy and JAX scalars become numbers, tuples lists, paths text."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(part, f"{where}.{name}") for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Path):
        return value.as_posix()
    if (
        value is None
        or isinstance(value, (str, bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise ValueError(
        f"{where}={value!r}: JSON cannot represent it: give finite numbers, text, lists or mappings"
    )


def _to_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: a reader sees either the old content or the new one."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
