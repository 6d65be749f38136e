"""README and docs: short, linked, and every command and example in them works."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from docs import pages as site
from jaxrec.config import cli
from jaxrec.data import catalogue
from jaxrec.data.__main__ import Command
from jaxrec.data.__main__ import main as data_main
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.report import models

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "BUILD_NOTES.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    if module == "jaxrec.launch" and "--" in words:  # what it starts follows
        cut = words.index("--")
        parse(" ".join(words[cut + 1 :]))
        words = words[:cut]
    name = f"{module}.__main__" if module in ("jaxrec.launch", "jaxrec.report") else module
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


# --- the site of the documentation -----------------------------------------------------------------


def test_every_page_is_in_the_navigation_once() -> None:
    text = site.sources()["index.md"]
    named = re.findall(r"^(?:api/)?[a-z_]+$", text.split("```{toctree}", 1)[1], flags=re.MULTILINE)
    written = [name.removesuffix(".md") for name in site.sources() if name.endswith(".md")]
    assert sorted(named) == sorted(
        [*(name for name in written if name != "index"), "api/jaxrec", "api/experiments"]
    )


def test_a_page_that_the_navigation_misses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "new.md").write_text("# New\n", encoding="utf-8")
    message = "docs/new.md: is in no group of the navigation; add it to NAVIGATION in docs/pages.py"
    with pytest.raises(ValueError, match=message):
        site.sources(tmp_path)


def test_every_module_has_a_page_and_every_page_is_reached_from_that_of_its_package() -> None:
    pages = {name: text for name, text in site.sources().items() if name.startswith("api/")}
    for package in site.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if path.name == "__main__.py" or not (path.parent / "__init__.py").exists():  # scripts of peers
                continue
            assert f".. automodule:: {name}\n" in pages[f"api/{name}.rst"]
            parent = name.rpartition(".")[0]
            assert not parent or f"\n   {name}\n" in pages[f"api/{parent}.rst"]


def test_links_of_the_site_lead_to_its_pages() -> None:
    pages = site.sources()
    for name, text in pages.items():
        if name.endswith(".md"):
            links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
            assert [link for link in links if link and "://" not in link and link not in pages] == [], name
    assert "[SASRec](api/jaxrec.nn.sequential.sasrec.rst)" in pages["models.md"]
    assert "](protocols.md#two-orders-of-the-events-of-one-day)" in pages["discussion.md"]


# --- old names and new ones ------------------------------------------------------------------------

MOVED = (ROOT / "docs" / "moving_house.md").read_text(encoding="utf-8")
BEFORE = "26c895e"  # the last commit with the old names


def moved(heading: str) -> list[list[str]]:
    """The cells of each row of the table under a heading."""
    section = MOVED.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [re.findall(r"`([\w.]+)`", line) for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 3, f"no table under {heading}"
    return rows


def find(name: str) -> Any:
    """What a dotted name stands for. Raises ImportError or AttributeError if there is no such thing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        if not parent:
            raise
        return getattr(find(parent), last)


@pytest.mark.parametrize("old, new", [*moved("Programs"), *moved("Modules")])
def test_an_old_module_is_gone_and_the_new_one_is_there(old: str, new: str) -> None:
    assert not (ROOT / old.replace(".", "/")).with_suffix(".py").exists()
    assert importlib.import_module(new).__doc__


