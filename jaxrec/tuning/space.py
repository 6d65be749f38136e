"""The settings that a study searches, read from a TOML file.

seed = 0                  # of the search
pruner = "median"         # or "hyperband", "none"
metric = "ndcg@10"        # may be given: must be the validation metric that the rows are selected by

[settings]                # of every row that reads them
learning_rate = {low = 1e-4, high = 1e-2, log = true}
num_layers = {low = 1, high = 3}
dim = {choices = [32, 64]}

[rows.item-knn]           # of one row, in addition or instead
neighbours = {low = 10, high = 500, log = true}
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

PRUNERS = ("median", "hyperband", "none")
KEYS = ("low", "high", "log", "choices")


class Setting(NamedTuple):
    """The values of one setting: a range [low, high], uniform in the value or its logarithm, or choices."""

    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def contains(self, value: Any) -> bool:
        """Whether the study can propose this value."""
        if self.kind == "choice":
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def as_json(self) -> dict[str, Any]:
        """As it would stand in the file."""
        if self.kind == "choice":
            return {"choices": [list(c) if isinstance(c, tuple) else c for c in self.choices]}
        return {"low": self.low, "high": self.high, "log": self.log}


class Space(NamedTuple):
    """What a study of one row searches, and how. metric: "" if the file names none."""

    settings: Mapping[str, Setting]
    seed: int = 0
    pruner: str = "median"
    metric: str = ""

    def without(self, names: Collection[str]) -> Space:
        """The space without some settings."""
        return self._replace(settings={n: s for n, s in self.settings.items() if n not in names})

    def as_json(self) -> dict[str, Any]:
        """What identifies it."""
        return {
            "settings": {name: setting.as_json() for name, setting in self.settings.items()},
            "seed": self.seed,
            "pruner": self.pruner,
        }


def read_space(path: str | Path, row: str, config_type: type, searchable: Collection[str]) -> Space:
    """The space of a row, from a TOML file.

    config_type: the dataclass that has the settings as fields, by whose types values are checked. searchable:
    names of the fields that a study may change.

    Raises:
      OSError: the file cannot be read. ValueError: it is no TOML, has an unknown key, or gives a setting
      that may not be searched, reversed bounds, a
        choice that is not of the field's type, or a metric of the test split.
    """
    document = _read(path)
    hints = typing.get_type_hints(config_type)
    settings = _settings(f"{path}: settings", document.get("settings", {}), hints, searchable)
    of_rows = _table(f"{path}: rows", document.get("rows", {}))
    settings |= _settings(f"{path}: rows.{row}", of_rows.get(row, {}), hints, searchable)
    return _head(str(path), document)._replace(settings=settings)


def check_file(
    path: str | Path, rows: Collection[str], config_type: type, searchable: Collection[str]
) -> None:
    """Raises what `read_space` does for any row, and ValueError for a row that is none of `rows` or no
    setting.
    """
    of_rows = _table(f"{path}: rows", _read(path).get("rows", {}))
    _known(str(path), "rows.", of_rows, rows)
    spaces = [read_space(path, row, config_type, searchable) for row in rows]
    if not any(space.settings for space in spaces):
        raise ValueError(f"{path}: has no setting to search; give some as [settings], see docs/tuning.md")


def own_settings(path: str | Path, row: str) -> set[str]:
    """The settings that a file gives for this row by name."""
    return set(_read(path).get("rows", {}).get(row, {}))


def _read(path: str | Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not TOML: {error}") from None
    _known(str(path), "", document, ("seed", "pruner", "metric", "settings", "rows"))
    return document


def _head(path: str, document: Mapping[str, Any]) -> Space:
    seed, pruner, metric = (
        document.get("seed", 0),
        document.get("pruner", "median"),
        document.get("metric", ""),
    )
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ValueError(f"{path}: seed = {seed!r}: must be a whole number from 0 to 2^32 - 1")
    if pruner not in PRUNERS:
        raise ValueError(f"{path}: pruner = {pruner!r}: must be one of {', '.join(PRUNERS)}")
    if not isinstance(metric, str):
        raise ValueError(f"{path}: metric = {metric!r}: must be the name of a validation metric")
    if metric.startswith("test") or metric.endswith("on test"):
        raise ValueError(
            f"{path}: metric = {metric!r}: settings are never chosen on the test split; name the validation "
            "metric, or leave it out"
        )
    return Space({}, seed, pruner, metric.removeprefix("valid/"))


def _table(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} = {value!r}: must be a table")
    return value


def _known(path: str, prefix: str, found: Mapping[str, Any], known: Collection[str]) -> None:
    for name in found:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            near = f"; the nearest is {nearest[0]!r}" if nearest else ""
            raise ValueError(f"{path}: {prefix}{name}: is none of {', '.join(sorted(known))}{near}")


def _settings(
    where: str, table: Any, hints: Mapping[str, Any], searchable: Collection[str]
) -> dict[str, Setting]:
    found = {}
    for name, value in _table(where, table).items():
        if name not in searchable:
            nearest = difflib.get_close_matches(name, searchable, n=1, cutoff=0.0)
            what = (
                "decides what is measured or how long, so no study may change it"
                if name in hints
                else (f"is no setting; the nearest is {nearest[0]!r}" if nearest else "is no setting")
            )
            raise ValueError(f"{where}.{name} = {value!r}: {what}")
        found[name] = _setting(f"{where}.{name}", value, hints[name])
    return found


def _setting(where: str, value: Any, hint: Any) -> Setting:
    if not isinstance(value, dict):
        raise ValueError(
            f"{where} = {value!r}: must be a range, {{low = …, high = …}}, or choices, {{choices = […]}}"
        )
    _known(where, "", value, KEYS)
    hint = _without_none(hint)
    if "choices" in value:
        if len(value) > 1:
            raise ValueError(f"{where} = {value!r}: give choices alone, or a range alone")
        return _choices(where, value["choices"], hint)
    if hint not in (int, float):
        raise ValueError(f"{where} = {value!r}: is no number but {_shown(hint)}; give {{choices = […]}}")
    return _range(where, value, hint)


def _range(where: str, value: Mapping[str, Any], hint: type) -> Setting:
    for key in ("low", "high"):
        if key not in value:
            raise ValueError(f"{where}: {key} is missing; a range has low and high")
        if not _is_of(value[key], hint):
            raise ValueError(f"{where}: {key} = {value[key]!r}: must be {_shown(hint)}")
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log = {log!r}: must be true or false")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{where}: low = {low}, high = {high}: low must be below high, both finite")
    if log and low <= 0:
        raise ValueError(f"{where}: low = {low}: must be positive on a logarithmic scale (log = true)")
    return Setting("int" if hint is int else "float", hint(low), hint(high), log)


def _choices(where: str, choices: Any, hint: Any) -> Setting:
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"{where}: choices = {choices!r}: must be a list of at least one value")
    found: list[Any] = []
    for choice in choices:
        if not _is_of(choice, hint):
            raise ValueError(f"{where}: choices: {choice!r} is not {_shown(hint)}")
        parts = choice if isinstance(choice, list) else [choice]
        if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
            raise ValueError(f"{where}: choices: {choice!r}: must be finite")
        made = tuple(choice) if isinstance(choice, list) else float(choice) if hint is float else choice
        if made in found:
            raise ValueError(f"{where}: choices: {choice!r} is repeated")
        found.append(made)
    return Setting("choice", choices=tuple(found))


def _without_none(hint: Any) -> Any:
    """`int` of `int | None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file is of a field's type; a whole number is also a float."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, list) and all(_is_of(part, args[0]) for part in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _shown(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(repr(arg) for arg in typing.get_args(hint))}"
    if typing.get_origin(hint) is tuple:
        return f"a list of {typing.get_args(hint)[0].__name__}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def replace(config: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration with these settings. Raises ValueError where it refuses their combination."""
    return dataclasses.replace(config, **settings)
