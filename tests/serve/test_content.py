"""New items of a run of factors, from their content: their vectors, and recommendations of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands import embed as command
from jaxrec.nn.retrieval.cb2cf import CB2CF
from jaxrec.nn.retrieval.dropoutnet import DropoutNet
from jaxrec.serve import content, run_folder
from jaxrec.serve.run_folder import Kept
from jaxrec.tasks.pairs import FACTORS
from jaxrec.types import Protocol
from tests.serve.small_runs import EVENTS, ITEMS, NUM_ITEMS, USERS

SEEDS, WIDTH, DIM = (3, 8), 3, 4
RNG = np.random.default_rng(0)
NEW = RNG.normal(size=(2, WIDTH)).astype(np.float32)
TOWERS = {"cb2cf": CB2CF(DIM, (5,)), "dropoutnet": DropoutNet((5,), DIM)}


def tower(name: str) -> content.Tower:
    module: Any = TOWERS[name]
    zeros, given = np.zeros((1, 6), np.float32), np.zeros((1, WIDTH), np.float32)
    inputs = (given,) if name == "cb2cf" else (zeros, zeros, None, given)
    init = jax.jit(lambda key: module.init(key, *inputs, train=False))
    made = [init(jax.random.key(seed)) for seed in SEEDS]
    return content.Tower(module, jax.tree.map(lambda *x: np.stack(x) + 0.1, *made), WIDTH, 6)


def write(folder: Path, name: str = "cb2cf") -> Any:
    """A run of factors, its second seed the better one, with a tower."""
    vectors = {
        "users": RNG.normal(size=(2, len(USERS) + 1, DIM)).astype(np.float32),
        "items": RNG.normal(size=(2, NUM_ITEMS + 1, DIM)).astype(np.float32),
    }
    events = EVENTS._replace(times=None)
    kept = Kept(
        "factors", "mine", FACTORS, vectors, SEEDS, {"item": ITEMS, "user": USERS}, events,
        protocol=Protocol(selection="ndcg@10"), validation={"ndcg@10": (0.1, 0.2)},
        counts=np.arange(NUM_ITEMS + 1),
    )  # fmt: skip
    run_folder.write(folder, kept)
    content.keep(folder, tower(name))
    return serve.load(folder)


@pytest.mark.parametrize("name", TOWERS)
def test_new_items_have_the_towers_vectors(name: str, tmp_path: Path) -> None:
    run, kept = write(tmp_path, name), tower(name)
    found = content.embed_new(run, ["new-a", "new-b"], NEW)
    one: Any = jax.tree.map(lambda leaf: leaf[1], dict(kept.variables))
    if name == "cb2cf":
        expected = kept.module.apply(one, NEW, train=False)
    else:
        expected = kept.module.apply(one, np.zeros((2, 6), np.float32), NEW, method="items")
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-5, atol=1e-6)
    assert found.ids.tolist() == ["new-a", "new-b"]


def test_a_run_with_new_items_recommends_them_and_scores_known_ones_as_before(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    extended = content.with_new_items(run, ["new-a", "new-b"], NEW)
    run_folder.write(tmp_path / "more", extended)
    more = serve.load(tmp_path / "more")
    users = ["u0", "u2"]
    before = run.recommend(users, k=NUM_ITEMS)
    after = more.recommend(users, k=NUM_ITEMS + 2)
    vectors = content.embed_new(run, ["new-a", "new-b"], NEW).vectors
    of_users = run.embed("users")
    for one, two, user in zip(before, after, users, strict=True):
        known = dict(zip(one.items, one.scores, strict=True))
        found = dict(zip(two.items, two.scores, strict=True))
        query = of_users.vectors[of_users.ids.tolist().index(user)]
        assert set(found) == set(known) | {"new-a", "new-b"}
        assert {item: found[item] for item in known} == known
        np.testing.assert_allclose([found["new-a"], found["new-b"]], vectors @ query, rtol=1e-5)
        assert list(two.scores) == sorted(two.scores, reverse=True)


def test_the_command_embeds_rows_of_a_content_file(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    np.savez(tmp_path / "new.npz", item=np.array(["new-a", "new-b"]), vectors=NEW)
    options = command.Options(
        str(tmp_path / "run"), "items", content=str(tmp_path / "new.npz"), out=str(tmp_path / "out.npz")
    )
    command.run(options)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["vectors"], content.embed_new(run, found["ids"], NEW).vectors)
    with pytest.raises(ValueError, match="is of new items; embed items"):
        command.run(dataclasses.replace(options, what="users"))
    np.savez(tmp_path / "new.npz", item=np.array(["new-a"]))
    with pytest.raises(ValueError, match="must be a .npz file with the arrays item and vectors"):
        command.run(options)
    np.save(tmp_path / "new.npy", NEW)  # an array without names
    with pytest.raises(ValueError, match="must be a .npz file with the arrays item and vectors"):
        command.run(dataclasses.replace(options, content=str(tmp_path / "new.npy")))


@pytest.mark.parametrize(
    ("ids", "given", "message"),
    [
        (["i01", "b"], NEW, "item 'i01' is known to the run or given twice"),
        (["a", "a"], NEW, "item 'a' is known to the run or given twice"),
        (["a", "b"], NEW[:, :2], r"content: shape \(2, 2\): must be \[2, 3\]"),
        (["a"], NEW, r"content: shape \(2, 3\): must be \[1, 3\]"),
        (
            ["a", "b"],
            np.where(NEW[1, 1] == NEW, np.nan, NEW),
            "content: row 1 has an entry that is not finite",
        ),
        (["a", "b"], NEW * [[1], [0]], "content: item 'b' has none"),
    ],
)
def test_other_content_is_refused(ids: list[str], given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        content.embed_new(write(tmp_path), ids, given)


def test_runs_that_embed_no_new_items_are_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    with pytest.raises(ValueError, match="seed='mean'"):
        content.embed_new(serve.load(tmp_path / "run", seed="mean"), ["a", "b"], NEW)
    wide = CB2CF(DIM + 1, ())
    variables = jax.tree.map(lambda x: np.stack([x, x]), dict(wide.init(jax.random.key(0), NEW, train=False)))
    content.keep(tmp_path / "run", content.Tower(wide, variables, WIDTH))
    with pytest.raises(ValueError, match="keep the tower that belongs to the run"):
        content.embed_new(run, ["a", "b"], NEW)
    (tmp_path / "run" / content.FILE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is damaged"):
        content.embed_new(run, ["a", "b"], NEW)
    (tmp_path / "run" / content.FILE).unlink()
    with pytest.raises(ValueError, match="keeps no tower of content"):
        content.embed_new(run, ["a", "b"], NEW)
