"""The page of findings: what it takes from a docstring."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrec.report import findings

ROOT = Path(__file__).parents[2]
SCRIPT = '''"""A study
of two lines (Someone, 2020).

Run:     python -m experiments.a --seeds 0

Expect:  one is above two,
         by 0.1.

         A second paragraph.

Departs from the paper: much.
"""
'''


def test_a_finding_is_read_from_the_docstring(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(SCRIPT)
    assert findings.read_finding(path) == findings.Finding(
        "A study of two lines (Someone, 2020).",
        "python -m experiments.a",
        "One is above two, by 0.1.\n\nA second paragraph.",
    )


def test_a_script_without_findings_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""Nothing."""\n')
    assert findings.read_finding(path) is None


def test_a_finding_without_a_command_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(SCRIPT.replace("Run: ", "Ran: "))
    with pytest.raises(ValueError, match="has Expect: and no line Run:"):
        findings.read_finding(path)


def test_the_page_of_findings_is_not_stale() -> None:
    assert (ROOT / findings.PAGE).read_text(encoding="utf-8") == findings.page(ROOT), "run `make tables`"


def test_every_experiment_says_what_to_expect() -> None:
    folders = [folder for folder, _ in findings.FOLDERS if folder != "."]
    scripts = [path for folder in folders for path in (ROOT / "experiments" / folder).glob("*.py")]
    studies = [path for path in scripts if "class Config" in path.read_text(encoding="utf-8")]
    assert [path.name for path in studies if findings.read_finding(path) is None] == []
