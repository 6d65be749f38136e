"""The walks of docs/add_a_model.md, done in a copy of the checkout: tables of tests and a trained row."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/add_a_model.md").read_text(encoding="utf-8")
FILES, LINES = 3, 80  # the most that a walk may touch and add


class Edit(NamedTuple):
    """Lines that a walk adds: a new file, or an import and an entry of a table."""

    path: str
    text: str
    table: str = ""


class Walk(NamedTuple):
    heading: str
    options: tuple[str, ...]
    tests: str


WALKS = {
    "encoder": Walk("An encoder of item sequences", ("sequential.sasrec", "mean_pool-bce"), "mean_pool"),
    "click": Walk("A click model over a history", ("ranking.din", "nearest-event"), "nearest-event"),
}


def edits(heading: str) -> list[Edit]:
    """What a section of the page says, in its order."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    code = r"```python\n(.*?)```"
    file = re.search(rf"The file, `(\S+)`:\n\n{code}", section, flags=re.DOTALL)
    assert file is not None
    found = [Edit(file[1], file[2])]
    named = rf"in `(\w+)` of `(\S+)`, and its import:\n\n{code}\n\n{code}"
    for table, path, imported, entry in re.findall(named, section, flags=re.DOTALL):
        found += [Edit(path, imported), Edit(path, entry, table)]
    return found


def apply(checkout: Path, edit: Edit) -> None:
    """Writes a new file, puts an import below `from __future__`, or an entry first into a table."""
    path = checkout / edit.path
    if not path.exists():
        path.write_text(edit.text, encoding="utf-8")
        return
    source = path.read_text(encoding="utf-8")
    line = rf"^{edit.table}: .*\n" if edit.table else r"^from __future__ import annotations\n"
    place = re.search(line, source, flags=re.MULTILINE)
    assert place is not None, edit
    path.write_text(source[: place.end()] + edit.text + source[place.end() :], encoding="utf-8")


def run(checkout: Path, *command: str) -> str:
    """What a program prints that is run in the copy, with its package first on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {"PYTHONPATH": str(checkout), "JAXREC_XLA_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_is_short(name: str) -> None:
    made = edits(WALKS[name].heading)
    assert len({edit.path for edit in made}) == FILES
    assert sum(len(edit.text.splitlines()) for edit in made) <= LINES


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.long
def test_a_walk_ends_in_a_tested_and_trained_model(name: str, tmp_path: Path) -> None:
    walk, checkout = WALKS[name], tmp_path / "checkout"
    for folder in ("jaxrec", "experiments", "tests"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    made = edits(walk.heading)
    for edit in made:
        apply(checkout, edit)
    table = next(edit.path for edit in made if edit.path.startswith("tests/"))
    said = run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", table, "-k", walk.tests)
    assert int(re.findall(r"(\d+) passed", said)[0]) > 5
    module, row = walk.options
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"), "--seeds", "0")
    said = run(checkout, "-m", f"experiments.{module}", "--tiny", "--rows", row, *places)
    assert f"{row}: " in said
