"""Vectors of items and users with their raw ids; a score of a sequence model is their product.

A user of a model of several interests has several vectors, whose best product with an item's is its score
(of a model whose vectors attend to the item, their weighted mean, see `types.Retriever`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.serve import queries
from jaxrec.serve.files import write_whole
from jaxrec.serve.recommend import check_finite, item_table
from jaxrec.types import Array, Context, Retriever, Variables

if TYPE_CHECKING:
    from jaxrec.serve.load import Run

FORMS = (".npz", ".npy", ".parquet")


class Embeddings(NamedTuple):
    """Vectors, float32 [N, D], or [N, H, D] of users with several, and the raw ids they belong to, [N]."""

    ids: np.ndarray
    vectors: np.ndarray


def embed(run: Run, what: Literal["items", "users"]) -> Embeddings:
    """Vectors of all items, or of all users after all their events in the run.

    The product of a user's vector and an item's is the score that `recommend` gives; of several vectors of a
    user the best one is.

    Raises:
      ValueError: another `what`; the run has no vectors or no users; a vector is not finite.
    """
    if what not in ("items", "users"):
        raise ValueError(f"{what!r}: must be 'items' or 'users'")
    if not _has_vectors(run):
        raise ValueError(
            f"{run.path}: a {run.kept.kind} run has no vectors of {what} where its scores are no products of "
            "vectors; a sequence, session or multi-interest run has, and one of factors"
        )
    if what == "items":
        ids = run.ids("item").raw
        table = item_table(run, queries.model_of(run.kept, mean=run.seed == "mean"))
        assert table is not None
        vectors = np.asarray(table[1 : len(ids) + 1], np.float32)
    else:
        ids = run.ids("user").raw
        vectors = _user_vectors(run)
    finite = np.isfinite(vectors).all(axis=tuple(range(1, vectors.ndim)))
    check_finite(run, np.asarray(finite), f"vectors of {what} are")
    return Embeddings(ids, vectors)


def _has_vectors(run: Run) -> bool:
    """Whether scores are products of vectors; numbers of events, those of popularity, are none."""
    if run.kept.kind in ("table", "clicks", "profile"):
        return False
    if run.kept.kind == "multi-interest" and run.seed == "mean":
        raise ValueError(
            f"{run.path}: the mean of what several vectors give in each seed is no product of vectors; give "
            "one of the seeds (seed=, --seed)"
        )
    model, one_seed = queries.model_of(run.kept), jax.tree.map(lambda leaf: leaf[0], run.kept.variables)
    if not isinstance(model, Retriever):
        return False
    return run.kept.kind != "baseline" or jax.eval_shape(model.items, one_seed).shape[1] > 1


def _user_vectors(run: Run) -> np.ndarray:
    histories = run.kept.histories
    if histories is None:
        raise ValueError(f"{run.path}: keeps no histories of its users, so they have no vectors")
    everybody = np.arange(1, len(histories.offsets), dtype=np.int32)
    asked = queries.asked_by(run.kept, histories, None, everybody)
    empty = np.flatnonzero(asked.lengths == 0)
    if empty.size:
        raise ValueError(
            f"{run.path}: user {run.ids('user').raw[empty[0]].item()!r} has no event ({empty.size:,} such), "
            "so no vector"
        )
    shapes = queries.layout(run.kept, asked, mean=run.seed == "mean")
    model = shapes.model
    assert isinstance(model, Retriever)

    def program(variables: Variables, columns: Mapping[str, Array], context: Context) -> Array:
        def of_batch(batch: Mapping[str, Array], context: Context) -> Array:
            return model.query(variables, batch, context).astype(jnp.float32)

        return queries.over_batches(shapes, of_batch)(columns, context)

    compiled = jax.jit(program)
    found = []
    for columns, context, real in queries.calls(asked, shapes):
        vectors = np.asarray(compiled(run.variables, columns, context))
        found.append(vectors.reshape(-1, *vectors.shape[2:])[:real])
    return np.concatenate(found)


def write(path: str | Path, embeddings: Embeddings) -> None:
    """Writes vectors with their ids, whole or not at all.

    .npz: arrays `ids` and `vectors`. .npy: one array of records with the fields `id` and `vector`. .parquet:
    columns `id` and `vector` (the extra `parquet`), which is a list of vectors where a user has several.

    Raises:
      ValueError: another form; ImportError: pyarrow is missing; OSError: the file can't be written.
    """
    check_path(path)
    made = {".npz": _npz, ".npy": _npy, ".parquet": _parquet}[Path(path).suffix](embeddings)
    write_whole(path, made)


def check_path(path: str | Path) -> None:
    """Raises ValueError or ImportError, before anything is computed, for what `write` would refuse."""
    if Path(path).suffix not in FORMS:
        raise ValueError(f"out={str(path)!r}: must end in {', '.join(FORMS)}")
    if Path(path).suffix == ".parquet":
        _pyarrow()


def _npz(embeddings: Embeddings) -> Callable[[IO[bytes]], Any]:
    return lambda file: np.savez(file, allow_pickle=False, **embeddings._asdict())


def _npy(embeddings: Embeddings) -> Callable[[IO[bytes]], Any]:
    ids, vectors = embeddings
    records = np.empty(len(ids), [("id", ids.dtype), ("vector", np.float32, vectors.shape[1:])])
    records["id"], records["vector"] = ids, vectors
    return lambda file: np.save(file, records, allow_pickle=False)


def _parquet(embeddings: Embeddings) -> Callable[[IO[bytes]], Any]:
    arrow, parquet = _pyarrow()
    ids, vectors = embeddings
    lists = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
    for width in reversed(vectors.shape[1:]):
        lists = arrow.FixedSizeListArray.from_arrays(lists, width)
    table = arrow.table({"id": arrow.array(ids.tolist()), "vector": lists})
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    return lambda file: file.write(stream.getvalue())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("writing Parquet needs pyarrow; pip install 'jaxrec[parquet]'") from error
    return pyarrow, pyarrow.parquet
