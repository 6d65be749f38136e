"""A run as a folder that answers without jaxrec."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands import export as command
from jaxrec.data.tables.columns import Ragged
from jaxrec.data.tables.features import Encoders, encode
from jaxrec.serve.export import FILES, export
from jaxrec.serve.files import umask
from jaxrec.serve.programs import variables_of, weights_of
from jaxrec.serve.run_folder import write
from jaxrec.types import Array
from tests.serve import small_runs
from tests.serve.label_runs import RAW, click_run, table_run
from tests.serve.test_score import click_run as click_run_of_ages

pytest.importorskip("flatbuffers", reason="flatbuffers (extra `export`) is not installed")
NEEDED = ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "flatbuffers")
LISTS = {
    "city": ["Oslo", "Bonn", None, "Rome", "Paris"],
    "size": ["3", 4, 3, "5", 77],
    "tags": [["x", "y", "z"], [], ["x"], ["new"], [""]],
    "price": [1.0, "", "3.0", 4, 10.0],
    "age": [20, 30.0, "40", None, 60],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, serve.Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = small_runs.all_runs(folder)
    for name, kept in {"table": table_run(), "clicks": click_run()}.items():
        write(folder / name, kept)
        found[name] = serve.load(folder / name)
    return found


def reader(folder: Path) -> Any:
    """The `Reader` of a folder, imported into this process."""
    spec = importlib.util.spec_from_file_location("reader", folder / "reader.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reader(folder)


# --- what a reader answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sasrec", "stamp", "item-knn"])
def test_a_reader_recommends_what_the_run_does(runs: dict[str, serve.Run], name: str, tmp_path: Path) -> None:
    export(runs[name], tmp_path / "e", k=5)
    histories = [["i03"], ["i01", "i05", "i02", "i07", "i01", "i09"]]
    found = reader(tmp_path / "e").recommend(histories, k=4)
    expected = runs[name].recommend(histories=histories, k=4)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["items"] == theirs.items.tolist()
        np.testing.assert_allclose(ours["scores"], theirs.scores, rtol=1e-6, atol=1e-6)


def test_times_are_read_as_the_run_reads_them(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    export(runs["hstu"], tmp_path / "e")
    histories, times = (
        [["i03"], ["i01", "i05", "i02"]],
        [[1_700_000_000], [1_600_000_000, 1_600_000_007, 1_700_000_001]],
    )
    found = reader(tmp_path / "e").recommend(histories, times=times, now=1_700_000_100)
    expected = runs["hstu"].recommend(histories=histories, times=times, at=1_700_000_100)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["items"] == theirs.items.tolist()
        np.testing.assert_allclose(ours["scores"], theirs.scores, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="reads times"):
        reader(tmp_path / "e").recommend(histories)
    for wrong, now in ((times, 1_700_000_000), ([[5], [7, 9, 8]], 10)):
        with pytest.raises(ValueError, match="times must ascend in each history, and none be after now"):
            reader(tmp_path / "e").recommend(histories, times=wrong, now=now)


def test_items_that_are_excluded_are_in_no_list(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    export(runs["sasrec"], tmp_path / "e")
    read = reader(tmp_path / "e")
    (kept,) = read.recommend([["i03"]], k=12, excluded=[[]])
    (found,) = read.recommend([["i03"]], k=12, excluded=[["i01", "i02"]])
    assert set(kept["items"]) - set(found["items"]) == {"i01", "i02"}
    assert len(found["items"]) == small_runs.NUM_ITEMS - 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": [["i01", "zz"]]}, "does not know: zz"),
        ({"histories": [[]]}, "none empty"),
        ({"histories": [["i01"]], "k": 13}, "k=13: must be 1 to 12"),
    ],
)
def test_a_reader_refuses(
    runs: dict[str, serve.Run], tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    export(runs["popularity"], tmp_path / "e")
    with pytest.raises(ValueError, match=message):
        reader(tmp_path / "e").recommend(**arguments)


def expected_probabilities(run: serve.Run, encoders: Encoders, raw: Any) -> dict[str, np.ndarray]:
    logits = run.module.apply(run.variables, encode(encoders, raw), train=False)
    return {
        "click": np.asarray(jax.nn.sigmoid(logits[:, 0])),
        "buy": np.asarray(jax.nn.sigmoid(logits[:, 1])),
    }


def test_a_reader_encodes_raw_columns_as_the_run_does(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    export(runs["table"], tmp_path / "e")
    raw = {
        **RAW,
        "city": np.array(["Oslo", "Bonn", "", "Rome", "Paris"]),
        "size": np.array([3, 4, 3, 5, 77]),
        "tags": Ragged(np.array(["x", "y", "z", "x", "new", ""]), np.array([0, 3, 3, 4, 5, 6])),
    }
    encoders = runs["table"].kept.encoders
    assert encoders is not None
    found = reader(tmp_path / "e").score(LISTS)
    expected = expected_probabilities(runs["table"], encoders, raw)
    assert list(found) == ["click", "buy"]
    for label, values in expected.items():
        np.testing.assert_allclose(found[label], values, rtol=1e-6, atol=1e-6)


def test_a_reader_scores_items_after_histories(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    run = runs["clicks"]
    export(run, tmp_path / "e")
    found = reader(tmp_path / "e").score(
        ["i03", "i04"], [["i01"], ["i05", "i06", "i07", "i08"]], ["u1", "u5"]
    )
    batch = {
        "item": np.array([3, 4]),
        "user": np.array([2, 6]),
        "history_item": np.array([[0, 0, 1], [6, 7, 8]]),
    }
    expected = jax.nn.sigmoid(run.module.apply(run.variables, batch, train=False))
    np.testing.assert_allclose(found["click"], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="reads users"):
        reader(tmp_path / "e").score(["i03"], [["i01"]])


def test_a_click_reader_reads_times_as_the_run_does(tmp_path: Path) -> None:
    write(tmp_path / "run", click_run_of_ages())
    run = serve.load(tmp_path / "run")
    export(run, tmp_path / "e")
    assert small_runs.EVENTS.times is not None
    offsets, now = small_runs.EVENTS.offsets, int(small_runs.EVENTS.times.max()) + 500
    given = [slice(offsets[user], offsets[user + 1]) for user in (5, 0)]
    histories = [small_runs.ITEMS[small_runs.EVENTS.items[part] - 1].tolist() for part in given]
    times = [small_runs.EVENTS.times[part].tolist() for part in given]
    read = reader(tmp_path / "e")
    found = read.score(["i02", "i07"], histories, times=times, now=now)
    expected = run.score({"user": ["u5", "u0"], "item": ["i02", "i07"]}, at=now)
    np.testing.assert_allclose(found["click"], expected["click"], rtol=1e-6)
    with pytest.raises(ValueError, match="times must ascend in each history, and none be after now"):
        read.score(["i02", "i07"], histories, times=times, now=times[0][-1] - 1)


def test_the_mean_of_seeds_is_exported(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    run = serve.load(runs["table"].path, seed="mean")
    export(run, tmp_path / "e")
    encoders = run.kept.encoders
    assert encoders is not None
    found = reader(tmp_path / "e").score(
        LISTS
        | {
            "city": RAW["city"].tolist(),
            "size": RAW["size"].tolist(),
            "tags": [["x", "y"], [], ["x"], ["z"], []],
        }
    )
    parts = [expected_probabilities(serve.load(run.path, seed=seed), encoders, RAW) for seed in (0, 1)]
    np.testing.assert_allclose(found["buy"], (parts[0]["buy"] + parts[1]["buy"]) / 2, rtol=1e-6, atol=1e-6)


def test_weights_of_bfloat16_go_through_a_file(tmp_path: Path) -> None:
    variables = {"params": {"a": jnp.linspace(-1, 1, 5, dtype=jnp.bfloat16), "b": {"c": jnp.ones((2, 3))}}}
    np.savez(tmp_path / "weights.npz", allow_pickle=False, **weights_of(variables))
    with np.load(tmp_path / "weights.npz") as file:
        found = variables_of(dict(file))
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert found["params"]["a"].dtype == jnp.bfloat16


# --- an environment without jaxrec -------------------------------------------------------------------


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to what jax and flatbuffers need, and to nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in NEEDED:
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / top)
    return folder


def test_readers_run_where_there_is_only_jax_and_flatbuffers(
    runs: dict[str, serve.Run], packages: Path, tmp_path: Path
) -> None:
    for name in ("sasrec", "table", "clicks"):
        export(runs[name], tmp_path / name)
    # A table of a file has no lists, so its tags are of one value here.
    rows = "age,city,size,tags,price,other\n20,Oslo,3,x,1.0,?\n,,4,y,,?\n"
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    program = f"""
import sys
sys.path.append({str(packages)!r})
import runpy
for absent in ("jaxrec", "flax", "optax"):
    try:
        __import__(absent)
    except ImportError:
        continue
    raise SystemExit(absent + " is there")
