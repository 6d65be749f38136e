"""Metrics besides hits against a slow twin that makes every list by a sort, and where they have limits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from jaxrec import baselines
from jaxrec.data.events.batching import batched_queries
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Split, leave_one_out, split_by_time
from jaxrec.protocols import Beyond, actions, next_item, sessions
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Protocol, Ranks, Retriever
from tests.baselines import small

NUM_ITEMS, NUM_USERS = 11, 12
MODEL = Retriever(
    query=lambda variables, queries, context: variables["users"][queries["user"]],
    items=lambda variables: variables["items"],
)


def sequences() -> Sequences:
    """Items 1 to 9; a user's last item is the tenth, which training never sees, and nobody meets the last."""
    rng = np.random.default_rng(4)
    rows = [rng.integers(1, 10, rng.integers(4, 10)).tolist() for _ in range(NUM_USERS)]
    rows[0][-1] = 10
    times = [(10 * np.arange(len(row))).tolist() for row in rows]
    return Sequences.from_lists("made", rows, times, num_items=NUM_ITEMS)


SEQUENCES = sequences()
LAST = next_item.resident(leave_one_out(SEQUENCES))
BY_TIME = next_item.resident(split_by_time(SEQUENCES, 30, 50, targets="first"))
GROUPS = {"even": np.arange(NUM_USERS) % 2 == 0, "nobody": np.zeros(NUM_USERS, bool)}
FEATURES = np.random.default_rng(5).normal(size=(NUM_ITEMS + 1, 3)).astype(np.float32)
WHOLE = Beyond(ks=(3, 20), lengths=(3, 5), groups=GROUPS)  # lists of 20 have all items that there are


def variables() -> dict[str, np.ndarray]:
    """Two seeds; small whole numbers, so that products are exact and many scores tie."""
    rng = np.random.default_rng(6)
    shapes = {"users": (2, NUM_USERS, 2), "items": (2, NUM_ITEMS + 1, 2)}
    return {name: rng.integers(-1, 2, shape).astype(np.float32) for name, shape in shapes.items()}


# --- the slow twin ---


def mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


@dataclasses.dataclass
class Query:
    user: int
    before: list[int]
    relevant: set[int]
    target: int
    rank: float
    ids: list[int]


def slow_queries(split: Split, beyond: Beyond, protocol: Protocol, found: Mapping[str, Any]) -> list[Query]:
    made = []
    for user, length, target in zip(*split.test, strict=True):
        items = split.sequences.user_items(int(user)).tolist()
        before, rest = items[:length], items[length:]
        relevant = set(rest) if beyond.relevant == "rest" else {int(target)}
        scores = found["items"] @ found["users"][user]
        ids = [i for i in range(1, NUM_ITEMS + 1) if protocol.seen == "keep" or i not in before]
        rivals = sum(scores[i] >= scores[target] for i in ids if i != target)
        rank = 1 + rivals if target in ids else math.inf
        ids.sort(key=lambda i: (-scores[i], i in relevant, i))
        made.append(Query(int(user), before, relevant, int(target), rank, ids))
    return made


def users_of_items(split: Split) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {i: set() for i in range(1, NUM_ITEMS + 1)}
    for user, row in training_rows(split).items():
        for item in row:
            found[item].add(user)
    return found


def training_rows(split: Split) -> dict[int, list[int]]:
    return {
        user: split.sequences.user_items(user)[: split.train_length[user]].tolist()
        for user in range(NUM_USERS)
        if split.train_length[user]
    }


def slow_tastes(split: Split, head: set[int]) -> dict[str, set[int]]:
    share = {user: mean(i in head for i in row) for user, row in training_rows(split).items()}
    ordered, size = sorted(share.values()), math.ceil(0.2 * len(share))
    low, high = ordered[size - 1], ordered[-size]
    assert low < high
    niche = {u for u, s in share.items() if s <= low}
    blockbuster = {u for u, s in share.items() if s >= high}
    return {"niche": niche, "diverse": set(share) - niche - blockbuster, "blockbuster": blockbuster}


