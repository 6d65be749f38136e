"""Settings that all experiments check alike, before anything is read or trained."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = (
    "calibration", "census", "cold_items", "delayed_feedback", "din", "distillation", "dropoutnet",
    "dupn", "feature_interaction", "feedback", "funnel", "gru4rec", "hstu", "hstu_generative",
    "kuaishou_ebr", "latent_cross", "learned_index", "lifelong", "lightgcn", "melu", "missing_values",
    "mmoe_synthetic", "mobius", "multi_interest", "multivae", "ncf", "pareto", "peterrec_attributes",
    "peterrec_cold_items", "popularity_bias", "position_bias", "preranking", "sasrec", "scenarios",
    "stamp", "strong_recipe", "ticoserec", "tiger", "two_tower", "watch_time",
)  # fmt: skip


OTHERS = (
    "all", "ann", "census_columns", "crashes", "hstu_length", "loss_weighting", "off_policy",
    "published_checkpoints", "sharded_tables", "speed", "streaming",
)  # fmt: skip


def module_of(name: str) -> Any:
    """The module of an experiment, in whichever folder it lies."""
    root = Path(importlib.import_module("experiments").__path__[0])
    (path,) = (p for p in root.rglob(f"{name}.py") if "class Config" in p.read_text(encoding="utf-8"))
    return importlib.import_module(".".join(("experiments", *path.relative_to(root).with_suffix("").parts)))


def config_of(name: str) -> Any:
    return module_of(name).Config


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("rate", [0.0, -1e-3, math.nan, math.inf])
def test_a_learning_rate_is_positive_and_finite(name: str, rate: float) -> None:
    """A negative one climbs the loss, and none at all stores a model that learned nothing."""
    with pytest.raises(ValueError, match=f"^learning_rate={rate}: must be positive and finite"):
        config_of(name)(learning_rate=rate)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("hstu", "b2", 1.5),
        ("hstu_generative", "b2", 1.0),
        ("sasrec", "dropout", math.nan),
        ("gru4rec", "hidden_dropout", -0.1),
        ("gru4rec", "momentum", 1.0),
        ("gru4rec", "alpha", -1.0),
        ("gru4rec", "regularisation", -1.0),
        ("gru4rec", "logq", 3.0),
        ("kuaishou_ebr", "dropout", 1.0),
        ("peterrec_cold_items", "pretrain_learning_rate", 0.0),
        ("stamp", "session_learning_rate", -1.0),
        ("kuaishou_ebr", "seeds", (1, 1)),
        ("sasrec", "seeds", (-1,)),
    ],
)
def test_settings_out_of_range_are_refused(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}="):
        config_of(name)(**{field: value})


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("sasrec", "user", "uid"),
        ("stamp", "k_core", 5),
        ("census", "labels", ("click",)),
        ("din", "time", ""),
    ],
)
def test_a_column_without_a_file_is_refused(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}=.*: is for your own file; give it with --data FILE"):
        config_of(name)(**{field: value})
    assert config_of(name)(**{field: value, "data": "mine.csv"}).data == "mine.csv"


def test_a_setting_left_to_the_recipe_is_none() -> None:
    assert config_of("gru4rec")(learning_rate=None, dropout=None).learning_rate is None
    assert config_of("hstu")(dropout=0.0).dropout == 0.0


def test_no_experiment_is_left_out_here() -> None:
    """Those with a command line are the ones whose module has a Config."""
    folder = Path(importlib.import_module("experiments").__path__[0])
    found = {path.stem for path in folder.rglob("*.py") if "class Config" in path.read_text(encoding="utf-8")}
    assert found == {*EXPERIMENTS, *OTHERS}


@pytest.mark.parametrize("name", sorted({*EXPERIMENTS, *OTHERS} - {"all", "crashes"}))
def test_trials_leave_the_kept_results_alone(name: str) -> None:
    """All but the command that makes the kept results, and one that has none."""
    assert config_of(name)().results == "runs/results"
