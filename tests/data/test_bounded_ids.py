"""A bounded table of ids does what a dict would, batch by batch, and goes on from its file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data import bounded_ids
from jaxrec.data.bounded_ids import Rules


class Twin:
    """The same rules with dicts, one raw id after the other."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.clock = rules, 0
        self.row: dict[int, int] = {}
        self.count: dict[int, int] = {}  # of rows
        self.seen: dict[int, int] = {}
        self.waiting: dict[int, list[int]] = {}  # raw -> count, seen

    def observe(self, raw: list[int]) -> tuple[list[int], list[int]]:
        renewed = []
        for value, times in Counter(raw).items():
            if value in self.row:
                row = self.row[value]
                self.count[row] += times
                self.seen[row] = self.clock
            else:
                self.waiting.setdefault(value, [0, 0])
                self.waiting[value][0] += times
                self.waiting[value][1] = self.clock
        ready = [v for v, (n, at) in self.waiting.items() if n >= self.rules.admit_after and at == self.clock]
        for value in sorted(ready, key=lambda v: (-self.waiting[v][0], v)):
            given = self.find(self.waiting[value][0])
            if given is None:
                break
            self.row = {v: r for v, r in self.row.items() if r != given} | {value: given}
            self.count[given], self.seen[given] = self.waiting.pop(value)
            renewed.append(given)
        if len(self.waiting) > self.rules.waiting:
            kept = sorted(self.waiting, key=lambda v: (-self.waiting[v][1], v))[: self.rules.waiting]
            self.waiting = {v: self.waiting[v] for v in kept}
        self.clock += 1
        return [self.row.get(v, self.rules.capacity + 1) for v in raw], sorted(renewed)

    def find(self, count: int) -> int | None:
        """A free row, else that of the one to evict, else None."""
        free = [row for row in range(1, self.rules.capacity + 1) if row not in self.seen]
        if free:
            return free[0]
        may = [row for row, at in self.seen.items() if at != self.clock]
        if self.rules.evict == "oldest":
            return min(may, key=lambda row: (self.seen[row], row), default=None)
        rarest = min(may, key=lambda row: (self.count[row], self.seen[row], row), default=None)
        return rarest if rarest is not None and self.count[rarest] < count else None


STREAM = st.lists(st.lists(st.integers(-3, 12), max_size=8), min_size=1, max_size=12)


@given(
    stream=STREAM,
    capacity=st.integers(1, 5),
    admit_after=st.integers(1, 3),
    evict=st.sampled_from(["oldest", "rarest"]),
    waiting=st.sampled_from([2, 100]),
)
@settings(max_examples=200, deadline=None)
def test_every_batch_is_encoded_as_by_a_dict(
    stream: list[list[int]], capacity: int, admit_after: int, evict: Any, waiting: int
) -> None:
    rules = Rules(capacity, admit_after, evict, waiting)
    state, twin = bounded_ids.start(rules), Twin(rules)
    for raw in stream:
        before = state
        frozen = [np.copy(part) for part in before]
        state, seen = bounded_ids.observe(rules, before, np.array(raw, np.int64))
        ids, renewed = twin.observe(raw)
        assert seen.ids.tolist() == ids and seen.ids.dtype == np.int32
        assert seen.renewed.tolist() == renewed
        assert all(np.array_equal(a, b) for a, b in zip(before, frozen, strict=True))  # a pure function
        rows, raws = bounded_ids.decode(rules, state)
        assert dict(zip(raws.tolist(), rows.tolist(), strict=True)) == twin.row
        assert len(rows) <= capacity and len(state.waiting_raw) <= waiting


def test_a_popular_newcomer_takes_the_row_of_the_rarest() -> None:
    rules = Rules(capacity=2, admit_after=2, evict="rarest")
    state = bounded_ids.start(rules)
    for raw in ([10**12] * 5, [7] * 2, [8]):
        state, seen = bounded_ids.observe(rules, state, raw)
    assert seen.ids.tolist() == [bounded_ids.unknown(rules)] and not len(seen.renewed)  # came once
    state, seen = bounded_ids.observe(rules, state, [[8, 8], [10**12, 9]])
    assert seen.ids.tolist() == [[2, 2], [1, 3]] and seen.renewed.tolist() == [2]
    assert bounded_ids.encode(rules, state, [7, 8, 10**12]).tolist() == [3, 2, 1]


def test_a_stored_state_goes_on_with_the_same_ids(tmp_path: Path) -> None:
    rules = Rules(capacity=8, admit_after=2, evict="rarest", waiting=20)
    rng = np.random.default_rng(0)
    batches = [rng.zipf(1.5, 16) for _ in range(30)]
    state, direct = bounded_ids.start(rules), []
    for number, raw in enumerate(batches):
        if number == 11:
            bounded_ids.save(tmp_path / "a" / "ids.npz", rules, state)
        state, seen = bounded_ids.observe(rules, state, raw)
        direct.append(seen.ids.tolist())
    state, after = bounded_ids.load(tmp_path / "a" / "ids.npz", rules), []
    for raw in batches[11:]:
        state, seen = bounded_ids.observe(rules, state, raw)
        after.append(seen.ids.tolist())
    assert after == direct[11:]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["ids.npz"]


def test_files_of_other_rules_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    rules = Rules(capacity=3)
    bounded_ids.save(tmp_path / "ids.npz", rules, bounded_ids.start(rules))
    with pytest.raises(ValueError, match=r"stored with Rules\(capacity=3.*this run has Rules\(capacity=4"):
        bounded_ids.load(tmp_path / "ids.npz", Rules(capacity=4))
    (tmp_path / "ids.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no readable table of bounded ids"):
        bounded_ids.load(tmp_path / "ids.npz", rules)


@pytest.mark.parametrize(
    "rules",
    [Rules(0), Rules(1, 0), Rules(1, waiting=0), Rules(1, evict="newest")],  # type: ignore[arg-type]
)
def test_wrong_rules_are_refused(rules: Rules) -> None:
    with pytest.raises(ValueError, match="must be"):
        bounded_ids.start(rules)


def test_raw_ids_are_integers() -> None:
    rules = Rules(2)
    with pytest.raises(ValueError, match="raw ids"):
        bounded_ids.observe(rules, bounded_ids.start(rules), [1.5])
