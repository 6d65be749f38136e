"""How long files and functions may be: what is longer is cut, or named here with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE, FUNCTION, EXPERIMENT, README = 400, 60, 250, 9 * 1024
# Experiments that would read worse if they were cut, and why.
LONG_EXPERIMENTS: dict[str, str] = {
    "experiments/ranking/lifelong.py": "what is learned and what it costs are two halves of one study",
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring and decorators not counted."""
    docstring = 0
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        docstring = (first.end_lineno or 0) - first.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def long_functions(source: str) -> list[str]:
    functions = (
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [f"{node.name}: {length(node)} lines" for node in functions if length(node) > FUNCTION]


@pytest.mark.parametrize("folder", ["jaxrec", "experiments"])
def test_no_file_is_longer_than_one_can_read_in_a_sitting(folder: str) -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(folder)}
    assert {path: lines for path, lines in lengths.items() if lines > FILE} == {}


@pytest.mark.parametrize("folder", ["jaxrec", "experiments"])
def test_no_function_is_longer_than_a_page(folder: str) -> None:
    found = {relative(path): long_functions(path.read_text(encoding="utf-8")) for path in sources(folder)}
    assert {path: names for path, names in found.items() if names} == {}


def test_an_experiment_is_short_or_says_why_not() -> None:
    studies = [
        p
        for folder in ("sequential", "ranking", "multitask", "retrieval")
        for p in sources(f"experiments/{folder}")
    ]
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in studies}
    long = {path for path, lines in lengths.items() if lines > EXPERIMENT}
    assert long == set(LONG_EXPERIMENTS)
    assert all(LONG_EXPERIMENTS.values())


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README


def test_a_docstring_does_not_count() -> None:
    body = "\n".join(f"    x = {i}" for i in range(FUNCTION - 1))
    text = f'def f():\n    """One.\n\n    Two.\n    """\n{body}\n'
    assert long_functions(text) == []
    assert long_functions(f"{text}    return x\n") == ["f: 61 lines"]
