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


def test_stored_figures_are_linked_by_data_set(tmp_path: Path) -> None:
    script = tmp_path / "experiments" / "a.py"
    script.parent.mkdir()
    script.write_text(SCRIPT + 'EXPERIMENT = "study"\n')
    assert findings.figure_links(tmp_path, script) == []
    for name in (
        "study/ml-100k/mmoe.png",
        "study/ml-100k/mmoe.json",
        "study/Beauty/ple.png",
        "other/x/y.png",
    ):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    links = [
        "Figures, Beauty: [ple](../results/study/Beauty/ple.png).",
        "Figures, ml-100k: [mmoe](../results/study/ml-100k/mmoe.png).",
    ]
    assert findings.figure_links(tmp_path, script) == links
    assert findings.page(tmp_path).endswith("A second paragraph.\n\n" + "\n\n".join(links) + "\n")


def test_every_stored_figure_is_linked() -> None:
    page = (ROOT / findings.PAGE).read_text(encoding="utf-8")
    figures = [path.relative_to(ROOT).as_posix() for path in (ROOT / "results").glob("*/*/*.png")]
    assert [name for name in figures if f"](../{name})" not in page] == []


def test_the_page_of_findings_is_not_stale() -> None:
    assert (ROOT / findings.PAGE).read_text(encoding="utf-8") == findings.page(ROOT), "run `make tables`"


def test_every_experiment_says_what_to_expect() -> None:
    folders = [folder for folder, _ in findings.FOLDERS if folder != "."]
    scripts = [path for folder in folders for path in (ROOT / "experiments" / folder).glob("*.py")]
    studies = [path for path in scripts if "class Config" in path.read_text(encoding="utf-8")]
    assert [path.name for path in studies if findings.read_finding(path) is None] == []


def test_the_page_opens_with_what_the_discussion_says_in_short(tmp_path: Path) -> None:
    assert findings.in_short(tmp_path) == []
    path = tmp_path / findings.DISCUSSION
    path.parent.mkdir()
    path.write_text("# Discussion\n\nMore.\n")
    assert findings.in_short(tmp_path) == []
    path.write_text(f"# Discussion\n\n{findings.IN_SHORT}\n\n1. One.\n\n## Next\n\n{findings.IN_SHORT}\n")
    assert findings.in_short(tmp_path) == [f"{findings.IN_SHORT}\n\n1. One."]
    assert f"\n\n{findings.IN_SHORT}\n\n1. One.\n\n" in findings.page(tmp_path)
