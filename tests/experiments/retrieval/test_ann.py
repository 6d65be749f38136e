"""Recall and time of every search are measured and stored; what is exact finds everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.retrieval import ann
from jaxrec.report.tradeoff import tradeoff_curve
from tests.experiments.multitask.runs import run_main


def test_what_is_exact_finds_everything(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "items.npz", vectors=rng.normal(size=(200, 8)), ids=np.arange(200))
    np.save(tmp_path / "queries.npy", rng.normal(size=(9, 8)))
    files = ("--items", tmp_path / "items.npz", "--queries", tmp_path / "queries.npy")
    run_main(ann, "--tiny", *files, "--probes", 1, 14, "--num-clusters", 14, "--results", tmp_path)
    stored = {figure["name"]: figure for figure in json.loads((tmp_path / "ann.json").read_text())}
    recall = {
        name: stored[f"ann/{name}:recall"]["median"] for name in ("exact", "clusters_1", "cur_4", "cur_8")
    }
    assert recall["exact"] == recall["cur_8"] == 1
    assert 0 < recall["clusters_1"] < 1 and recall["cur_4"] < 1
    assert stored["ann/exact"]["unit"] == "ms" and stored["ann/exact"]["median"] > 0
    assert (tmp_path / "ann.png").read_bytes().startswith(b"\x89PNG")


def test_generated_vectors_lie_around_centres() -> None:
    items, queries = ann.vectors(ann.Config(num_items=2000, num_queries=50, dim=16, num_centres=5))
    assert items.shape == (2000, 16) and queries.shape == (50, 16) and items.dtype == np.float32
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    assert (unit[:200] @ unit.T > 0.5).mean() == pytest.approx(1 / 5, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0: must be at least 1"),
        ({"items": "a.npy"}, "give both files, or neither"),
        ({"items": "nowhere.npy", "queries": "nowhere.npy"}, "nowhere.npy: no such file"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ann.Config(**change)


def test_a_file_without_vectors_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="expected vectors"):
        ann.read_vectors(str(tmp_path / "a.npy"))


def test_a_plot_without_points_is_refused(tmp_path: Path) -> None:
    for lines in ({}, {"a": [(0.0, 1.0)]}):
        with pytest.raises(ValueError, match="all must be above 0"):
            tradeoff_curve(lines, tmp_path / "a.png", title="", cost="ms", value="recall")
