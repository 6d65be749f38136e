"""Pieces of the SASRec experiment: sampled candidates, settings, encoders."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import NONE
from experiments.sequential import sasrec as experiment
from jaxrec import packing
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out, seen_before
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols import next_item as ranking
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Protocol, Retriever

DATA = ranking.resident(leave_one_out(markov_chain(num_users=60, num_items=30, noise=0.3).sequences))


def training_items(user: int) -> set[int]:
    sequences, split = DATA.split.sequences, DATA.split
    start = int(sequences.offsets[user])
    return set(sequences.items[start : start + int(split.train_length[user])].tolist())


def test_candidates_avoid_training_items_and_the_target_and_nothing_else() -> None:
    queries = DATA.split.test
    drawn = ranking.sampled_candidates(DATA, queries, 400, seed=0)
    assert drawn.shape == (len(queries.user), 400) and drawn.dtype == np.int32
    every = set(range(1, DATA.num_items + 1))
    for user, target, row in zip(queries.user, queries.target, drawn, strict=True):
        assert set(row.tolist()) == every - training_items(int(user)) - {int(target)}


def test_a_validation_item_may_be_a_candidate_of_a_test_query() -> None:
    drawn = ranking.sampled_candidates(DATA, DATA.split.test, 400, seed=0)
    assert (drawn == DATA.split.validation.target[:, None]).any()


def test_candidates_are_uniform() -> None:
    drawn = ranking.sampled_candidates(DATA, DATA.split.test, 20_000, seed=1)[0]
    counts = np.bincount(drawn)
    counts = counts[counts > 0]
    expected = drawn.size / counts.size
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_candidates_hang_on_the_seed_alone() -> None:
    first, again, other = (ranking.sampled_candidates(DATA, DATA.split.test, 50, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_user_with_every_item_has_no_candidate() -> None:
    rows = [[1, 2, 3, 1, 4], [4, 1, 2, 3, 1]]
    data = ranking.resident(leave_one_out(Sequences.from_lists("all", rows, num_items=4)))
    with pytest.raises(ValueError, match="all: a user's events and target are all 4 items"):
        ranking.sampled_candidates(data, data.split.test, 3, seed=0)


def test_candidates_with_fractions_are_refused() -> None:
    queries = DATA.split.test
    with pytest.raises(ValueError, match="candidates: float64"):
        ranking.ranking(queries, 5, candidates=np.full((len(queries.user), 2), 1.5), num_items=DATA.num_items)


def test_batches_carry_the_candidates_of_their_queries() -> None:
    queries = DATA.split.test
    drawn = ranking.sampled_candidates(DATA, queries, 7, seed=0)
    ranked = ranking.ranking(queries, 5, batch_size=16, candidates=drawn)
    mask = ranked.queries["mask"]
    np.testing.assert_array_equal(ranked.queries["candidates"][mask], drawn)
    np.testing.assert_array_equal(ranked.queries["target"][mask], queries.target)


@pytest.mark.parametrize("candidates", ["sampled-", "sampled-0", "some", "sampled-ten"])
def test_an_unknown_rule_for_candidates_is_refused(candidates: str) -> None:
    with pytest.raises(ValueError, match=f"protocol.candidates='{candidates}'"):
        ranking.evaluation(ranking.popularity(DATA), DATA, Protocol(candidates=candidates), "test")


def test_popularity_among_sampled_candidates_by_hand() -> None:
    """Rank = 1 + candidates at least as popular, duplicates as often as drawn; a seen target misses."""
    protocol = Protocol(candidates="sampled-20", selection="none")
    variables = ranking.floor_variables([0])
    asked = ranking.evaluation(ranking.popularity(DATA), DATA, protocol, "test")
    (found,) = evaluate(asked, variables, DATA.columns)
    counts = np.zeros(DATA.num_items + 1)
    for user in range(DATA.split.sequences.num_users):
        start = int(DATA.split.sequences.offsets[user])
        for item in DATA.split.sequences.items[start : start + int(DATA.split.train_length[user])]:
            counts[item] += 1
    drawn = ranking.sampled_candidates(DATA, DATA.split.test, 20, ranking.TEST_DRAW)
    rank = 1 + (counts[drawn] >= counts[DATA.split.test.target][:, None]).sum(axis=1)
    seen = seen_before(DATA.split.sequences, DATA.split.test)
    assert seen.any()
    assert found["hit@10"] == pytest.approx(((rank <= 10) & ~seen).mean())
    assert found["mrr"] == pytest.approx((~seen / rank).mean())
    assert found["seen_targets"] == pytest.approx(seen.mean())


def test_tiny_changes_defaults_only() -> None:
    config = experiment.effective(experiment.Config(tiny=True, dim=12))
    assert (config.dim, config.epochs, config.evaluate_every) == (12, 2, 1)
    default = experiment.Config()
    assert experiment.effective(default) == default


def test_a_short_run_is_evaluated_at_its_end() -> None:
    assert experiment.effective(experiment.Config(epochs=3)).evaluate_every == 3


@pytest.mark.parametrize("field", ["dim", "epochs", "evaluate_every", "num_candidates", "save_every"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
        dataclasses.replace(experiment.Config(), **{field: 0})


@pytest.mark.parametrize(
    "change", [{"patience": -1}, {"dropout": 1.0}, {"num_heads": 3}, {"seeds": ()}, {"seeds": (0, 0)}]
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(experiment.Config(), **change)  # type: ignore[arg-type]


def test_encoders_of_the_rows() -> None:
    config = experiment.Config()
    original, post, gru = (
        experiment.encoder_of(row, 9, config) for row in ("sasrec-bce", "sasrec-bce-postnorm", "gru4rec-bce")
    )
    assert isinstance(original, SASRecOriginal) and isinstance(post, SASRec)
    sizes = [(m.dim, m.num_layers, m.num_heads, m.max_len, m.dropout) for m in (original, post)]
    assert sizes == [(50, 2, 1, 50, 0.5)] * 2
    assert isinstance(experiment.encoder_of("sasrec-ce", 9, config), SASRecOriginal)
    assert gru.max_len == 50


@pytest.mark.parametrize("change", [{"dim": 64}, {"num_candidates": 500}, {"epochs": 20}, {"tiny": True}])
def test_published_numbers_stand_beside_the_authors_settings_alone(change: dict[str, object]) -> None:
    official = experiment.Config()
    assert experiment.published_numbers("sasrec-bce", official).values["hit@10"] == 0.7410
    other = dataclasses.replace(official, **change)  # type: ignore[arg-type]
    assert experiment.published_numbers("sasrec-bce", other) == NONE
    floor = experiment.published_numbers("popularity", other)
    assert (floor == NONE) == ("num_candidates" in change or "tiny" in change)


def test_the_papers_gru4rec_is_another_model() -> None:
    assert "session-based" in experiment.published_numbers("gru4rec-bce", experiment.Config()).incomparable


def test_the_loss_is_part_of_every_name() -> None:
    assert {row: experiment.loss_of(row) for row in ("sasrec-bce-postnorm", "gru4rec-bce", "sasrec-ce")} == {
        "sasrec-bce-postnorm": "bce",
        "gru4rec-bce": "bce",
        "sasrec-ce": "ce",
    }
    permuted = experiment.Config(replacement=False)
    assert experiment.model_name("sasrec-ce", permuted) == "sasrec-ce+permuted"
    assert experiment.model_name("random", permuted) == "random"


@pytest.mark.parametrize("seen", ["exclude", "keep", "zero"])
def test_who_remembers_the_history_gains_nothing_by_how_candidates_are_drawn(seen: str) -> None:
    """Users who come back to one of their items, ranked by whether it was in the history, among 10.

    Where seen items are candidates they are drawn too, so the target is one of several; where they are none,
    it is a miss, and its share stands beside the metrics.
    """
    rng = np.random.default_rng(0)
    rows = [rng.permutation(20)[:15].tolist() for _ in range(60)]
    again = Sequences.from_lists("again", [[i + 1 for i in (*r, r[3])] for r in rows])
    data = ranking.resident(leave_one_out(again))

    def query(variables: Any, queries: Any, context: Any) -> Any:
        end = context["start"][queries["user"]] + queries["length"]
        seen = packing.window(context["items"], end, queries["length"], data.history)
        return jax.nn.one_hot(seen, data.num_items + 1).sum(axis=1).at[:, 0].set(0.0)

    remembers = Retriever(query, lambda variables: jnp.eye(data.num_items + 1))
    protocol = Protocol(candidates="sampled-10", seen=seen)
    asked = ranking.evaluation(remembers, data, protocol, "test")
    found = evaluate(asked, ranking.floor_variables((0,)), data.columns)[0]
    assert found["hit@5"] < 0.1
    assert found.get("seen_targets", 0.0) == (seen == "exclude")


@pytest.mark.parametrize("wrong", [0, -1, 41, "target"])
def test_candidates_that_are_no_other_items_are_refused(wrong: Any) -> None:
    data = ranking.resident(leave_one_out(markov_chain(num_users=8, num_items=40).sequences))
    queries = data.split.test
    drawn = ranking.sampled_candidates(data, queries, 5, 0)
    drawn[2, 3] = queries.target[2] if wrong == "target" else wrong
    with pytest.raises(ValueError, match=f"candidates: {drawn[2, 3]} of query 2 is"):
        ranking.ranking(queries, 12, candidates=drawn, num_items=data.num_items)
