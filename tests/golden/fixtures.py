"""The golden fixtures: outputs of trusted reference implementations on given weights and inputs."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

FOLDER = Path(
    os.environ.get("JAXREC_GOLDEN_DIR") or Path(__file__).resolve().parents[3] / "shared" / "golden"
)


class Golden(NamedTuple):
    """One fixture: its meta data, and its arrays by the part of their name after `param/`, `in/`, …"""

    meta: dict[str, Any]
    params: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


def golden_files(prefix: str) -> list[Any]:
    """A parameter for each fixture of a kind, `prefix.npz` or `prefix_<anything>.npz`.

    Where there is none, one parameter that skips and says which folder was searched.
    """
    paths = sorted(
        p for p in FOLDER.glob(f"{prefix}*.npz") if p.stem == prefix or p.stem.startswith(f"{prefix}_")
    )
    if not paths:
        reason = f"no {prefix}*.npz in {FOLDER} (JAXREC_GOLDEN_DIR)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id=f"{prefix}-missing")]
    return [pytest.param(path, id=path.stem) for path in paths]


def read(path: Path) -> Golden:
    """Reads a fixture."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays.pop("meta")))
    parts: dict[str, dict[str, np.ndarray]] = {"param": {}, "in": {}, "out": {}, "grad": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = array
    return Golden(meta, parts["param"], parts["in"], parts["out"], parts["grad"])
