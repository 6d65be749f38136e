"""Curves as PNG files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jaxrec.report import plots

RUNS = {
    "seed 0": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "ndcg@10": 0.1}],
    "seed 1": [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5, "ndcg@10": 0.2}],
}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, ...]]]:
    """Lines by label, as matplotlib is given them."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plots`")
    from matplotlib.axes import Axes

    lines: dict[str, list[tuple[float, ...]]] = {}
    plot = Axes.plot

    def record(self, x, y, **kwargs):  # type: ignore[no-untyped-def]
        lines[kwargs["label"]] = [tuple(x), tuple(y)]
        return plot(self, x, y, **kwargs)

    monkeypatch.setattr(Axes, "plot", record)
    return lines


def test_metric_curve_has_a_line_a_run(drawn: dict[str, list[tuple[float, ...]]], tmp_path: Path) -> None:
    path = plots.metric_curve(RUNS, "ndcg@10", tmp_path / "made/ndcg.png")
    assert path.read_bytes().startswith(PNG)
    assert drawn == {"seed 0": [(2,), (0.1,)], "seed 1": [(2,), (0.2,)]}


def test_loss_curve_has_a_line_a_loss(drawn: dict[str, list[tuple[float, ...]]], tmp_path: Path) -> None:
    runs = {"a": [{"loss": 3.0, "loss/contrastive": 1.0}, {"loss": 2.0, "loss/contrastive": 0.5}]}
    path = plots.loss_curve(runs, tmp_path / "loss.png")
    assert path.read_bytes().startswith(PNG)
    assert drawn == {"a: loss": [(0, 1), (3.0, 2.0)], "a: loss/contrastive": [(0, 1), (1.0, 0.5)]}


def test_single_loss_is_labelled_by_its_run(
    drawn: dict[str, list[tuple[float, ...]]], tmp_path: Path
) -> None:
    plots.loss_curve(RUNS, tmp_path / "loss.png")
    assert set(drawn) == set(RUNS)


def test_absent_metric_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'auc': no epoch of any run has it: choose one of .*ndcg@10"):
        plots.metric_curve(RUNS, "auc", tmp_path / "auc.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"jaxrec\[plots\]"):
        plots.metric_curve(RUNS, "loss", tmp_path / "loss.png")


def test_spread_has_a_mean_and_a_band_of_two_deviations_a_model(
    drawn: dict[str, list[tuple[float, ...]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    bands: list[list[float]] = []
    monkeypatch.setattr(
        Axes, "fill_between", lambda self, x, low, high, **kwargs: bands.append([*low, *high])
    )
    runs = {"a": [{"epoch": 1, "mse": [1.0, 3.0]}, {"epoch": 2}, {"epoch": 3, "mse": [2.0, 2.0]}]}
    path = plots.mean_curve(runs, "mse", tmp_path / "made/mse.png")
    assert path.read_bytes().startswith(PNG)
    assert drawn == {"a": [(1, 3), (2.0, 2.0)]}
    assert bands == [[2.0 - 2 * 1.0, 2.0, 2.0 + 2 * 1.0, 2.0]]


def test_spread_of_an_absent_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'auc': no epoch of any run has it"):
        plots.mean_curve({"a": [{"epoch": 1, "mse": [1.0]}]}, "auc", tmp_path / "auc.png")
