"""A run as a folder: what is written is read again, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.tables.columns import Ragged
from jaxrec.data.tables.features import Buckets, Category, Number, Tags, encode, fit_encoders
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.serve.run_folder import FORMAT, Histories, Kept, read, write
from jaxrec.types import Protocol

MODULE = SASRec(num_items=3, dim=2, num_layers=1, num_heads=1, inner_dim=2, max_len=4)


def sequence_run(**changes: Any) -> Kept:
    rng = np.random.default_rng(0)
    return Kept(
        kind="sequence",
        name="sasrec-ce",
        module=MODULE,
        variables={"params": {"table": rng.normal(size=(2, 4, 2)), "half": jnp.ones((2, 3), jnp.bfloat16)}},
        seeds=(0, 5),
        vocabulary={"item": np.array(["é", "b", "007"]), "user": np.array([7, 2**53 + 1])},
        histories=Histories(
            np.array([1, 2, 3], np.int32), np.array([0, 1, 3]), np.array([5, 6, 7], np.int64)
        ),
        protocol=Protocol(loss="softmax", ks=(1, 2)),
        metrics={"ndcg@2": (0.1, float(np.float32(0.2)))},
        validation={"ndcg@2": (0.3, 0.25)},
        counts=np.array([0, 1, 2, 0]),
        settings={"max_len": 4, "rate": np.float64(0.5), "dims": (1, 2)},
        data={"file": "events.csv", "sha256": "ab"},
        made_by={"commit": None},
    )._replace(**changes)


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


def test_a_sequence_run_comes_back(tmp_path: Path) -> None:
    run = sequence_run()
    write(tmp_path / "new" / "run", run)
    found = read(tmp_path / "new" / "run")
    for name in ("variables", "vocabulary", "histories", "counts"):
        assert_same(getattr(found, name), jax.tree.map(np.asarray, getattr(run, name)))
    assert found.module == run.module
    assert found.protocol == run.protocol
    assert (found.kind, found.name, found.seeds) == ("sequence", "sasrec-ce", (0, 5))
    assert found.metrics == {"ndcg@2": (0.1, float(np.float32(0.2)))}
    assert found.settings == {"max_len": 4, "rate": 0.5, "dims": [1, 2]}
    assert (found.data, found.made_by) == (run.data, run.made_by)


def test_a_run_is_shown_in_one_short_line() -> None:
    shown = repr(sequence_run())
    assert shown == "Kept('sasrec-ce', kind='sequence', seeds=(0, 5), metrics: ndcg@2=0.1/0.2)"
    assert repr(sequence_run(metrics={})).endswith("metrics: none)")


def test_encoders_come_back_and_encode_alike(tmp_path: Path) -> None:
    raw = {
        "city": np.array(["a", "b", "b", ""]),
        "tags": Ragged(np.array(["x", "y", "x", "y"]), np.array([0, 1, 1, 3, 4])),
        "price": np.array([1.0, np.nan, 3.0, 4.0]),
        "age": np.array([1.0, 2.0, 3.0, 4.0]),
    }
    specs = (
        Category("city", missing=("b",)),
        Tags("tags"),
        Number("price", missing="indicator"),
        Buckets("age"),
    )
    encoders = fit_encoders(specs, raw, np.arange(3))  # type: ignore[arg-type]
    run = Kept(
        "table", "mmoe", MODULE, {"params": {"w": np.zeros((1, 2))}}, (0,),
        encoders=encoders, outputs={"click": 0, "buy": "cvr", "like": None}, columns={"city": "categorical"},
    )  # fmt: skip
    write(tmp_path, run)
    found = read(tmp_path)
    assert found.encoders is not None
    assert found.encoders.specs == encoders.specs
    assert found.outputs == run.outputs
    again, before = encode(found.encoders, raw), encode(encoders, raw)  # type: ignore[arg-type]
    assert_same(again, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "else"}, "kind='else': must be one of sequence"),
        ({"seeds": (0, 0)}, "seeds=\\(0, 0\\): must be"),
        ({"variables": {"params": {"a": np.zeros((3, 1))}}}, "params/a has shape \\(3, 1\\).*of 2 seeds"),
        ({"variables": {"key": jax.random.split(jax.random.key(0))}}, "key is a random key"),
        ({"variables": {"a/b": np.zeros(2)}}, "without '/'"),
        ({"metrics": {"auc": (0.5,)}}, "auc has 1 values for 2 seeds"),
        ({"vocabulary": {}}, "needs the raw ids of items"),
        ({"kind": "table"}, "needs the encoders"),
        ({"kind": "clicks"}, "kind='clicks': needs outputs"),
        ({"kind": "clicks", "outputs": {"click": None}}, "length=0: needs the number of events"),
        ({"histories": Histories(np.array([1, 4]), np.array([0, 1, 2]))}, "an item is none of 1..num_items"),
        ({"histories": Histories(np.array([1]), np.array([0, 2]))}, "offsets must ascend from 0 to 1"),
        ({"histories": Histories(np.array([1]), np.array([0, 1]))}, "of 1 users, but 2 have ids"),
        ({"metrics": {"auc": (0.5, float("nan"))}}, "run.json can't hold this run"),
        ({"settings": {"a": object()}}, "run.json can't hold this run"),
        ({"vocabulary": {"item": np.array(["a", "b", 3], object)}}, "item is an array of objects"),
    ],
)  # fmt: skip
def test_what_can_not_be_kept_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "run", sequence_run(histories=None, counts=None)._replace(**changes))
    assert not (tmp_path / "run").exists()


# --- damage ------------------------------------------------------------------------------------------


def change_document(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut_short(f / "variables.npz"), "variables.npz: is not the file .*cut short"),
        (lambda f: flip(f / "histories.npz"), "histories.npz: is not the file"),
        (lambda f: (f / "vocabulary.npz").unlink(), "vocabulary.npz: is missing"),
        (lambda f: (f / "run.json").unlink(), "has no run.json: not a finished run"),
        (lambda f: cut_short(f / "run.json"), "run.json: is damaged"),
        (lambda f: (f / "run.json").write_text("[]"), "has format None"),
        (lambda f: change_document(f, format=FORMAT + 1), "has format 2, this version .* reads 1"),
        (lambda f: change_document(f, sha256={}), "lacks variables.npz"),
        (lambda f: change_document(f, module={"object": "gone_away:M", "fields": {}}), "gone_away:M can't"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    write(tmp_path, sequence_run())
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder: not a finished run; `jaxrec train"):
        read(tmp_path / "none")


# --- writes that fail --------------------------------------------------------------------------------

OTHER = {"variables": {"params": {"table": np.zeros((2, 1))}}}
FILES = 4  # run.json and three arrays


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("at", range(FILES))
def test_a_write_that_fails_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int
) -> None:
    write(tmp_path, sequence_run())
    before = contents(tmp_path)
    fail_at(monkeypatch, call, at)
    with pytest.raises(OSError, match=r"^[^\n]*: could not be written \(No space left on device\)$"):
        write(tmp_path, sequence_run(**OTHER))
    monkeypatch.undo()
    after = contents(tmp_path)
    assert not [name for name in after if name not in before]  # no temporary file
    if call == "replace":
        with pytest.raises(ValueError, match="not a finished run"):
            read(tmp_path)
    else:
        assert after == before  # the earlier run is still there


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, at: int) -> None:
    """The at-th call of os.replace, os.fsync or mkstemp, counted from 0, finds the disk full."""
    owner: Any = tempfile if call == "open" else os
    name = "mkstemp" if call == "open" else call
    real, count = getattr(owner, name), iter(range(100))

    def failing(*args: Any, **options: Any) -> Any:
        if next(count) == at:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, failing)


def test_arrays_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    write(tmp_path, sequence_run())
    write(tmp_path, sequence_run(histories=None, counts=None))
    assert sorted(contents(tmp_path)) == ["run.json", "variables.npz", "vocabulary.npz"]
    assert read(tmp_path).histories is None
