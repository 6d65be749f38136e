"""Runs of models of several interests: recommend, score, embed, export, ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.nn.retrieval.comirec import ComiRecSA
from jaxrec.serve import embed, onnx, queries
from jaxrec.serve.embed import Embeddings
from jaxrec.serve.programs import PLATFORMS, make_program, trace, weights_of
from jaxrec.serve.run_folder import write
from jaxrec.tasks import interests
from tests.serve.small_runs import EVENTS, ITEMS, MAX_LEN, NUM_ITEMS, SIZES, USERS, history, kept

MODULE = ComiRecSA(**SIZES, num_interests=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> serve.Run:
    folder = tmp_path_factory.mktemp("run")
    write(folder, kept(MODULE, "multi-interest"))
    return serve.load(folder)


def scores_of_seed(run: serve.Run, number: int) -> np.ndarray:
    """Scores of all users and items, [U, V - 1], by the module: the best product with an interest."""
    items = np.zeros((len(USERS), MAX_LEN), np.int32)
    for user in range(len(USERS)):
        read = history(user)[-MAX_LEN:]
        items[user, MAX_LEN - len(read) :] = read
    variables = jax.tree.map(lambda leaf: leaf[number], dict(run.kept.variables))
    found = interests.filled(MODULE.apply(variables, items, train=False))
    table = np.asarray(MODULE.apply(variables, method="item_table"))[1 : NUM_ITEMS + 1]
    return np.einsum("ukd,vd->ukv", np.asarray(found), table).max(axis=1)


@pytest.mark.parametrize("seed", [None, 3, "mean"])
def test_scores_are_those_of_the_best_interest(run: serve.Run, seed: Any) -> None:
    """Lists of users and pairs, of one seed and of the mean."""
    loaded = run if seed is None else serve.load(run.path, seed=seed)
    each = [scores_of_seed(run, number) for number in (0, 1)]
    expected = {None: each[1], 3: each[0], "mean": (each[0] + each[1]) / 2}[seed]
    for user, answer in enumerate(loaded.recommend(USERS.tolist(), k=NUM_ITEMS, seen="keep")):
        place = [ITEMS.tolist().index(item) for item in answer.items]
        assert len(place) == NUM_ITEMS
        np.testing.assert_allclose(answer.scores, expected[user, place], rtol=1e-5, atol=1e-6)
        assert (np.diff(answer.scores) <= 0).all()
    pairs = {"user": np.repeat(USERS, 2), "item": np.tile(ITEMS[:2], len(USERS))}
    np.testing.assert_allclose(
        loaded.score(pairs)["score"], expected[:, :2].reshape(-1), rtol=1e-5, atol=1e-6
    )


def test_users_have_several_vectors_whose_best_product_is_the_score(
    run: serve.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "SIZES", (4,))  # two calls, of which the last is not full
    monkeypatch.setattr(queries, "GROUP", 1)
    users, items = run.embed("users"), run.embed("items")
    assert users.vectors.shape == (len(USERS), 3, 4) and users.ids.tolist() == USERS.tolist()
    products = np.einsum("ukd,vd->ukv", users.vectors, items.vectors).max(axis=1)
    np.testing.assert_allclose(products, scores_of_seed(run, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", embed.FORMS)
def test_every_form_keeps_several_vectors(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    vectors = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = tmp_path / f"users{suffix}"
    embed.write(path, Embeddings(USERS[:2], vectors))
    if suffix == ".npz":
        with np.load(path) as file:
            found = file["vectors"]
    elif suffix == ".npy":
        found = np.load(path)["vector"]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        found = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, vectors)


def test_the_mean_of_seeds_has_no_vectors(run: serve.Run) -> None:
    with pytest.raises(ValueError, match="the mean of what several vectors give .* give one of the seeds"):
        serve.load(run.path, seed="mean").embed("users")


def test_vectors_that_are_no_numbers_are_refused(run: serve.Run, tmp_path: Path) -> None:
    bad = run.kept._replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, run.kept.variables))
    write(tmp_path, bad)
    with pytest.raises(ValueError, match="vectors of users are NaN or infinite"):
        serve.load(tmp_path).embed("users")


def test_a_program_for_any_number_of_histories(run: serve.Run) -> None:
    weights = weights_of(run.variables)
    traced = trace(make_program(run.kept, weights, k=4), weights)
    assert traced.platforms == PLATFORMS
    histories = np.zeros((len(USERS), 12), np.int32)
    for user in range(len(USERS)):
        histories[user, : len(history(user))] = history(user)
    found = jax.jit(traced.call)(weights, {"histories": histories, "excluded": histories[:, :1]})
    scores = scores_of_seed(run, 1)
    scores[np.arange(len(USERS)), histories[:, 0] - 1] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(found["items"], order + 1)
    best = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(found["scores"], best, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_onnx_model(run: serve.Run) -> None:
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(onnx.to_onnx(run.kept, weights_of(run.variables)))
    items = np.array([[0, *EVENTS.items[EVENTS.offsets[1] : EVENTS.offsets[2]]]], np.int32)
    (found,) = session.run(["scores"], {"items": items})
    np.testing.assert_allclose(found[0], scores_of_seed(run, 1)[1], rtol=1e-4, atol=1e-5)
