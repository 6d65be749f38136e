"""A changed line of a model stores no number under the new commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [
    "-m", "experiments.sequential.sasrec", "--tiny", "--num-layers", "1", "--rows", "sasrec-bce",
    "--results", "../results", "--workdir", "../work",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the code, committed, and what its first run stored."""
    folder = tmp_path_factory.mktemp("trained") / "code"
    for name in ("jaxrec", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    commit(folder)
    done = run(folder, "--seeds", "0")
    assert done.returncode == 0, done.stderr
    return folder.parent


@pytest.fixture
def checkout(trained: Path, tmp_path: Path) -> Path:
    """The code, its results and its checkpoints, for one test alone."""
    return shutil.copytree(trained, tmp_path / "trained") / "code"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "a change")
    return git(folder, "rev-parse", "HEAD")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
    }
    return subprocess.run(
        [sys.executable, *COMMAND, *options], cwd=folder, env=environment, capture_output=True, text=True
    )


def stored(folder: Path) -> dict[str, Any]:
    (path,) = (folder.parent / "results").glob("sasrec/*/sasrec-bce.json")
    return json.loads(path.read_text())


@pytest.mark.long
def test_a_changed_line_stores_nothing_under_its_commit(checkout: Path) -> None:
    first = git(checkout, "rev-parse", "HEAD")
    before = stored(checkout)
    assert before["manifest"]["commit"] == first

    model = checkout / "jaxrec/nn/sequential/sasrec_original.py"
    model.write_text(model.read_text() + "\nCHANGED = True\n")
    second = commit(checkout)
    refused = run(checkout, "--seeds", "0")
    assert refused.returncode == 2
    assert f"trained by commit {first}, and this is other code: sources of jaxrec" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert stored(checkout) == before

    accepted = run(checkout, "--seeds", "0", "--accept-changed-code")
    assert accepted.returncode == 0, accepted.stderr
    assert "found complete" in accepted.stdout
    after = stored(checkout)
    assert after["manifest"]["commit"] == first
    assert first in after["note"]
    assert second in after["note"]
    assert after["metrics"] == before["metrics"]


@pytest.mark.long
def test_a_second_configuration_and_an_added_seed_go_on_in_the_same_folder(checkout: Path) -> None:
    before = stored(checkout)["metrics"]["ndcg@10"]["values"]
    wider = run(checkout, "--seeds", "0", "--dim", "12")
    assert wider.returncode == 0, wider.stderr
    more = run(checkout, "--seeds", "0", "1", "--epochs", "2")
    assert more.returncode == 0, more.stderr
    assert "seeds 0 are taken from seeds-0-epochs-2" in more.stdout
    values = [
        json.loads(path.read_text())["metrics"]["ndcg@10"]["values"]
        for path in (checkout.parent / "results").glob("sasrec/*/sasrec-bce.*.json")
    ]
    assert any(len(value) == 2 and value[0] == before[0] for value in values)
