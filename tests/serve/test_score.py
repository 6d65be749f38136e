"""Probabilities of rows of raw columns, and of pairs of a user and an item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.data.own_tables import encode_rows
from jaxrec.serve import queries, score
from jaxrec.serve.run_folder import Kept, write
from jaxrec.types import Array
from tests.serve.small_runs import EVENTS, ITEMS, RAW, USERS, Linear, all_runs, table_run

NEW = {"price": [2.0, None, 4.0], "other": ["x", "y", "z"], "city": ["b", "new", ""]}


class LastItem(nn.Module):
    """The logit of an item after the last event of a user."""

    num_items: int
    aged: bool = True

    @nn.compact
    def __call__(self, batch: Any, *, train: bool) -> Array:
        table = self.param("table", nn.initializers.normal(), (self.num_items + 1, self.num_items + 1))
        logit = table[batch["history_item"][:, -1], batch["item"]]
        return logit + 1e-3 * batch["history_age"][:, -1] if self.aged else logit


def click_run(*, aged: bool = True) -> Kept:
    module = LastItem(len(ITEMS), aged)
    batch = {name: jnp.ones((1, 3), jnp.int32) for name in ("history_item", "history_age")}
    columns = batch | {"item": jnp.ones(1, jnp.int32)}
    variables = jax.jit(lambda key: module.init(key, columns, train=False))(jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf)[None], variables)
    vocabulary = {"item": ITEMS, "user": USERS}
    return Kept(
        "clicks", "last", module, variables, (0,), vocabulary, EVENTS, outputs={"click": None}, length=3
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, serve.Run]:
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "table", table_run())
    write(folder / "clicks", click_run())
    write(folder / "ageless", click_run(aged=False))
    return {name: serve.load(folder / name) for name in ("table", "clicks", "ageless")}


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, serve.Run]:
    folder = tmp_path_factory.mktemp("ranking")
    runs = {name: run for name, run in all_runs(folder).items() if name in ("hstu", "stamp", "item-knn")}
    return runs | {"mean": serve.load(folder / "gru4rec", seed="mean")}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expected(run: serve.Run, seed: int) -> dict[str, np.ndarray]:
    """By hand: known categories have ids from 3, 2 is unknown, 1 missing; numbers are standardised."""
    known = RAW["price"][[0, 2, 3]]
    price = np.array([2.0, known.mean(), 4.0])
    columns = {
        "city": np.array([4, 2, 1], np.int32),
        "price": ((price - known.mean()) / known.std()).astype(np.float32),
        "price_missing": np.array([0, 1, 0], np.float32),
    }
    variables = jax.tree.map(lambda leaf: leaf[seed], dict(run.kept.variables))
    logits = np.asarray(run.module.apply(variables, columns, train=False))
    return {"buy": sigmoid(logits[:, 1]), "click": sigmoid(logits[:, 0])}


@pytest.mark.parametrize("size", [2, 64])  # of a call: the second of two is filled up
def test_rows_are_scored_in_their_order(
    runs: dict[str, serve.Run], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(score, "SIZES", (size,))
    run = runs["table"]
    found = run.score(NEW)
    assert list(found) == ["buy", "click"]
    for label, values in expected(run, 0).items():
        np.testing.assert_allclose(found[label], values, rtol=1e-5)


def test_a_file_is_scored_as_its_columns(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("city,extra,price\nb,1,2.0\nnew,2,\n,3,4.0\n")
    for label, values in runs["table"].score(NEW).items():
        np.testing.assert_array_equal(runs["table"].score(path)[label], values)


def test_the_mean_is_of_the_probabilities(runs: dict[str, serve.Run]) -> None:
    run = serve.load(runs["table"].path, seed="mean")
    found, first, second = run.score(NEW), expected(run, 0), expected(run, 1)
    for label in found:
        np.testing.assert_allclose(found[label], (first[label] + second[label]) / 2, rtol=1e-5)


def test_pairs_are_scored_after_all_events_of_their_user(runs: dict[str, serve.Run]) -> None:
    run = runs["clicks"]
    assert EVENTS.times is not None
    users, items = ["u5", "u0", "u5"], ["i02", "i07", "i12"]
    found = run.score({"user": users, "item": items})["click"]
    table, latest = np.asarray(run.variables["params"]["table"]), EVENTS.times.max()
    for user, item, probability in zip(users, items, found, strict=True):
        last = EVENTS.offsets[int(user[1:]) + 1] - 1
        age = latest - EVENTS.times[last]
        logit = table[EVENTS.items[last], ITEMS.tolist().index(item) + 1] + 1e-3 * age
        np.testing.assert_allclose(probability, sigmoid(logit), rtol=1e-5)
    later = run.score({"user": users, "item": items}, at=int(latest) + 1000)["click"]
    np.testing.assert_allclose(np.log(later / (1 - later)), np.log(found / (1 - found)) + 1, rtol=1e-3)


def test_a_request_is_after_all_events_of_the_users_asked_about(runs: dict[str, serve.Run]) -> None:
    """u0's event is long before those of u5."""
    assert EVENTS.times is not None
    at, run = int(EVENTS.times[0]) + 50, runs["clicks"]
    (found,) = run.score({"user": ["u0"], "item": ["i07"]}, at=at)["click"]
    logit = np.asarray(run.variables["params"]["table"])[EVENTS.items[0], 7] + 1e-3 * 50
    np.testing.assert_allclose(found, sigmoid(logit), rtol=1e-5)
    with pytest.raises(ValueError, match=f"at={at}: history 1 has an event at"):
        run.score({"user": ["u0", "u5"], "item": ["i07", "i07"]}, at=at)


