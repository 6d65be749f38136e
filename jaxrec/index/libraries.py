"""Indexes of other libraries: faiss, hnswlib and usearch, whichever is installed, with raw ids.

A folder holds the library's own file, `index.json` and `raw_ids.npy`. Where raw ids are whole numbers from 0
on, they are the keys in the library's file; raw ids of text stand in `raw_ids.npy`, and the keys are their
places from 1 on, our ids.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from jaxrec.data.vocab import Vocabulary
from jaxrec.index.chunked import Best
from jaxrec.index.exact import Exact, vectors_of
from jaxrec.index.library_files import FORMS, Form, Library, build_file, open_file, search_file
from jaxrec.index.measure import Metric
from jaxrec.report.results import write_atomically


class Found(NamedTuple):
    """What a library found for Q queries, best first.

    scores: larger is better, as those of `index.exact`; -inf where fewer than k items were found, [Q, k].
    raw_ids: [Q, k]; -1 or "" there. real: False there, bool [Q, k].
    """

    scores: np.ndarray
    raw_ids: np.ndarray
    real: np.ndarray


@dataclasses.dataclass(frozen=True)
class Exported:
    """An index of another library, made by `open_export`.

    handle: the library's own object. vocabulary: raw ids of the items.
    """

    library: Library
    form: Form
    metric: Metric
    dim: int
    handle: Any
    vocabulary: Vocabulary
    raw_keys: bool

    def search(self, queries: Any, k: int, *, effort: int | None = None) -> Found:
        """The k best items of each query [Q, D] with raw ids.

        effort: candidates of a graph's search (ef, at least k is taken) or lists that are probed (nprobe);
        None: max(k, 64) and 8. A flat index has none.

        Raises:
          ValueError: k is not in 1 .. the number of items, the queries have another width or a number that is
            not finite, effort is below 1 or given to a flat index, or too small to find k items (hnswlib).
        """
        scores, ids = self._search(queries, k, effort)
        real = ids > 0
        raw = self.vocabulary.raw[np.maximum(ids, 1) - 1]
        missing = np.asarray("" if raw.dtype.kind == "U" else -1, raw.dtype)
        return Found(np.where(real, scores, -np.inf), np.where(real, raw, missing), real)

    def best(self, queries: Any, k: int, *, seen: Any = None, effort: int | None = None) -> Best:
        """As `search`, with ids 1..n, 0 for none, as `recall.recall_against_exact` reads them.

        Raises:
          ValueError: as `search`; or `seen` is given, which a library does not leave out.
        """
        if seen is not None:
            raise ValueError(
                "seen: an exported index does not leave items out; search for more and remove them"
            )
        found, ids = self._search(queries, k, effort)
        scores = jnp.where(ids > 0, jnp.asarray(found), -jnp.inf)
        return Best(scores, jnp.asarray(ids, jnp.int32), jnp.ones(len(ids), bool))

    def _search(self, queries: Any, k: int, effort: int | None) -> tuple[np.ndarray, np.ndarray]:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim or not np.isfinite(queries).all():
            raise ValueError(f"queries of shape {queries.shape}: must be [Q, {self.dim}], finite numbers")
        if not 1 <= k <= len(self.vocabulary):
            raise ValueError(f"k={k}: must lie in 1..{len(self.vocabulary)}, the number of items")
        if effort is not None and (effort < 1 or self.form == "flat"):
            raise ValueError(f"effort={effort}: must be at least 1, and None for a flat index")
        scores, keys = search_file(
            self.handle, queries, k, library=self.library, form=self.form, metric=self.metric, effort=effort
        )
        if not self.raw_keys:
            return scores, keys
        real = keys >= 0
        ids = np.zeros(keys.shape, np.int64)
        ids[real] = self.vocabulary.encode(keys[real])
        return scores, ids


def installed() -> tuple[Library, ...]:
    """The libraries that can be imported here."""
    return tuple(name for name in get_args(Library) if importlib.util.find_spec(name) is not None)


def export(
    index: Exact,
    folder: str | Path,
    *,
    vocabulary: Vocabulary | None = None,
    library: Library | None = None,
    form: Form | None = None,
    connectivity: int = 32,
    build_effort: int = 200,
    num_lists: int | None = None,
) -> Path:
    """Writes the items of an index in the form of another library; returns the folder.

    vocabulary: raw ids of the items; None: their ids 1..n. library: None: the first that is installed.
    form: "flat", exact; "hnsw", a graph; "ivf", lists (faiss has all three, the others the graph alone);
    None: "flat" for faiss, "hnsw" otherwise.
    connectivity, build_effort: neighbours and candidates of a graph (M and efConstruction). num_lists: of
    "ivf"; None: the square root of the number of items.

    Raises:
      ValueError: the library has no such form, a number is below 1, or the vocabulary has another number of
        items.
      ImportError: the library is not installed, or none is.
    """
    library = _choose(library)
    form = FORMS[library][0] if form is None else form
    if form not in FORMS[library]:
        raise ValueError(f"form={form!r}: {library} has {' and '.join(map(repr, FORMS[library]))}")
    vectors = vectors_of(index)
    number, dim = vectors.shape
    num_lists = max(1, round(number**0.5)) if num_lists is None else num_lists
    for name, value in (
        ("connectivity", connectivity),
        ("build_effort", build_effort),
        ("num_lists", num_lists),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if num_lists > number:
        raise ValueError(f"num_lists={num_lists}: must be at most {number}, the number of items")
    if vocabulary is None:
        vocabulary = Vocabulary("item", np.arange(1, number + 1))
    if len(vocabulary) != number:
        raise ValueError(f"a vocabulary of {len(vocabulary)} raw ids for an index of {number} items")
    raw_keys = vocabulary.raw.dtype.kind == "i" and int(vocabulary.raw.min()) >= 0
    keys = vocabulary.raw if raw_keys else np.arange(1, number + 1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"connectivity": connectivity, "build_effort": build_effort, "num_lists": num_lists}
    path = folder / f"index.{library}"
    build_file(path, vectors, keys, library=library, form=form, metric=index.metric, sizes=sizes)
    np.save(folder / "raw_ids.npy", vocabulary.raw, allow_pickle=False)
    header = {"library": library, "form": form, "metric": index.metric, "dim": dim, "items": number}
    header |= {"keys": "raw ids" if raw_keys else "ids from 1 on", "feature": vocabulary.feature}
    write_atomically(folder / "index.json", json.dumps(header, indent=1) + "\n")
    return folder


def open_export(folder: str | Path) -> Exported:
    """Reads back what `export` wrote.

    Raises:
      OSError: a file is missing. ImportError: the library is not installed.
    """
    folder = Path(folder)
    header = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    library: Library = _choose(header["library"])
    raw = np.load(folder / "raw_ids.npy", allow_pickle=False)
    path = folder / f"index.{library}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; write the export anew")
    metric, dim = header["metric"], header["dim"]
    handle = open_file(path, library=library, metric=metric, dim=dim)
    vocabulary = Vocabulary(header["feature"], raw)
    raw_keys = header["keys"] == "raw ids"
    return Exported(library, header["form"], metric, dim, handle, vocabulary, raw_keys)


def _choose(library: str | None) -> Library:
    """The library, or the first that is installed."""
    there = installed()
    if library is None:
        if not there:
            wanted = ", ".join(f"'jaxrec[{name}]'" for name in FORMS)
            raise ImportError(f"an export needs faiss, hnswlib or usearch: pip install one of {wanted}")
        return there[0]
    if library not in FORMS:
        raise ValueError(f"library={library!r}: must be one of {', '.join(map(repr, FORMS))}")
    if library not in there:
        raise ImportError(f"{library} is not installed: pip install 'jaxrec[{library}]'")
    return library  # type: ignore[return-value]