@pytest.mark.parametrize("old, new", moved("Names in modules"))
def test_an_old_name_is_gone_and_the_new_one_is_there(old: str, new: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        find(old)
    find(new)


@pytest.mark.parametrize("of, old, new", moved("Arguments, fields and methods"))
def test_an_old_argument_is_gone_and_the_new_one_is_there(of: str, old: str, new: str) -> None:
    found = find(of)
    names = {*dir(found), *inspect.signature(found).parameters}
    assert new in names and old not in names


@pytest.mark.parametrize("old, new", moved("Programs"))
def test_what_is_called_a_program_is_one(old: str, new: str) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(f"{new} --help")
    assert stop.value.code == 0


def test_every_module_that_moved_is_in_a_table() -> None:
    command = ["git", "ls-tree", "-r", "--name-only", BEFORE, "jaxrec", "experiments"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no git")
    if done.returncode:
        pytest.skip(f"commit {BEFORE} is not in this copy of the repository")
    gone = [path for path in done.stdout.split() if path.endswith(".py") and not (ROOT / path).exists()]
    section = MOVED.split("\n## Gone\n")[1].split("\n## ")[0]
    tables = {old for old, _ in [*moved("Programs"), *moved("Modules")]} | {
        *re.findall(r"`([\w.]+)`", section)
    }
    assert [path for path in gone if path.removesuffix(".py").replace("/", ".") not in tables] == []


# --- examples --------------------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page that are marked with a language, "" for those that are not."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def filmclub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of the guide in the catalogue, and its file, which is returned, in the data folder."""
    (ratings,), (source,) = blocks("add_a_dataset.md", ""), blocks("add_a_dataset.md", "python")
    path = tmp_path / "filmclub" / "ratings.dat"
    path.parent.mkdir()
    path.write_text(ratings, encoding="utf-8")
    module = types.ModuleType("jaxrec.data.sources.filmclub")
    exec(compile(source, "filmclub.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(catalogue, "SOURCES", (*catalogue.SOURCES, "filmclub"))
    monkeypatch.setenv("JAXREC_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_the_data_set_of_the_guide_loads_by_its_name(
    filmclub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sequences = catalogue.load("filmclub/2020")
    assert sequences.user_ids.tolist() == [3, 7, 9] and sequences.item_ids.tolist() == [11, 20, 35, 42]
    assert sequences.user_items(1).tolist() == [2, 1, 3]
    assert "CC BY 4.0" in capsys.readouterr().err  # the terms
    assert data_main(["stats", "filmclub/2020"]) == 0
    found = capsys.readouterr().out
    assert (
        found.startswith("filmclub/2020: 3 users, 4 items, 9 interactions")
        and "2020-01-01 .. 2020-01-06" in found
    )


def test_a_file_of_yours_ends_in_a_tested_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps of the guide, on a made-up file, for two epochs."""
    sequences = markov_chain(num_users=48, num_items=20).sequences
    assert sequences.times is not None
    events = zip(sequences.event_users, sequences.items, sequences.times, strict=True)
    lines = [f"u{user},i{item},{time}\n" for user, item, time in events]
    (tmp_path / "events.csv").write_text("uid,sku,ts\n" + "".join(lines), encoding="utf-8")
    rng = np.random.default_rng(0)
    shown = [f"{rng.integers(2)},{rng.integers(2)},{'ABC'[i % 3]},{i % 7},{i}\n" for i in range(60)]
    (tmp_path / "rows.csv").write_text("click,buy,city,price,ts\n" + "".join(shown), encoding="utf-8")
    (tmp_path / "new_rows.csv").write_text("price,city\n3,B\n,Z\n", encoding="utf-8")
    np.savez(tmp_path / "vectors.npz", sku=np.array([f"i{item}" for item in range(1, 21)]), v=np.eye(20, 4))
    monkeypatch.chdir(tmp_path)
    steps = "".join(blocks("bring_your_own_data.md", "python"))
    assert "epochs=20" in steps
    names: dict[str, Any] = {}
    exec(compile(steps.replace("epochs=20", "epochs=2"), "bring_your_own_data.md", "exec"), names)
    assert names["columns"]["city"].tolist() == [4, 2]  # B, and a city that training rows do not have
    assert names["vectors"].shape == (names["sequences"].num_items + 1, 4)
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+) \[\{.*'ndcg@10': 0\.\d+.*\}, \{.*\}\]$", printed, flags=re.MULTILINE) == [
        "sasrec", "random", "popularity"
    ]  # fmt: skip
    assert list((tmp_path / "runs" / "mine").glob("*/*/vocabulary.npz"))


def test_a_changed_file_of_the_guide_is_refused(filmclub: Path) -> None:
    filmclub.write_text(filmclub.read_text(encoding="utf-8")[:-2], encoding="utf-8")
    with pytest.raises(ValueError, match=r"filmclub/ratings\.dat: truncated: sha256 .* expected"):
        catalogue.load("filmclub/2020")


# --- what a change and a citation are recorded in --------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    changes = re.findall(
        r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert changes[:2] == ["Unreleased", version]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
