"""Generates docs/results.md, the findings, from the paragraphs "Expect:" of experiments' docstrings.

It opens with the section of docs/discussion.md that says in ten lines what was found.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path("docs/results.md")
DISCUSSION, IN_SHORT = Path("docs/discussion.md"), "## In ten lines"
FOLDERS = (
    ("sequential", "Sequences and sessions"),
    ("ranking", "Click models"),
    ("multitask", "Several tasks"),
    ("retrieval", "Retrieval"),
    (".", "Others"),
)
RESULTS = "results"
SHARED = {"peterrec_cold_items": "peterrec"}  # scripts whose results lie under a name of another file
_GENERATED = (
    "<!-- Made from docs/discussion.md and docstrings of experiments by `make tables`; "
    "edit those, not this. -->"
)
_INTRODUCTION = """\
The results of each experiment so far: the paragraph "Expect" of its docstring. The numbers are those of
[results/README.md](../results/README.md), the generated tables of every result with all metrics, protocols,
seeds, times and commits; [protocols.md](protocols.md) says how they are measured,
[discussion.md](discussion.md) has the commands that produced them and the causes of differences from
published numbers. A difference from a published number is printed only where ours was measured in the same
way on the same file. Figures are curves of the metric on the validation queries by epoch, stored with the
results."""


_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


class Finding(NamedTuple):
    """The first paragraph of an experiment's docstring, its command, and its finding."""

    title: str
    command: str
    expected: str


def page(root: str | Path = ".") -> str:
    """The text of docs/results.md for the checkout at `root`."""
    parts = ["# Findings", _GENERATED, *in_short(Path(root)), _INTRODUCTION]
    for folder, heading in FOLDERS:
        paths = sorted((Path(root) / "experiments" / folder).glob("*.py"))
        found = [(path, finding) for path in paths if (finding := read_finding(path)) is not None]
        if found:
            parts.append(f"## {heading}")
        for path, finding in found:
            link = path.relative_to(Path(root)).as_posix()
            parts.append(f"### [{path.stem}](../{link})")
            parts.append(f"{finding.title} `{finding.command}`")
            parts.append(finding.expected)
            parts.extend(figure_links(Path(root), path))
    return "\n\n".join(parts) + "\n"


def in_short(root: Path) -> list[str]:
    """The section of the discussion that says what was found in short, if it has one."""
    path = root / DISCUSSION
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if IN_SHORT not in text:
        return []
    return [text[text.index(IN_SHORT) :].split("\n## ")[0].strip()]


def figure_links(root: Path, script: Path) -> list[str]:
    """A paragraph of links to the stored figures of a script for each of its data sets, as of docs/."""
    folder = root / RESULTS / (experiment_of(script) or script.stem)
    paragraphs = []
    for dataset in sorted({path.parent for path in folder.glob("*/*.png")}):
        figures = sorted(dataset.glob("*.png"))
        links = [f"[{path.stem}](../{path.relative_to(root).as_posix()})" for path in figures]
        paragraphs.append(textwrap.fill(f"Figures, {dataset.name}: {', '.join(links)}.", 118, **_WHOLE_WORDS))
    return paragraphs


def experiment_of(script: Path) -> str | None:
    """The name under which a script stores results, its constant EXPERIMENT; None if it has none."""
    if script.stem in SHARED:
        return SHARED[script.stem]
    found = re.search(r'^EXPERIMENT = "([^"]+)"$', script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1] if found else None


def read_finding(path: Path) -> Finding | None:
    """The finding of a script, or None if its docstring has no "Expect:".

    Raises:
      ValueError: it has "Expect:" and no command.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    if "\nExpect:" not in docstring:
        return None
    command = re.search(r"^Run: +(python -m \S+)", docstring, flags=re.MULTILINE)
    if command is None:
        raise ValueError(f"{path}: its docstring has Expect: and no line Run: with a command")
    text = docstring.partition("\nExpect:")[2]
    lines = [text.partition("\n")[0].strip()]
    for line in text.partition("\n")[2].splitlines():
        if line and not line.startswith(" "):
            break  # another paragraph of the docstring
        lines.append(line.strip())
    paragraphs = "\n".join(lines).strip().split("\n\n")
    expected = "\n\n".join(textwrap.fill(" ".join(each.split()), 118) for each in paragraphs)
    title = " ".join(docstring.partition("\n\n")[0].split())
    return Finding(title, command[1], expected[:1].upper() + expected[1:])
