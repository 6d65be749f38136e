"""Every published setting makes a baseline, named as its row."""

from __future__ import annotations

import pytest

from jaxrec.baselines.published import NCF_MOVIELENS_1M, Setting
from tests.baselines import small
from tests.baselines.test_matrix_knn import ROWS


@pytest.mark.parametrize(("name", "setting"), NCF_MOVIELENS_1M.items())
def test_a_setting_makes_a_baseline(name: str, setting: Setting) -> None:
    baseline = setting.make(small.events_of(ROWS))
    assert name.startswith(baseline.name)
    assert all(0 < value < 1 for value in setting.metrics.values())
    assert "arXiv:" in setting.source
