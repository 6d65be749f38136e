"""Each user's ratings as a support and a query set: by hand, by a slow twin, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.synthetic.rated_content import rated_content
from jaxrec.data.tables.rating_tasks import (
    RatedContent,
    UserTasks,
    check_tasks,
    format_ratings,
    hold_out_users,
    joined,
    make_tasks,
)

CONTENT = rated_content(num_users=12, num_items=20, num_ratings=9)
TASKS = make_tasks(CONTENT, "warm", num_query=2, least=3)


def rated(content: RatedContent, user: int, state: str) -> list[tuple[int, float]]:
    rows = (content.user == user) & (content.state == content.states.index(state))
    return list(zip(content.item[rows].tolist(), content.rating[rows].tolist(), strict=True))


def of_task(tasks: UserTasks, task: int, part: str) -> list[tuple[int, float]]:
    items, rating = getattr(tasks, part)[task], getattr(tasks, f"{part}_rating")[task]
    return list(zip(items[items != 0].tolist(), rating[items != 0].tolist(), strict=True))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 3), num_query=st.integers(1, 3), more=st.integers(1, 3), wide=st.integers(0, 4),
    state=st.sampled_from(CONTENT.states[:3]),
)  # fmt: skip
def test_a_task_is_all_of_a_users_ratings_of_a_state(
    seed: int, num_query: int, more: int, wide: int, state: str
) -> None:
    least = num_query + more
    fits = [u for u in range(1, 13) if least <= len(rated(CONTENT, u, state)) <= least + wide]
    limits = {"num_query": num_query, "least": least, "most": least + wide, "seed": seed}
    if not fits:
        with pytest.raises(ValueError, match=f"no user has {least} to {least + wide} ratings"):
            make_tasks(CONTENT, state, **limits)
        return
    tasks = make_tasks(CONTENT, state, **limits)
    assert tasks.user.tolist() == fits
    for number, user in enumerate(fits):
        support, query = of_task(tasks, number, "support"), of_task(tasks, number, "query")
        assert sorted(support + query) == sorted(rated(CONTENT, user, state))
        assert len(query) == num_query
    assert (np.diff((tasks.support != 0).astype(int), axis=1) >= 0).all()  # padding stands in front


def test_without_a_seed_the_query_is_the_last_in_file_order() -> None:
    tasks = make_tasks(CONTENT, "warm", num_query=2, least=3, seed=None)
    for number, user in enumerate(tasks.user.tolist()):
        assert of_task(tasks, number, "support") + of_task(tasks, number, "query") == rated(
            CONTENT, user, "warm"
        )


def test_two_seeds_choose_other_queries_of_the_same_users() -> None:
    other = make_tasks(CONTENT, "warm", num_query=2, least=3, seed=1)
    assert other.user.tolist() == TASKS.user.tolist()
    assert (other.query != TASKS.query).any()
    assert "(seed 1)" in other.rule and other.rule.startswith("warm: users with 3 to 100 ratings, 2 of each")


def test_held_out_users_are_no_users_of_training() -> None:
    train, validation = hold_out_users(TASKS, 0.3, seed=2)
    assert sorted([*train.user, *validation.user]) == TASKS.user.tolist()
    assert validation.num_tasks == round(0.3 * TASKS.num_tasks)
    for part in (train, validation):
        for number, user in enumerate(part.user):
            at = TASKS.user.tolist().index(user)
            assert of_task(part, number, "query") == of_task(TASKS, at, "query")
    few = hold_out_users(TASKS.pick(np.arange(2), ""), 1e-9)
    assert [part.num_tasks for part in few] == [1, 1]


def test_joined_tasks_are_padded_in_front() -> None:
    wide = make_tasks(CONTENT, "warm", num_query=3, least=4, most=5)
    whole = joined([wide, TASKS])
    assert whole.num_tasks == wide.num_tasks + TASKS.num_tasks
    assert whole.support.shape[1] == max(wide.support.shape[1], TASKS.support.shape[1])
    for part, first in ((wide, 0), (TASKS, wide.num_tasks)):
        for number in range(part.num_tasks):
            for name in ("support", "query"):
                assert of_task(whole, first + number, name) == of_task(part, number, name)
    with pytest.raises(ValueError, match="parts: there are none"):
        joined([])


def test_statistics_in_words() -> None:
    lines = format_ratings(CONTENT).splitlines()
    assert lines[0].startswith("rated-content-12x20: 12 users, 20 items, 108 ratings, mean ")
    assert [line.split(":")[0] for line in lines[1:5]] == list(CONTENT.states)
    assert lines[5:] == ["values of users: group 3, place 8", "values of items: class 3, tag 6"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"state": "user-cald"}, r"state 'user-cald': unknown \(did you mean 'user-cold'\?\); one of warm, "),
        ({"least": 2}, "least=2, num_query=2: must be num_query >= 1 and least > num_query"),
        ({"num_query": 0}, "num_query=0"),
        ({"most": 3, "least": 5}, "most=3: must be at least least=5"),
        ({"least": 50}, "no user has 50 to 100 ratings; change least and most"),
    ],
)
def test_bad_limits_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_tasks(CONTENT, **{"state": "warm", "num_query": 2, "least": 3, **arguments})


def without(name: str, task: int) -> dict[str, np.ndarray]:
    changed = {part: getattr(TASKS, part).copy() for part in (name, f"{name}_rating")}
    for column in changed.values():
        column[task] = 0
    return changed


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (without("support", 1), r"user 'u\d+' has no support \(1 such users\); leave such users out"),
        (without("query", 0), "has no query"),
        ({"user": TASKS.user + 100}, "tasks: user: "),
        ({"query": TASKS.query + 20}, "tasks: query: items 21.* are outside 0..20"),
        ({"query": TASKS.query.astype(np.int64)}, "tasks: query: int64"),
        ({"support_rating": TASKS.support_rating * np.float32("nan")}, "support_rating: must be finite"),
        ({"support_rating": TASKS.support_rating + 1}, "and 0 where there is no item"),
        ({"query_rating": TASKS.query_rating[:, :1]}, "must have one row a user and the same width"),
        ({name: column[:0] for name, column in TASKS.columns().items()}, "tasks: there are none"),
    ],
)
def test_bad_tasks_are_refused(changes: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_tasks(TASKS._replace(**changes), CONTENT)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_bad_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        hold_out_users(TASKS, share)
    with pytest.raises(ValueError, match="1 users: at least two"):
        hold_out_users(TASKS.pick(np.arange(1), ""), 0.5)


def changed_row(columns: Any, name: str, row: int, value: int) -> dict[str, np.ndarray]:
    column = columns[name].copy()
    column[row] = value
    return {**columns, name: column}


NAN = np.where(np.arange(CONTENT.rating.size) == 5, np.float32("nan"), CONTENT.rating)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"items": changed_row(CONTENT.items, "tag", 4, 0)},
            "column 'tag' of items: item .*4.* has no value",
        ),
        (
            {"users": changed_row(CONTENT.users, "group", 3, 0)},
            "column 'group' of users: user 'u3' has no value",
        ),
        ({"items": changed_row(CONTENT.items, "class", 4, 9)}, r"values 0\.\.9: must lie in 0\.\.3"),
        ({"items": changed_row(CONTENT.items, "class", 0, 1)}, "the row of the padding id 0 holds 1"),
        ({"items": {"class": CONTENT.items["class"][1:]}}, "expected int32 of 21 rows"),
        ({"items": {**CONTENT.items, "year": CONTENT.items["class"]}}, "'year' of items: has no raw values"),
        ({"items": {**CONTENT.items, "group": CONTENT.items["class"]}}, "'group' is of users and of items"),
        ({"rating": NAN}, "rating nan at position 5: must be finite"),
        ({"rating": CONTENT.rating[1:]}, "all must have as many"),
        ({"state": CONTENT.state + np.int8(1)}, r"states 1\.\.\d: must index"),
        ({"item": CONTENT.item + np.int32(20)}, r"rated-content-12x20: item: "),
    ],
)
def test_bad_content_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(CONTENT, **changes)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"share_new": 1.0}, r"share_new=1\.0"),
        ({"num_ratings": 30, "num_items": 20}, "num_ratings=30"),
        ({"num_users": 0}, "num_users=0"),
    ],
)
def test_bad_sizes_of_made_up_ratings_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        rated_content(**arguments)
