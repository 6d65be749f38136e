"""NANN's recipe: it learns who follows whom, for sequences and for a matrix, and graphs search by it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import baselines
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index import graph_build, graphs
from jaxrec.index.recall import coverage
from jaxrec.protocols import next_item
from jaxrec.recipes import nann
from jaxrec.types import Protocol
from tests.tasks import small_pairs

DATA = next_item.resident(
    leave_one_out(markov_chain(num_users=60, num_items=30, noise=0.1).sequences, short="train")
)
PROTOCOL = Protocol(ks=(3,), selection="hit@3", seen="keep")
RECIPE = nann.Recipe(
    dim=8, max_len=1, user_dims=(8,), item_dims=(8,), score_dims=(16,), products=True, num_negatives=20,
    learning_rate=0.03, batch_size=32, epochs=12, evaluate_every=6,
)  # fmt: skip


def train(folder: Path, data: Any, recipe: nann.Recipe, **options: Any) -> Any:
    protocol = PROTOCOL if isinstance(data, next_item.Data) else Protocol(ks=(3,), selection="ndcg@3")
    given = {"seeds": (0, 1), "workdir": folder, "description": {}, "progress": False, **options}
    return nann.train(data, protocol, recipe, **given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("nann"), DATA, RECIPE)


def test_the_scorer_learns_who_follows_whom(trained: Any) -> None:
    model, fitted = trained
    assert {"nce", "adversarial"} <= set(fitted.history[-1])
    found = next_item.test(nann.scorer(model), DATA, PROTOCOL, fitted.variables)
    popular = baselines.popularity(DATA)
    (floor,) = next_item.test(popular, DATA, PROTOCOL, popular.for_seeds((0,)))
    assert all(of_seed["hit@3"] > floor["hit@3"] + 0.15 for of_seed in found)


def test_a_graph_of_its_vectors_is_searched_by_it(trained: Any) -> None:
    model, fitted = trained
    variables = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
    vectors = nann.item_vectors(model, variables)
    graph = graph_build.build(vectors, degree=6, sizes=(4,))
    histories = jnp.arange(1, 11)[:, None]

    @functools.partial(jax.jit, static_argnames="width")
    def find(variables: Any, vectors: Any, graph: Any, width: int) -> Any:
        score = nann.score_items(model, variables, vectors)
        every = score(histories, jnp.broadcast_to(jnp.arange(1, 31), (10, 30)))
        return graphs.search(graph, score, histories, 3, width, rounds=20), every

    best = np.argsort(-np.asarray(find(variables, vectors, graph, 30)[1]), axis=1, kind="stable")[:, :3] + 1
    whole, few = (find(variables, vectors, graph, width)[0] for width in (30, 5))
    assert float(coverage(whole.ids, best)) == 1.0 and (whole.scored == 30).all()
    assert float(coverage(few.ids, best)) > 0.6 and float(few.scored.mean()) < 30


@pytest.mark.long
def test_devices_train_alike(trained: Any, tmp_path: Path) -> None:
    _, fitted = trained
    _, shared = train(tmp_path, DATA, dataclasses.replace(RECIPE, epochs=1), num_devices=2, seeds=(0,))
    one = next(row for row in fitted.history if row["epoch"] == shared.history[0]["epoch"])
    for name in ("nce", "adversarial"):
        np.testing.assert_allclose(shared.history[0][name][0], one[name][0], rtol=1e-3)


def test_a_matrix_has_all_other_items_as_history() -> None:
    data = small_pairs.data()
    model = nann.build(data.num_items, RECIPE)
    plan = nann.every_target(data, 4)
    drawn, _ = plan.draw(jax.random.key(0), small_pairs.context())
    events = np.asarray(drawn["example"])[np.asarray(drawn["mask"])]
    offsets = small_pairs.split().sequences.offsets
    expected = [offsets[u] + i for u, items in enumerate(small_pairs.TRAINING) for i in range(len(items))]
    assert sorted(events.tolist()) == expected
    made = nann.learn(model, data, RECIPE)
    batch = made.prepare(
        jax.random.key(0), {"example": jnp.array([1]), "mask": jnp.array([True])}, small_pairs.context()
    )
    items = small_pairs.split().sequences.user_items(0)[:3].tolist()
    assert batch["targets"].tolist() == [items[1]] and batch["items"].tolist() == [[items[2]]]


def test_data_without_a_history_is_refused() -> None:
    columns = DATA.columns | {"length": np.ones_like(DATA.columns["length"])}
    with pytest.raises(ValueError, match="no user has two training events"):
        nann.every_target(DATA._replace(columns=columns), 4)
