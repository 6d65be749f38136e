"""What surrounds a run changes no number: optimised Python, locales, seeds of hashes.

And no file is read by running code from it.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.convert import torch_file
from jaxrec.data.sources import session_logs

ROOT = Path(__file__).parents[1]
RUN = r"""
import json, tempfile
import jax, numpy as np
from tests.train import toy
with tempfile.TemporaryDirectory() as folder:
    fitted = toy.run(folder, epochs=(1, 1), seeds=(3, 7), vocabulary={"item": np.array(["\u00e9", "\u4e2d"])})
    leaves = [np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(fitted.variables)]
    print(json.dumps({"history": toy.without_times(fitted.history), "leaves": leaves}))
"""
# Modules and functions that run code from what they read, and the files that may use them.
CODE_READERS: dict[str, set[str]] = {
    "pickle": {
        "jaxrec/convert/torch_file.py",  # tensors, storages and dictionaries alone
        "jaxrec/data/sources/session_logs.py",  # lists of numbers alone, of files with known checksums
    },
    **{module: set() for module in ("marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml")},
}


def trained(*options: str, **environment: str) -> dict[str, Any]:
    """What a tiny training gives in a process of its own."""
    process = subprocess.run(
        [sys.executable, *options, "-W", "error", "-c", RUN],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, Any] = json.loads(process.stdout)
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return trained(PYTHONHASHSEED="0")


def test_optimised_python_a_c_locale_and_another_hash_seed_change_nothing(plain: dict[str, Any]) -> None:
    """All at once: if together they change nothing, none does alone."""
    assert trained("-O", PYTHONHASHSEED="123", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") == plain


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "de_DE.UTF-8"}, {"LC_ALL": "tr_TR.UTF-8"}, {"TZ": "Asia/Kathmandu"}, {"COLUMNS": "20"}],
    ids=str,
)
def test_locales_and_zones_change_nothing(plain: dict[str, Any], environment: dict[str, str]) -> None:
    assert trained(**environment) == plain


@pytest.mark.long
def test_64_bit_types_train_to_finite_numbers_of_the_same_shapes(plain: dict[str, Any]) -> None:
    """Other random bits are drawn, so the numbers are others; that is why the setting identifies a run."""
    found = trained(JAX_ENABLE_X64="1")
    assert len(found["leaves"]) == len(plain["leaves"])
    for wide, narrow in zip(found["leaves"], plain["leaves"], strict=True):
        assert np.isfinite(wide).all() and np.shape(wide) == np.shape(narrow)


def sources() -> list[Path]:
    return [path for part in ("jaxrec", "experiments") for path in sorted((ROOT / part).rglob("*.py"))]


def test_no_module_reads_pickles() -> None:
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if "experiments/benchmarks/peers/" in name:  # scripts of other environments
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module.split(".")[0]]
            for module in modules:
                assert name in CODE_READERS.get(module, {name}), f"{name}: reads {module}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{name}, line {node.lineno}: runs text"


CALLS = {
    "a function of the system": b"cos\nsystem\n(S'touch evil'\ntR.",
    "built-in": b'c__builtin__\neval\n(S\'open("evil", "w")\'\ntR.',
    "import": b"c__builtin__\n__import__\n(S'evil'\ntR.",
    "attribute by a dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.__init__\x93.",
    "module of torch": b"ctorch.hub\nload\n(S'x'\ntR.",
    "numpy's own reader": b"cnumpy\nload\n(S'evil.npy'\nI01\ntR.",
    "partial": b"cfunctools\npartial\n(cos\nsystem\nS'touch evil'\ntR.",
    "extension": b"\x80\x02\x82\x01.",
    "no end": pickle.dumps({"a": 1})[:-1],
    "persistent id of code": b"Pevil\n.",
}


@pytest.mark.parametrize("content", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("archive", [True, False])
def test_files_of_weights_run_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, archive: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("m/data.pkl", content)
            file.writestr("../../evil", "outside")  # a name that leaves the folder
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pt") as error:
        torch_file.load(path)
    assert type(error.value) is ValueError
    assert [found.name for found in tmp_path.iterdir()] == ["weights.pt"]
    assert not (tmp_path.parent.parent / "evil").exists()


@pytest.mark.parametrize("content", CALLS.values(), ids=CALLS)
def test_files_of_sessions_run_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="here: not a complete list of numbers"):
        session_logs.unpickle_plain(content, "here")
    assert not list(tmp_path.iterdir())
