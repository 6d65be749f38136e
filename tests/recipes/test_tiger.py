"""TIGER learns a cycle of items from its codes, and refuses what cannot be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.baselines.item_svd import co_visit_vectors
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index import semantic_ids
from jaxrec.protocols import next_item
from jaxrec.recipes import tiger as recipe
from jaxrec.recipes.tiger import Recipe
from jaxrec.tasks import semantic_ids as task
from jaxrec.types import Protocol

SMALL = Recipe(
    num_codes=6, levels=2, k_means_rounds=10, code_dims=(16,), latent_dim=4, code_batch_size=24,
    code_learning_rate=0.1, code_epochs=40, dim=16, num_heads=2, head_dim=8, inner_dim=32, num_layers=1,
    max_len=3, num_users=0, dropout=0.0, width=8, learning_rate=0.01, batch_size=128, epochs=12,
    evaluate_every=12,
)  # fmt: skip
PROTOCOL = Protocol(seen="keep", ks=(1, 5), selection="hit@5")


def data() -> next_item.Data:
    return next_item.resident(leave_one_out(markov_chain(120, 24, noise=0.0, min_length=6).sequences))


def test_a_cycle_of_items_is_learned(tmp_path: Path) -> None:
    columns = data()
    vectors = co_visit_vectors(columns.split.training_events(), dim=6)
    ids = semantic_ids.build(recipe.residual_k_means_codes(vectors, SMALL), num_codes=6)
    options: dict[str, Any] = {"seeds": (0,), "description": {}, "progress": False, "workdir": tmp_path}
    model, fitted = recipe.train(columns, ids, PROTOCOL, SMALL, **options)
    assert fitted.history[-1]["codes"][0] < 0.5 * fitted.history[0]["codes"][0]
    ranked = task.scorer(model, width=SMALL.width)
    found = next_item.run_test(ranked, recipe.with_ids(columns, ids), PROTOCOL, fitted.variables)
    assert found.metrics[0]["hit@5"] > 0.6  # by chance 5 of 24


def test_an_rq_vae_gives_codes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    codes = recipe.rq_vae_codes(vectors, SMALL, workdir=tmp_path, progress=False)
    assert codes.shape == (30, 2) and codes.min() >= 0 and codes.max() < 6
    assert len(np.unique(codes[:, 0])) > 2
    np.testing.assert_array_equal(
        codes, recipe.rq_vae_codes(vectors, SMALL, workdir=tmp_path, progress=False)
    )


def test_the_rate_is_constant_and_then_falls_by_the_inverse_square_root() -> None:
    tx = recipe.adamw(dataclasses.replace(SMALL, constant_steps=4, weight_decay=0.0))
    state, sizes = tx.init(np.ones(1)), []
    for _ in range(16):
        update, state = tx.update(np.ones(1), state, np.ones(1))
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes[:5], 0.01, rtol=1e-4)
    assert sizes[15] == pytest.approx(0.01 * np.sqrt(4 / 15), rel=1e-4)


def test_a_beam_narrower_than_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="width=4: must be at least 5, the longest list"):
        recipe.check_width(PROTOCOL, dataclasses.replace(SMALL, width=4))


def test_ids_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="semantic ids of 2 items: must be of 24"):
        recipe.with_ids(data(), semantic_ids.build([[0, 0], [1, 1]], num_codes=6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 0}, "levels=0: must be at least 1"),
        ({"patience": -1}, "patience=-1: must be at least 0"),
        ({"beta": -1.0}, "beta=-1.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("num_devices", [1, 3])
def test_histories_share_rows_where_most_are_short(num_devices: int) -> None:
    columns = data()
    ids = semantic_ids.build(np.arange(24)[:, None] % 6, num_codes=6)
    columns = recipe.with_ids(columns, ids)
    model = recipe.tiger(ids, dataclasses.replace(SMALL, max_len=20), num_users=2)
    packed = recipe.packing_of(columns, model, 64, num_devices=num_devices)
    assert packed is not None and packed.rows % num_devices == 0
    assert packed.rows * packed.width < 64 * (2 * 20 + 1)
    drawn, fits = jax.jit(recipe.plan(columns, model, 64, packed).draw)(jax.random.key(0), columns.columns)
    assert bool(fits)
    for step in range(drawn["example"].shape[0]):
        examples = {name: column[step] for name, column in drawn.items()}
        assert bool(task.fits(model, packed, examples, columns.columns))
    events = np.sort(np.asarray(drawn["example"])[np.asarray(drawn["mask"])])
    whole, _ = recipe.plan(columns, model, 64, None).draw(jax.random.key(1), columns.columns)
    np.testing.assert_array_equal(events, np.sort(np.asarray(whole["example"])[np.asarray(whole["mask"])]))


def test_histories_of_one_length_have_a_row_each() -> None:
    """Nothing is gained where all of them fill a row."""
    ids = semantic_ids.build(np.arange(24)[:, None] % 6, num_codes=6)
    model = recipe.tiger(ids, dataclasses.replace(SMALL, max_len=1))
    assert recipe.packing_of(recipe.with_ids(data(), ids), model, 64) is None
