"""Ratings with what is known of users and items, and each user's ratings as a support and a query set.

Users and items may be new, so a rating is read by its content, not by its ids. A state says which ratings
are of new users or of new items; a user's ratings of one state are a task (Lee et al., KDD 2019, 4.1).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.validation import check_dtype, check_ids, check_name


@dataclasses.dataclass(frozen=True, eq=False)
class RatedContent:
    """Ratings, and columns of what is known of their users and items. N ratings, U users, I items.

    user, item: ids from 1, int32 [N]. rating: float32 [N]. state: index into `states` of each rating, int8
    [N].
    users, items: {column: int32 [U + 1], or [U + 1, A] of sets of values}, by id; row 0, the padding, is
      zero. Values are 1..V, 0 is none; sets are padded with 0 in front.
    values: {column: raw values}; id v of a column is values[column][v - 1].
    user_ids, item_ids: raw ids, that of user u at u - 1.

    Raises:
      ValueError: an id out of range, a rating that is not finite, a column of another size, with an unknown
        value or an entry without any, or a name that stands for users and items.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    state: np.ndarray
    states: tuple[str, ...]
    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    user_ids: np.ndarray
    item_ids: np.ndarray

    def __post_init__(self) -> None:
        check_name(self.name)
        check_ids(self.user, len(self.user_ids), f"{self.name}: user")
        check_ids(self.item, len(self.item_ids), f"{self.name}: item")
        check_dtype(self.rating, np.float32, f"{self.name}: rating")
        sizes = {len(column) for column in (self.user, self.item, self.rating, self.state)}
        if len(sizes) > 1:
            raise ValueError(f"{self.name}: columns of {sorted(sizes)} ratings; all must have as many")
        bad = np.flatnonzero(~np.isfinite(self.rating))
        if bad.size:
            raise ValueError(
                f"{self.name}: rating {self.rating[bad[0]]} at position {bad[0]}: must be finite; remove it"
            )
        if self.state.size and not 0 <= self.state.min() <= self.state.max() < len(self.states):
            raise ValueError(
                f"{self.name}: states {self.state.min()}..{self.state.max()}: must index {self.states}"
            )
        both = sorted(set(self.users) & set(self.items))
        if both:
            raise ValueError(f"{self.name}: column {both[0]!r} is of users and of items; rename one")
        for kind, columns, ids in (("user", self.users, self.user_ids), ("item", self.items, self.item_ids)):
            for name, column in columns.items():
                self._check_column(kind, name, column, ids)

    def _check_column(self, kind: str, name: str, column: np.ndarray, ids: np.ndarray) -> None:
        where = f"{self.name}: column {name!r} of {kind}s"
        if name not in self.values:
            raise ValueError(f"{where}: has no raw values; give them in `values`")
        if column.dtype != np.int32 or column.ndim not in (1, 2) or len(column) != len(ids) + 1:
            raise ValueError(
                f"{where}: {column.dtype}{list(column.shape)}, expected int32 of {len(ids) + 1} rows, the "
                "padding id 0 first"
            )
        largest = len(self.values[name])
        if column.size and not 0 <= column.min() <= column.max() <= largest:
            raise ValueError(f"{where}: values {column.min()}..{column.max()}: must lie in 0..{largest}")
        if column[0].any():
            raise ValueError(f"{where}: the row of the padding id 0 holds {column[0].tolist()}: must be 0")
        known = column[1:] if column.ndim == 1 else column[1:].max(axis=1)
        empty = np.flatnonzero(known == 0)
        if empty.size:
            raise ValueError(
                f"{where}: {kind} {ids[empty[0]].item()!r} has no value ({empty.size:,} such {kind}s); give "
                "it one, such as 'N/A', or leave out its ratings"
            )

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    def state_index(self, state: str) -> int:
        """The number of a state; ValueError naming the nearest and all for an unknown one."""
        if state not in self.states:
            near = difflib.get_close_matches(str(state), self.states, n=1, cutoff=0.0)
            raise ValueError(
                f"state {state!r}: unknown (did you mean {near[0]!r}?); one of {', '.join(self.states)}"
            )
        return self.states.index(state)

    def content(self) -> dict[str, dict[str, np.ndarray]]:
        """The content columns for the device, {"items": …, "users": …}."""
        return {"items": dict(self.items), "users": dict(self.users)}


