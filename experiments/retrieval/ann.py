"""Recall against milliseconds: exact search, approximations of it, and other libraries, on the same vectors.

Queries are searched in one batch, the best k by inner product; recall is the share of the exact best k that
is found. Generated vectors lie around centres, as those of a trained model do: an item is its centre and
noise, its length varies, and a query lies near an item. With --items and --queries, vectors of a trained
model are searched: files of `jaxrec embed` (`.npz`), or `.npy` files [N, D] without a row for padding.

`cur` sees no vectors: it reads scores of some anchor queries and of the anchor items alone, here products,
so its recall is 1 once it has as many anchors as the vectors have dimensions. What it saves is calls of a
scorer, which cost nothing here. `approx` is `jax.lax.approx_max_k`, exact on CPUs and GPUs. The libraries
that are installed (faiss, hnswlib, usearch) use the threads that they take by default.

Run:     python -m experiments.retrieval.ann
Also:    --num-items 1000000, --items items.npy --queries queries.npy
Prints a table and writes (runs/results/ann.json) a list of {name, unit, median, min, max, repeats}: for each
method and setting ann/<method>_<setting> in ms per query, the same with :recall, and :build in seconds; and
ann.png, where matplotlib is installed.
Expect:  the table in docs/retrieval_index.md.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from experiments.benchmarks.timing import Figure
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.index import approximate, clusters, cur, exact, libraries, library_files
from jaxrec.index.chunked import Best
from jaxrec.index.exact import Exact
from jaxrec.index.recall import recall_against_exact
from jaxrec.report.results import write_atomically
from jaxrec.report.tradeoff import tradeoff_curve

EFFORTS = {"flat": (None,), "hnsw": (100, 200, 400, 800), "ivf": (1, 4, 16, 64)}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is searched, and by which settings."""

    num_items: int = 100_000  # generated items
    num_queries: int = 1000  # queries, in one batch
    dim: int = 64  # numbers of a generated vector
    num_centres: int = 500  # centres around which generated items lie
    k: int = 100  # items of a list
    items: str = ""  # .npz or .npy file of item vectors; "": generated ones
    queries: str = ""  # file of query vectors, of which the first num_queries are searched
    num_clusters: int = 0  # lists of the clusters; 0: the square root of the number of items
    probes: tuple[int, ...] = (1, 4, 16, 64)  # lists that are searched
    anchors: tuple[int, ...] = (16, 32, 64, 128)  # anchor items of CUR, with twice as many anchor queries
    rescored: int = 400  # items that CUR scores exactly beside the anchors
    seed: int = 0  # of vectors, centres and anchors
    repeats: int = 5  # timed runs, after one that compiles
    tiny: bool = False  # 300 items, in seconds, to check that everything runs
    results: str = "runs/results"  # folder of ann.json and ann.png

    def __post_init__(self) -> None:
        for name in ("num_items", "num_queries", "dim", "num_centres", "k", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if bool(self.items) != bool(self.queries):
            raise ValueError("items and queries: give both files, or neither")
        for path in filter(None, (self.items, self.queries)):
            if not Path(path).is_file():
                raise ValueError(f"{path}: no such file")


class Method(NamedTuple):
    """A search: its name, its setting, and the seconds in which its index was built."""

    name: str
    setting: str
    search: Callable[..., Best]
    build: float


class Point(NamedTuple):
    """What was measured: recall in 0..1, and seconds of each run over all queries."""

    method: Method
    recall: float
    seconds: list[float]


def shrink_if_tiny(config: Config) -> Config:
    """The settings with those of --tiny."""
    if not config.tiny:
        return config
    small: dict[str, Any] = {
        "num_items": 300,
        "num_queries": 8,
        "dim": 8,
        "num_centres": 10,
        "k": 5,
        "repeats": 1,
    }
    return dataclasses.replace(config, **small, probes=(1, 4), anchors=(4, 8), rescored=10)


def vectors(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Items [N, D] and queries [Q, D]: from files, or generated."""
    if config.items:
        return read_vectors(config.items), read_vectors(config.queries)[: config.num_queries]
    rng = np.random.default_rng(config.seed)
    centres = rng.normal(size=(config.num_centres, config.dim))
    items = centres[rng.integers(0, len(centres), config.num_items)]
    items = items + 0.7 * rng.normal(size=items.shape)
    items *= rng.lognormal(sigma=0.2, size=(len(items), 1))
    near = items[rng.integers(0, len(items), config.num_queries)]
    queries = near + 0.5 * rng.normal(size=near.shape)
    return items.astype(np.float32), queries.astype(np.float32)


def read_vectors(path: str) -> np.ndarray:
    """Vectors [N, D] of a file that `jaxrec embed` wrote, or of an array."""
    stored = np.load(path, allow_pickle=False)
    array = stored["vectors"] if path.endswith(".npz") else stored
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: shape {array.shape}, type {array.dtype}; expected vectors [N, D]")
    return np.asarray(array, np.float32)


def timed(build: Callable[[], Any]) -> tuple[Any, float]:
    """What is built, and in how many seconds."""
    start = time.perf_counter()
    built = jax.block_until_ready(build())
    return built, time.perf_counter() - start


def methods(config: Config, whole: Exact, queries: jax.Array, folder: Path) -> Iterator[Method]:
    """The searches that are compared, the exact one first."""
    table = np.pad(exact.vectors_of(whole), ((1, 0), (0, 0)))
    number = len(table) - 1
    _, seconds = timed(lambda: exact.build(table))
    yield Method("exact", "", functools.partial(exact.search, whole), seconds)
    yield Method("approx", "0.95", functools.partial(approximate.search, whole, recall=0.95), seconds)
    lists = config.num_clusters or max(1, round(number**0.5))
    key = jax.random.key(config.seed)
    index, seconds = timed(lambda: clusters.build(table, num_clusters=lists, key=key))
    for probes in (p for p in config.probes if p <= lists):
        yield Method(
            "clusters", str(probes), functools.partial(clusters.search, index, probes=probes), seconds
        )
    rng = np.random.default_rng(config.seed)
    for anchors in (a for a in config.anchors if a <= number):
        chosen = rng.choice(number, anchors, replace=False) + 1
        rows = table[rng.choice(number, min(2 * anchors, number), replace=False) + 1] @ table.T
        built, seconds = timed(functools.partial(cur.build, rows, chosen))
        search = functools.partial(search_cur, built, jnp.asarray(table), rescored=config.rescored)
        yield Method("cur", str(anchors), search, seconds)
    for library in libraries.installed():
        for form in library_files.FORMS[library]:
            place = folder / f"{library}-{form}"
            _, seconds = timed(functools.partial(export, whole, place, library, form))
            read = libraries.open_export(place)
            for effort in EFFORTS[form]:
                found = functools.partial(read.best, effort=effort)
                yield Method(f"{library}-{form}", str(effort or ""), found, seconds)


def export(whole: Exact, place: Path, library: Any, form: Any) -> None:
    libraries.export(whole, place, library=library, form=form)


@functools.partial(jax.jit, static_argnames=("k", "rescored"))
def search_cur(
    anchors: cur.Anchors, table: jax.Array, queries: jax.Array, k: int, *, rescored: int, seen: Any = None
) -> Best:
    """CUR by a scorer that reads query and item together, here their product."""

    def score(ids: jax.Array) -> jax.Array:
        return jax.lax.map(lambda pair: table[pair[1]] @ pair[0], (queries, ids), batch_size=16)

    return cur.search(anchors, score, len(queries), k, rescored=max(rescored, k))


def measure(method: Method, config: Config, whole: Exact, queries: jax.Array) -> Point:
    """Recall and seconds of a search."""
    recall = recall_against_exact(method.search, queries, config.k, exact=whole)
    seconds = []
    for _ in range(config.repeats):
        start = time.perf_counter()
        jax.block_until_ready(method.search(queries, config.k).ids)
        seconds.append(time.perf_counter() - start)
    return Point(method, recall, seconds)


def figures(point: Point, num_queries: int) -> Iterator[Figure]:
    """The lines of the stored list."""
    method = point.method
    name = f"ann/{method.name}" + f"_{method.setting}" * bool(method.setting)
    each = [1e3 * s / num_queries for s in point.seconds]
    yield Figure(name, "ms", float(np.median(each)), min(each), max(each), len(each))
    yield Figure(f"{name}:recall", "share", point.recall, point.recall, point.recall, 1)
    yield Figure(f"{name}:build", "s", method.build, method.build, method.build, 1)


def run(config: Config) -> list[Point]:
    """Measures, prints and stores everything."""
    check_run(config)
    config = shrink_if_tiny(config)
    items, asked = vectors(config)
    whole, queries = exact.build(np.pad(items, ((1, 0), (0, 0)))), jnp.asarray(asked)
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for method in methods(config, whole, queries, Path(folder)):
            points.append(measure(method, config, whole, queries))
            ms = 1e3 * float(np.median(points[-1].seconds)) / len(queries)
            print(f"{method.name:14s} {method.setting:6s} {points[-1].recall:.4f} {ms:9.4f} ms", flush=True)
    stored = [list(figures(point, len(queries))) for point in points]
    rows = [
        [p.method.name, p.method.setting, p.recall, time.median, built.median]
        for p, (time, _, built) in zip(points, stored, strict=True)
    ]
    print(tabulate(rows, ["method", "setting", f"recall@{config.k}", "ms per query", "build, s"]))
    path = Path(config.results) / "ann.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [figure._asdict() for lines in stored for figure in lines]
    write_atomically(path, json.dumps(listed, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        lines: dict[str, list[tuple[float, float]]] = {}
        for point, (milliseconds, _, _) in zip(points, stored, strict=True):
            lines.setdefault(point.method.name, []).append((milliseconds.median, point.recall))
        title = f"{len(items):,} items, {items.shape[1]} dimensions"
        cost, value = "milliseconds per query", f"recall@{config.k}"
        tradeoff_curve(lines, path.with_suffix(".png"), title=title, cost=cost, value=value)
    return points


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
