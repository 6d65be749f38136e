"""Recommendations against a slow NumPy twin, and against the ranks of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Queries, leave_one_out
from jaxrec.index.rank import make_rank
from jaxrec.protocols import next_item
from jaxrec.serve import queries, recommend
from jaxrec.serve.run_folder import write
from jaxrec.tasks import next_item as next_item_task
from tests.serve.small_runs import (
    EVENTS,
    ITEMS,
    LENGTHS,
    MAX_LEN,
    MODULES,
    NUM_ITEMS,
    USERS,
    all_runs,
    history,
    kept,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, serve.Run]:
    return all_runs(tmp_path_factory.mktemp("runs"))


def twin(run: serve.Run, items: np.ndarray, *, out: Any = (), k: int) -> tuple[list[str], np.ndarray]:
    """The best items by the module itself, unpadded and alone, sorted by hand."""
    module = run.module
    if run.kept.kind == "baseline":
        if "count" in run.variables:
            scores = np.asarray(run.variables["count"])
        else:
            near, weight = np.asarray(run.variables["near"]), np.asarray(run.variables["weight"])
            scores = np.zeros(NUM_ITEMS + 1)
            np.add.at(scores, near[items[-1]], weight[items[-1]])
    else:
        row = np.zeros((1, MAX_LEN), np.int32)
        last = items[-MAX_LEN:]
        row[0, MAX_LEN - len(last) :] = last
        hidden = module.apply(run.variables, row, train=False)[0, -1]
        scores = np.asarray(module.apply(run.variables, method="item_table") @ hidden)
    left = [i for i in range(1, NUM_ITEMS + 1) if i not in out]
    best = sorted(left, key=lambda i: (-scores[i], i))[:k]
    return [str(ITEMS[i - 1]) for i in best], scores[best]


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "stamp", "popularity", "item-knn"])
@pytest.mark.parametrize("seen", ["exclude", "keep"])
def test_lists_equal_a_slow_twin(runs: dict[str, serve.Run], name: str, seen: Any) -> None:
    run = runs[name]
    found = run.recommend(users="all", k=5, seen=seen)
    assert [answer.user for answer in found] == USERS.tolist()
    for user, answer in enumerate(found):
        out = history(user) if seen == "exclude" else ()
        ids, scores = twin(run, history(user), out=out, k=5)
        assert answer.items.tolist() == ids
        np.testing.assert_allclose(answer.scores, scores, rtol=1e-5, atol=1e-5)
        assert answer.by == "model"


def test_a_history_is_answered_as_the_user_that_has_it(runs: dict[str, serve.Run]) -> None:
    run = runs["sasrec"]
    given = [ITEMS[history(user) - 1].tolist() for user in range(len(USERS))]
    for a, b in zip(run.recommend(histories=given, k=3), run.recommend(USERS.tolist(), k=3), strict=True):
        assert a.user is None
        np.testing.assert_array_equal(a.items, b.items)
        np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("name", list(MODULES))
def test_positions_in_lists_are_the_ranks_of_evaluation(runs: dict[str, serve.Run], name: str) -> None:
    """Each last event, from those before it: `next_item.test` reads the same columns."""
    run = runs[name]
    sequences = Sequences(
        "mine", EVENTS.items, EVENTS.times, EVENTS.offsets, USERS, ITEMS, num_items=NUM_ITEMS
    )
    data = next_item.resident(leave_one_out(sequences, short="train"))
    test = data.split.test
    rank = make_rank(
        next_item_task.retriever(run.module), run.protocol, num_items=NUM_ITEMS, history=data.history
    )
    batched = next_item.batches(Queries(*test), MAX_LEN).queries
    ranks = np.asarray(jax.jit(rank)(run.variables, batched, data.columns)[0]).reshape(-1)[: len(test.user)]
    for number, user in enumerate(test.user):
        before = history(user)[:-1]
        assert EVENTS.times is not None
        seconds = EVENTS.times[EVENTS.offsets[user] : EVENTS.offsets[user + 1]]
        timed = {"times": [seconds[:-1].tolist()], "at": int(seconds[-1])} if name == "hstu" else {}
        (answer,) = run.recommend(histories=[ITEMS[before - 1].tolist()], k=NUM_ITEMS, **timed)
        place = answer.items.tolist().index(str(ITEMS[test.target[number] - 1]))
        assert ranks[number] == place + 1


def test_many_histories_share_packed_rows(
    runs: dict[str, serve.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed batches, two in the first call and one in the second, say what one padded batch says."""
    run = runs["sasrec"]
    alone = run.recommend(users="all", k=4)
    monkeypatch.setattr(queries, "SIZES", (2,))
    monkeypatch.setattr(queries, "GROUP", 2)
    shapes = queries.layout(run.kept, queries.asked_of(EVENTS, None, timed=False))
    assert (shapes.batch_size, shapes.group) == (2, 2)
    assert shapes.packed is not None
    for a, b in zip(run.recommend(users="all", k=4), alone, strict=True):
        assert (a.user, a.items.tolist()) == (b.user, b.items.tolist())
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-5)