class UserTasks(NamedTuple):
    """Ratings of T users, each a support and a query set, padded with item 0 in front.

    user: ids, int32 [T]. support, query: items, int32 [T, S] and [T, Q]. support_rating, query_rating:
    float32 of the same shapes, 0 in padding. rule: how ratings were chosen.
    """

    user: np.ndarray
    support: np.ndarray
    support_rating: np.ndarray
    query: np.ndarray
    query_rating: np.ndarray
    rule: str = ""

    @property
    def num_tasks(self) -> int:
        return len(self.user)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name, without the rule."""
        return {name: column for name, column in self._asdict().items() if name != "rule"}

    def pick(self, tasks: np.ndarray, rule: str) -> UserTasks:
        """The tasks of these numbers."""
        return UserTasks(**{name: column[tasks] for name, column in self.columns().items()}, rule=rule)


def make_tasks(
    content: RatedContent,
    state: str,
    *,
    num_query: int = 10,
    least: int = 13,
    most: int = 100,
    seed: int | None = 0,
) -> UserTasks:
    """A task for each user with `least` to `most` ratings of a state: `num_query` are the query.

    seed: of the random choice of the query, as in the paper; None: the user's last ratings in file order.

    Raises:
      ValueError: an unknown state, limits that leave a user without support, or no user within them.
    """
    if num_query < 1 or least <= num_query:
        raise ValueError(
            f"least={least}, num_query={num_query}: must be num_query >= 1 and least > num_query, or a user "
            "would have no support"
        )
    if most < least:
        raise ValueError(f"most={most}: must be at least least={least}")
    rows = np.flatnonzero(content.state == content.state_index(state))
    count = np.bincount(content.user[rows], minlength=content.num_users + 1)
    fits = (count >= least) & (count <= most)
    if not fits.any():
        raise ValueError(
            f"{content.name}, state {state!r}: no user has {least} to {most} ratings; change least and most"
        )
    rows = rows[fits[content.user[rows]]]
    order = np.arange(rows.size) if seed is None else np.random.default_rng(seed).permutation(rows.size)
    rows = rows[np.lexsort((order, content.user[rows]))]
    users = np.flatnonzero(fits)
    ends = np.cumsum(count[users])
    left = np.repeat(ends, count[users]) - np.arange(rows.size)  # ratings of the user from here on, >= 1
    task = np.repeat(np.arange(users.size), count[users])
    width = int(count[users].max()) - num_query
    chosen = "the last of each user" if seed is None else f"of each user at random (seed {seed})"
    arrays: dict[str, Any] = {"user": users.astype(np.int32)}
    for name, size, at, of_set in (
        ("support", width, width + num_query - left, left > num_query),
        ("query", num_query, num_query - left, left <= num_query),
    ):
        arrays[name] = np.zeros((users.size, size), np.int32)
        arrays[f"{name}_rating"] = np.zeros((users.size, size), np.float32)
        place = task[of_set], at[of_set]
        arrays[name][place] = content.item[rows[of_set]]
        arrays[f"{name}_rating"][place] = content.rating[rows[of_set]]
    rule = f"{state}: users with {least} to {most} ratings, {num_query} {chosen} as query"
    return check_tasks(UserTasks(**arrays, rule=rule), content)


def check_tasks(tasks: UserTasks, content: RatedContent) -> UserTasks:
    """The tasks, whose arrays fit each other and the content.

    Raises:
      ValueError: no task, arrays of other shapes or types, an id out of range, a user without support or
        query, a rating that is not finite or stands where there is no item.
    """
    if not tasks.num_tasks:
        raise ValueError("tasks: there are none; at least one user is needed")
    check_ids(tasks.user, content.num_users, "tasks: user")
    for name in ("support", "query"):
        items, rating = getattr(tasks, name), getattr(tasks, f"{name}_rating")
        check_dtype(items, np.int32, f"tasks: {name}", ndim=2)
        check_dtype(rating, np.float32, f"tasks: {name}_rating", ndim=2)
        if items.shape != rating.shape or len(items) != tasks.num_tasks:
            raise ValueError(
                f"tasks: {name} {items.shape} and its ratings {rating.shape} of {tasks.num_tasks} users: "
                "must have one row a user and the same width"
            )
        if items.size and not 0 <= items.min() <= items.max() <= content.num_items:
            raise ValueError(
                f"tasks: {name}: items {items.min()}..{items.max()} are outside 0..{content.num_items:,}"
            )
        empty = np.flatnonzero(~(items != 0).any(axis=1))
        if empty.size:
            raise ValueError(
                f"tasks: user {content.user_ids[tasks.user[empty[0]] - 1].item()!r} has no {name} "
                f"({empty.size:,} such users); leave such users out"
            )
        if not np.isfinite(rating).all() or (rating[items == 0] != 0).any():
            raise ValueError(f"tasks: {name}_rating: must be finite, and 0 where there is no item")
    return tasks


def joined(parts: Sequence[UserTasks]) -> UserTasks:
    """Tasks behind each other, padded in front to the width of the widest; a user may stand there twice.

    Raises:
      ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("parts: there are none; at least one is needed")
    arrays = {"user": np.concatenate([part.user for part in parts])}
    for name in UserTasks._fields[1:5]:
        columns = [getattr(part, name) for part in parts]
        width = max(column.shape[1] for column in columns)
        arrays[name] = np.concatenate([np.pad(c, [(0, 0), (width - c.shape[1], 0)]) for c in columns])
    return UserTasks(**arrays, rule="; ".join(dict.fromkeys(part.rule for part in parts)))


def hold_out_users(tasks: UserTasks, share: float, *, seed: int = 0) -> tuple[UserTasks, UserTasks]:
    """The tasks of users for training, and of a random share of users for validation, at least one.

    Raises:
      ValueError: a share outside (0, 1), or fewer than two users.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: must be in (0, 1)")
    if tasks.num_tasks < 2:
        raise ValueError(f"{tasks.num_tasks} users: at least two are needed to hold one out")
    number = min(max(1, round(share * tasks.num_tasks)), tasks.num_tasks - 1)
    order = np.random.default_rng(seed).permutation(tasks.num_tasks)
    rule = f"{tasks.rule}; {number:,} users at random (seed {seed}) for validation"
    return tasks.pick(np.sort(order[number:]), rule), tasks.pick(np.sort(order[:number]), rule)


def format_ratings(content: RatedContent) -> str:
    """Statistics of ratings, their states and content, as text."""
    lines = [
        f"{content.name}: {content.num_users:,} users, {content.num_items:,} items, "
        f"{content.rating.size:,} ratings, mean {content.rating.mean(dtype=np.float64):.4f}"
    ]
    for number, state in enumerate(content.states):
        of_state = content.state == number
        lines.append(
            f"{state}: {np.unique(content.user[of_state]).size:,} users, "
            f"{np.unique(content.item[of_state]).size:,} items, {int(of_state.sum()):,} ratings"
        )
    for kind, columns in (("users", content.users), ("items", content.items)):
        parts = [f"{name} {len(content.values[name]):,}" for name in columns]
        lines.append(f"values of {kind}: {', '.join(parts)}")
    return "\n".join(lines)
