"""Vectors with raw ids: their products are scores, and files of them are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.serve import embed, queries
from jaxrec.serve.embed import Embeddings
from jaxrec.serve.run_folder import write
from tests.serve.small_runs import ITEMS, MODULES, NUM_ITEMS, USERS, all_runs, kept

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, serve.Run]:
    return all_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_a_score_is_the_product_of_two_vectors(
    runs: dict[str, serve.Run], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Vectors of several calls, of which the last has fewer users than its batches hold."""
    monkeypatch.setattr(queries, "SIZES", (4,))
    monkeypatch.setattr(queries, "GROUP", 1)
    users, items = runs[name].embed("users"), runs[name].embed("items")
    assert users.ids.tolist() == USERS.tolist()
    assert len(users.vectors) == len(USERS)
    assert items.ids.tolist() == ITEMS.tolist()
    products = users.vectors @ items.vectors.T
    for answer in runs[name].recommend("all", k=NUM_ITEMS, seen="keep"):
        row = products[USERS.tolist().index(answer.user)]
        found = row[[ITEMS.tolist().index(item) for item in answer.items]]
        np.testing.assert_allclose(found, answer.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("sasrec", "things", "'things': must be 'items' or 'users'"),
        ("popularity", "items", "a baseline run has no vectors of items"),
    ],
)
def test_what_has_no_vectors_is_refused(
    runs: dict[str, serve.Run], name: str, what: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        runs[name].embed(what)


def test_a_run_without_users_has_no_vectors_of_them(tmp_path: Path) -> None:
    write(tmp_path, kept(MODULES["sasrec"], histories=None, vocabulary={"item": ITEMS}))
    with pytest.raises(ValueError, match="without user ids"):
        serve.load(tmp_path).embed("users")


@pytest.mark.parametrize("what", ["items", "users"])
def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path, what: Any) -> None:
    run = kept(MODULES["sasrec"])
    write(tmp_path, run._replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, run.variables)))
    with pytest.raises(ValueError, match=f"vectors of {what} are NaN or infinite: the training diverged"):
        serve.load(tmp_path).embed(what)


@pytest.mark.parametrize("ids", [np.array(["é", "b", "007"]), np.array([7, 2**53 + 1, -1])])
@pytest.mark.parametrize("suffix", embed.FORMS)
def test_every_form_comes_back(tmp_path: Path, suffix: str, ids: np.ndarray) -> None:
    path = tmp_path / f"vectors{suffix}"
    embed.write(path, Embeddings(ids, VECTORS))
    if suffix == ".npz":
        with np.load(path) as file:
            found = file["ids"].tolist(), file["vectors"]
    elif suffix == ".npy":
        records = np.load(path)
        found = records["id"].tolist(), records["vector"]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        found = table["id"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32)
    assert found[0] == ids.tolist()
    np.testing.assert_array_equal(found[1], VECTORS)


@pytest.mark.parametrize("path", ["vectors.csv", "vectors", ""])
def test_other_forms_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must end in .npz, .npy, .parquet"):
        embed.write(path, Embeddings(ITEMS[:3], VECTORS))
