"""README and docs: short, linked, and every command and example in them works."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from jaxrec.config import cli
from jaxrec.data.__main__ import Command
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.report import models

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
KIBIBYTES = 9  # a page that is read in one sitting


def commands(text: str) -> list[str]:
    """Commands `python -m …` of a page, in blocks and in sentences, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"(?:^ *|`)python -m ((?:experiments|jaxrec)[^`#\n]*)", joined, flags=re.MULTILINE)
    return [command.strip() for command in found]


def printed() -> list[str]:
    """Each command of README and docs, once."""
    return sorted({command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))})


def parse(command: str) -> Any:
    """Reads a command's options as the program would. Exits with 2 where it would."""
    module, *words = shlex.split(command)
    if module == "jaxrec.data":
        return tyro.cli(Command, args=words)  # type: ignore[arg-type]
    name = f"{module}.__main__" if module == "jaxrec.report" else module
    return cli(importlib.import_module(name).Config, args=words)


def headings(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_readme_is_short() -> None:
    assert README.stat().st_size <= KIBIBYTES * 1024


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        found = target.exists() and (not anchor or anchor in headings(target.read_text(encoding="utf-8")))
        broken += [] if found else [link]
    assert broken == []


def test_every_page_of_docs_is_linked_from_the_readme_or_from_a_linked_page() -> None:
    linked = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [page.name for page in PAGES[1:] if f"{page.name})" not in linked] == []


def test_commands_are_found_in_blocks_and_sentences() -> None:
    text = "```\npython -m experiments.a --b \\\n    1  # c\n```\nRun `python -m jaxrec.data list` now."
    assert commands(text) == ["experiments.a --b  1", "jaxrec.data list"]


@pytest.mark.parametrize("command", printed())
def test_a_printed_command_is_read_by_its_program(command: str) -> None:
    if "--help" not in command:
        parse(command)
        return
    with pytest.raises(SystemExit) as stop:
        parse(command)
    assert stop.value.code == 0


@pytest.mark.parametrize(
    "command", ["experiments.sequential.sasrec --epoch 3", "experiments.ranking.din --rows sasrec"]
)
def test_a_wrong_command_is_seen(command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(command)
    assert stop.value.code == 2


def test_the_table_of_models_is_not_stale() -> None:
    assert (ROOT / models.MODELS_PAGE).read_text(encoding="utf-8") == models.models_page(ROOT), (
        "run `make tables`"
    )


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    tiny = markov_chain(num_users=48, num_items=20).sequences
    monkeypatch.setattr("jaxrec.data.load", lambda name: tiny)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("epochs=20", "epochs=2"), "README.md", "exec"), {})
    assert re.findall(r"'ndcg@10': 0\.\d+", capsys.readouterr().out) != []
