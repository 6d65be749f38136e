"""Every table has the rows that are not trained by gradient descent, or says here why not."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import floors
from jaxrec import baselines
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import next_item
from jaxrec.tuning.records import Record
from jaxrec.types import Protocol

ROOT = Path(__file__).resolve().parents[2] / "experiments"
RANKING = (
    "feedback", "gru4rec", "hstu", "hstu_generative", "kuaishou_ebr", "latent_cross", "multi_interest",
    "peterrec_attributes", "peterrec_cold_items", "sasrec", "stamp", "strong_recipe", "ticoserec", "tiger",
)  # fmt: skip
MATRIX = ("popularity_bias", "two_tower")
CLICKS = (
    "calibration", "census", "din", "dupn", "feature_interaction", "funnel", "lifelong", "loss_weighting",
    "missing_values", "pareto", "scenarios",
)  # fmt: skip
OTHER = {  # tables with other names or other rows, and why
    "lightgcn": (  # a published setting of iALS is not known, so it has its selected row alone
        ("matrix-item-knn", "ease", "slim", *floors.MATRIX),
        "a user's items have no order, so there is no co-visitation by distance",
    ),
    "learned_index": (
        tuple({**floors.RANKING, **floors.MATRIX}), "some of its data sets are matrices, one has an order",
    ),
    "multivae": (
        ("random", "popularity", "item-knn", "ease", "slim", "ials"),
        "names are those of stored results, all chosen on validation; items have no order",
    ),
    "ncf": (
        ("random", "popularity", "matrix-item-knn", "ease", "slim", "ials"),
        "settings are those that others published for this split, which has no validation part",
    ),
    "cold_items": (
        ("random", "popularity", "content-knn", "ials"), "nobody has a cold item, so that no count knows it",
    ),
    "dropoutnet": (
        ("random", "popularity", "content-knn", "ials"), "nobody has a cold item, so that no count knows it",
    ),
    "mobius": (
        ("random", "popularity"), "generated pairs of a query and an ad; queries have no history of ads",
    ),
    "melu": (
        ("mean-rating", "user-mean", "item-mean", "biases"), "ratings are predicted, no item is ranked",
    ),
    "delayed_feedback": (("base-rate",), "generated clicks whose labels arrive later"),
    "watch_time": (("mean", "duration-mean", "item-mean"), "watch times are numbers"),
}  # fmt: skip
NONE = {  # tables without such rows, and why
    "ann": "searches of given vectors",
    "census_columns": "its rows are boosted trees already",
    "distillation": "generated, with the truth as a row",
    "mmoe_synthetic": "generated numbers, not labels",
    "off_policy": "estimates of a policy's value, no predictions",
    "position_bias": "generated, with the truth as a row",
    "preranking": "generated, with the truth as a row",
}


def experiments() -> dict[str, Any]:
    """The modules with a command line, by name."""
    paths = [
        p
        for folder in ("sequential", "ranking", "multitask", "retrieval")
        for p in (ROOT / folder).glob("*.py")
    ]
    named = {path.stem: f"experiments.{path.parent.name}.{path.stem}" for path in paths}
    scripts = {p.stem for p in paths if '__name__ == "__main__"' in p.read_text(encoding="utf-8")}
    return {name: importlib.import_module(module) for name, module in named.items() if name in scripts}


FOUND = experiments()
EXPECTED = {
    **dict.fromkeys(RANKING, tuple(floors.RANKING)),
    **dict.fromkeys(MATRIX, tuple(floors.MATRIX)),
    **dict.fromkeys(CLICKS, floors.CLICKS),
    **{name: rows for name, (rows, _) in OTHER.items()},
}


def test_every_experiment_is_listed_once() -> None:
    listed = [*RANKING, *MATRIX, *CLICKS, *OTHER, *NONE]
    assert sorted(listed) == sorted(FOUND)
    assert all([*NONE.values(), *(reason for _, reason in OTHER.values())])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_table_has_its_rows(name: str) -> None:
    config = FOUND[name].Config
    assert config(rows=EXPECTED[name]).rows == EXPECTED[name]  # unknown rows are refused
    default = config().rows
    assert not default or set(EXPECTED[name]) <= set(default)


@dataclasses.dataclass(frozen=True)
class Config:
    results: str
    seeds: tuple[int, ...] = (0, 1)
    tiny: bool = False


def columns() -> next_item.Data:
    chain = markov_chain(num_users=40, num_items=12, noise=0.1).sequences
    return next_item.resident(leave_one_out(chain, short="train"))


PROTOCOL = Protocol(ks=(20,), selection="ndcg@20")


def test_the_best_settings_of_a_grid_are_chosen_and_all_trials_are_stored(tmp_path: Path) -> None:
    data = columns()

    def make(settings: Any) -> Any:
        return baselines.co_visitation(data, window=1, history=1, **settings)

    grid = {"forward": (False, True), "backward": (True,)}
    chosen = floors.choose(make, grid, data, PROTOCOL, Config(str(tmp_path)), "x", "chain", "row")
    assert chosen == {"forward": True, "backward": True}  # what follows predicts more than what came before
    study = json.loads((tmp_path / "x/chain/sweeps/row.json").read_text(encoding="utf-8"))
    assert [trial["settings"]["forward"] for trial in study["trials"]] == [False, True]
    assert study["chosen"]["settings"] == chosen and study["metric"] == "ndcg@20"
    assert study["chosen"]["value"] == max(trial["value"] for trial in study["trials"])


def test_a_grid_goes_on_beyond_an_end_that_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Towards a value by the grid's ratio, one setting after the other, until the best lies within."""
    data, asked = columns(), []

    def make(settings: Any) -> Any:
        asked.append(settings)
        return baselines.popularity(data)

    def value(*_: Any) -> list[dict[str, float]]:
        distance = abs(np.log(asked[-1]["alpha0"] / 0.1)) + abs(np.log(asked[-1]["neighbours"] / 7))
        return [{"ndcg@20": -distance}]

    monkeypatch.setattr(floors, "evaluate", value)
    grid = {"alpha0": (0.001, 0.003), "neighbours": (20, 40), "window": (1, 2)}
    chosen = floors.choose(make, grid, data, PROTOCOL, Config(str(tmp_path)), "x", "chain", "row")
    assert chosen == {"alpha0": 0.081, "neighbours": 5, "window": 1}
    assert len({tuple(settings.values()) for settings in asked}) == len(asked)  # none twice
    assert {settings["window"] for settings in asked} == {1, 2}  # 0 or more than 2 may mean something else
    assert {0.009, 0.027, 0.081, 0.24} < {settings["alpha0"] for settings in asked}
    assert {settings["neighbours"] for settings in asked} == {40, 20, 10, 5, 2}


