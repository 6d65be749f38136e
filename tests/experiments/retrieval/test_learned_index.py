"""Learned indexes on tiny data: what is exhaustive finds all, costs are counted, and all rows are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import floors
from experiments.retrieval import learned_index as experiment
from experiments.retrieval.learned_index_measure import Exact, _of_exact, asked
from experiments.retrieval.learned_index_parts import best_of_tower, every_item
from experiments.retrieval.learned_index_rows import ROWS
from jaxrec.protocols.retrieval import Data
from jaxrec.types import Result
from tests.experiments.multitask.runs import results_of

GRAPHS = ("nann-graph", "rpg-graph", "random-graph")
ITEMS = 72  # of the generated matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learned_index")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> dict[str, Result]:
    return results_of(experiment, folder)


def test_every_scorer_is_searched_exhaustively_and_by_its_indexes(tiny: dict[str, Result]) -> None:
    every = {*floors.MATRIX, *(f"{row}+all" for row in ROWS if row != "sasrec")}
    every |= {f"nann+{index}-{width}" for index in (*GRAPHS, "two-tower") for width in (5, 20)}
    every |= {f"two-tower+{index}-{width}" for index in GRAPHS for width in (5, 20)}
    every |= {f"{row}+tree-{width}" for row in ("tdm", "jtm") for width in (5, 20)}
    every |= {f"deep-retrieval+paths-{width}" for width in (2, 5, 20)}
    assert set(tiny) == every
    for name, result in tiny.items():
        assert result.experiment == "learned_index" and result.protocol.ks == (5,)
        chosen = "+" in name or name.endswith("-selected")
        assert result.protocol.selection == ("recall@5" if chosen else "none")
        assert result.baseline == ("+" not in name) and len(result.metrics["recall@5"]) == 2


def test_recall_of_a_baseline_is_no_hit_rate(tiny: dict[str, Result]) -> None:
    """Of users with several test items, some found: hits are above recall, and precision is hits / k."""
    for name in floors.MATRIX:
        hit, recall = (np.array(tiny[name].metrics[metric]) for metric in ("hit@5", "recall@5"))
        assert (recall < hit).all()


def test_searches_find_a_part_of_what_they_score(tiny: dict[str, Result]) -> None:
    for name, result in tiny.items():
        if "+" not in name:
            continue
        scored, share, of_exact = (
            np.array(result.metrics[metric]) for metric in ("scored", "scored_share", "recall_of_exact@5")
        )
        np.testing.assert_allclose(share, scored / ITEMS)
        assert (of_exact >= 0).all() and (of_exact <= 1).all() and (scored > 0).all()
        assert all(value >= 0 for value in result.metrics["build_seconds"] + result.metrics["search_ms"])
        if name.endswith("+all"):
            assert (of_exact == 1).all() and (scored == ITEMS).all()
        elif name.endswith("two-tower-20"):
            assert (scored == 20).all()
    for row in ("tdm", "jtm"):
        described: Any = tiny[f"{row}+tree-5"].config["recipe"]
        assert described["first_tree"] == "vectors of two-tower"
    wide, narrow = (tiny[f"deep-retrieval+paths-{width}"].metrics["recall_of_exact@5"] for width in (20, 2))
    assert np.mean(narrow) < np.mean(wide) == 1  # of 16 paths


def test_the_plot_has_all_searches(tiny: dict[str, Result], folder: Path) -> None:
    pytest.importorskip("matplotlib")
    dataset = tiny["nann+all"].dataset
    assert (folder / "results" / "learned_index" / f"{dataset}.png").read_bytes().startswith(b"\x89PNG")
    found = experiment.draw(str(folder / "results"), dataset, 5)
    assert found is not None and experiment.draw(str(folder / "nothing"), dataset, 5) is None


def test_sequences_have_vectors_as_queries_too(tmp_path: Path) -> None:
    found = results_of(experiment, tmp_path, "--dataset", "Beauty", "--rows", "sasrec", "--widths", 40)
    assert set(found) == {"sasrec+all", *(f"sasrec+{index}-40" for index in GRAPHS)}
    for name in set(found) - {"sasrec+all"}:  # 40 of 40 items
        assert found[name].metrics["recall@5"] == pytest.approx(found["sasrec+all"].metrics["recall@5"])
        assert np.mean(found[name].metrics["recall_of_exact@5"]) > 0.95


def data() -> Data:
    loaded: Any = experiment.load(experiment.Config(tiny=True))
    return loaded


def test_shuffling_moves_items_within_a_users_training_alone() -> None:
    split = data().split
    again = experiment.shuffled(split, seed=1)
    changed = 0
    for user, length in enumerate(split.train_length):
        before, after = split.sequences.user_items(user), again.sequences.user_items(user)
        assert sorted(before[:length]) == sorted(after[:length])
        np.testing.assert_array_equal(before[length:], after[length:])
        changed += (before != after).any()
    assert changed > len(split.train_length) / 2


@pytest.mark.parametrize("number", [40, 0])
def test_test_users_are_asked_once(number: int) -> None:
    columns = data()
    config = experiment.Config(num_queries=number)
    found = asked(columns, config)
    real = found.columns["mask"]
    users = found.columns["user"][real]
    assert len(set(users.tolist())) == len(users) == (number or len(columns.split.test.user))
    assert found.most == found.columns["number"][real].max()


def test_an_exhaustive_search_is_a_sort() -> None:
    num_items = 2500
    table = jnp.asarray(np.random.default_rng(0).integers(0, 50, (3, num_items + 1)), jnp.float32)

    def scorer(query: Any, ids: jax.Array) -> jax.Array:
        return jnp.take_along_axis(query, ids, axis=1)

    found = every_item(num_items).find((), {}, scorer, table, 7, 0)
    ids = np.broadcast_to(np.arange(1, num_items + 1), (3, num_items))
    order = np.lexsort((ids, -np.asarray(table)[:, 1:]))[:, :7]
    assert found.ids.tolist() == (order + 1).tolist() and (found.scored == num_items).all()


def test_a_score_that_is_no_number_is_told_and_a_list_without_items_is_none() -> None:
    table = np.eye(4, 3, k=-1, dtype=np.float32)
    scores = jnp.array([[9.0, 1.0, 2.0, 3.0], [0.0, 1.0, np.nan, 3.0], [0.0, 1.0, 2.0, 3.0]])
    seen = jnp.array([[True, False, False, False], [True, False, False, False], [True] * 4])

    def scorer(query: Any, ids: jax.Array) -> jax.Array:
        return jnp.take_along_axis(scores, ids, axis=1)

    query = ({"tower": jnp.ones((3, 3))}, seen)
    found = best_of_tower(3).find((), {"tower": {"table": jnp.asarray(table)}}, scorer, query, 2, 3)
    assert found.ids[0].tolist() == [3, 2] and found.ids[2].tolist() == [0, 0]
    assert found.finite.tolist() == [True, False, True] and found.scored.tolist() == [3, 3, 0]


def test_an_item_as_good_as_the_last_exact_one_counts() -> None:
    true = Exact(jnp.array([[4, 2, 9], [5, 0, 0]]), jnp.array([[3.0, 2.0, 1.0], [1.0, -jnp.inf, -jnp.inf]]))
    ids, scores = jnp.array([[4, 7, 8], [5, 0, 0]]), jnp.array([[3.0, 1.0, 0.5], [1.0, -jnp.inf, -jnp.inf]])
    np.testing.assert_allclose(_of_exact(ids, scores, true), [2 / 3, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ("tdn",)}, "the nearest is 'tdm'"),
        ({"dataset": "gowala"}, "the nearest is 'gowalla'"),
        ({"widths": ()}, r"widths=\(\)"),
        ({"widths": (0,)}, "widths of 1 or more"),
        ({"num_queries": -1}, "num_queries=-1"),
        ({"gap": 0}, "gap=0: must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.Config(**change)


def test_a_row_that_reads_an_order_needs_one() -> None:
    with pytest.raises(ValueError, match="'sasrec' reads an order of events, which gowalla has not"):
        experiment.names_of(experiment.Config(rows=("sasrec",)), data())
