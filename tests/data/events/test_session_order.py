"""Sessions with adjacent repeats have the same clicks, and every prefix is tested."""

from __future__ import annotations

import itertools

import pytest

from jaxrec.data.events.session_order import repeats_together
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.sources.session_logs import arrays_from_lists


def grouped(row: list[int]) -> bool:
    """Whether equal items stand side by side."""
    return len(list(itertools.groupby(row))) == len(set(row))


def test_reordered_sessions_hold_the_same_clicks_and_ask_every_prefix() -> None:
    lists_of = [[1, 2, 1, 3, 2, 1], [4, 4, 5, 4], [2, 3], [6, 1, 6, 5, 1]]
    asked = [(row[:cut], row[cut]) for row in lists_of for cut in range(len(row) - 1, 0, -1)]
    lists = arrays_from_lists(lists_of, ([p for p, _ in asked], [t for _, t in asked]), "made")
    before = Sessions.from_arrays("made", **lists)
    firsts = set()
    for seed in range(20):
        found = repeats_together(before, seed)
        assert found.test.lengths.tolist() == before.test.lengths.tolist()
        at = 0
        for row, session in enumerate(lists_of):
            for part in (found.train.user_items(row), found.test.user_items(at)):
                assert sorted(part.tolist()) == sorted(session)
                assert grouped(part.tolist())
            whole = found.test.user_items(at).tolist()
            for cut in range(len(session), 1, -1):  # a prefix and its target
                assert found.test.user_items(at).tolist() == whole[:cut]
                at += 1
        firsts.add(int(found.train.user_items(0)[0]))
    assert firsts == {1, 2, 3}  # items come in random order
    for seed in range(5):
        found = repeats_together(before, seed, fixed=True)
        rows = [found.train.user_items(row).tolist() for row in range(len(lists_of))]
        rows += [found.test.user_items(at).tolist() for at in range(found.test.num_users)]
        assert all(grouped(row) for row in rows)
        pairs = {(a, b) for row in rows for a, b in itertools.combinations(row, 2) if a != b}
        assert not any((b, a) in pairs for a, b in pairs)  # 1 and 2, 1 and 3, ... stand in one order in all


@pytest.mark.parametrize("prefixes", [[[1, 2], [3, 4]], [[1], [3, 4]]])
def test_sessions_whose_prefixes_are_not_all_there_are_refused(prefixes: list[list[int]]) -> None:
    """The second prefix is cut from another session, or shorter ones of its session are missing."""
    found = Sessions.from_arrays("made", **arrays_from_lists([[1, 2, 3, 4, 5]], (prefixes, [3, 5]), "made"))
    with pytest.raises(ValueError, match="not all prefixes"):
        repeats_together(found)


def test_rows_of_two_sessions_are_not_taken_for_one() -> None:
    """Lengths go down by one as those of one session do, the clicks are another's."""
    prefixes = ([[1, 2], [3]], [4, 5])
    found = Sessions.from_arrays("made", **arrays_from_lists([[1, 2, 3, 4, 5]], prefixes, "made"))
    with pytest.raises(ValueError, match="is not a prefix of the longer one"):
        repeats_together(found)