def test_a_moment_that_a_model_of_timed_events_does_not_read_is_refused(runs: dict[str, serve.Run]) -> None:
    pairs, run = {"user": ["u5"], "item": ["i02"]}, runs["ageless"]
    (found,) = run.score(pairs)["click"]
    assert EVENTS.times is not None
    last = EVENTS.items[EVENTS.offsets[6] - 1]
    np.testing.assert_allclose(
        found, sigmoid(np.asarray(run.variables["params"]["table"])[last, 2]), rtol=1e-5
    )
    at = int(EVENTS.times.max()) + 1000
    with pytest.raises(ValueError, match=f"at={at}: last reads no times; leave it out"):
        run.score(pairs, at=at)


def test_pairs_of_a_ranking_have_the_scores_of_its_lists(
    ranking: dict[str, serve.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pairs than one call holds, in no order; with two seeds averaged too."""
    monkeypatch.setattr(queries, "SIZES", (16,))
    monkeypatch.setattr(queries, "GROUP", 2)
    pairs = [(user, item) for user in USERS.tolist() for item in ITEMS.tolist()][::-1]
    rows = {"user": [user for user, _ in pairs], "item": [item for _, item in pairs]}
    assert len(pairs) > 2 * 16
    for run in ranking.values():
        lists = run.recommend(users=USERS.tolist(), k=len(ITEMS), seen="keep")
        by_pair = {
            (found.user, item): score
            for found in lists
            for item, score in zip(found.items.tolist(), found.scores.tolist(), strict=True)
        }
        expected = [by_pair[pair] for pair in pairs]
        np.testing.assert_allclose(run.score(rows)["score"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("table", {"price": [1.0]}, "no column 'city'|city"),
        ("table", {"price": ["cheap"], "city": ["a"]}, "price"),
        ("clicks", {"user": ["u1", "x"], "item": ["i01", "i02"]}, "user: the run has no user 'x'"),
        ("clicks", {"user": ["u1"], "item": ["zz"]}, "item: the run has no item 'zz'"),
        ("clicks", {"user": ["u1", None], "item": ["i01", "i01"]}, r"user \(user\) is missing"),
        ("clicks", {"item": ["i01"]}, "user"),
    ],
)
def test_wrong_rows_are_refused(runs: dict[str, serve.Run], name: str, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs[name].score(rows)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    run = table_run()
    write(tmp_path, run._replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, run.variables)))
    with pytest.raises(ValueError, match="'buy' is NaN or infinite for row 0"):
        serve.load(tmp_path).score(NEW)


@pytest.mark.parametrize(("name", "scored"), [("table", "rows"), ("clicks", "pairs")])
def test_a_run_that_ranks_no_items_says_what_it_does(
    runs: dict[str, serve.Run], name: str, scored: str
) -> None:
    with pytest.raises(ValueError, match=f"a {name} run scores {scored}; use score"):
        runs[name].recommend(["u1"])
    for what in ("items", "users"):
        with pytest.raises(ValueError, match=f"a {name} run has no vectors of {what}"):
            runs[name].embed(what)  # type: ignore[arg-type]


def test_encoders_of_a_run_encode_as_before(runs: dict[str, serve.Run]) -> None:
    kept, before = runs["table"].kept.encoders, table_run().encoders
    assert kept is not None
    assert before is not None
    for name, column in encode_rows(before, NEW).items():
        np.testing.assert_array_equal(encode_rows(kept, NEW)[name], column)


# --- the module's code has changed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tree: tree | {"more": np.zeros((2, 1), np.float32)},
            r"more is float32\[1\], of the module missing",
        ),
        (lambda tree: {}, "is missing, of the module float32"),
        (lambda tree: jax.tree.map(lambda leaf: leaf[..., :1], tree), r"is float32\[\d+, 1\], of the module"),
        (lambda tree: jax.tree.map(np.float64, tree), "is float64.*, of the module float32"),
    ],
)
def test_arrays_of_another_module_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    run = table_run()
    write(tmp_path, run._replace(variables={"params": change(dict(run.variables["params"]))}))
    with pytest.raises(ValueError, match=f"not those of Featured as it is now: .*{message}"):
        serve.load(tmp_path)


def test_a_module_that_fails_on_its_inputs_is_refused(tmp_path: Path) -> None:
    run = table_run()
    write(tmp_path, run._replace(module=Linear(2)))
    with pytest.raises(ValueError, match=r"Linear fails on inputs of this run \(.*restore the code"):
        serve.load(tmp_path)
