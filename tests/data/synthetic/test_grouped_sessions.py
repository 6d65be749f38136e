"""Generated sessions within groups of items."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.synthetic.grouped_sessions import grouped_sessions


def test_sessions_stay_within_a_group() -> None:
    """A click is of its session's group with probability 1 - noise + noise / num_groups."""
    log = grouped_sessions(2000, num_groups=4, noise=0.2)
    group = (log.items - 1) // 10
    within = log.event_users[1:] == log.event_users[:-1]
    stay = (group[1:] == group[:-1])[within].mean()
    own = 1 - 0.2 + 0.2 / 4
    assert stay == pytest.approx(own**2 + (1 - own) ** 2 / 3, abs=0.02)
    assert set(np.unique(log.items)) == set(range(1, 41))
