"""Encoders as JSON and arrays, and back: what a folder of a trained model keeps, without pickle.

settings, arrays = encoders_to_arrays(encoders)
np.savez(file, **arrays)
encoders = encoders_from_arrays(json.loads(json.dumps(settings)), dict(np.load(file)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.data.tables.features import (
    FIRST_VALUE,
    Buckets,
    Category,
    Encoders,
    FeatureSpec,
    Field,
    Number,
    Tags,
)

FORMAT = 1
_SPECS: dict[str, Any] = {kind.__name__: kind for kind in (Category, Tags, Number, Buckets)}


def encoders_to_arrays(encoders: Encoders) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Encoders as what JSON holds, and arrays of integers, floats or text by name.

    The round trip is exact: floats of JSON are written with all their digits. A vocabulary that fields share
    is stored once.
    """
    arrays: dict[str, np.ndarray] = {}
    fields, stored = [], dict[str, str]()
    for number, field in enumerate(encoders.fields):
        record = {"name": field.name, "kind": field.kind, "vocabulary": field.vocabulary}
        if field.kind != "numeric":
            raw = stored.setdefault(field.vocabulary, f"raw_{number}")
            arrays[raw] = field.raw
            record["raw"] = raw
        fields.append(record)
    specs = [{"kind": type(spec).__name__} | _plain(spec._asdict()) for spec in encoders.specs]
    return {
        "format": FORMAT,
        "specs": specs,
        "fields": fields,
        "scales": {name: [float(x) for x in scale] for name, scale in encoders.scales.items()},
        "widths": {name: int(width) for name, width in encoders.widths.items()},
    }, arrays


def encoders_from_arrays(settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Encoders:
    """The encoders that `encoders_to_arrays` made these of.

    Raises:
      ValueError: another format, an unknown kind or option of a feature, or an array that is not there or not
        of integers, floats or text.
    """
    if settings.get("format") != FORMAT:
        raise ValueError(
            f"encoders: format={settings.get('format')!r}: this version reads {FORMAT}; read them with the "
            "version that wrote them"
        )
    try:
        fields = tuple(_field(record, arrays) for record in settings["fields"])
        specs = tuple(_spec(record) for record in settings["specs"])
        scales = {
            name: (float(mean), float(deviation)) for name, (mean, deviation) in settings["scales"].items()
        }
        widths = {name: int(width) for name, width in settings["widths"].items()}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"encoders: {error} is missing or wrong in what was stored; store them again"
        ) from None
    return Encoders(specs, fields, scales, widths)


def _field(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Field:
    name, kind, vocabulary = record["name"], record["kind"], record["vocabulary"]
    if kind == "numeric":
        return Field(name, kind, 0, vocabulary, np.empty(0))
    raw = arrays[record["raw"]]
    if raw.ndim != 1 or raw.dtype.kind not in "iufU":
        raise ValueError(
            f"encoders: {name}: {record['raw']} is {raw.dtype}{list(raw.shape)}, expected integers, floats "
            "or text of rank 1; store them again"
        )
    return Field(name, kind, FIRST_VALUE + len(raw), vocabulary, raw)


def _spec(record: Mapping[str, Any]) -> FeatureSpec:
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.items()
        if name != "kind"
    }
    found: FeatureSpec = _SPECS[record["kind"]](**options)
    return found


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a feature as JSON holds them: NumPy numbers as Python's, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(entry) for entry in value]
        return value.item() if isinstance(value, np.generic) else value

    return {name: plain(value) for name, value in options.items()}
