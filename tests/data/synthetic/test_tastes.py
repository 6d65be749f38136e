"""Users who like groups of items."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.synthetic.tastes import group_tastes


def test_each_user_has_different_items_mostly_of_two_groups() -> None:
    found = group_tastes(num_users=200, num_groups=5, group_size=12, num_items=8, noise=0.1)
    share = []
    for user in range(200):
        items = found.user_items(user)
        assert len(set(items.tolist())) == 8
        share.append(np.sort(np.bincount((items - 1) // 12, minlength=5))[-2:].sum() / 8)
    assert 0.85 < np.mean(share) < 0.99
    assert group_tastes(seed=1).items.tolist() == group_tastes(seed=1).items.tolist()


def test_too_many_items_are_refused() -> None:
    with pytest.raises(ValueError, match="num_items=13: must be 1 to group_size=12"):
        group_tastes(num_items=13)
