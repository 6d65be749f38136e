"""Indexes as files: the same bits after, raw ids beside, and no half-written or foreign file passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.data.vocab import Vocabulary
from jaxrec.index import clusters, cur, exact, paths, tree_building
from jaxrec.index.stored import Index, load, load_vocabulary, save

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(41, 3)).astype(np.float32)
QUERIES = RNG.normal(size=(2, 3)).astype(np.float32)
INDEXES: dict[str, Any] = {
    "exact": lambda: exact.build(TABLE, metric="l2", block=32),
    "clusters": lambda: clusters.build(
        TABLE, num_clusters=4, key=jax.random.key(0), metric="cosine", capacity=8
    ),
    "anchors": lambda: cur.build(TABLE.T, [3, 9]),
    "paths": lambda: paths.build(np.arange(41)[:, None, None] % 5, num_codes=5, capacity=9),
    "tree": lambda: tree_building.from_vectors(TABLE, capacity=50),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_what_is_read_is_what_was_written(kind: str, tmp_path: Path) -> None:
    index: Index = INDEXES[kind]()
    path = save(index, tmp_path / "below" / "index.npz")
    found = load(path)
    assert type(found) is type(index)
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(index))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(index), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    assert load_vocabulary(path) is None
    assert [p.name for p in path.parent.iterdir()] == ["index.npz"]


def test_items_are_added_to_an_index_that_was_read(tmp_path: Path) -> None:
    index = load(save(INDEXES["exact"](), tmp_path / "a.npz"))
    assert isinstance(index, exact.Exact)
    found = exact.search(exact.add(index, QUERIES), QUERIES, 1)
    assert found.ids.tolist() == [[41], [42]]


@pytest.mark.parametrize("raw", [np.array([f"item {i}" for i in range(40)]), np.arange(40) * 7])
def test_raw_ids_lie_beside(raw: np.ndarray, tmp_path: Path) -> None:
    path = save(INDEXES["clusters"](), tmp_path / "a.npz", vocabulary=Vocabulary("item", raw))
    found = load_vocabulary(path)
    assert found is not None and found.feature == "item"
    np.testing.assert_array_equal(found.raw, raw)
    assert isinstance(load(path), clusters.Clusters)


def test_no_other_file_is_an_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must end in .npz"):
        save(INDEXES["exact"](), tmp_path / "a.bin")
    with pytest.raises(ValueError, match="a vocabulary of 2 raw ids for an index of 40 items"):
        save(INDEXES["exact"](), tmp_path / "a.npz", vocabulary=Vocabulary("item", np.arange(2)))
    foreign, pickled, text = tmp_path / "foreign.npz", tmp_path / "pickled.npz", tmp_path / "text.npz"
    np.savez(foreign, a=np.ones(2))
    np.savez(pickled, header=np.array([{}], object))
    text.write_text("no archive")
    for path in (foreign, pickled, text):
        with pytest.raises(ValueError, match="no index"):
            load(path)
    np.savez(foreign, header=np.array('{"version": 99}'))
    with pytest.raises(ValueError, match="an index of version 99"):
        load(foreign)
    np.savez(foreign, header=np.array('{"version": 1, "kind": "exact", "metric": "l2"}'))
    with pytest.raises(ValueError, match="an index without all its arrays"):
        load(foreign)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.npz")
