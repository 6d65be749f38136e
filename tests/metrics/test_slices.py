"""Groups of items and users, by hand; ties, empty groups."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec import metrics


@pytest.mark.parametrize(
    ("share", "expected"), [(0.2, [2]), (0.4, [2, 1]), (0.41, [2, 1, 3]), (1.0, [1, 2, 3])]
)
def test_the_head_is_a_share_of_all_items_and_never_one_that_nobody_met(
    share: float, expected: list[int]
) -> None:
    """Five items; of the equally popular 1 and 3 the smaller id comes first, and 4 and 5 have no users."""
    head = metrics.head_items(np.array([99, 4, 7, 4, 0, 0]), share=share)
    assert np.flatnonzero(head).tolist() == sorted(expected)


@pytest.mark.parametrize(("share", "number"), [(0.07, 100), (0.14, 50), (0.28, 25), (0.55, 20), (0.2, 35)])
def test_a_share_that_is_whole_is_not_rounded_up(share: float, number: int) -> None:
    """0.07 · 100 is 7.000000000000001 in floating point."""
    head = metrics.head_items(np.arange(number + 1), share=share)
    assert head.sum() == round(share * number)


def test_a_catalogue_without_users_has_no_head() -> None:
    assert not metrics.head_items(np.zeros(4)).any()


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share="):
        metrics.head_items(np.ones(3), share=share)


def test_tastes_are_fifths_at_both_ends_with_ties_and_leave_out_users_without_events() -> None:
    share_of_head = np.array([0.1, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, np.nan])
    groups = metrics.tastes(share_of_head)  # ten users: two at each end
    assert np.flatnonzero(groups["niche"]).tolist() == [0, 1]
    assert np.flatnonzero(groups["blockbuster"]).tolist() == [8, 9]
    assert np.flatnonzero(groups["diverse"]).tolist() == [2, 3, 4, 5, 6, 7]
    tied = metrics.tastes(np.array([0.0, 0.0, 0.0, 0.5, 1.0]))  # one user, and who ties with it
    assert np.flatnonzero(tied["niche"]).tolist() == [0, 1, 2]


def test_where_all_users_are_alike_they_are_diverse_and_no_user_is_in_no_group() -> None:
    groups = metrics.tastes(np.full(5, 0.5))
    assert {name: int(of.sum()) for name, of in groups.items()} == {
        "niche": 0, "diverse": 5, "blockbuster": 0
    }  # fmt: skip
    assert not any(of.any() for of in metrics.tastes(np.array([np.nan])).values())


def test_lengths_are_in_exactly_one_slice_with_limits_included() -> None:
    groups = metrics.by_length(np.array([0, 1, 3, 4, 9, 10]), limits=(0, 3, 9))
    assert {name: np.flatnonzero(of).tolist() for name, of in groups.items()} == {
        "length_0-0": [0],
        "length_1-3": [1, 2],
        "length_4-9": [3, 4],
        "length_10+": [5],
    }
    assert list(metrics.by_length(np.array([4]), limits=())) == ["length_0+"]


@pytest.mark.parametrize("limits", [(5, 5), (9, 3), (-1,)])
def test_limits_that_do_not_ascend_are_refused(limits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        metrics.by_length(np.zeros(1, int), limits=limits)
