"""TDM and JTM are trained over seeds on two kinds of data; the next tree is one of likelier paths."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import baselines
from jaxrec.data.events.held_out import from_parts
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index import tree_building, trees
from jaxrec.protocols import next_item, retrieval
from jaxrec.recipes import tdm as recipes
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Protocol
from tests.nn.drawn import drawn

USERS, ITEMS, GROUPS = 60, 24, 4
SEQUENCES = next_item.resident(
    leave_one_out(markov_chain(num_users=60, num_items=24, noise=0.1).sequences, short="train")
)
SMALL: dict[str, Any] = {"dim": 8, "dims": (16, 8), "num_negatives": 30, "learning_rate": 0.02, "beam": 6}


@functools.cache
def matrix() -> retrieval.Data:
    """Users of four groups, each with items of its own group."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(ITEMS // GROUPS) * GROUPS + 1 + user % GROUPS for user in range(USERS)]
    users = np.arange(USERS)
    parts = [
        (np.repeat(users, stop - start), np.concatenate([row[start:stop] for row in rows]))
        for start, stop in ((0, 4), (4, 5), (5, 6))
    ]
    split = from_parts(
        "groups", tuple(parts), num_items=ITEMS, rule="by hand", user_ids=users, item_ids=np.arange(ITEMS)
    )
    return retrieval.resident(split)


def options(tmp_path: Path, *seeds: int) -> dict[str, Any]:
    return {"seeds": seeds, "workdir": tmp_path, "description": {}, "progress": False}


def test_a_matrix_is_learned_and_jtm_moves_the_groups_together(tmp_path: Path) -> None:
    data = matrix()
    protocol = Protocol(ks=(2,), selection="recall@2")
    recipe = recipes.jtm(**SMALL, windows=(4,), batch_size=32, epochs=8)
    tree = tree_building.random(ITEMS, seed=0)
    model, fitted = recipes.train(data, protocol, recipe, tree, **options(tmp_path, 0, 1))
    ranked = recipes.by_beam(model, width=6, by_level=True)
    columns = {"tree": tree}
    found = retrieval.test(ranked, data, protocol, fitted.variables, columns=columns)
    popular = baselines.popularity(data)
    (floor,) = retrieval.test(popular, data, protocol, popular.for_seeds((0,)))
    assert all(of_seed["recall@2"] > floor["recall@2"] + 0.2 for of_seed in found)

    one = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
    learned = recipes.learn_tree(model, one, data, recipe, tree, gap=tree.depth)
    assert learned.after > learned.before and learned.moved > 0
    assert cuts(learned.tree) < cuts(tree)


def cuts(tree: trees.Tree) -> int:
    """Neighbouring leaves of different groups."""
    group = np.asarray(tree.leaves)[np.asarray(tree.leaves) > 0] % GROUPS
    return int((group[1:] != group[:-1]).sum())


def test_sequences_are_learned_in_windows_with_attention(tmp_path: Path) -> None:
    protocol = Protocol(ks=(3,), selection="hit@3")
    recipe = recipes.Recipe(**SMALL, windows=(3, 1), attention=(8,), batch_size=32, epochs=6)
    tree = tree_building.random(SEQUENCES.num_items, seed=0)
    model, fitted = recipes.train(SEQUENCES, protocol, recipe, tree, **options(tmp_path, 0))
    ranked = recipes.by_beam(model, width=6, ordered=True)
    asked = next_item.evaluation(ranked, SEQUENCES, protocol, "test")
    (found,) = evaluate(asked, fitted.variables, {**SEQUENCES.columns, "tree": tree})
    popular = baselines.popularity(SEQUENCES)
    (floor,) = next_item.test(popular, SEQUENCES, protocol, popular.for_seeds((0,)))
    assert found["hit@3"] > floor["hit@3"] + 0.2
    one = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
    table = recipes.item_vectors(model, one, tree)
    assert table.shape == (25, 8)
    assert tree_building.from_vectors(table).num_ids == tree.num_ids


@pytest.mark.parametrize(
    "recipe", [recipes.jtm(**SMALL, windows=(4,)), recipes.Recipe(**SMALL, windows=(4,))]
)
def test_weights_of_items_are_sums_over_their_samples(recipe: recipes.Recipe) -> None:
    """Against a loop over pairs, for the tree before."""
    data, tree = matrix(), tree_building.random(ITEMS, seed=0)
    model = recipes.build(recipe, tree)
    history = np.zeros((1, tree.depth, 4) if recipe.by_level else (1, 4), np.int32)
    variables = drawn(model, history, np.ones((1, 2), np.int32), np.zeros(2, np.int32))
    learned = recipes.learn_tree(model, variables, data, recipe, tree, gap=1, block=64)
    score = jax.jit(recipes.score_items(model, variables, tree, by_level=recipe.by_level))
    columns = data.columns
    rows, nodes = [], []
    ids = np.asarray(trees.ids_of(tree, trees.ancestors(tree, jnp.arange(ITEMS + 1))))[:, 1:]
    for user, item in zip(columns["pair_user"], columns["pair_item"], strict=True):
        own = columns["pair_item"][columns["pair_user"] == user]
        others = own[own != item]
        rows.append(np.pad(others, (4 - len(others), 0)))
        nodes.append(ids[item])
    logits = np.asarray(score(np.array(rows), np.array(nodes)), np.float64)
    total = float(-np.log1p(np.exp(-logits)).sum())
    np.testing.assert_allclose(learned.before, total, rtol=1e-4)
    assert learned.after >= learned.before


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data, protocol = matrix(), Protocol(ks=(2,), selection="recall@2")
    small = tree_building.random(ITEMS - 1)
    with pytest.raises(ValueError, match="item 24 and 0 others have no leaf in a tree of 23 items"):
        recipes.train(data, protocol, recipes.Recipe(), small, **options(tmp_path, 0))
    tree = tree_building.random(ITEMS)
    with pytest.raises(ValueError, match=r"the items of a matrix have no order.*\(5,\)"):
        recipes.train(data, protocol, recipes.Recipe(windows=(4, 1)), tree, **options(tmp_path, 0))
    with pytest.raises(ValueError, match="one negative a level"):
        recipes.train(data, protocol, recipes.Recipe(num_negatives=2), tree, **options(tmp_path, 0))


def test_two_devices_learn_what_one_does(tmp_path: Path) -> None:
    """Losses, with batch norm over the batch of both and a last step that is not full. Variables are not
    compared: no loss sees a bias before a norm, so that rounding decides which way Adam moves it."""
    data, tree = matrix(), tree_building.random(ITEMS, seed=0)
    protocol = Protocol(ks=(2,), selection="recall@2")
    recipe = recipes.Recipe(**SMALL, windows=(4,), attention=(), batch_size=88, epochs=2)
    found = []
    for number in (1, 2):
        given = {"num_devices": number, **options(tmp_path / str(number), 0)}
        found.append(recipes.train(data, protocol, recipe, tree, **given)[1].history)
    losses = np.array([[entry["loss"] for entry in history] for history in found])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0, 1] < losses[0, 0]
