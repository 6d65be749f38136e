"""What the site of the documentation holds: the pages of this folder, the tables, and a page a module.

    python -m docs.pages FOLDER     writes the sources that Sphinx makes the site of; see `make docs`

Needs no library. Pages stay written for a reader of the repository: links between them, and from them to
modules, are turned into links of the site; links to other files lead nowhere on a site and become text.
"""

from __future__ import annotations

import os.path
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Heading of the navigation → files in its order. A page of docs/ that is not here is an error.
NAVIGATION: dict[str, tuple[str, ...]] = {
    "Guides": (
        "docs/running.md",
        "docs/command_line.md",
        "docs/tuning.md",
        "docs/bring_your_own_data.md",
        "docs/serving.md",
        "docs/comparing.md",
        "docs/scale.md",
        "docs/export.md",
        "docs/retrieval_index.md",
        "docs/add_a_dataset.md",
        "docs/add_a_model.md",
        "docs/ablations.md",
        "docs/moving_house.md",
    ),
    "Results": (
        "docs/results.md",
        "docs/discussion.md",
        "results/README.md",
        "docs/protocols.md",
        "docs/models.md",
        "tests/golden/README.md",
        "docs/speed.md",
    ),
    "The house": ("docs/architecture.md", "docs/decisions.md", "BUILD_NOTES.md", "CHANGELOG.md"),
}
PACKAGES = ("jaxrec", "experiments")  # each module of these has a page
_HOME = "README.md"
_NAMES = {_HOME: "index", "results/README.md": "tables", "tests/golden/README.md": "golden"}
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")


def sources(root: Path = ROOT) -> dict[str, str]:
    """The files of the site's source, by path: text in Markdown, pages of modules in reStructuredText.

    Raises:
      ValueError: a page of docs/ is missing from the navigation, or the navigation names no file.
    """
    named = [page for group in NAVIGATION.values() for page in group]
    for page in sorted(path.relative_to(root).as_posix() for path in (root / "docs").glob("*.md")):
        if page not in named:
            raise ValueError(
                f"{page}: is in no group of the navigation; add it to NAVIGATION in docs/pages.py"
            )
    absent = [page for page in named if not (root / page).is_file()]
    if absent:
        raise ValueError(f"{absent[0]}: named in NAVIGATION in docs/pages.py, but there is no such file")
    modules = list(find_modules(root))
    known = {page: f"{_name(page)}.md" for page in (_HOME, *named)}
    known |= {path: f"api/{name}.rst" for name, path in modules}
    found = {
        known[page]: _relinked((root / page).read_text(encoding="utf-8"), page, known)
        for page in (_HOME, *named)
    }
    found[known[_HOME]] += _navigation()
    names = [name for name, _ in modules]
    return found | {f"api/{name}.rst": _module_page(name, names) for name in names}


def find_modules(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Import path and file of every module of the packages that may be imported without running a program."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            folders = [root.joinpath(*parts[:depth]) for depth in range(1, len(parts))]
            if path.name != "__main__.py" and all((folder / "__init__.py").exists() for folder in folders):
                yield ".".join(parts).removesuffix(".__init__"), path.relative_to(root).as_posix()


def write(folder: Path) -> None:
    """Writes the sources into an empty or new folder."""
    for name, text in sources().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _name(page: str) -> str:
    return _NAMES.get(page, Path(page).stem.lower())


def _relinked(text: str, page: str, known: dict[str, str]) -> str:
    """The text of a page with its links as they lead from its place on the site."""

    def relinked(link: re.Match[str]) -> str:
        label, target = link[1], link[2]
        if "://" in target or target.startswith("#"):
            return link[0]
        name, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(page), name))
        if path in known:  # all Markdown pages lie in the first folder of the site
            return f"[{label}]({known[path]}{'#' if anchor else ''}{anchor})"
        package = os.path.join(path, "__init__.py")
        return f"[{label}]({known[package]})" if package in known else label

    return _LINK.sub(relinked, text)


def _navigation() -> str:
    groups = {heading: [_name(page) for page in pages] for heading, pages in NAVIGATION.items()}
    groups["Modules"] = [f"api/{package}" for package in PACKAGES]
    return "".join(
        "\n```{toctree}\n:hidden:\n:caption: " + heading + "\n\n" + "\n".join(names) + "\n```\n"
        for heading, names in groups.items()
    )


def _module_page(name: str, names: list[str]) -> str:
    """The docstrings of a module, and links to the pages of the modules in it."""
    inside = [other for other in names if other.rpartition(".")[0] == name]
    tree = (
        "\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {other}\n" for other in inside) if inside else ""
    )
    return f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n{tree}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m docs.pages FOLDER")
    write(Path(sys.argv[1]))
