"""Fixed weights of named losses."""

from __future__ import annotations

from typing import Any

import pytest

from jaxrec.optim.loss_weighting import static

LOSSES: dict[str, Any] = {"a": 4.0, "b": 1.0}


def test_the_total_is_the_weighted_sum() -> None:
    total, _, used = static({"a": 0.5, "b": 3.0}).combine({}, {}, LOSSES)
    assert total == 0.5 * 4.0 + 3.0 * 1.0
    assert used == {"a": 0.5, "b": 3.0}


def test_every_weight_is_one_by_default() -> None:
    assert static().combine({}, {}, LOSSES)[0] == 5.0


def test_nothing_is_learned_or_remembered() -> None:
    assert static().init() == ({}, {})
    assert static().combine({}, {}, LOSSES)[1] == {}


@pytest.mark.parametrize("losses", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}], ids=["missing", "unknown"])
def test_weights_and_losses_must_have_the_same_names(losses: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"loss weights for \['a', 'b'\]"):
        static({"a": 1.0, "b": 1.0}).combine({}, {}, losses)
