"""Exports to the libraries that are installed: raw ids come back, and scores are those of the exact index."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.vocab import Vocabulary
from jaxrec.index import clusters, exact, libraries, library_files
from jaxrec.index.chunked import Best
from jaxrec.index.recall import recall_against_exact

RNG = np.random.default_rng(0)
NUM_ITEMS, DIM = 200, 6
TABLE = RNG.normal(size=(NUM_ITEMS + 1, DIM)).astype(np.float32)
QUERIES = RNG.normal(size=(7, DIM)).astype(np.float32)
WORDS = np.array([f"item-{i}" for i in RNG.permutation(NUM_ITEMS)])
NUMBERS = 10**9 + RNG.permutation(NUM_ITEMS)
FORMS = [(name, form) for name in libraries.installed() for form in library_files.FORMS[name]]
needs_one = pytest.mark.skipif(not FORMS, reason="neither faiss, hnswlib nor usearch is installed")


@needs_one
@pytest.mark.parametrize("raw", [WORDS, NUMBERS, -NUMBERS], ids=["text", "numbers", "negative"])
@pytest.mark.parametrize("metric", ["inner", "cosine", "l2"])
@pytest.mark.parametrize("library, form", FORMS)
def test_raw_ids_and_scores_come_back(library: Any, form: Any, metric: Any, raw: Any, tmp_path: Path) -> None:
    index = exact.build(TABLE, metric=metric)
    libraries.export(
        index, tmp_path, vocabulary=Vocabulary("item", raw), library=library, form=form, num_lists=5
    )
    read = libraries.open_export(tmp_path)
    effort = {"flat": None, "hnsw": NUM_ITEMS, "ivf": 5}[form]
    found = read.search(QUERIES, 10, effort=effort)
    expected = exact.search(index, QUERIES, 10)
    assert found.real.all()
    np.testing.assert_array_equal(found.raw_ids, raw[np.asarray(expected.ids) - 1])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert recall_against_exact(functools.partial(read.best, effort=effort), QUERIES, 10, exact=index) == 1


@needs_one
def test_without_a_vocabulary_raw_ids_are_ids(tmp_path: Path) -> None:
    index = exact.add(exact.build(TABLE), 9 * QUERIES[:1])
    read = libraries.open_export(libraries.export(index, tmp_path))
    assert read.search(QUERIES, 1).raw_ids[0, 0] == NUM_ITEMS + 1
    assert json.loads((tmp_path / "index.json").read_text())["items"] == NUM_ITEMS + 1


@needs_one
def test_what_a_library_can_not_do_is_refused(tmp_path: Path) -> None:
    index = exact.build(TABLE)
    read = libraries.open_export(libraries.export(index, tmp_path))
    for call, message in (
        (lambda: read.search(QUERIES, NUM_ITEMS + 1), "k=201: must lie in 1..200"),
        (lambda: read.search(QUERIES[:, 1:], 1), "must be [Q, 6], finite numbers"),
        (lambda: read.search(QUERIES, 1, effort=0), "effort=0: must be at least 1"),
        (lambda: read.best(QUERIES, 1, seen=np.ones((7, 1))), "does not leave items out"),
        (lambda: libraries.export(index, tmp_path, num_lists=201), "num_lists=201: must be at most 200"),
        (lambda: libraries.export(index, tmp_path, connectivity=0), "connectivity=0: must be at least 1"),
        (lambda: libraries.export(index, tmp_path, form="tree"), "form='tree'"),  # type: ignore[arg-type]
        (
            lambda: libraries.export(index, tmp_path, vocabulary=Vocabulary("item", np.arange(3))),
            "a vocabulary of 3 raw ids for an index of 200 items",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    (tmp_path / f"index.{read.library}").unlink()
    with pytest.raises(FileNotFoundError, match="write the export anew"):
        libraries.open_export(tmp_path)


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrec.index.libraries.installed", lambda: ())
    index = exact.build(TABLE)
    with pytest.raises(ImportError, match=re.escape("pip install one of 'jaxrec[faiss]', 'jaxrec[hnswlib]'")):
        libraries.export(index, tmp_path)
    with pytest.raises(
        ImportError, match=re.escape("hnswlib is not installed: pip install 'jaxrec[hnswlib]'")
    ):
        libraries.export(index, tmp_path, library="hnswlib")
    with pytest.raises(ValueError, match="library='scann': must be one of"):
        libraries.export(index, tmp_path, library="scann")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# --- recall -----------------------------------------------------------------------------------------


def finds(ids: Any) -> Any:
    return lambda queries, k, seen=None: Best(jnp.zeros((1, k)), jnp.asarray([ids]), jnp.ones(1, bool))


def test_recall_counts_ties_once_and_no_seen_item() -> None:
    """Scores 3, 2, 2, 1, 1 of five items."""
    index = exact.build(np.array([[9], [3], [2], [2], [1], [1]]))
    query = np.ones((1, 1))
    for ids, recall in (([1, 2], 1), ([1, 3], 1), ([3, 3], 0.5), ([2, 3], 1), ([4, 0], 0), ([1, 5], 0.5)):
        assert recall_against_exact(finds(ids), query, 2, exact=index) == recall, ids
    seen = np.array([[1, 2]])
    assert recall_against_exact(finds([1, 3]), query, 2, exact=index, seen=seen) == 0.5
    assert recall_against_exact(finds([3, 4]), query, 2, exact=index, seen=seen) == 1
    few = np.array([[1, 2, 3, 4]])
    assert recall_against_exact(finds([5, 0]), query, 2, exact=index, seen=few) == 1
    with pytest.raises(ValueError, match="no query has an item left"):
        recall_against_exact(finds([1, 2]), query, 2, exact=index, seen=np.arange(1, 6)[None])
    with pytest.raises(ValueError, match="query 0: its scores are not finite"):
        recall_against_exact(finds([1, 2]), np.full((1, 1), np.nan), 2, exact=index)


def test_recall_of_clusters_is_1_at_as_many_probes_as_clusters() -> None:
    """On vectors of which many tie."""
    table = RNG.integers(-1, 2, (NUM_ITEMS + 1, DIM)).astype(np.float32)
    index, whole = clusters.build(table, num_clusters=8, key=jax.random.key(0)), exact.build(table)
    shares = [
        recall_against_exact(functools.partial(clusters.search, index, probes=p), QUERIES, 10, exact=whole)
        for p in (1, 8)
    ]
    assert shares[0] < shares[1] == 1