def of_ranks(queries: list[Query], k: int) -> dict[str, float]:
    ranks = [query.rank for query in queries]
    found = {
        f"hit@{k}": mean(rank <= k for rank in ranks),
        f"ndcg@{k}": mean(1 / math.log2(1 + rank) if rank <= k else 0.0 for rank in ranks),
        "mrr": mean(1 / rank for rank in ranks),
    }
    missed = mean(rank == math.inf for rank in ranks)
    return found | ({"seen_targets": missed} if missed else {})


def slow_accuracy(queries: list[Query], k: int, place: Mapping[int, int]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for query in queries:
        hits = [int(i in query.relevant) for i in query.ids[:k]]
        size = len(query.relevant)
        gain = sum(h / math.log2(j + 2) for j, h in enumerate(hits))
        precisions = sum(sum(hits[: j + 1]) / (j + 1) for j, h in enumerate(hits) if h)
        surprise = sum(max(place[i] - j - 1, 0) for j, i in enumerate(query.ids[:k]) if hits[j])
        values = {
            "precision": sum(hits) / k,
            "recall": sum(hits) / size,
            "ndcg": gain / sum(1 / math.log2(j + 2) for j in range(min(k, size))),
            "map": precisions / min(k, size),
            "serendipity": surprise / (NUM_ITEMS * k),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: mean(values) for name, values in found.items()}


def slow(split: Split, beyond: Beyond, protocol: Protocol, found: Mapping[str, Any]) -> dict[str, float]:
    queries, met = slow_queries(split, beyond, protocol, found), users_of_items(split)
    number = len(training_rows(split))
    popularity = {item: len(users) / number for item, users in met.items()}
    known = [i for i in sorted(met, key=lambda i: (-len(met[i]), i)) if met[i]]
    head = set(known[: math.ceil(0.2 * NUM_ITEMS)])
    ordered = sorted({len(users) for users in met.values()}, reverse=True)
    place = {i: 1 + ordered.index(len(users)) if users else NUM_ITEMS + 1 for i, users in met.items()}
    tastes = slow_tastes(split, head)

    def distance(i: int, j: int) -> float:
        if beyond.features is not None:
            a, b = beyond.features[i], beyond.features[j]
            return 1 - float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        both = len(met[i] & met[j])
        return 1 - both / math.sqrt(len(met[i]) * len(met[j])) if both else 1.0

    expected = {name: value for k in protocol.ks for name, value in of_ranks(queries, k).items()}
    for k in beyond.ks:
        ending = "_rest" if beyond.relevant == "rest" else ""
        for name, value in slow_accuracy(queries, k, place).items():
            expected.setdefault(f"{name}{ending}@{k}", value)
        lists = [query.ids[:k] for query in queries]
        counts = np.array([Counter(itertools.chain(*lists))[i] for i in range(1, NUM_ITEMS + 1)])
        pairs = np.abs(counts[:, None] - counts[None]).mean()
        bits = {i: -math.log2(max(len(met[i]), 1) / number) for i in met}
        expected |= {
            f"coverage@{k}": mean(counts > 0),
            f"gini@{k}": pairs / (2 * counts.mean()),
            f"novelty@{k}": mean(mean(bits[i] for i in ids) for ids in lists),
            f"popularity@{k}": mean(mean(popularity[i] for i in ids) for ids in lists),
            f"tail_share@{k}": mean(mean(i not in head for i in ids) for ids in lists),
            f"diversity@{k}": mean(
                mean(distance(i, j) for i, j in itertools.permutations(ids, 2)) for ids in lists
            ),
        }
        for name, users in {"": set(range(NUM_USERS)), **tastes}.items():
            of = [query for query in queries if query.user in users]
            if of:
                now = mean(mean(popularity[i] for i in query.ids[:k]) for query in of)
                past = mean(mean(popularity[i] for i in query.before) for query in of)
                expected[f"popularity_lift@{k}{'/' if name else ''}{name}"] = now / past - 1
    slices: dict[str, Callable[[Query], bool]] = {
        "head": lambda query: query.target in head,
        "tail": lambda query: query.target not in head and bool(met[query.target]),
        "cold": lambda query: not met[query.target],
        "length_0-3": lambda query: len(query.before) <= 3,
        "length_4-5": lambda query: 4 <= len(query.before) <= 5,
        "length_6+": lambda query: len(query.before) >= 6,
        "even": lambda query: query.user % 2 == 0,
        "nobody": lambda query: False,
    }
    for name, users in tastes.items():
        slices[name] = lambda query, users=users: query.user in users  # type: ignore[misc]
    for name, belongs in slices.items():
        of = [query for query in queries if belongs(query)]
        expected[f"share/{name}"] = len(of) / len(queries)
        if of:
            expected |= {f"{m}/{name}": v for m, v in of_ranks(of, max(beyond.ks)).items()}
    return expected


# --- tests ---


def measured(
    data: next_item.Data, beyond: Beyond, protocol: Protocol, **options: Any
) -> list[dict[str, float]]:
    return next_item.test(MODEL, data, protocol, variables(), beyond=beyond, **options)


@pytest.mark.parametrize(
    ("data", "beyond", "seen"),
    [
        (LAST, WHOLE, "exclude"),
        (LAST, dataclasses.replace(WHOLE, features=FEATURES), "keep"),
        (BY_TIME, dataclasses.replace(WHOLE, relevant="rest"), "exclude"),
        (BY_TIME, dataclasses.replace(WHOLE, relevant="rest"), "keep"),
    ],
)
def test_all_numbers_are_those_of_the_slow_twin(data: next_item.Data, beyond: Beyond, seen: str) -> None:
    protocol = Protocol(seen=seen, ks=(3,))
    ours = measured(data, beyond, protocol)
    assert ours[0] != ours[1]
    for seed, found in enumerate(ours):
        of_seed = {name: array[seed] for name, array in variables().items()}
        assert found == pytest.approx(slow(data.split, beyond, protocol, of_seed), rel=1e-5, abs=1e-6)


def test_with_one_relevant_item_the_metrics_of_lists_are_those_of_its_rank() -> None:
    (found, _) = measured(LAST, Beyond(), Protocol(ks=(2, 5), seen="keep"))
    for k in (2, 5):
        assert found[f"recall@{k}"] == pytest.approx(found[f"hit@{k}"])
        assert found[f"precision@{k}"] == pytest.approx(found[f"hit@{k}"] / k)
    without = next_item.test(MODEL, LAST, Protocol(ks=(2, 5), seen="keep"), variables())[0]
    assert without.items() <= found.items()


def test_lists_keep_the_ranks_that_are_kept_without_them() -> None:
    kept, alone = (
        next_item.run_test(MODEL, LAST, Protocol(ks=(2,)), variables(), beyond=beyond).values
        for beyond in (Beyond(), None)
    )
    assert isinstance(kept, Ranks)
    assert isinstance(alone, Ranks)
    for ours, expected in zip(kept, alone, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert kept.rank.shape == (2, len(LAST.split.test.user))


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_change_no_number(num_devices: int) -> None:
    """Three batches, the last with masked queries, to which devices add batches that are all masked."""
    queries = batched_queries(LAST.split.test, 5, num_items=NUM_ITEMS)
    asked = next_item.evaluation(MODEL, LAST, Protocol(ks=(3,)), "test", beyond=WHOLE)._replace(
        queries=queries
    )
    one = evaluate(asked, variables(), LAST.columns)
    assert evaluate(asked, variables(), LAST.columns, num_devices=num_devices) == one
    for found, whole in zip(one, measured(LAST, WHOLE, Protocol(ks=(3,))), strict=True):
        assert found == pytest.approx(whole, rel=1e-6)


def test_who_has_met_all_items_has_an_empty_list_that_is_counted() -> None:
    rows = [[1, 2, 3, 1], [1, 2, 2, 3], [2, 1, 2, 1]]  # the first has met all, the last one item less
    data = next_item.resident(leave_one_out(Sequences.from_lists("made", rows, num_items=3)))
    model = baselines.popularity(data)
    found = next_item.test(model, data, Protocol(), model.for_seeds([0]), beyond=Beyond(ks=(2,)))[0]
    assert found["empty_lists"] == pytest.approx(1 / 3)
    assert found["coverage@2"] == pytest.approx(1 / 3)  # the third item, twice
    assert "diversity@2" not in found  # no list has two items


def test_the_first_item_alone_has_no_diversity() -> None:
    found = measured(LAST, Beyond(ks=(1, 2)), Protocol())[0]
    assert "diversity@2" in found and "diversity@1" not in found
    assert "novelty@1" in found


def test_next_clicks_have_the_same_metrics_and_keep_those_of_their_ranks() -> None:
    data = small.session_data()
    baseline, protocol = baselines.item_knn(data), sessions.protocol(data.split, "", "none")
    plain = sessions.test(baseline, data, protocol, baseline.for_seeds([0]))[0]
    found = sessions.test(baseline, data, protocol, baseline.for_seeds([0]), beyond=Beyond(ks=(3,)))[0]
    assert plain.items() <= found.items()
    queries = small.session_queries(data)
    scores = small.scores(baseline, queries, data.columns)
    lists = []
    for row, target in zip(scores, queries["target"].tolist(), strict=True):
        lists.append(sorted(range(1, small.NUM_ITEMS + 1), key=lambda i: (-row[i - 1], i == target, i))[:3])
    assert found["coverage@3"] == pytest.approx(len(set(itertools.chain(*lists))) / small.NUM_ITEMS)
    assert found["share/niche"] == 0.0  # of a test session training knows no taste
    assert found["recall@3/tail"] <= 1.0 and found["share/head"] + found["share/tail"] <= 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ks": (5, 0)}, "each must be at least 1"),
        ({"relevant": "all"}, "relevant='all': must be 'next' or 'rest'"),
        ({"head": 0.0}, "share=0.0"),
        ({"lengths": (9, 3)}, "must ascend"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Beyond(**wrong)


@pytest.mark.parametrize(
    ("beyond", "protocol", "message"),
    [
        (Beyond(features=FEATURES[1:]), Protocol(), r"features: of shape \(11, 3\): must be \[12, D\]"),
        (Beyond(features=np.full((12, 3), np.nan)), Protocol(), "features: an item has one that is NaN"),
        (Beyond(groups={"few": np.ones(3, bool)}), Protocol(), r"groups: 'few' must be bool \[12\]"),
        (Beyond(groups={"tail": GROUPS["even"]}), Protocol(), "groups: 'tail' is the name of another slice"),
        (Beyond(), Protocol(seen="zero"), "rank with 'exclude' or 'keep'"),
        (Beyond(), Protocol(candidates="sampled-3"), "lists are of all items"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(beyond: Beyond, protocol: Protocol, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next_item.evaluation(MODEL, LAST, protocol, "test", beyond=beyond)


def test_the_rest_of_a_history_is_asked_of_test_queries_of_users_alone() -> None:
    rest, data = Beyond(relevant="rest"), small.session_data()
    with pytest.raises(ValueError, match="may be test targets"):
        next_item.evaluation(MODEL, LAST, Protocol(), "validation", beyond=rest)
    of = sessions.protocol(data.split, "", "none")
    with pytest.raises(ValueError, match="test prefixes end in their target"):
        sessions.evaluation(baselines.popularity(data), data, of, sessions.queries(data, "test"), beyond=rest)


@pytest.mark.parametrize(
    ("question", "beyond", "message"),
    [
        ("ranking", Beyond(), "question='ranking': makes no lists"),
        ("retrieval", Beyond(relevant="rest"), "later events need not be positive"),
    ],
)
def test_of_actions_only_the_next_item_has_lists(question: Any, beyond: Beyond, message: str) -> None:
    nothing: Any = None  # is refused before the model or the data are read
    with pytest.raises(ValueError, match=message):
        actions.evaluation(nothing, nothing, question, Protocol(), "test", beyond=beyond)
