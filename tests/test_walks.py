"""The walks of docs/architecture.md, from the file to the metric, are what the scripts do."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.experiments.own_files import write_events, write_table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
MOST = 6  # functions of a walk
EVENTS = ("--user", "uid", "--item", "sku", "--time", "ts")
TABLE = ("--labels", "click", "buy", "--categorical", "city", "--numeric", "price")
SCRIPTS = {
    "experiments/sequential/sasrec.py": ("--rows", "sasrec-bce", *EVENTS),
    "experiments/multitask/census.py": ("--rows", "shared-bottom", *TABLE),
    "experiments/ranking/din.py": ("--rows", "base", *EVENTS),
}


class Step(NamedTuple):
    """A line of a walk: a function by its dotted name, and who calls it: names, or "the script"."""

    function: str
    callers: tuple[str, ...]


def walk(script: str) -> list[Step]:
    """The table of a script in the page."""
    table = PAGE.split(f"### `{script}`")[1].split("###")[0]
    lines = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", table, flags=re.MULTILINE)
    return [Step(name, tuple(by.replace("`", "").split(", "))) for name, by in lines]


def calls_of(script: str, steps: list[Step], *options: object) -> list[tuple[str, str]]:
    """(module or function that calls, function of a step), in the order of the calls of a tiny run.

    Each function of a step is replaced, wherever a module has it by name, by one that notes its caller.
    """
    module: Any = importlib.import_module(".".join(Path(script).with_suffix("").parts))
    found: list[tuple[str, str]] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            found.append((f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}", name))
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for step in steps:
            where, _, name = step.function.rpartition(".")
            function = getattr(importlib.import_module(where), name)
            wrapped = noted(step.function, function)
            for other in [m for n, m in sys.modules.items() if n.startswith(("jaxrec", "experiments"))]:
                if vars(other).get(name) is function:
                    patch.setattr(other, name, wrapped)
        patch.setenv("JAXREC_XLA_CACHE", "0")
        patch.setattr(sys, "argv", [script, *map(str, options)])
        module.main()
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_walk_is_short_and_true(script: str, tmp_path: Path) -> None:
    steps = walk(script)
    assert 1 <= len(steps) <= MOST
    if script.startswith("experiments/multitask"):
        data = write_table(tmp_path / "mine.csv", labels=("click", "buy"))
    else:
        data = write_events(tmp_path / "mine.csv")
    kept = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 0)
    calls = calls_of(script, steps, "--tiny", "--data", data, *SCRIPTS[script], *kept)
    known = {step.function.rpartition(".")[2]: step.function for step in steps}
    at = -1
    for step in steps:
        callers = {caller for caller, callee in calls if callee == step.function}
        assert callers, f"{step.function} is not called"
        for caller in step.callers:
            if caller == "the script":
                assert any(name.startswith("experiments.") for name in callers), (step, callers)
            elif caller in known:
                assert known[caller] in callers, (step, callers)
        first = next(i for i, (_, callee) in enumerate(calls) if callee == step.function)
        assert first > at, f"{step.function} is called before the step above it"
        at = first


def test_the_page_walks_all_three_scripts() -> None:
    assert set(re.findall(r"^### `(.+?)`", PAGE, flags=re.MULTILINE)) == set(SCRIPTS)