@pytest.mark.parametrize(
    "grid, best, further",
    [
        ({"alpha": (1.0, 2.0, 4.0)}, 4.0, [8.0]),
        ({"alpha": (1.0, 2.0, 4.0)}, 8.0, [16.0]),
        ({"alpha": (4.0, 1.0)}, 1.0, [0.25]),
        ({"alpha": (1.0, 2.0, 4.0)}, 2.0, []),
        ({"alpha": (0.0, 1.0)}, 0.0, []),
        ({"alpha": (0.0, 1.0)}, 1.0, []),
        ({"alpha": (2.0,)}, 2.0, []),
        ({"neighbours": (5, 10)}, 5, [2]),
        ({"neighbours": (1, 2)}, 1, []),
        ({"window": (1, 2)}, 2, []),
    ],
)
def test_the_next_value_outward(grid: dict[str, Any], best: float, further: list[float]) -> None:
    (name,) = grid
    found = floors.beyond([Record(0, {name: best}, "complete", 1.0)], grid, lower=False)
    assert found == [{name: value} for value in further]


def test_a_stated_row_has_its_form_and_a_selected_one_says_what_chose_it(tmp_path: Path) -> None:
    data = columns()
    stated = floors.fit("co-visitation", data, PROTOCOL, Config(str(tmp_path)), "x", "chain")
    assert stated.protocol.selection == "none" and stated.settings["history"] == 10
    assert stated.settings["forward"] and stated.settings["backward"]
    directed = floors.fit("co-visitation-directed", data, PROTOCOL, Config(str(tmp_path)), "x", "chain")
    assert directed.settings == {**stated.settings, "backward": False}
    one = floors.fit("item-knn-selected", data, PROTOCOL, Config(str(tmp_path), tiny=True), "x", "chain")
    assert one.protocol.selection == "ndcg@20" and one.settings == {"neighbours": 20, "regularisation": 0.0}
    assert not list(tmp_path.rglob("co-visitation*"))  # nothing was tried


def test_a_row_without_random_numbers_can_have_one_seed(tmp_path: Path) -> None:
    seeds = {
        row: floors.fit(row, columns(), PROTOCOL, Config(str(tmp_path)), "x", "chain", once=True).seeds
        for row in ("random", "popularity")
    }
    assert seeds == {"random": (0, 1), "popularity": (0,)}
