"""Encoders survive storage: what is read back encodes as before, and what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.tables.columns import Ragged
from jaxrec.data.tables.encoder_arrays import encoders_from_arrays, encoders_to_arrays
from jaxrec.data.tables.features import (
    Buckets,
    Category,
    Encoders,
    Number,
    Tags,
    encode,
    fit_encoders,
)

RAW: dict[str, Any] = {
    "city": np.array(["Oslo", "", "Rome", "São Paulo", "Rome"]),
    "shop": np.array([7, 12, -3, 7, 7]),
    "price": np.array([0.1, np.nan, 1 / 3, 1e-7, 5.0]),
    "age": np.array([20.0, 30.0, np.nan, 50.0, 60.0]),
    "seen": Ragged(np.array([7, 12, 12, 7]), np.array([0, 2, 2, 3, 4, 4])),
}
SPECS = (
    Category("city"),
    Category("shop", vocabulary="shops", min_count=np.int64(2), missing=(-3,)),
    Tags("seen", vocabulary="shops", min_count=2, max_values=1),
    Number("price", log=True, missing="indicator"),
    Buckets("age", num_buckets=3),
    Buckets("decade", column="age", edges=(30.0, 50.0)),
)


def stored(encoders: Encoders, folder: Path) -> Encoders:
    settings, arrays = encoders_to_arrays(encoders)
    np.savez(folder / "encoders.npz", **arrays)
    text = json.dumps(settings, allow_nan=False)
    with np.load(folder / "encoders.npz", allow_pickle=False) as file:
        return encoders_from_arrays(json.loads(text), file)


def test_encoders_read_back_encode_as_before(tmp_path: Path) -> None:
    encoders = fit_encoders(SPECS, RAW, np.arange(5))
    found = stored(encoders, tmp_path)
    assert found.specs == encoders.specs
    assert (found.scales, found.widths) == (encoders.scales, encoders.widths)
    for mine, theirs in zip(found.fields, encoders.fields, strict=True):
        assert mine[:4] == theirs[:4]
        np.testing.assert_array_equal(mine.raw, theirs.raw)
    want = encode(encoders, RAW)
    for name, column in encode(found, RAW).items():
        np.testing.assert_array_equal(column, want[name])


def test_a_shared_vocabulary_is_stored_once() -> None:
    _, arrays = encoders_to_arrays(fit_encoders(SPECS, RAW, np.arange(5)))
    assert sorted(array.tolist() for array in arrays.values() if array.dtype.kind == "i") == [[7, 12]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=6))
def test_scales_are_exact(values: list[float]) -> None:
    encoders = fit_encoders((Number("x"),), {"x": np.array(values)}, np.arange(len(values)))
    settings, arrays = encoders_to_arrays(encoders)
    assert encoders_from_arrays(json.loads(json.dumps(settings)), arrays).scales == encoders.scales


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s, a: s.update(format=2), "format=2: this version reads 1"),
        (lambda s, a: s.pop("scales"), "'scales' is missing or wrong"),
        (lambda s, a: a.clear(), "'raw_0' is missing or wrong"),
        (lambda s, a: s["specs"][0].update(kind="Other"), "'Other' is missing or wrong"),
        (lambda s, a: s["specs"][0].update(other=1), "'other' is missing or wrong"),
        (lambda s, a: a.update(raw_0=np.zeros((2, 2))), r"city: raw_0 is float64\[2, 2\], expected"),
    ],
)
def test_what_is_damaged_is_refused(change: Any, message: str) -> None:
    settings, arrays = encoders_to_arrays(fit_encoders(SPECS, RAW, np.arange(5)))
    change(settings, arrays)
    with pytest.raises(ValueError, match=message):
        encoders_from_arrays(settings, arrays)
