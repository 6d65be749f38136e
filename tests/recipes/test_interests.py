"""Recipes of models of several interests: their losses, optimisers and training, and their ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import baselines
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index import chunked
from jaxrec.protocols import next_item
from jaxrec.recipes import interests as recipes
from jaxrec.sampling import log_prob, log_uniform_table
from jaxrec.tasks import interests
from jaxrec.tasks.objectives import with_tables
from jaxrec.types import Protocol
from tests.nn.drawn import drawn

DATA = next_item.resident(
    leave_one_out(markov_chain(num_users=60, num_items=30, noise=0.1).sequences, short="train")
)
PROTOCOL = Protocol(ks=(3,), selection="hit@3")
SMALL: dict[str, Any] = {"dim": 8, "max_len": 6, "batch_size": 16, "learning_rate": 0.05}


def test_the_sampled_softmax_draws_by_the_counts_of_training() -> None:
    recipe = recipes.ComiRec(num_samples=4000)
    objective = recipes.LOSSES["ssm-logq"](DATA, recipe)
    assert objective.name == "ssm-logq" and "4000 log-uniform" in objective.description
    context = with_tables({}, objective)
    drawn_ids = objective.draw(jax.random.key(0), jnp.zeros(2, jnp.int32), context)["samples"]
    assert drawn_ids.shape == (2, 4000) and (drawn_ids[0] == drawn_ids[1]).all()
    share = np.bincount(np.asarray(drawn_ids[0]), minlength=DATA.num_items + 1) / 4000
    events = DATA.split.training_events()
    counts = np.bincount(events.item, minlength=DATA.num_items + 1)
    expected = np.exp(log_prob(log_uniform_table(counts), jnp.arange(DATA.num_items + 1)))
    assert share[0] == 0 and np.abs(share - expected).max() < 0.03
    assert np.argmax(expected) == np.argmax(counts[1:]) + 1


def test_gradients_of_sdm_are_clipped() -> None:
    gradient = {"a": jnp.array([3000.0, 0.0]), "b": jnp.array([4000.0])}
    scaled = jax.tree.map(lambda g: g / 1000, gradient)  # of norm 5
    for recipe in (recipes.Sdm(), recipes.Sdm(max_norm=5.0, learning_rate=0.1)):
        tx, adam = recipes.clipped_adam(recipe), optax.adam(recipe.learning_rate)
        ours, _ = tx.update(gradient, tx.init(gradient))
        theirs, _ = adam.update(scaled, adam.init(scaled))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize(
    ("name", "loss", "changes"),
    [("comirec-sa", "ssm-logq", {"num_samples": 32, "least": 1}), ("poly-encoder", "in-batch", {})],
)
def test_a_model_learns_who_follows_whom(
    name: str, loss: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """One of each way to train: a random cut of each user, and every event in batches."""
    entry = recipes.MODELS[name]
    sizes = {"num_interests": 2, "epochs": 12 if loss == "ssm-logq" else 6, "evaluate_every": 6}
    recipe = entry.recipe(**SMALL, **changes, **sizes)
    model = entry.encoder(DATA.num_items, recipe)
    objective = entry.objectives[loss](DATA, recipe)
    fitted = entry.train(
        model, objective, DATA, PROTOCOL, entry.optimiser(recipe), recipe,
        seeds=(0, 1), workdir=tmp_path, description={}, num_devices=1, progress=False,
    )  # fmt: skip
    found = next_item.test(interests.retriever(model), DATA, PROTOCOL, fitted.variables)
    popular = baselines.popularity(DATA)
    (floor,) = next_item.test(popular, DATA, PROTOCOL, popular.for_seeds((0,)))
    assert all(of_seed["hit@3"] > floor["hit@3"] + 0.15 for of_seed in found)


def test_a_poly_encoder_is_ranked_by_its_exact_scores() -> None:
    model = recipes.poly_encoder(DATA.num_items, recipes.Poly(dim=8, max_len=6, num_interests=5))
    items = np.array([[0, 0, 0, 4, 9, 2], [1, 2, 3, 4, 5, 6]], np.int32)
    variables: Any = drawn(model, items, train=False)
    table = jnp.asarray(variables["params"]["item_embedding"])
    found = model.apply(variables, items, train=False)
    expected = np.asarray(model.apply(variables, found, table, method="scores"))
    read = chunked.reader(interests.retriever(model), variables, num_items=DATA.num_items, block=7)
    queries = {"user": jnp.arange(2), "length": jnp.array([3, 6]), "mask": jnp.ones(2, bool)}
    context = {"items": jnp.array([4, 9, 2, 1, 2, 3, 4, 5, 6, 0]), "start": jnp.array([0, 3])}
    scores = read(queries, context).every(chunked.unchanged)
    ids = jnp.tile(jnp.arange(1, DATA.num_items + 1), (2, 1))
    np.testing.assert_allclose(
        chunked.some_scores(scores, ids), expected[:, 1 : DATA.num_items + 1], rtol=1e-5, atol=1e-6
    )