for words in (["sasrec", "i01,i02", "i05"], ["table", "rows.csv"]):
    sys.argv = words
    runpy.run_path(words[0] + "/reader.py", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, *scores = done.stdout.splitlines()
    expected = runs["sasrec"].recommend(histories=[["i01", "i02"], ["i05"]])
    assert [json.loads(line)["items"] for line in (first, second)] == [row.items.tolist() for row in expected]
    found = np.array([line.split(",") for line in scores[1:]], float)
    read = reader(tmp_path / "table").score(
        {
            "age": ["20", ""],
            "city": ["Oslo", ""],
            "size": ["3", "4"],
            "tags": ["x", "y"],
            "price": ["1.0", ""],
        }
    )
    np.testing.assert_allclose(
        found, np.stack([read[name] for name in scores[0].split(",")], axis=1), rtol=1e-6
    )


# --- refusals and failures ---------------------------------------------------------------------------


class Lengths(nn.Module):
    """Reads the number of examples where none is known."""

    @nn.compact
    def __call__(self, batch: Any, *, train: bool = False) -> Array:
        return jnp.zeros(len(batch["size"])) + self.param("w", nn.initializers.ones, ())


def test_a_module_that_needs_the_number_of_examples_is_named(tmp_path: Path) -> None:
    kept = table_run()._replace(
        module=Lengths(), variables={"params": {"w": np.ones(1)}}, outputs={"a": None}
    )
    run: Any = SimpleNamespace(kept=kept, seed=0, variables={"params": {"w": np.ones(())}})
    with pytest.raises(ValueError, match=r"mmoe: can't be exported .* x\.shape\[0\]"):
        export(run, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k=0: must be at least 1"):
        export(runs["popularity"], tmp_path / "e", k=0)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"holds mine\.txt"):
        export(runs["popularity"], tmp_path / "e")
    with pytest.raises(ValueError, match="is a file"):
        export(runs["popularity"], tmp_path / "e" / "mine.txt")


def test_flatbuffers_is_named_where_it_is_missing(
    runs: dict[str, serve.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="flatbuffers.*pip install"):
        export(runs["popularity"], tmp_path / "e")


WRITES = ((Path, "write_bytes"), (Path, "write_text"), (Path, "open"), (shutil, "copyfile"), (os, "rename"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("owner", "name"), WRITES, ids=[name for _, name in WRITES])
def test_a_write_that_fails_leaves_what_there_was(
    runs: dict[str, serve.Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    earlier: bool,
) -> None:
    folder = tmp_path / "e"
    if earlier:
        export(runs["popularity"], folder)
    before, real = contents(folder), getattr(owner, name)
    message = rf"{folder}: the export could not be written \(.*No space left.*\)"
    failed = 0
    while True:  # the first call fails, then the second, until an export needs no more calls
        count = 0

        def fails(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == failed + 1:  # noqa: B023
                raise OSError(28, "No space left on device")
            return real(*arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            if is_written(runs["item-knn"], folder, message):
                break
        assert contents(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["e"] * earlier
        failed += 1
    assert failed > 0
    assert set(contents(folder)) <= set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def is_written(run: serve.Run, folder: Path, message: str) -> bool:
    """Whether an export is written; if not, its error has the message."""
    try:
        export(run, folder)
    except OSError as error:
        if re.fullmatch(message, str(error)) is None:
            raise
        return False
    return True


def test_files_of_an_export_are_for_everybody(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    export(runs["popularity"], tmp_path / "e")
    assert (tmp_path / "e").stat().st_mode & 0o777 == 0o777 & ~umask()
    assert not (tmp_path / "e" / "users.json").exists()


# --- the command -------------------------------------------------------------------------------------


def test_the_command_exports_a_run(
    runs: dict[str, serve.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run(command.Options(run=runs["popularity"].path, out=str(tmp_path / "e"), k=3, seed=3))
    assert "seed 3" in capsys.readouterr().err
    read = reader(tmp_path / "e")
    assert (read.about["k"], read.about["seed"]) == (3, 3)
    with pytest.raises(ValueError, match="--out: name the folder"):
        command.run(command.Options(run=runs["popularity"].path))
