"""Auto-encoders on held-out users: the experiment runs to its end on tiny data."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import common
from experiments.retrieval import multivae as experiment
from jaxrec.protocols import retrieval
from jaxrec.recipes import autoencoders as recipes
from jaxrec.report.results import read_results

TINY = common.shrink_if_tiny(experiment.Config(tiny=True), **experiment.TINY)
DATA = retrieval.resident(experiment.load(TINY))


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    rows = ("popularity", "ease", "mult-vae")
    options = ("--tiny", "--rows", *rows, "--seeds", "3", "4", "--epochs", "2")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *options, *places])
    experiment.main()
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == set(rows)
    for result in found.values():
        assert "40 of validation, 40 of test" in result.protocol.split
        assert not result.published
        for name in ("recall_capped@20", "recall_capped@50", "ndcg@100"):
            assert all(0 < value <= 1 for value in result.metrics[name])
    ease, trained = found["ease"], found["mult-vae"]
    assert ease.config["regularisation"] in TINY.regularisations
    assert ease.protocol.selection == trained.protocol.selection == "ndcg@100"
    assert found["popularity"].protocol.selection == "none"
    assert ease.metrics["ndcg@100"] > found["popularity"].metrics["ndcg@100"]
    assert trained.seeds == (3, 4) and trained.steps == 2 * 4  # epochs, steps of 160 users in batches of 40
    assert (trained.config["hidden_dim"], trained.config["beta"]) == (16, 0.2)


def test_settings_reach_the_models() -> None:
    entry = recipes.MODELS["macridvae"]
    recipe = common.override(entry.recipe(), dataclasses.replace(TINY, dropout=0.25))
    model = entry.module(DATA, recipe)
    assert (model.num_concepts, model.dim, model.hidden_dims, model.dropout) == (3, 8, (8,), 0.25)
    assert (model.temperature, model.prior_std) == (0.1, 0.075)
    plan = entry.plan(DATA, recipe)
    assert plan.num_steps == 4
    weighting: Any = entry.weighting(DATA, recipe)
    parts = {"reconstruction": np.float32(0.0), "kl": np.float32(1.0)}
    weights = [float(weighting.combine({}, {"step": np.int32(step)}, parts)[0]) for step in (0, 4, 8, 100)]
    np.testing.assert_allclose(weights, [0.0, 0.1, 0.2, 0.2], atol=1e-6)  # 2 epochs of 4 steps
    at_once = dataclasses.replace(recipe, anneal_epochs=0)
    held: Any = entry.weighting(DATA, at_once)
    np.testing.assert_allclose(held.combine({}, {"step": np.int32(0)}, parts)[0], 0.2)
    vae: Any = recipes.mult_vae(DATA, recipes.Recipe())
    dae: Any = recipes.mult_dae(DATA, recipes.DenoisingRecipe())
    assert (vae.hidden_dims, vae.latent_dim, vae.noise_std) == ((600,), 200, 1.0)
    assert (dae.hidden_dims, dae.latent_dim, dae.dropout) == ((), 200, 0.5)


def test_no_held_out_user_is_drawn_in_training() -> None:
    plan = recipes.every_user(DATA, TINY)

    examples, _ = plan.draw(jax.random.key(0), DATA.columns)
    drawn = np.asarray(examples["example"]).reshape(-1)
    assert (DATA.split.train_length[drawn] > 0).all() and len(set(drawn.tolist())) == 160


@pytest.mark.parametrize(
    "change",
    [{"dataset": "ml-10m"}, {"rows": ("mult-vea",)}, {"epochs": 0}, {"neighbours": ()}, {"dropout": 1.0},
     {"test_users": 0}, {"seeds": ()}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mult-vea" if "rows" in change else next(iter(change))):
        dataclasses.replace(experiment.Config(), **change)  # type: ignore[arg-type]
