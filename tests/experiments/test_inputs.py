"""What is wrong with a run is found before its folders are touched, in every experiment."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxrec.config import check_run
from jaxrec.data.synthetic.sequences import markov_chain
from tests.experiments.test_settings import EXPERIMENTS, OTHERS, module_of

OF_OTHER_RUNS = ("all", "crashes")  # they start runs of experiments in processes of their own
NAMES = tuple(name for name in (*EXPERIMENTS, *OTHERS) if name not in OF_OTHER_RUNS)
WITHOUT_WORKDIR = ("ann", "census_columns", "hstu_length", "speed", "streaming")
ON_ONE_DEVICE = (*WITHOUT_WORKDIR, "lifelong")
MAKES_ITS_DATA = (
    "ann", "delayed_feedback", "distillation", "dupn", "hstu_length", "lifelong", "missing_values",
    "mmoe_synthetic", "mobius", "pareto", "position_bias", "sharded_tables", "speed", "streaming",
    "watch_time",
)  # fmt: skip


def but(*left_out: str) -> list[str]:
    """The experiments without some."""
    return [name for name in NAMES if name not in left_out]


def call(name: str, monkeypatch: pytest.MonkeyPatch, *args: object) -> str:
    """What an experiment, called from the command line, says on its way out: one line, or a box of tyro."""
    module = module_of(name)
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 2
    said = errors.getvalue().strip()
    return said.splitlines()[-1].partition("error: ")[2] or said


def places(name: str, folder: Path) -> list[object]:
    """Options that put everything a run writes under one folder."""
    config = module_of(name).Config()
    own = [("results", folder / "results"), ("workdir", folder / "work")]
    return [word for option, path in own if hasattr(config, option) for word in (f"--{option}", path)]


@pytest.mark.parametrize(
    ("name", "place"),
    [*((name, "results") for name in NAMES), *((name, "workdir") for name in but(*WITHOUT_WORKDIR))],
)
def test_a_folder_that_is_a_file_is_refused_at_once(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    given = [*places(name, tmp_path / "run"), f"--{place}", tmp_path / "file" / "below"]
    said = call(name, monkeypatch, "--tiny", *given)
    assert f"{tmp_path / 'file'} is a file, so no folder can be there" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", but(*ON_ONE_DEVICE))
def test_more_devices_than_there_are_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = call(name, monkeypatch, "--tiny", "--num-devices", 4096, *places(name, tmp_path / "run"))
    assert message.startswith("num_devices=4096: this process has")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty data folder, an empty cache and no network."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.socket", _no_network)
    monkeypatch.setattr("subprocess.run", _no_network)


@pytest.mark.parametrize("name", but(*MAKES_ITS_DATA))
@pytest.mark.usefixtures("nothing_to_read")
def test_a_missing_data_set_leaves_no_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(name, monkeypatch, *places(name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_to_read")
def test_missing_weights_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "published_checkpoints"
    monkeypatch.setattr(module_of(name), "load", _small)
    call(name, monkeypatch, *places(name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def _no_network(*args: Any, **kwargs: Any) -> Any:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("census", ("--rows", "mmoe", "nope"), "'nope' is none of"),
        ("feature_interaction", ("--rows", "deep", "bst", "--dim", "3"), "dim=3: the 2 columns of an event"),
        ("gru4rec", ("--rows", "random", "gru4rec-ssm", "--alpha", "nan"), "alpha=nan: must be at least 0"),
        ("hstu", ("--rows", "random", "hstu-ssm", "--dataset", "ml-1m", "--file", "nowhere"), "nowhere"),
        ("kuaishou_ebr", ("--rows", "random", "naive-mtl-ssm", "--clusters", "500"), "num_clusters=500"),
        ("loss_weighting", ("--rows", "static", "pe-ltr", "--bound", "0.9"), "together at most 1"),
        ("loss_weighting", ("--rows", "static", "gradnorm", "--alpha", "nan"), "alpha=nan: must be a number"),
        ("mmoe_synthetic", ("--rows", "mmoe", "--correlations", "0.5", "2"), "each in -1..1"),
        (
            "peterrec_cold_items",
            ("--rows", "popularity", "peterrec-serial", "--dim", "6"),
            "dim=6: must be a multiple",
        ),
        ("published_checkpoints", ("--checkpoint", "nowhere.pt"), "nowhere.pt: no such file"),
        ("scenarios", ("--rows", "mlp", "apg", "--dim", "3"), "rank=16: must lie in 1..7"),
        ("speed", ("--baseline", "nowhere.json"), "baseline='nowhere.json': no such file"),
        ("ticoserec", ("--rows", "random", "sasrec-bce", "--dim", "7"), "dim=7: must be a multiple"),
        ("ticoserec", ("--rows", "ticoserec-bce", "--dataset", "coserec-Beauty"), "has no times"),
    ],
)
def test_a_wrong_option_of_a_later_row_leaves_no_file(
    name: str,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = () if name == "published_checkpoints" else ("--tiny",)
    monkeypatch.setattr("experiments.published_checkpoints.load", _small)
    said = call(name, monkeypatch, *tiny, *options, *places(name, tmp_path / "run"))
    assert message in said + capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _small(config: Any) -> Any:
    return markov_chain(num_users=20, num_items=12).sequences


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = importlib.import_module("experiments.multitask.census").Config(results=str(tmp_path / "a" / "b"))
    check_run(config)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match=f"{tmp_path} may not be written to"):
        check_run(config)