def test_one_program_serves_requests_of_any_length(
    runs: dict[str, serve.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[Any] = []
    make_program = recommend.make_program

    def counted(*args: Any, **options: Any) -> Any:
        program = make_program(*args, **options)

        def traced(*columns: Any) -> Any:
            traces.append(args)
            return program(*columns)

        return traced

    monkeypatch.setattr(recommend, "make_program", counted)
    run = serve.load(runs["sasrec"].path)
    for _ in range(2):
        for users in (["u0"], ["u1", "u3"], ["u2"]):
            run.recommend(users, k=2, block=["i01"])
        assert len(traces) == 3  # widths of seen items: 1, 4 and 8
    run.recommend(["u1", "u3"], k=2, block=["i02"], candidates=["i03", "i04"])
    assert len(traces) == 3


# --- candidates, seen and blocked items ---------------------------------------------------------------


def test_candidates_and_blocked_items(runs: dict[str, serve.Run]) -> None:
    run = runs["sasrec"]
    candidates = ["i05", "i02", "i02", "i09", "i11"]  # one of them twice
    (answer,) = run.recommend(["u0"], k=10, candidates=candidates, block=["i09"], seen="keep")
    assert sorted(answer.items.tolist()) == ["i02", "i05", "i11"]
    assert (np.diff(answer.scores) <= 0).all()


def test_k_above_what_is_left_gives_what_is_left(runs: dict[str, serve.Run]) -> None:
    for k in (100, 2**62):  # an array of so long lists would not fit into memory
        lists = runs["sasrec"].recommend(users="all", k=k)
        assert [len(answer.items) for answer in lists] == [NUM_ITEMS - n for n in LENGTHS]


def test_a_user_who_has_seen_all_candidates_gets_none(runs: dict[str, serve.Run]) -> None:
    all_seen, other = runs["sasrec"].recommend(["u4", "u0"], k=3)
    assert (len(all_seen.items), len(other.items)) == (0, 3)


def test_ids_need_not_be_in_order(runs: dict[str, serve.Run], tmp_path: Path) -> None:
    """The same run whose items and users have other names: a vocabulary is in the order of its file."""
    names = {"item": np.roll(ITEMS, 5)[::-1], "user": np.array(["z", "b", "y", "a", "c", "x"])}
    write(tmp_path, kept(MODULES["sasrec"], vocabulary=names))
    run, number = serve.load(tmp_path), ITEMS.tolist().index
    found = run.recommend(["a", "z"], k=4, candidates=names["item"][:9], block=names["item"][[2, 7]])
    expected = runs["sasrec"].recommend(["u3", "u0"], k=4, candidates=ITEMS[:9], block=ITEMS[[2, 7]])
    assert [answer.user for answer in found] == ["a", "z"]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.items.tolist() == [names["item"][number(item)] for item in theirs.items]
        np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_the_runs_own_rule_for_seen_items_is_the_default(runs: dict[str, serve.Run]) -> None:
    (kept_in,) = runs["stamp"].recommend(["u4"], k=NUM_ITEMS)
    assert len(kept_in.items) == NUM_ITEMS


def columns_of(kind: str) -> Any:
    if kind == "tuple":
        return tuple
    if kind == "array":
        return np.array
    series = pytest.importorskip("pandas").Series
    return lambda values: series(values, index=range(7, 7 + len(values)))  # an index that is not 0, 1, …


@pytest.mark.parametrize("kind", ["tuple", "array", "series"])
def test_ids_may_be_any_column(runs: dict[str, serve.Run], kind: str) -> None:
    column, run = columns_of(kind), runs["sasrec"]
    users, candidates, block = ["u0", "u3"], ["i02", "i05", "i09"], ["i09"]
    expected = run.recommend(users, candidates=candidates, block=block, seen="keep")
    found = run.recommend(column(users), candidates=column(candidates), block=column(block), seen="keep")
    assert [(a.user, a.items.tolist()) for a in found] == [(a.user, a.items.tolist()) for a in expected]
    given, times = [["i01", "i02"], ["i03", "i01"]], [[5, 6], [7, 9]]
    (first, second) = runs["hstu"].recommend(histories=given, times=times, k=2)
    histories, moments = ([column(part) for part in lists] for lists in (given, times))
    for whole in (list, column):
        found = runs["hstu"].recommend(histories=whole(histories), times=whole(moments), k=2)
        assert [a.items.tolist() for a in found] == [first.items.tolist(), second.items.tolist()]


# --- cold users -----------------------------------------------------------------------------------------


def test_cold_users_get_popular_items_if_asked(runs: dict[str, serve.Run]) -> None:
    run = runs["sasrec"]
    counts = np.bincount(EVENTS.items, minlength=NUM_ITEMS + 1)
    best = sorted(set(range(1, NUM_ITEMS + 1)) - {3}, key=lambda i: (-counts[i], i))[:4]
    new, known = run.recommend(["nobody", "u0"], k=4, cold="popularity", block=["i03"])
    assert (new.user, new.by, known.by) == ("nobody", "popularity", "model")
    assert new.items.tolist() == [ITEMS[i - 1] for i in best]
    np.testing.assert_array_equal(new.scores, counts[best])
    (empty,) = run.recommend(histories=[[]], k=4, cold="popularity", block=["i03"])
    np.testing.assert_array_equal(empty.items, new.items)


def test_kept_counts_are_what_popularity_reads(tmp_path: Path) -> None:
    counts = np.arange(NUM_ITEMS + 1)
    write(tmp_path, kept(MODULES["sasrec"], counts=counts, histories=None))
    (answer,) = serve.load(tmp_path).recommend(histories=[[]], k=2, cold="popularity")
    assert answer.items.tolist() == ["i12", "i11"]


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": ["u1", "x", "u11"]}, r"users: the run has no user 'x', 'u11' \(nearest: 'u1'\)"),
        ({"users": []}, "users: none is given"),
        ({"users": "u1"}, "users='u1': one text"),
        ({"users": np.array("u1")}, "users='u1': one text"),
        ({"users": 5}, "users=5: must be a list"),
        ({"users": ["u1"], "block": "i01"}, "block='i01': one text; give a list"),
        ({"users": ["u1"], "candidates": "i01"}, "candidates='i01': one text; give a list"),
        ({"histories": [["i01"]], "times": [[1]]}, "times: mine reads no times; leave it out"),
        ({"users": ["u1"], "at": 1}, "at: mine reads no times; leave it out"),
        ({"users": [1]}, "users: 1 and its like are integers, but the user ids of this run are text"),
        ({}, "give users .* or histories"),
        ({"users": ["u1"], "histories": [["i01"]]}, "one of the two"),
        ({"histories": [[]]}, "history 0 is empty"),
        ({"histories": []}, "histories: none is given"),
        ({"histories": ["i01"]}, "must be a list for each history"),
        ({"histories": [["i01", "i99"], ["b"]]}, r"histories: the run has no item 'i99' \(nearest.*'b'"),
        ({"users": ["u1"], "candidates": ["i01", "zz"]}, "candidates: the run has no item 'zz'"),
        ({"users": ["u1"], "candidates": []}, "candidates: none is given"),
        ({"users": ["u1"], "block": ["zz"]}, "block: the run has no item 'zz'"),
        ({"users": ["u1"], "candidates": ["i01"], "block": ["i01"]}, "candidates: none is left"),
        ({"users": ["u1"], "k": 0}, "k=0: must be at least 1"),
        ({"users": ["u1"], "k": 2.5}, "k: 2.5 at position 0 is no integer"),
        ({"users": ["u1"], "k": True}, "k: True at position 0 is no integer"),
        ({"users": ["u1"], "seen": "zero"}, "seen='zero': must be"),
        ({"users": ["u1"], "cold": "zero"}, "cold='zero': must be"),
        ({"users": ["u1"], "times": [[1]]}, "times: belong to histories"),
    ],
)  # fmt: skip
def test_wrong_questions_are_refused(
    runs: dict[str, serve.Run], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        runs["sasrec"].stream(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": [["i01"]]}, "the model reads times: give those of each event"),
        ({"histories": ["i01"], "times": [[1]]}, "histories: must be a list for each"),
        ({"histories": [["i01"]], "times": [1]}, "times: must be a list for each"),
        ({"histories": [["i01"]], "times": [[1, 2]]}, "times: must be one number for each event"),
        ({"histories": [["i01"]], "times": [[1.5]]}, "times: 1.5 at position 0 is no integer"),
        ({"histories": [["i01"]], "times": [[50]], "at": 60.5}, "at: 60.5 at position 0 is no integer"),
        ({"histories": [["i01"]], "times": [[50]], "at": 40}, "at=40: history 0 has an event at 50, after"),
        ({"histories": [["i01", "i02"]], "times": [[9, 8]]}, "times of history 0 must ascend"),
        ({"users": ["u5"], "at": 10}, "at=10: history 0 has an event at"),
        ({"histories": [["i01"]], "times": [[-(2**31)]], "at": 2**31}, "68 years"),
    ],
)
def test_times_are_checked(runs: dict[str, serve.Run], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs["hstu"].stream(**arguments)


def test_the_time_of_the_question_changes_the_answer(runs: dict[str, serve.Run]) -> None:
    run = runs["hstu"]
    assert EVENTS.times is not None
    latest = int(EVENTS.times.max())
    (now,), (same,), (later,) = (run.recommend(["u2"], k=3, at=at) for at in (None, latest, 10**9))
    np.testing.assert_array_equal(now.scores, same.scores)
    assert not np.allclose(now.scores, later.scores)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    run = kept(MODULES["sasrec"])
    damaged = jax.tree.map(lambda array: np.full_like(array, np.nan), run.variables)
    write(tmp_path, run._replace(variables=damaged))
    with pytest.raises(ValueError, match="1 of 1 histories have scores that are NaN"):
        serve.load(tmp_path).recommend(["u1"])


def test_integer_ids_are_not_text(tmp_path: Path) -> None:
    vocabulary = {"item": np.arange(101, 101 + NUM_ITEMS), "user": np.arange(len(LENGTHS)) + 7}
    write(tmp_path, kept(MODULES["sasrec"], vocabulary=vocabulary))
    run = serve.load(tmp_path)
    (answer,) = run.recommend([7], k=2)
    assert (answer.items >= 101).all()
    with pytest.raises(ValueError, match=r"'007' and its like are text, but .* are integers, such as 7"):
        run.recommend(["007"])
    assert run.ids("user").from_text(["7", "8"]) == [7, 8]
    with pytest.raises(ValueError, match="'007', 'x': the user ids of this run are integers such as 7"):
        run.ids("user").from_text(["007", "x", "9"])
    for text in ("None", "-0", "٧", "7 ", "1_0", "7.0", ""):
        with pytest.raises(ValueError, match="the user ids of this run are integers such as 7"):
            run.ids("user").from_text([text])
    with pytest.raises(ValueError, match=r"the run has no user 70 \(nearest: 7\)"):
        run.recommend([70])
