"""What long histories cost HSTU is measured and stored; blocks take less memory and change nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import hstu_length
from tests.experiments.multitask.runs import run_main


@pytest.mark.long
def test_blocks_take_less_memory_and_give_the_same_gradients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main(hstu_length, "--tiny", "--results", tmp_path)
    printed = capsys.readouterr().out
    gaps = [float(number) for number in re.findall(r" by (\d\.\de[+-]\d+)", printed)]
    assert len(gaps) == 2 and max(gaps) < 1e-5
    stored = {figure["name"]: figure for figure in json.loads((tmp_path / "hstu_length.json").read_text())}
    assert set(stored) == {
        f"hstu_length/{kind}_32{of}" for kind in hstu_length.KINDS for of in ("", ":memory")
    }
    assert {figure["unit"] for figure in stored.values()} == {"s", "MiB"}
    memory = {name: stored[f"hstu_length/{name}_32:memory"]["median"] for name in hstu_length.KINDS}
    assert memory["blocked"] < memory["plain"]


def test_what_is_too_large_has_no_seconds() -> None:
    large = hstu_length.Measured("plain", 64, 3 * 2**20, [])
    small = hstu_length.Measured("blocked", 64, 2**20, [2.0, 4.0, 3.0])
    assert [(f.name, f.unit, f.median) for f in hstu_length.figures(large)] == [
        ("hstu_length/plain_64:memory", "MiB", 3.0)
    ]
    assert [f.median for f in hstu_length.figures(small)] == [3.0, 1.0]
    assert hstu_length.table([large, small]).splitlines()[-1].split() == [
        "64", "too", "large", "3", "3.0", "1.0", "3.0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": 0}, "block=0: must be at least 1"),
        ({"longest": 3000}, "longest=3000: must be a power of two"),
        ({"longest": 128}, "longest=128: must be at least shortest=256"),
        ({"num_heads": 3}, "num_heads=3: must divide dim=64"),
    ],
)
def test_lengths_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hstu_length.Config(**change)
