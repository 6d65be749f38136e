"""Experiments on labelled impressions run to their end on tiny data and store what they found."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

from experiments.multitask import census, census_columns, funnel, loss_weighting, mmoe_synthetic
from experiments.ranking import din
from jaxrec.protocols import impressions
from jaxrec.report.results import read_results
from jaxrec.tasks.multitask import stacked
from tests.experiments.test_tiny import call

TWINS = {
    "census": (census, ("--rows", "single-task"), {"single-task": "bce"}, "auc/ctr"),
    "din": (
        din,
        ("--rows", "base", "dien"),
        {"base": "bce", "dien": "bce + next behaviour"},
        "rela_impr/click",
    ),
    "funnel": (
        funnel,
        ("--rows", "aitm", "escm2-dr"),
        {"aitm": "bce + calibrator", "escm2-dr": "bce + counterfactual"},
        "auc/buy_after_cart",
    ),
    "loss_weighting": (loss_weighting, ("--rows", "mgda-ub"), {"shared-bottom+mgda-ub": "bce"}, "auc"),
    "mmoe_synthetic": (
        mmoe_synthetic,
        ("--rows", "mmoe", "--correlations", "0.5"),
        {"mmoe": "mse"},
        "mse",
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_tiny_runs_to_the_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    module, rows, losses, metric = TWINS[name]
    results = tmp_path / "results"
    call(module, monkeypatch, "--tiny", *rows, "--results", results, "--workdir", tmp_path, "--seeds", 3, 4)
    records = {record.result.model: record.result for record in read_results(results)}
    assert {model: result.protocol.loss for model, result in records.items()} == losses
    for result in records.values():
        assert result.experiment == name and result.steps > 0
        assert len(result.metrics[metric]) == 2
        assert result.protocol.candidates == "impressions"
        assert not result.published  # nothing was published about made-up data


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_size": 0}, "batch_size=0: must be at least 1"), ({"seeds": (1, 1)}, "none twice")],
)
def test_settings_that_mean_nothing_are_refused(name: str, change: dict[str, object], message: str) -> None:
    module: ModuleType = TWINS[name][0]
    with pytest.raises(ValueError, match=message):
        module.Config(**change)


@pytest.mark.parametrize("row", census.ROWS)
def test_every_row_of_census_gives_a_logit_a_task(row: census.Row) -> None:
    x = jax.ShapeDtypeStruct((5, 7), jnp.float32)
    key = jax.random.key(0)
    outputs, _ = jax.eval_shape(lambda x: census.body(row, 2).init_with_output(key, x), x)
    assert outputs.shape == (5, 2)


CARTLESS = ("esmm", "escm2-ips", "escm2-dr")


@pytest.mark.parametrize("row", funnel.ROWS)
def test_every_row_of_the_funnel_has_the_outputs_it_is_judged_by(row: funnel.Row) -> None:
    config = funnel.Config(tiny=True)
    split = funnel.load(config)
    data = impressions.resident(split)
    model = funnel.model_of(row, impressions.features(split.impressions, 4), config, funnel.TASKS)
    targets = impressions.targets(data, funnel.outputs_of(row, funnel.TASKS))
    batch = {name: column[:6] for name, column in data.columns.items()}
    key = jax.random.key(0)
    judged = jax.eval_shape(lambda b: stacked(model.init_with_output(key, b)[0], targets), batch)
    assert judged.shape == (6, len(targets))
    assert [target.name for target in targets] == [
        t for t in funnel.TASKS if row not in CARTLESS or t != "cart"
    ]


def test_the_models_of_the_synthetic_study_are_of_one_size() -> None:
    """The paper's numbers: 100·16·8 + 16·8·2 weights of experts and towers; 113 shared units."""
    data = mmoe_synthetic.load(mmoe_synthetic.Config(num_rows=20), 0.5)
    sizes = {}
    for row in ("shared-bottom", "mmoe"):
        task = impressions.multitask(
            mmoe_synthetic.body(row), impressions.targets(data), inputs=lambda batch: batch["x"]
        )
        sizes[row] = impressions.num_parameters(task, data)
    gates, biases, heads = 2 * (100 * 8 + 8), 8 * 16 + 2 * 8, 2 * (8 + 1)
    assert sizes["mmoe"] == 100 * 16 * 8 + 16 * 8 * 2 + gates + biases + heads
    assert abs(sizes["shared-bottom"] - (100 * 113 + 113 * 8 * 2)) < 200


def test_boosting_gains_from_a_number_that_tells_the_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    call(census_columns, monkeypatch, "--tiny", "--groups", "income", "--seeds", 3, "--results", tmp_path)
    nominal, everything = (
        next(record.result for record in read_results(tmp_path) if record.result.model == row)
        for row in census_columns.ROWS
    )
    assert everything.metrics["auc/ctr"][0] > nominal.metrics["auc/ctr"][0] + 0.03
    assert nominal.protocol.split.startswith("fitted to the validation half of")


@pytest.mark.parametrize("group", ["income", "education"])
def test_census_has_no_difference_from_models_of_other_columns(group: str) -> None:
    config = census.Config(group=group)  # type: ignore[arg-type]
    found = census.published_numbers("mmoe", config)
    assert found.values and "seven numeric columns" in found.incomparable
    assert not census.published_numbers("cgc", config).values
