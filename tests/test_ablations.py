"""The ablations of docs/ablations.md: each is put into its experiment as the page says, and trained."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jaxrec.report.results import read_results

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/ablations.md"
BLOCK = re.compile(r"```python\n# (\S+), (in|above) (\w+)\n(.*?)```", flags=re.DOTALL)
# experiment -> the options of a short run, and the row that it stores with the loss that trains it
RUNS = {
    "experiments/ranking/din.py": (("--rows", "din-focal"), "din-focal", "focal"),
    "experiments/sequential/sasrec.py": (("--rows", "sasrec-bpr"), "sasrec-bpr", "bpr"),
    "experiments/sequential/ticoserec.py": (
        ("--rows", "ticoserec-bce", "--similarity", "close_by"),
        "ticoserec-bce+close_by",
        "bce + contrastive",
    ),
    "experiments/multitask/census.py": (("--rows", "mmoe-sharp"), "mmoe-sharp", "bce"),
}


def edited(path: str) -> str:
    """The source of an experiment with the page's blocks in their places."""
    source = (ROOT / path).read_text(encoding="utf-8")
    for name, where, anchor, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name != path:
            continue
        line = re.search(rf"^{anchor}: .*\n", source, flags=re.MULTILINE)
        assert line is not None, f"{path} has no {anchor}"
        at = line.end() if where == "in" else line.start()
        source = source[:at] + text + source[at:]
    return source


def loaded(path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The edited experiment as a module."""
    file = folder / Path(path).name
    file.write_text(edited(path), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"ablation_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look up annotations
    spec.loader.exec_module(module)
    return module


def test_the_page_has_an_ablation_for_each_run() -> None:
    assert {block[0] for block in BLOCK.findall(PAGE.read_text(encoding="utf-8"))} == set(RUNS)


@pytest.mark.parametrize("path", RUNS)
def test_an_ablation_is_trained_and_labelled(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, row, loss = RUNS[path]
    module = loaded(path, tmp_path, monkeypatch)
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    kept = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"), "--seeds", "0")
    monkeypatch.setattr(sys, "argv", [path, "--tiny", *options, *kept])
    module.main()
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert found[row].protocol.loss == loss
    assert found[row].steps > 0


def test_a_row_that_hides_its_loss_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "experiments/sequential/sasrec.py"
    module = loaded(path, tmp_path, monkeypatch)
    monkeypatch.setitem(module.ROWS, "sasrec-bce", module.ROWS["sasrec-bpr"])
    config = module.Config(tiny=True, rows=("sasrec-bce",), workdir=str(tmp_path), results=str(tmp_path))
    with pytest.raises(ValueError, match="row 'sasrec-bce': is trained with the loss 'bpr'"):
        module.run(config)
