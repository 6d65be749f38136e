"""A study as a file of JSON: what identifies it, its trials, and the chosen settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec import provenance
from jaxrec.report.results import write_atomically

FORMAT = 1
TRAINED = ("complete", "pruned", "stopped", "diverged")  # states of trials that spent something


@dataclasses.dataclass(frozen=True)
class Record:
    """A trial.

    state: "complete"; "pruned" after the epoch `ended` (from 1); "stopped" there, where the budget ended;
    "diverged" there, as a loss, a parameter or the validation value was not finite; "repeat" of earlier
    settings, or "refused" by the rules of the settings, neither of which is trained. value: mean over seeds
    of the best validation value of each, None if there is none. validation: [[epoch from 1, value so far],
    …]. epochs: spent; more than `ended` where others that trained side by side went on. seconds: of training,
    evaluation and compilation, shared equally by those. group: the number of the first of those. reason: why
    it was refused. optuna: the library's own account of it.
    """

    number: int
    settings: Mapping[str, Any]
    state: str
    value: float | None = None
    ended: int = 0
    epochs: int = 0
    seconds: float = 0.0
    group: int = 0
    validation: Sequence[Sequence[float]] = ()
    reason: str = ""
    optuna: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def choose(records: Sequence[Record], lower_is_better: bool) -> Record | None:
    """The complete trial of the best value, the first of equal ones; None if no trial is complete."""
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    sign = 1.0 if lower_is_better else -1.0
    return min(complete, key=lambda r: (sign * (r.value or 0.0), r.number), default=None)


def write(path: Path, identity: Mapping[str, Any], records: Sequence[Record], **rest: Any) -> None:
    """Writes a study atomically. identity: what another study of the same file would differ in."""
    chosen = choose(records, identity["lower_is_better"])
    document = {
        "format": FORMAT,
        **identity,
        "chosen": None
        if chosen is None
        else {n: getattr(chosen, n) for n in ("number", "settings", "value")},
        "spent": {
            "trials": sum(record.state in TRAINED for record in records),
            "epochs": sum(record.epochs for record in records),
            "seconds": sum(record.seconds for record in records),
        },
        **rest,
        "trials": [dataclasses.asdict(record) for record in records],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back: lists in place of tuples."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def note(path: Path, config: Mapping[str, Any]) -> str:
    """A remark on a result whose settings a study chose; "" if there is no study, or the settings are others.

    path: of the study's file. config: the settings of the result.
    """
    if not path.exists():
        return ""
    study = json.loads(path.read_text(encoding="utf-8"))
    chosen, spent, settings = study["chosen"], study["spent"], as_json(config)
    if chosen is None or any(settings.get(name) != value for name, value in chosen["settings"].items()):
        return ""
    names = ", ".join(chosen["settings"])
    return f"{names} chosen on validation, the best {study['metric']} of {spent['trials']} trials"


class Stored(NamedTuple):
    """What a study's file holds. limits: those of its last run. made_by: manifests of the code that made
    it.
    """

    trials: list[Record]
    limits: Mapping[str, Any]
    made_by: list[Mapping[str, Any]]


def read(path: Path, identity: Mapping[str, Any], *, accept_changed_code: bool) -> Stored:
    """A stored study; an empty one if there is no file.

    Raises:
      ValueError: the file is damaged, holds another study, or was made by other code.
    """
    if not path.exists():
        return Stored([], {}, [])
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        records = [Record(**record) for record in document["trials"]]
        made_by, limits = list(document["made_by"]), dict(document["limits"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no study of settings: {error}; move it away") from None
    for name, wanted in {"format": FORMAT, **json.loads(json.dumps(identity))}.items():
        if document.get(name) != wanted:
            raise ValueError(
                f"{path}: holds another study: {name} is {_short(document.get(name), wanted)}, now "
                f"{_short(wanted, document.get(name))}; move it away, or give another folder of results"
            )
    differing = provenance.code_differences(made_by[-1], provenance.manifest()) if made_by else []
    if differing and not accept_changed_code:
        raise ValueError(
            f"{path}: made by commit {made_by[-1].get('commit')}, and this is other code: "
            f"{'; '.join(differing)}; move it away to search again, or give --accept-changed-code: the file "
            "then names both"
        )
    return Stored(records, limits, made_by)


def _short(value: Any, other: Any) -> Any:
    """The parts of a mapping that differ from another's."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {
            name: _short(part, other.get(name)) for name, part in value.items() if part != other.get(name)
        }
    return value
