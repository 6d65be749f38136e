"""PyTorch files are read without PyTorch, in both forms, and nothing in them is executed."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.convert import torch_file

DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "HalfStorage": np.float16,
}


class Storage:
    """Stands for a torch storage: pickled as a persistent id."""

    def __init__(self, kind: str, values: np.ndarray) -> None:
        self.kind, self.values = kind, values


class Tensor:
    """Stands for a torch tensor: pickled as a call of torch._utils._rebuild_tensor_v2."""

    def __init__(
        self, storage: Storage, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0
    ) -> None:
        self.parts: tuple[Any, ...] = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


@pytest.fixture(autouse=True)
def names_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins that only give pickle the names to write."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, name in [(utils, "_rebuild_tensor_v2"), *((torch, kind) for kind in [*DTYPES, "device"])]:
        stand_in = type(name, (), {"__module__": module.__name__})
        monkeypatch.setattr(module, name, stand_in, raising=False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def pickled(obj: object, storages: dict[str, Storage], legacy: bool) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            if not isinstance(obj, Storage):
                return None
            storages[str(id(obj))] = obj
            kind = getattr(sys.modules["torch"], obj.kind)
            pid = ("storage", kind, str(id(obj)), "cuda:0", len(obj.values))
            return (*pid, None) if legacy else pid

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(obj)
    return buffer.getvalue()


def write_zip(path: Path, obj: object, byteorder: bytes = b"little") -> Path:
    storages: dict[str, Storage] = {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled(obj, storages, legacy=False))
        archive.writestr("model/byteorder", byteorder)
        for key, storage in storages.items():
            archive.writestr(f"model/data/{key}", storage.values.tobytes())
    return path


def write_legacy(path: Path, obj: object) -> Path:
    storages: dict[str, Storage] = {}
    body = pickled(obj, storages, legacy=True)
    head = [
        pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    ]
    data = [struct.pack("<q", len(s.values)) + s.values.tobytes() for s in storages.values()]
    path.write_bytes(b"".join([*head, body, pickle.dumps(list(storages), protocol=2), *data]))
    return path


both_forms = pytest.mark.parametrize("write", [write_zip, write_legacy], ids=["zip", "legacy"])


@both_forms
@pytest.mark.parametrize("kind", DTYPES)
def test_tensors_of_each_type(tmp_path: Path, write: Any, kind: str) -> None:
    values = np.arange(6, dtype=DTYPES[kind])
    state = collections.OrderedDict(weight=Tensor(Storage(kind, values), (2, 3), (3, 1)))
    read = torch_file.load(write(tmp_path / "a.pt", state))
    assert list(read) == ["weight"]
    assert read["weight"].dtype == values.dtype
    np.testing.assert_array_equal(read["weight"], values.reshape(2, 3))


@both_forms
def test_views_share_a_storage(tmp_path: Path, write: Any) -> None:
    storage = Storage("FloatStorage", np.arange(12, dtype=np.float32))
    state = {"transposed": Tensor(storage, (3, 2), (1, 3), 2), "scalar": Tensor(storage, (), (), 11)}
    state["empty"] = Tensor(storage, (0, 4), (4, 1))
    read = torch_file.load(write(tmp_path / "a.pt", state))
    np.testing.assert_array_equal(read["transposed"], [[2, 5], [3, 6], [4, 7]])
    np.testing.assert_array_equal(read["scalar"], 11)
    assert read["empty"].shape == (0, 4)


@both_forms
def test_the_arrays_are_writable_copies(tmp_path: Path, write: Any) -> None:
    storage = Storage("FloatStorage", np.zeros(2, np.float32))
    read = torch_file.load(write(tmp_path / "a.pt", {n: Tensor(storage, (2,), (1,)) for n in "ab"}))
    read["a"][0] = 1.0
    assert read["b"][0] == 0.0


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


@both_forms
def test_code_is_refused_and_not_run(tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.pt", {"weight": Evil()})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"a\.pt: refers to (posix|nt|os)\.system"):
        torch_file.load(path)
    assert not (tmp_path / "evil").exists()


@both_forms
@pytest.mark.parametrize("obj", [3, [1, 2], {"epoch": 7}], ids=repr)
def test_other_objects_than_state_dicts_are_refused(tmp_path: Path, write: Any, obj: object) -> None:
    with pytest.raises(ValueError, match="expected a state_dict"):
        torch_file.load(write(tmp_path / "a.pt", obj))


@both_forms
@pytest.mark.parametrize(
    "shape, strides, offset", [((7,), (1,), 0), ((2,), (1,), 5), ((2,), (-1,), 0), ((1,), (1,), -1)]
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, write: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    storage = Storage("FloatStorage", np.zeros(6, np.float32))
    with pytest.raises(ValueError, match="leaves its storage"):
        torch_file.load(write(tmp_path / "a.pt", {"weight": Tensor(storage, shape, strides, offset)}))


def truncated(path: Path) -> Iterator[Path]:
    data = path.read_bytes()
    for kept in (0, 10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:kept])
        yield path


@both_forms
def test_damaged_files_are_refused(tmp_path: Path, write: Any) -> None:
    state = {"weight": Tensor(Storage("FloatStorage", np.zeros(50, np.float32)), (50,), (1,))}
    for path in truncated(write(tmp_path / "a.pt", state)):
        with pytest.raises(ValueError, match=r"a\.pt"):
            torch_file.load(path)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    state = {"weight": Tensor(Storage("FloatStorage", np.zeros(1, np.float32)), (1,), (1,))}
    with pytest.raises(ValueError, match="byte order 'big'"):
        torch_file.load(write_zip(tmp_path / "a.pt", state, byteorder=b"big"))
