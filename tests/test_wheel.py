"""The installed package alone, outside the checkout, trains and tests a model by the script in README.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = 25  # the most that the script may have
SMALLER = {"epochs=20": "epochs=2", "dim=64": "dim=8", "max_len=50": "max_len=10"}  # sizes of the script


def script() -> str:
    """The first Python block of the README."""
    return (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a wheel of this checkout, and nothing else, is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    copy, target = folder / "source", folder / "installed"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "jaxrec", copy / "jaxrec", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=copy, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*_installer(), "--no-deps", "--target", target, wheel], check=True, capture_output=True)
    return target


def _installer() -> list[str]:
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


def outside(installed: Path, folder: Path, program: str) -> str:
    """What a program prints that is run outside the checkout with the installed package first on its path."""
    path = folder / "script.py"
    path.write_text(program, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, path.name], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_script_is_short() -> None:
    assert len(script().splitlines()) <= LINES


def test_the_wheel_holds_every_module(installed: Path) -> None:
    here = {path.relative_to(ROOT) for path in (ROOT / "jaxrec").rglob("*.py")}
    assert {path.relative_to(installed) for path in (installed / "jaxrec").rglob("*.py")} == here
    assert (installed / "jaxrec/py.typed").is_file()


def test_the_script_of_the_readme_runs_outside_the_checkout(
    installed: Path, tmp_path: Path, data_dir: Path
) -> None:
    short = script()
    for long, quick in SMALLER.items():
        assert long in short
        short = short.replace(long, quick)
    printed = outside(installed, tmp_path, f"import jaxrec\nprint(jaxrec.__file__)\n{short}")
    assert printed.splitlines()[0] == str(installed / "jaxrec/__init__.py")
    found = [float(value) for value in re.findall(r"'ndcg@10': (?:np\.float64\()?(0\.\d+)", printed)]
    assert len(found) == 4  # the baseline and the model, two seeds each
    assert all(0 < value < 1 for value in found)
