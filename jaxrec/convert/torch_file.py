"""Reads the tensors of a PyTorch file (.pt, .pth) without PyTorch and without running code from it.

Since torch 1.6 a file is a zip archive in which a pickle describes the object and each storage is a raw
member. Before, it was a row of pickles (a magic number, the version, the system, the object, the names of
the storages) and then the storages, each after its length. Published checkpoints come in both forms. The
unpickler knows tensors, their storages and ordered dictionaries; anything else is refused.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

# What the standard library raises for damaged archives and pickles; ValueError is told apart.
_BAD_FILE = (
    pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, AttributeError, OverflowError,
    MemoryError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError,
)  # fmt: skip
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_DTYPES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The state_dict in a PyTorch file as NumPy arrays by name.

    Raises:
      ValueError: not a file of torch.save, an object other than a mapping of tensors, a storage shorter
        than its tensors need.
    """
    try:
        state = _load_zip(path) if zipfile.is_zipfile(path) else _load_legacy(path)
    except _BAD_FILE as error:
        raise ValueError(f"{path}: not a file that torch.save wrote, or a damaged one ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, np.ndarray) for value in state.values()):
        raise ValueError(
            f"{path}: holds {type(state).__name__}, expected a state_dict, a mapping of names to tensors: "
            "save model.state_dict()"
        )
    return {str(name): value.copy() for name, value in state.items()}


def _load_zip(path: str | os.PathLike[str]) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} members named data.pkl, expected one as torch.save writes it")
        root = pickles[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise ValueError(f"byte order {order.decode()!r}, only 'little' can be read")

        def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
            return _values(archive.read(f"{root}data/{key}"), dtype, key, count)

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _load_legacy(path: str | os.PathLike[str]) -> Any:
    storages: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        return storages.setdefault(key, np.zeros(count, dtype))  # filled below: the data come last

    with open(path, "rb") as file:
        if _Unpickler(file, storage).load() != _MAGIC:
            raise ValueError(
                "no magic number of torch.save, neither a zip archive nor the form before torch 1.6"
            )
        _version, system, state = (_Unpickler(file, storage).load() for _ in range(3))
        if not system.get("little_endian", True):
            raise ValueError("big-endian, only little-endian files can be read")
        for key in _Unpickler(file, storage).load():
            values, count = storages[key], int(_values(file.read(8), np.dtype(np.int64), "length", 1)[0])
            if count != len(values):
                raise ValueError(f"storage {key} holds {count} values, expected {len(values)}")
            values[:] = _values(file.read(count * values.itemsize), values.dtype, key, count)
    return state


def _values(data: bytes, dtype: np.dtype, key: str, count: int) -> np.ndarray:
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"storage {key} holds {len(data)} bytes, expected {count} values of {dtype}")
    return np.frombuffer(data, dtype, count)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], storage: Callable[[np.dtype, str, int], np.ndarray]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, requires_grad, hooks: data
        if module == "torch" and name in _STORAGE_DTYPES:
            return np.dtype(_STORAGE_DTYPES[name])
        raise ValueError(
            f"refers to {module}.{name}, but only tensors of standard types and dictionaries are read: "
            "save model.state_dict()"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _device, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(part is not None for part in view):
            raise ValueError(f"persistent id {pid!r}, expected a whole storage of a standard type")
        return self._storage(dtype, str(key), int(count))


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """The strided view that a tensor is of its storage; strides count elements."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if math.prod(shape) else -1
    if offset < 0 or min((*shape, *strides), default=0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {shape}, strides {strides}, offset {offset} leaves its storage")
    steps = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
