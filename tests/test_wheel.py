"""The installed package alone, outside the checkout: README.md's script, and a day on the command line."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def jaxrec(installed: Path, folder: Path, command: str) -> str:
    """What a command of the installed console script prints in a folder."""
    words = command.split()
    program = [installed / "bin/jaxrec"] if words[0] == "jaxrec" else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run([*program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    return done.stdout


def test_a_file_of_events_becomes_answers(installed: Path, tmp_path: Path) -> None:
    """Users of u0..u29 step through 12 items in a circle: the next item is known."""
    lines = [
        f"u{user},sku-{(user + step) % 12},{1000 * step + user}" for user in range(30) for step in range(7)
    ]
    (tmp_path / "events.csv").write_text("\n".join(["uid,sku,ts", *lines]) + "\n", encoding="utf-8")
    call = functools.partial(jaxrec, installed, tmp_path)
    small = "--dim 16 --num-layers 1 --max-len 8 --batch-size 8 --epochs 25 --evaluate-every 5 --patience 0"
    call(
        "jaxrec train sasrec --data events.csv --user uid --item sku --time ts --run runs/mine "
        f"{small} --learning-rate 0.01 --dropout 0.0"
    )
    (answer,) = map(json.loads, call("jaxrec recommend runs/mine --user u3 --k 3 --json").splitlines())
    assert answer["user"] == "u3" and len(answer["items"]) == len(answer["scores"]) == 3
    assert answer["items"][0] == "sku-10"  # u3 met 3..9
    pairs = ["uid,sku", *(f"u3,{item}" for item in answer["items"])]
    (tmp_path / "pairs.csv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    call("jaxrec score runs/mine pairs.csv --out scores.csv")
    header, *scores = (tmp_path / "scores.csv").read_text(encoding="utf-8").split()
    assert header == "score"
    np.testing.assert_allclose(np.array(scores, float), answer["scores"], rtol=1e-4)
    call("jaxrec embed runs/mine items --out items.npz")
    with np.load(tmp_path / "items.npz") as found:
        assert sorted(found["ids"]) == sorted({f"sku-{item}" for item in range(12)})
        assert found["vectors"].shape == (12, 16)
    call("jaxrec export runs/mine --out exported --k 3")
    read = json.loads(call("python exported/reader.py " + ",".join(f"sku-{item}" for item in range(3, 10))))
    assert read["items"] == answer["items"]
    np.testing.assert_allclose(read["scores"], answer["scores"], rtol=1e-4)


def test_a_file_of_labelled_rows_becomes_probabilities(installed: Path, tmp_path: Path) -> None:
    """Clicks depend on the city, purchases on the price too."""
    rng = np.random.default_rng(0)
    city, price = rng.choice(["Oslo", "Rome", "Köln"], 400), rng.uniform(1, 9, 400).round(2)
    click = (city == "Rome") ^ (rng.random(400) < 0.1)
    buy = click & (price < 5)
    rows = [f"{c},{p},{int(a)},{int(b)}" for c, p, a, b in zip(city, price, click, buy, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["city,price,click,buy", *rows]) + "\n", encoding="utf-8")
    call = functools.partial(jaxrec, installed, tmp_path)
    call(
        "jaxrec train mmoe --data rows.csv --labels click buy --categorical city --numeric price "
        "--run runs/table --epochs 12 --batch-size 32 --learning-rate 0.02"
    )
    call("jaxrec score runs/table rows.csv --out scores.csv")
    header, *scored = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert header.split(",")[-2:] == ["click", "buy"] and len(scored) == 400
    probability = np.array([line.split(",")[-2:] for line in scored], float)
    assert ((probability > 0) & (probability < 1)).all()
    assert probability[click, 0].mean() > probability[~click, 0].mean() + 0.2
    call("jaxrec export runs/table --out exported")
    read = call("python exported/reader.py rows.csv").splitlines()
    np.testing.assert_allclose(
        np.array([line.split(",")[-2:] for line in read[1:]], float), probability, atol=1e-5
    )
