"""A task of one class in a part of a split is named, before anything is trained."""

from typing import Any

import numpy as np
import pytest

from jaxrec.data.tables.features import Field
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit
from jaxrec.data.tables.summary import format_impressions

N = 12
PARTS = np.arange(6), np.arange(6, 9), np.arange(9, 12)


def split(click: list[int], buy: list[int] | None = None, **changes: Any) -> ImpressionSplit:
    labels = {"click": np.array(click, np.float32)}
    if buy is not None:
        labels["buy"] = np.array(buy, np.float32)
    field = Field("x", "numeric", 0, "", np.empty(0))
    given = {"labels": labels} | changes
    return Impressions("toy", {"x": np.arange(N, dtype=np.float32)}, (field,), **given).split(*PARTS)


BOTH = [0, 1] * 6


@pytest.mark.parametrize(
    "rows, part", [(PARTS[0], "train"), (PARTS[1], "validation"), (PARTS[2], "test")], ids=lambda v: str(v)
)
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_named_with_its_task_and_part(
    rows: np.ndarray, part: str, label: int, capsys: pytest.CaptureFixture[str]
) -> None:
    buy = np.array(BOTH)
    buy[rows] = label
    made = split(BOTH, buy.tolist())
    said = f"task 'buy' is {label} in every row of {part}"
    assert capsys.readouterr().err == f"note: toy (given rows): {said}\n"
    assert made.single_classes() == {"buy": {part: label}}
    with pytest.raises(ValueError, match=rf"toy \(given rows\): {said}: choose other shares"):
        made.check_classes()
    made.check_classes(["click"])
    assert f"{part} one class, {label} in every row" in format_impressions(made)


def test_several_parts_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    made = split([0] * N)
    assert made.single_classes() == {"click": {"train": 0, "validation": 0, "test": 0}}
    error = capsys.readouterr().err
    assert error.count("is 0 in every row of") == 3 and error.count("\n") == 1


def test_a_task_is_looked_at_in_its_space() -> None:
    space = np.ones(N, bool)
    space[PARTS[2]] = False
    space[[1, 3, 5]] = False
    made = split(BOTH, BOTH, spaces={"buy": space})
    assert made.single_classes() == {"buy": {"train": 0, "test": None}}
    with pytest.raises(
        ValueError, match="task 'buy' is 0 in every row of train; task 'buy' has no row of test"
    ):
        made.check_classes(["buy"])


def test_both_classes_and_numbers_are_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    made = split(BOTH)
    assert made.single_classes() == {}
    made.check_classes()
    assert split([3] * N, regression=("click",)).single_classes() == {}
    assert capsys.readouterr().err == ""
