"""The settings in which the rows of a table of results differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrec.provenance import FOLDER_FIELDS

NO_VALUE = object()  # of a setting that a row does not have


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The settings with at least two values, and what each row has: {setting: one text per row}.

    A setting within another has both names, joined by a dot. A row without the setting, such as one of a
    baseline, has "" and does not make it differ. Folders are no settings.

    >>> differing([{"dim": 8, "recipe": {"dropout": 0.1}}, {"dim": 8, "recipe": {"dropout": 0.2}}, {}])
    {'recipe.dropout': ['0.1', '0.2', '']}
    """
    flat = [flatten(config) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    columns = {name: [as_text(config.get(name, NO_VALUE)) for config in flat] for name in names}
    return {name: texts for name, texts in columns.items() if len({text for text in texts if text}) > 1}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names.

    >>> flatten({"a": {"b": 1}, "workdir": "runs"})
    {'a.b': 1}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        elif name not in FOLDER_FIELDS:
            found[prefix + name] = value
    return found


def as_text(value: Any) -> str:
    """A setting's value in a table.

    >>> as_text(80290), as_text(True), as_text([1, 2]), as_text(None), as_text("")
    ('80,290', 'yes', '1 2', 'none', 'none')
    """
    if value is NO_VALUE:
        return ""
    if value is None or value in ("", [], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(as_text(part) for part in value)
    return str(value)
