"""Click sessions as papers on session-based recommendation prepare them.

    diginetica     product views (CIKM Cup 2016), test: the last week
    yoochoose1_64  clicks of a shop (RecSys Challenge 2015), the last 64th for training, test: the last day
    tmall          clicks of a shop (IJCAI-15), the form of GCE-GNN (Wang et al., SIGIR 2020)

The first two are in the form of SR-GNN (Wu et al., AAAI 2019): sessions of one click and items with fewer
than 5 clicks are removed, sessions are in the order of their dates, and every prefix of a test session is a
test example. STAMP's own preparation of Yoochoose gives the same 55,898 test examples but 375,073 training
examples where this one has 369,859. The last 64th has 17,376 items; test prefixes have 369 more, known from
the earlier training data. They are candidates like all others, as in STAMP's code (which has 17,694 items in
all), though training never sees them.

Data are read from one compressed copy, or else from the two lists in the authors' repositories.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np

from jaxrec.data.events.sessions import Sessions
from jaxrec.data.sources.dataset import SessionLog, find_by_name
from jaxrec.data.store import File, Source, find_file, github, read_file, show_terms
from jaxrec.data.validation import as_integers

SOURCE = Source(
    "sessions",
    title="Session logs as GCE-GNN and CLTAR-GNN distribute them",
    homepage="https://github.com/CCIIPLab/GCE-GNN",
    licence="no licence file",
    terms="Underlying data: CIKM Cup 2016 (Diginetica), RecSys Challenge 2015 (Yoochoose), IJCAI-15 (Tmall) "
    "terms.",
)
_GCE_GNN = ("CCIIPLab/GCE-GNN", "212575302e42d64b8cf0b9ffe1b71b0db398d5be")
_CLTAR_GNN = ("Linxw718/CLTAR-GNN", "0bad2333ca6fe6d1459c5369cd7b8aa7902a2d3b")
_ARRAYS = ("train_items", "train_offsets", "test_items", "test_offsets", "test_target")


def _log(
    name: str,
    packed: File,
    repository: tuple[str, str],
    folder: str,
    train: tuple[str, int],
    test: tuple[str, int],
    expected: dict[str, int],
) -> SessionLog:
    def list_of(part: str, sha256: str, size: int) -> File:
        route = github(*repository, f"datasets/{folder}/{part}")
        return File(f"{packed.path.partition('/')[0]}/{part}", sha256=sha256, size=size, routes=(route,))

    files = (packed, list_of("all_train_seq.txt", *train)), (packed, list_of("test.txt", *test))
    return SessionLog(name, files, expected)  # the packed copy stands for both


LOGS = (
    _log(
        "diginetica",
        packed=File(
            "diginetica/sessions.npz",
            "fc8e62e0c15e82d9c57dad2a22281b3e88634dcfe7ef18752b251eb733f28558",
            2683179,
        ),
        repository=_GCE_GNN,
        folder="diginetica",
        train=("55694865221c682aaa9df6cd5a4ddccff5de902334df5605c5767ee464e11365", 4193626),
        test=("b2b81f9cb22feb2174feeb3e678b9de5e41ff1653bf23cdaf9046e5404f002ff", 1384823),
        expected={"train_examples": 719_470, "test_examples": 60_858, "clicks": 982_961, "items": 43_097},
    ),
    _log(
        "yoochoose1_64",
        packed=File(
            "yoochoose1_64/sessions.npz",
            "a0312d5c48d4504eea5bfeb2de65289f08992bad8a18ae17b3fa81a81fcf89e6",
            1342324,
        ),
        repository=_CLTAR_GNN,
        folder="yoochoose1_64",
        train=("41408f34a4dcfcd406e034fa14e4b2b583d66fedb1b85d1257645797b94988ae", 2379816),
        test=("3006ec5cb4b695261efd7b2c5780586b0a5e95e948013e356de8fe45188b6375", 1508454),
        expected={"train_examples": 369_859, "test_examples": 55_898, "clicks": 557_248, "items": 17_745},
    ),
    _log(
        "tmall",
        packed=File(
            "tmall-session/sessions.npz",
            "4f5715ea66257cab27be390c9f88044efb33edf62ade6953484341945ef0f76a",
            1054303,
        ),
        repository=_GCE_GNN,
        folder="Tmall",
        train=("40219a3222bc575e7061bd665c6dcaa4af3c37a8f8975868689ae0375b765d9c", 1763874),
        test=("7813a743324943488c37efa35b511ec649dfcd7697f28f33dcb3d18420d3da5d", 1392889),
        expected={"train_examples": 351_268, "test_examples": 25_898, "items": 40_727},
    ),
)


def load(name: str) -> Sessions:
    """Sessions and test prefixes; `train.item_ids` are the ids of the file."""
    log = find_by_name(LOGS, name)
    show_terms(SOURCE)
    (packed, train), (_, test) = log.files
    if find_file(packed) is not None:
        arrays = read_arrays(read_file(packed), packed.path)
    else:
        arrays = arrays_from_lists(
            unpickle_plain(read_file(train), train.path), unpickle_plain(read_file(test), test.path), name
        )
    sessions = Sessions.from_arrays(f"sessions/{name}", **arrays)
    found = sessions.statistics()._asdict()
    for field, value in log.expected.items():
        if found[field] != value:
            raise ValueError(
                f"{sessions.name}: {field} = {found[field]}, expected {value}; the parser or file is wrong"
            )
    return sessions


def read_arrays(content: bytes, where: str) -> dict[str, np.ndarray]:
    """The arrays of a compressed copy; ValueError naming the file if it is no archive or lacks an array."""
    try:
        with np.load(io.BytesIO(content)) as archive:
            return {name: archive[name] for name in _ARRAYS}
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{where}: not an archive of the arrays {', '.join(_ARRAYS)} ({error}); fetch it again"
        ) from error


# What the standard library raises for damaged pickles.
_BAD_PICKLE = (
    pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError,
    OverflowError, MemoryError,
)  # fmt: skip


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists and numbers only; anything that would import or run code is an error."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, and only lists of numbers are read")


def unpickle_plain(content: bytes, where: str) -> Any:
    """Nested lists of numbers; ValueError naming the file if it is truncated or has anything else."""
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except _BAD_PICKLE as error:
        raise ValueError(f"{where}: not a complete list of numbers ({error}); fetch it again") from error


def arrays_from_lists(
    train: list[list[int]], test: tuple[list[list[int]], list[int]], where: str
) -> dict[str, np.ndarray]:
    """The arguments of `Sessions.from_arrays`, from training sessions and test prefixes with targets."""
    if len(test) != 2:
        raise ValueError(f"{where}: {len(test)} lists of test data, expected prefixes and targets")
    arrays = {"test_target": as_integers(test[1], f"{where}: test targets")}
    for part, lists in (("train", train), ("test", test[0])):
        checked = [as_integers(items, f"{where}: {part} session {i}") for i, items in enumerate(lists)]
        arrays[f"{part}_items"] = np.concatenate(checked) if checked else np.empty(0, np.int64)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, lists)])
    return arrays
