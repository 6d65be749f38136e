"""Plants a fault in a copy of the checkout, runs the tests that should fail then, and takes it out again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SECONDS = 900  # after which the tests of a fault are stopped


class Fault(NamedTuple):
    """name; room: of the package; text, replacement: the slip; tests: globs that should notice it.

    Faults of one name are forms of one slip, for different states of the sources: one of them is planted.
    """

    name: str
    room: str
    text: str
    replacement: str
    tests: str


def planted_form(forms: Iterable[Fault], checkout: Path) -> Fault:
    """The form whose text the checkout has, the first where it has none."""
    first, *others = forms
    return next((form for form in (first, *others) if _occurs_once(checkout, form.text)), first)


def _occurs_once(checkout: Path, text: str) -> bool:
    try:
        find(checkout, text)
    except ValueError:
        return False
    return True


def outcome(fault: Fault, copy: Path, environment: dict[str, str]) -> str:
    """Plants a fault in the copy, runs its tests, takes it out again; says what became of it."""
    try:
        path, files = find(copy, fault.text), tests_of(copy, fault.tests)
    except ValueError as error:
        return f"not planted: {error}"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(fault.text, fault.replacement), encoding="utf-8")
    try:
        code, output = _pytest(files, copy, environment)
    finally:
        path.write_text(before, encoding="utf-8")
    if code == 0:
        return f"SURVIVED in {path.relative_to(copy)}: {' '.join(files)}"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", output, flags=re.MULTILINE)
    if code != 1 or failed is None:
        return f"not tried: pytest ended with {code}: {' '.join(output.split())[-300:]}"
    if _pytest([failed[1]], copy, environment)[0] != 0:
        return f"not tried: {failed[1]} fails without the fault too"
    return f"caught by {failed[1]}"


def find(checkout: Path, text: str) -> Path:
    """The one source file that holds the text; ValueError where it occurs not once."""
    sources = [path for room in ("jaxrec", "experiments") for path in sorted((checkout / room).rglob("*.py"))]
    counts = {path: path.read_text(encoding="utf-8").count(text) for path in sources}
    holders = [path for path, count in counts.items() if count]
    if sum(counts.values()) != 1:
        raise ValueError(f"{text!r} occurs {sum(counts.values())} times, in {[p.name for p in holders]}")
    return holders[0]


def tests_of(checkout: Path, globs: str) -> list[str]:
    """Test files that the globs name, in their order; ValueError where there is none."""
    below = checkout / "tests"
    found = dict.fromkeys(path for glob in globs.split() for path in sorted(below.glob(f"**/{glob}.py")))
    if not found:
        raise ValueError(f"{globs}: no such test")
    return [path.relative_to(checkout).as_posix() for path in found]


def location(fault: Fault, checkout: Path) -> str:
    """Where a fault would be planted, and the tests that would be run; or why it cannot be planted."""
    try:
        path, files = find(checkout, fault.text), tests_of(checkout, fault.tests)
    except ValueError as error:
        return f"not planted: {error}"
    return f"{path.relative_to(checkout)}: {' '.join(files)}"


def _pytest(tests: Sequence[str], copy: Path, environment: dict[str, str]) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-rfE",
        "--tb=line",
        *tests,
    ]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"stopped after {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def environment_of(checkout: Path, folder: Path) -> dict[str, str]:
    """That of this process; compiled programs are shared, bytecode is not kept, which a fault could match."""
    beside = checkout.resolve().parent / "shared"
    named = {"JAXREC_DATA_DIR": beside / "data", "JAXREC_GOLDEN_DIR": beside / "golden"}
    return {
        **{name: str(path) for name, path in named.items() if path.is_dir()},
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
