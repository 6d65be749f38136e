"""The TiCoSeRec experiment: what stands beside a row, and what a row says of its loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from experiments import ticoserec
from jaxrec.report.results import read_all

OFFICIAL = ticoserec.Config(dataset="Beauty")
OTHERWISE: list[dict[str, Any]] = [
    {"preset": "reproduce"},
    {"form": "flat"},
    {"similarity": "random"},
    {"operators": "C"},
    {"opposite": True},
    {"no_warm_up": True},
    {"official_bug": True},
    {"inverted_similarity": True},
    {"epochs": 2},
    {"dim": 64},
    {"batch_size": 64},
    {"tiny": True},
]


@pytest.mark.parametrize(
    "change", [{}, {"seeds": (7,)}, {"seen": "zero"}, {"workdir": "x", "num_devices": 2}]
)
def test_official_settings_have_the_published_numbers(change: dict[str, Any]) -> None:
    published, source = ticoserec.published_numbers("ticoserec", dataclasses.replace(OFFICIAL, **change))
    assert published["ndcg@20"] == 0.0501
    assert source == ticoserec.README


@pytest.mark.parametrize("change", OTHERWISE, ids=str)
def test_other_settings_have_none(change: dict[str, Any]) -> None:
    assert ticoserec.published_numbers("ticoserec", dataclasses.replace(OFFICIAL, **change)) == ({}, "")


def test_the_loss_of_a_row_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    rows: tuple[ticoserec.Row, ...] = ("random", "sasrec-bce", "coserec")
    places = {"results": str(tmp_path / "results"), "workdir": str(tmp_path / "work")}
    ticoserec.run(ticoserec.Config(rows=rows, seeds=(0,), tiny=True, **places))
    losses = {r.result.model: r.result.protocol.loss for r in read_all(tmp_path / "results")}
    assert losses == {"random": "", "sasrec-bce": "bce", "coserec": "bce + contrastive"}
