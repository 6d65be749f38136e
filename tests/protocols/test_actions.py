"""Events with actions: what the two questions are about, and the baseline of rates."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, get_args

import numpy as np
import optax
import pytest

from jaxrec.data.events.interactions import Interactions
from jaxrec.metrics import MISS
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.protocols import actions
from jaxrec.tasks.objectives import full_softmax
from jaxrec.types import Protocol
from tests.protocols.packed import rows_of_step

LIKED = (4, 5)
RNG = np.random.default_rng(0)
USER = RNG.integers(1, 31, 400)
ITEM, TIME = RNG.integers(1, 21, 400), RNG.permutation(400) + 40 * USER
ACTION = RNG.integers(1, 6, 400).astype(np.float32)
EVENTS = Interactions.from_raw("rated", USER, ITEM, TIME, ACTION)
DATA = actions.resident(EVENTS, positive=LIKED)


def events_by_user() -> list[list[tuple[int, int, int]]]:
    """Each user's events (time, item, action) in order."""
    assert EVENTS.time is not None and EVENTS.value is not None
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(EVENTS.num_users)]
    columns = (column.tolist() for column in (EVENTS.user, EVENTS.time, EVENTS.item, EVENTS.value))
    for user, time, item, value in zip(*columns, strict=True):
        found[user - 1].append((time, item, int(value)))
    return [sorted(events, key=lambda event: event[0]) for events in found]


def cuts() -> tuple[int, int]:
    assert EVENTS.time is not None
    return int(np.quantile(EVENTS.time, 0.8)), int(np.quantile(EVENTS.time, 0.9))


def test_every_later_event_is_a_query_and_the_positive_ones_are_retrieved() -> None:
    users = events_by_user()
    first, second = cuts()
    parts: tuple[tuple[actions.Part, int, int], ...] = (
        ("validation", first, second),
        ("test", second, 10**9),
    )
    for part, low, high in parts:
        want = [
            (user, number, item, action)
            for user, events in enumerate(users)
            for number, (time, item, action) in enumerate(events)
            if low <= time < high and number > 0
        ]
        assert len({user for user, *_ in want}) > 3
        queries = DATA.ranking[part]
        assert sorted(zip(*(c.tolist() for c in queries), strict=True)) == [w[:3] for w in want]
        assert actions.labels(DATA, part).tolist() == [float(w[3] in LIKED) for w in want]
        retrieved = getattr(DATA.retrieval.split, part)
        assert sorted(zip(*(c.tolist() for c in retrieved), strict=True)) == [
            w[:3] for w in want if w[3] in LIKED
        ]
    trained = [sum(time < first for time, _, _ in events) for events in users]
    assert DATA.columns["length"].tolist() == trained
    assert DATA.columns["actions"].tolist() == [action for events in users for _, _, action in events]
    assert DATA.num_actions == 5


def test_rates_are_those_of_the_item_in_training_and_of_the_user_so_far() -> None:
    users = events_by_user()
    first, _ = cuts()
    trained = [(item, action in LIKED) for events in users for time, item, action in events if time < first]
    average = np.mean([liked for _, liked in trained])

    def log_odds(liked: list[bool]) -> float:
        share = (sum(liked) + 5 * average) / (len(liked) + 5)
        return float(np.log(share / (1 - share)))

    queries, found = DATA.ranking["test"], actions.rates(DATA, "test")
    for user, length, target, score in itertools.islice(zip(*queries, found, strict=True), 40):
        item = [liked for other, liked in trained if other == target]
        so_far = [action in LIKED for _, _, action in users[user][:length]]
        want = log_odds(item) + log_odds(so_far) - np.log(average / (1 - average))
        assert score == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_metrics_of_log_odds_by_hand() -> None:
    scores, labels = np.array([2.0, -1.0, 0.5, -3.0], np.float32), np.array([1, 0, 0, 1], np.float32)
    found = actions.action_metrics(scores, labels)
    log_loss = np.mean(np.log1p(np.exp(-np.where(labels == 1, scores, -scores))))
    assert found == pytest.approx(
        {"auc": 0.5, "log_loss": log_loss, "normalized_entropy": log_loss / np.log(2)}, rel=1e-5
    )


@pytest.mark.parametrize("question", get_args(actions.Question))
def test_an_evaluation_has_a_value_for_every_query(question: actions.Question) -> None:
    """Queries of retrieval are in batches, those of ranking in windows, each once."""
    model = GenerativeHSTU(num_items=DATA.num_items, num_actions=5, dim=8, key_dim=8, value_dim=8, max_len=8)
    protocol = Protocol(ks=(10,)) if question == "retrieval" else Protocol(candidates="impressions", ks=())
    found = actions.evaluation(model, DATA, question, protocol, "test")
    assert found.protocol == protocol
    if question == "ranking":
        query = found.queries["query"]
        assert sorted(query[query >= 0].tolist()) == list(range(len(DATA.ranking["test"].user)))
        metrics = found.summarise(np.zeros(query.shape), found.queries)
        assert metrics["auc"] == 0.5
    else:
        mask = found.queries["mask"]
        pairs = {name: sorted(found.queries[name][mask].tolist()) for name in ("user", "length", "target")}
        test = DATA.retrieval.split.test
        assert pairs == {name: sorted(getattr(test, name).tolist()) for name in pairs}
        assert found.summarise(np.full(mask.shape, MISS), found.queries)["ndcg@10"] == 0


def test_packed_rows_hold_the_last_events_of_each_user() -> None:
    packed = actions.packing_of(DATA, 8, 16, num_devices=4)
    assert packed.width == 8 and packed.rows % 4 == 0
    assert actions.plan(DATA, 16, packed).num_steps == 2


def test_packed_rows_split_into_the_parts_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GenerativeHSTU(num_items=DATA.num_items, num_actions=5, dim=8, key_dim=8, value_dim=8, max_len=8)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 16, "num_devices": 2}

    def train(steps: int) -> Any:
        weights: Any = {"next_item": 1.0, "action": 1.0}
        asked = Protocol(ks=(10,))
        return actions.train(
            model,
            full_softmax(),
            DATA,
            weights,
            "retrieval",
            asked,
            optax.sgd(0.1),
            accumulate_steps=steps,
            **options,
        )

    whole, parts = (rows_of_step(monkeypatch, actions, functools.partial(train, steps)) for steps in (1, 7))
    assert whole % 14 and parts == -(-whole // 14) * 14


def replaced(**changes: Any) -> Interactions:
    return dataclasses.replace(EVENTS, **changes)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (lambda: replaced(value=ACTION - np.float32(0.5)), "rated: actions must be whole, from 1 on"),
        (lambda: replaced(value=ACTION - np.float32(1)), "rated: actions must be whole, from 1 on"),
        (lambda: replaced(value=None), "rated: times and actions are needed"),
        (lambda: replaced(time=None), "rated: times and actions are needed"),
    ],
)
def test_events_without_whole_actions_or_times_are_refused(events: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        actions.resident(events(), positive=LIKED)


def test_a_positive_action_that_no_event_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positive=\(4, 6\): must be actions, of which there are 1 to 5"):
        actions.resident(EVENTS, positive=(4, 6))
