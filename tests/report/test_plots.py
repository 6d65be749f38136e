"""Curves as PNG files: what is drawn, and that a reader sees what it means."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxrec.report import curves, plots

RUNS = {
    "seed 0": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "ndcg@10": 0.1}],
    "seed 1": [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5, "ndcg@10": 0.2}],
}
HISTORY: list[dict[str, Any]] = [
    {"epoch": 0, "valid/ndcg@10": [0.1, 0.4]},
    {"epoch": 1},
    {"epoch": 2, "valid/ndcg@10": [0.3, 0.2]},
]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, as matplotlib has them."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plots`")
    from matplotlib.figure import Figure

    saved: list[Any] = []
    save = Figure.savefig

    def record(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        saved.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", record)
    return saved


def lines(figure: Any) -> dict[str, list[tuple[float, ...]]]:
    """Epochs and values of each line by its label."""
    return {
        line.get_label(): [tuple(line.get_xdata()), tuple(line.get_ydata())]
        for line in figure.axes[0].get_lines()
    }


def band(figure: Any) -> list[tuple[float, float]]:
    """Lowest and highest value of the first band at each epoch."""
    points = figure.axes[0].collections[0].get_paths()[0].vertices
    at = {x: [y for other, y in points if other == x] for x, _ in points}
    return [(min(values), max(values)) for _, values in sorted(at.items())]


def test_metric_curve_has_a_line_a_run(figures: list[Any], tmp_path: Path) -> None:
    path = plots.metric_curve(RUNS, "ndcg@10", tmp_path / "made/ndcg.png")
    assert path.read_bytes().startswith(PNG)
    assert lines(figures[0]) == {"seed 0": [(2,), (0.1,)], "seed 1": [(2,), (0.2,)]}
    assert [other.name for other in path.parent.iterdir()] == ["ndcg.png"]


def test_seeds_are_a_mean_and_a_band_from_the_lowest_to_the_highest(
    figures: list[Any], tmp_path: Path
) -> None:
    plots.metric_curve({"sasrec-ce": HISTORY}, "valid/ndcg@10", tmp_path / "a.png")
    assert lines(figures[0]) == {"sasrec-ce": [(0, 2), (0.25, 0.25)]}
    assert band(figures[0]) == [(0.1, 0.4), (0.2, 0.3)]


def test_a_seed_that_ended_earlier_leaves_the_others() -> None:
    history = [{"auc": [0.5, 0.7]}, {"auc": [0.9, float("nan")]}, {"auc": [float("nan")] * 2}]
    assert curves.curve_of(history, "auc") == ([0, 1], [0.6, 0.9], [0.5, 0.9], [0.7, 0.9], 2)


def test_the_heading_says_what_is_drawn(figures: list[Any], tmp_path: Path) -> None:
    best = {"sasrec-ce": [2, 0]}
    plots.metric_curve(
        {"sasrec-ce": HISTORY}, "valid/ndcg@10", tmp_path / "a.png", dataset="ml-100k", best=best
    )
    axes = figures[0].axes[0]
    assert axes.get_title("left") == "NDCG of the 10 best items, validation\nml-100k"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "NDCG@10")
    assert figures[0].get_supxlabel() == (
        "line: mean of 2 seeds; band: lowest to highest; ring: best epoch of each seed"
    )


def test_each_seeds_best_epoch_is_marked_on_its_own_value(figures: list[Any], tmp_path: Path) -> None:
    plots.metric_curve({"a": HISTORY}, "valid/ndcg@10", tmp_path / "a.png", best={"a": [2, 0]})
    rings = figures[0].axes[0].collections[-1].get_offsets()
    assert [tuple(point) for point in rings.tolist()] == [(2.0, 0.3), (0.0, 0.4)]


def test_a_run_without_a_best_epoch_has_no_ring(figures: list[Any], tmp_path: Path) -> None:
    plots.metric_curve({"a": HISTORY}, "valid/ndcg@10", tmp_path / "a.png", best={"a": [-1, -1]})
    assert len(figures[0].axes[0].collections) == 1  # the band
    assert "ring" not in figures[0].get_supxlabel()


def test_lines_differ_by_more_than_colour(figures: list[Any], tmp_path: Path) -> None:
    runs = {f"model {i}": [{"loss": i}] for i in range(len(curves.COLOURS))}
    plots.metric_curve(runs, "loss", tmp_path / "a.png")
    drawn = [
        (line.get_color(), line.get_linestyle(), line.get_marker()) for line in figures[0].axes[0].get_lines()
    ]
    assert all(a[0] != b[0] and a[1:] != b[1:] for a, b in itertools.combinations(drawn, 2))


def test_loss_curve_has_a_line_a_loss(figures: list[Any], tmp_path: Path) -> None:
    runs = {"a": [{"loss": 3.0, "loss/contrastive": 1.0}, {"loss": 2.0, "loss/contrastive": 0.5}]}
    path = plots.loss_curve(runs, tmp_path / "loss.png")
    assert path.read_bytes().startswith(PNG)
    assert lines(figures[0]) == {
        "a: loss": [(0, 1), (3.0, 2.0)],
        "a: loss/contrastive": [(0, 1), (1.0, 0.5)],
    }


def test_single_loss_is_labelled_by_its_run(figures: list[Any], tmp_path: Path) -> None:
    plots.loss_curve(RUNS, tmp_path / "loss.png")
    assert set(lines(figures[0])) == set(RUNS)


@pytest.mark.parametrize("draw", [plots.metric_curve, plots.mean_curve])
def test_absent_metric_names_those_there_are(tmp_path: Path, draw: Any) -> None:
    with pytest.raises(ValueError, match=r"'auc': no epoch of any run has it: choose one of .*ndcg@10"):
        draw(RUNS, "auc", tmp_path / "auc.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"jaxrec\[plots\]"):
        plots.metric_curve(RUNS, "loss", tmp_path / "loss.png")


def test_mean_curve_has_a_band_of_two_deviations(figures: list[Any], tmp_path: Path) -> None:
    runs = {"a": [{"epoch": 1, "mse": [1.0, 3.0]}, {"epoch": 2}, {"epoch": 3, "mse": [2.0, 2.0]}]}
    path = plots.mean_curve(runs, "mse", tmp_path / "made/mse.png")
    assert path.read_bytes().startswith(PNG)
    assert lines(figures[0]) == {"a": [(1, 3), (2.0, 2.0)]}
    assert band(figures[0]) == [(2.0 - 2 * 1.0, 2.0 + 2 * 1.0), (2.0, 2.0)]
    assert "± two standard deviations" in figures[0].get_supxlabel()


def test_a_plot_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plots`")
    path = plots.loss_curve(RUNS, tmp_path / "loss.png")
    before = path.read_bytes()

    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        plots.loss_curve(RUNS, path, dataset="other")
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["loss.png"]
