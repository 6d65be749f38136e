"""What differs between faiss, hnswlib and usearch: how a file is built, opened and searched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.index.measure import Metric

Library = Literal["faiss", "hnswlib", "usearch"]
Form = Literal["flat", "hnsw", "ivf"]
FORMS: Mapping[Library, tuple[Form, ...]] = {
    "faiss": ("flat", "hnsw", "ivf"),
    "hnswlib": ("hnsw",),
    "usearch": ("hnsw",),
}
SPACES = {
    "hnswlib": {"inner": "ip", "cosine": "cosine", "l2": "l2"},
    "usearch": {"inner": "ip", "cosine": "cos", "l2": "l2sq"},
}
EFFORT, PROBES = 64, 8  # candidates of a graph's search, lists that are probed


def build_file(
    path: Path,
    vectors: np.ndarray,
    keys: np.ndarray,
    *,
    library: Library,
    form: Form,
    metric: Metric,
    sizes: Mapping[str, int],
) -> None:
    """Writes an index of vectors [N, D], of length 1 for cosines, with keys from 0 on [N]."""
    number, dim = vectors.shape
    if library == "faiss":
        import faiss

        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        names = {
            "flat": "Flat",
            "hnsw": f"HNSW{sizes['connectivity']}",
            "ivf": f"IVF{sizes['num_lists']},Flat",
        }
        inner = faiss.index_factory(dim, names[form], kind)
        if form == "hnsw":
            inner.hnsw.efConstruction = sizes["build_effort"]
        inner.train(vectors)
        index = faiss.IndexIDMap(inner)
        index.add_with_ids(vectors, np.ascontiguousarray(keys, np.int64))
        faiss.write_index(index, str(path))
    elif library == "hnswlib":
        import hnswlib

        index = hnswlib.Index(space=SPACES["hnswlib"][metric], dim=dim)
        index.init_index(
            max_elements=number, M=sizes["connectivity"], ef_construction=sizes["build_effort"], random_seed=0
        )
        index.add_items(vectors, keys)
        index.save_index(str(path))
    else:
        from usearch.index import Index

        index = Index(
            ndim=dim,
            metric=SPACES["usearch"][metric],
            dtype="f32",
            connectivity=sizes["connectivity"],
            expansion_add=sizes["build_effort"],
        )
        index.add(np.ascontiguousarray(keys, np.uint64), vectors)
        index.save(str(path))


def open_file(path: Path, *, library: Library, metric: Metric, dim: int) -> Any:
    """The library's own object."""
    if library == "faiss":
        import faiss

        return faiss.read_index(str(path))
    if library == "hnswlib":
        import hnswlib

        index = hnswlib.Index(space=SPACES["hnswlib"][metric], dim=dim)
        index.load_index(str(path))
        return index
    from usearch.index import Index

    return Index.restore(str(path))


def search_file(
    handle: Any,
    queries: np.ndarray,
    k: int,
    *,
    library: Library,
    form: Form,
    metric: Metric,
    effort: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores, larger is better, and keys of the k best, [Q, k] twice; key -1 where there are fewer."""
    if metric == "cosine":
        length = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = queries / np.where(length > 0, length, 1)
    wide = max(k, EFFORT if effort is None else effort)
    if library == "faiss":
        import faiss

        inner = faiss.downcast_index(handle.index)
        if form == "hnsw":
            inner.hnsw.efSearch = wide
        elif form == "ivf":
            inner.nprobe = PROBES if effort is None else effort
        found, keys = handle.search(queries, k)
        return (-found if metric == "l2" else found), keys
    if library == "hnswlib":
        handle.set_ef(wide)
        try:
            labels, distances = handle.knn_query(queries, k=k)
        except RuntimeError as error:
            raise ValueError(
                f"k={k}, effort={effort}: hnswlib found fewer; raise effort ({error})"
            ) from error
        keys = labels.astype(np.int64)
    else:
        handle.expansion_search = wide
        matches = handle.search(queries, k)
        keys = np.asarray(matches.keys).reshape(len(queries), -1).astype(np.int64)
        distances = np.asarray(matches.distances).reshape(len(queries), -1)
        counts = np.atleast_1d(getattr(matches, "counts", keys.shape[1]))
        keys = np.where(np.arange(keys.shape[1]) < counts[:, None], keys, -1)
        missing = ((0, 0), (0, k - keys.shape[1]))
        keys, distances = np.pad(keys, missing, constant_values=-1), np.pad(distances, missing)
    return (-distances if metric == "l2" else 1 - distances), keys
