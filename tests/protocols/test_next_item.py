"""Next items by a protocol: packed rows, plans, training and testing, sampled candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import baselines, losses, packing
from jaxrec.augment.stochastic_length import shortened_lengths, stochastic_length
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out, seen_before, split_by_user
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as protocol
from jaxrec.protocols.next_item import Data, Shortening, resident, sampled_candidates
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import sampled
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Phase, fit
from jaxrec.types import Array, Protocol, Retriever
from tests.tasks.small import NUM_ITEMS, Averager

DATA = resident(leave_one_out(markov_chain(num_users=60, num_items=30, noise=0.3).sequences))
MODEL = Averager(dropout=0.1, max_len=20)
assert DATA.num_items == NUM_ITEMS  # of its table


class Padded(nn.Module):
    """An encoder that takes no segments: sums of all earlier events of a row."""

    num_items: int
    max_len: int = 20

    def setup(self) -> None:
        self.table = nn.Embed(self.num_items + 1, 4)

    def __call__(self, items: Array, *, positions: Array | None = None, train: bool = False) -> Array:
        return jnp.cumsum(jnp.where(items[..., None] > 0, self.table(items), 0), axis=1)

    def item_table(self) -> Array:
        return self.table.embedding


# --- packed rows and plans ---


def drawn(plan: Any, data: Data) -> dict[str, np.ndarray]:
    columns, ok = plan.draw(jax.random.key(0), {"length": jnp.asarray(data.columns["length"])})
    assert ok
    return {name: np.asarray(column) for name, column in columns.items()}


def test_an_epoch_has_every_user_once_in_rows_that_hold_them() -> None:
    packed = protocol.packing_of(DATA, MODEL, 16)
    assert packed is not None and packed.width == MODEL.max_len
    columns = drawn(protocol.plan(DATA, MODEL, 16, packed), DATA)
    assert sorted(columns["example"][columns["mask"]].tolist()) == list(range(60))
    assert columns["example"].shape == (4, 16)
    inputs = np.minimum(DATA.inputs, MODEL.max_len)
    for user, mask, row, slot in zip(*(columns[c] for c in ("example", "mask", "row", "slot")), strict=True):
        taken = np.zeros((packed.rows, packed.width), int)
        for u, r, s in zip(user[mask], row[mask], slot[mask], strict=True):
            taken[r, s : s + inputs[u]] += 1
            assert s + inputs[u] <= packed.width
        assert taken.max() == 1


def test_packed_rows_are_fewer_than_users_and_divided_by_devices() -> None:
    for devices in (1, 4):
        packed = protocol.packing_of(DATA, MODEL, 32, num_devices=devices)
        assert packed is not None and packed.rows % devices == 0
        assert packed.rows < 32


def test_rows_follow_the_lengths_that_a_step_makes() -> None:
    whole = protocol.packing_of(DATA, MODEL, 32)
    twice = protocol.packing_of(DATA, MODEL, 32, grow=lambda rng, n: np.tile(n, 2))
    halves = protocol.packing_of(DATA, MODEL, 32, grow=lambda rng, n: n // 2)
    assert whole is not None and twice is not None and halves is not None
    assert twice.rows > 1.5 * whole.rows > 1.5 * halves.rows


def test_an_encoder_that_takes_no_segments_is_padded() -> None:
    model: Any = Padded(DATA.num_items)
    assert protocol.packing_of(DATA, model, 16) is None
    assert set(drawn(protocol.plan(DATA, model, 16, None), DATA)) == {"example", "mask"}


@pytest.mark.parametrize("together", [True, False])
def test_with_replacement_users_are_drawn_independently(together: bool) -> None:
    packed = protocol.packing_of(DATA, MODEL, 16) if together else None
    columns = drawn(protocol.plan(DATA, MODEL, 16, packed, replacement=True), DATA)
    assert columns["mask"].all()
    assert len(set(columns["example"].reshape(-1).tolist())) < 60


# --- training and testing ---

BCE = sampled(losses.bce, DATA.num_items, DATA.excluded_width)
RULE = Protocol(selection="ndcg@10", loss="bce")
TRAINING: dict[str, Any] = {"seeds": (0, 1), "description": {}, "progress": False}


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_training_and_testing_are_what_they_are_made_of(tmp_path: Path) -> None:
    """The same numbers to the bit as task, plan, selection and evaluation put together by hand."""
    tx = optax.adam(0.01)
    ours = protocol.train(
        MODEL, BCE, DATA, RULE, tx, epochs=2, batch_size=16, every=2, workdir=tmp_path / "a", **TRAINING
    )
    found = protocol.test(MODEL, DATA, RULE, ours.variables)

    inputs = np.minimum(DATA.split.train_length - 1, MODEL.max_len)
    rows = packing.rows_needed(inputs, 16, MODEL.max_len, deviations=3.0)
    packed = Packing(rows, MODEL.max_len)
    by_hand = fit(
        [Phase("train", next_item(MODEL, BCE, packed=packed), 2)],
        tx,
        shuffled(
            60,
            16,
            lengths=lambda context, user: jnp.minimum(context["length"][user] - 1, MODEL.max_len),
            packing=packed,
        ),
        DATA.columns,
        protocol.selection(MODEL, DATA, RULE, every=2),
        workdir=tmp_path / "b",
        **TRAINING,
    )
    same(ours.variables, by_hand.variables)
    assert [sorted(entry) for entry in ours.history] == [sorted(entry) for entry in by_hand.history]
    assert sum("valid/ndcg@10" in entry for entry in ours.history) == 1
    evaluation = protocol.evaluation(MODEL, DATA, RULE, "test")
    assert found == evaluate(evaluation, by_hand.variables, DATA.columns)
    assert len(found) == 2 and found[0] != found[1]
    assert evaluation.protocol == RULE


def test_a_padded_encoder_is_trained_and_ranked(tmp_path: Path) -> None:
    model: Any = Padded(DATA.num_items)
    fitted = protocol.train(
        model, BCE, DATA, RULE, optax.adam(0.01), epochs=1, batch_size=16, workdir=tmp_path, **TRAINING
    )
    for seed in protocol.test(model, DATA, RULE, fitted.variables):
        assert 0 < seed["hit@20"] < 1


def test_shortened_inputs_are_placed_in_fewer_rows(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"max_len": 20, "alpha": 1.2}
    used = set()

    def events(key: Array, real: Array) -> Array:
        used.add("events")
        return stochastic_length(key, real, **sizes)

    def lengths(rng: np.random.Generator, whole: np.ndarray) -> np.ndarray:
        used.add("lengths")
        return shortened_lengths(rng, whole, **sizes)

    long = markov_chain(num_users=60, num_items=30, min_length=15, max_length=20, noise=0.3).sequences
    data = resident(leave_one_out(long))
    whole = protocol.packing_of(data, MODEL, 32)
    short = protocol.packing_of(data, MODEL, 32, grow=lengths)
    assert whole is not None and short is not None and short.rows < 0.75 * whole.rows
    used.clear()
    fitted = protocol.train(
        MODEL,
        sampled(losses.bce, data.num_items, data.excluded_width),
        data,
        RULE,
        optax.adam(0.01),
        epochs=1,
        batch_size=32,
        shortening=Shortening(events, lengths),
        workdir=tmp_path,
        **TRAINING,
    )
    assert used == {"events", "lengths"}
    assert np.isfinite(fitted.history[0]["loss"]).all()


# --- sampled candidates ---


def training_items(user: int) -> set[int]:
    sequences, split = DATA.split.sequences, DATA.split
    start = int(sequences.offsets[user])
    return set(sequences.items[start : start + int(split.train_length[user])].tolist())


def test_candidates_avoid_training_items_and_the_target_and_nothing_else() -> None:
    queries = DATA.split.test
    candidates = sampled_candidates(DATA, queries, 400, seed=0)
    assert candidates.shape == (len(queries.user), 400) and candidates.dtype == np.int32
    every = set(range(1, DATA.num_items + 1))
    for user, target, row in zip(queries.user, queries.target, candidates, strict=True):
        assert set(row.tolist()) == every - training_items(int(user)) - {int(target)}


def test_a_validation_item_may_be_a_candidate_of_a_test_query() -> None:
    candidates = sampled_candidates(DATA, DATA.split.test, 400, seed=0)
    assert (candidates == DATA.split.validation.target[:, None]).any()


def test_candidates_of_held_out_users_avoid_their_input() -> None:
    data = resident(split_by_user(DATA.split.sequences, validation=0.2, test=0.2))
    queries = data.split.test
    candidates = sampled_candidates(data, queries, 400, seed=0)
    every = set(range(1, data.num_items + 1))
    for user, length, target, row in zip(*queries, candidates, strict=True):
        read = data.split.sequences.user_items(int(user))[:length].tolist()
        assert set(row.tolist()) == every - {*read, int(target)}


def test_candidates_are_uniform() -> None:
    candidates = sampled_candidates(DATA, DATA.split.test, 20_000, seed=1)[0]
    counts = np.bincount(candidates)
    counts = counts[counts > 0]
    expected = candidates.size / counts.size
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_candidates_hang_on_the_seed_alone() -> None:
    first, again, other = (sampled_candidates(DATA, DATA.split.test, 50, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_user_with_every_item_has_no_candidate() -> None:
    lists = [[1, 2, 3, 1, 4], [4, 1, 2, 3, 1]]
    data = resident(leave_one_out(Sequences.from_lists("all", lists, num_items=4)))
    with pytest.raises(ValueError, match="all: a user's events and target are all 4 items"):
        sampled_candidates(data, data.split.test, 3, seed=0)


def test_candidates_with_fractions_are_refused() -> None:
    queries = DATA.split.test
    fractions = np.full((len(queries.user), 2), 1.5)
    with pytest.raises(ValueError, match="candidates: float64"):
        protocol.batches(queries, 5, candidates=fractions, num_items=DATA.num_items)


def test_batches_carry_the_candidates_of_their_queries() -> None:
    queries = DATA.split.test
    candidates = sampled_candidates(DATA, queries, 7, seed=0)
    made = protocol.batches(queries, 5, batch_size=16, candidates=candidates)
    mask = made.queries["mask"]
    np.testing.assert_array_equal(made.queries["candidates"][mask], candidates)
    np.testing.assert_array_equal(made.queries["target"][mask], queries.target)


@pytest.mark.parametrize("candidates", ["sampled-", "sampled-0", "some", "sampled-ten"])
def test_an_unknown_rule_for_candidates_is_refused(candidates: str) -> None:
    with pytest.raises(ValueError, match=f"protocol.candidates='{candidates}'"):
        protocol.evaluation(baselines.popularity(DATA), DATA, Protocol(candidates=candidates), "test")


def test_popularity_among_sampled_candidates_by_hand() -> None:
    """Rank = 1 + candidates at least as popular, duplicates as often as drawn; a seen target misses."""
    rule = Protocol(candidates="sampled-20", selection="none")
    baseline = baselines.popularity(DATA)
    (found,) = protocol.test(baseline, DATA, rule, baseline.for_seeds([0]))
    counts = np.zeros(DATA.num_items + 1)
    for user in range(DATA.split.sequences.num_users):
        start = int(DATA.split.sequences.offsets[user])
        for item in DATA.split.sequences.items[start : start + int(DATA.split.train_length[user])]:
            counts[item] += 1
    candidates = sampled_candidates(DATA, DATA.split.test, 20, protocol.TEST_DRAW)
    rank = 1 + (counts[candidates] >= counts[DATA.split.test.target][:, None]).sum(axis=1)
    seen = seen_before(DATA.split.sequences, DATA.split.test)
    assert seen.any()
    assert found["hit@10"] == pytest.approx(((rank <= 10) & ~seen).mean())
    assert found["mrr"] == pytest.approx((~seen / rank).mean())
    assert found["seen_targets"] == pytest.approx(seen.mean())


@pytest.mark.parametrize("seen", ["exclude", "keep", "zero"])
def test_who_remembers_the_history_gains_nothing_by_how_candidates_are_drawn(seen: str) -> None:
    """Users who come back to one of their items, ranked by whether it was in the history, among 10.

    Where seen items are candidates they are drawn too, so the target is one of several; where they are none,
    it is a miss, and its share stands beside the metrics.
    """
    rng = np.random.default_rng(0)
    lists = [rng.permutation(20)[:15].tolist() for _ in range(60)]
    again = Sequences.from_lists("again", [[i + 1 for i in (*r, r[3])] for r in lists])
    data = resident(leave_one_out(again))

    def query(variables: Any, queries: Any, context: Any) -> Any:
        end = context["start"][queries["user"]] + queries["length"]
        history = packing.window(context["items"], end, queries["length"], data.history)
        return jax.nn.one_hot(history, data.num_items + 1).sum(axis=1).at[:, 0].set(0.0)

    remembers = Retriever(query, lambda variables: jnp.eye(data.num_items + 1))
    rule = Protocol(candidates="sampled-10", seen=seen)
    variables = {"key": jax.vmap(jax.random.key)(jnp.zeros(1, jnp.uint32))}
    (found,) = protocol.test(remembers, data, rule, variables)
    assert found["hit@5"] < 0.1
    assert found.get("seen_targets", 0.0) == (seen == "exclude")


@pytest.mark.parametrize("wrong", [0, -1, 41, "target"])
def test_candidates_that_are_no_other_items_are_refused(wrong: Any) -> None:
    data = resident(leave_one_out(markov_chain(num_users=8, num_items=40).sequences))
    queries = data.split.test
    candidates = sampled_candidates(data, queries, 5, 0)
    candidates[2, 3] = queries.target[2] if wrong == "target" else wrong
    with pytest.raises(ValueError, match=f"candidates: {candidates[2, 3]} of query 2 is"):
        protocol.batches(queries, 12, candidates=candidates, num_items=data.num_items)
