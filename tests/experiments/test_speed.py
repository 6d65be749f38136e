"""The benchmarks: a figure comes out, with its unit, and ratios point the right way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from experiments import speed
from experiments.benchmarks.timing import Figure


@pytest.mark.parametrize(
    ("family", "first", "unit"),
    [
        ("ticoserec", "epoch_plain", "s"),
        ("multitask", "mmoe", "samples/s"),
        ("ranking", "din", "samples/s"),
        ("sessions", "stamp_epoch", "s"),
        ("index", "exact_1e6", "s"),
        ("graph", "lightgcn_epoch", "s"),
        ("towers", "in_batch", "samples/s"),
        ("interests", "mind", "samples/s"),
        ("table", "adam_1000", "s"),
        ("semantic-ids", "epoch_padded", "s"),
    ],
)
@pytest.mark.long
def test_figures_of_an_epoch(family: str, first: str, unit: str) -> None:
    figures = list(itertools.islice(speed.FAMILIES[family](2, True), 2))
    assert [(f.name, f.unit, f.repeats) for f in figures] == [
        (f"{family}/{first}", unit, 2),
        (f"{family}/{first}:compile", "s", 1),
    ]
    assert 0 < figures[0].min <= figures[0].median <= figures[0].max


@pytest.mark.long
def test_figures_of_tables_end_in_ratios() -> None:
    figures = {figure.name: figure for figure in speed.FAMILIES["table"](1, True)}
    dense, lazy = figures["table/adam_5000"], figures["table/lazy_adam_5000"]
    ratio = figures["table/lazy_adam_5000:speedup"]
    assert ratio.unit == "x" and ratio.median == pytest.approx(dense.median / lazy.median)
    growth = lazy.median / figures["table/lazy_adam_1000"].median
    assert figures["table/lazy_adam:growth"].median == pytest.approx(growth)


def test_figures_of_baselines() -> None:
    figures = list(speed.FAMILIES["baselines"](2, True))
    names = ["ease", "item_knn", "item_knn_evaluate", "slim"]
    names += [f"ials_4{solver}" for solver in ("", "_blocks", "_gradients")]
    figures = [f for f in figures if ":" not in f.name]  # without seconds of compilation
    assert [(f.name, f.unit, f.repeats) for f in figures] == [(f"baselines/{name}", "s", 2) for name in names]
    assert all(0 < f.min <= f.median <= f.max for f in figures)


@pytest.mark.parametrize(("unit", "median"), [("s", 2.0), ("sequences/s", 50.0)])
def test_a_ratio_above_one_is_faster_than_the_baseline(unit: str, median: float) -> None:
    baseline = {"a": 5.0 if unit == "s" else 20.0}
    figure = Figure("a", unit, median, median, median, 1)
    assert speed.ratio(figure, baseline) == "2.5x"
    assert speed.ratio(figure._replace(name="b"), baseline) == ""


def test_figures_of_the_baseline_are_kept_beside_ours() -> None:
    figures = [Figure("a", "s", 2.0, 1.0, 3.0, 3), Figure("b", "s", 2.0, 1.0, 3.0, 3)]
    assert speed.baselines_of(figures, {"a": 5.0, "c": 1.0}) == [Figure("a:baseline", "s", 5.0, 5.0, 5.0, 1)]


def test_other_families_keep_their_figures(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    old, other, new = (
        Figure(name, "s", m, m, m, 1) for name, m in (("a/x", 1.0), ("b/x", 2.0), ("a/y", 3.0))
    )
    path.write_text(json.dumps(speed.merge_figures(path, [old, other])))
    assert speed.merge_figures(path, [new]) == [other._asdict(), new._asdict()]


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="repeats=0: must be at least 1"):
        speed.Config(repeats=0)
    with pytest.raises(ValueError, match="no such file"):
        speed.Config(baseline=str(tmp_path / "absent.json"))
