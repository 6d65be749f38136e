"""Logs of the Open Bandit Dataset: their form, and what the samples hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data import store
from jaxrec.data.sources import open_bandit

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"


def test_a_row_is_what_was_shown() -> None:
    log = open_bandit.parse(HEADER + "0,t,4,2,1,0.25,a\n1,t,0,3,0,1e-06,b\n", "file")
    assert (log.item.tolist(), log.position.tolist(), log.click.tolist()) == ([5, 1], [2, 3], [1.0, 0.0])
    assert log.propensity.tolist() == [0.25, 1e-06] and log.num_items == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,position,click\n", "file: has no column 'propensity_score'"),
        (HEADER, "file: has no row"),
        (HEADER + "0,t,4,2,1,x,a\n", "file, line 2: propensity_score 'x' is not a number"),
        (HEADER + "0,t,4,2,1\n", "file, line 2: propensity_score '' is not a number"),
        (HEADER + "0,t,1_0,2,1,0.5,a\n", "file, line 2: item_id '1_0' is not a number"),  # float: 10
        (HEADER + "0,t,inf,2,1,0.5,a\n", "line 2: expected item_id"),
        (HEADER + "0,t,3000000000,2,1,0.5,a\n", "line 2: expected item_id"),  # beyond int32
        (HEADER + "0,t,4,2,1,0.1,a\n1,t,4,0,1,0.1,a\n", "line 3: expected position in 1..3"),
        (HEADER + "0,t,4,2,1,0,a\n", r"line 2: expected propensity_score in \(0, 1\]"),
        (HEADER + "0,t,4,2,2,0.5,a\n", "line 2: expected click, 0 or 1"),
        (HEADER + "0,t,-1,2,0,0.5,a\n", "line 2: expected item_id"),
    ],
)
def test_a_file_of_another_form_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_bandit.parse(text, "file")


@pytest.mark.parametrize("names", [("ts", "all"), ("bts", "kids")])
def test_an_unknown_sample_is_refused(names: Any) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        open_bandit.load(*names)


@pytest.mark.parametrize(("campaign", "num_items"), [("all", 80), ("men", 34), ("women", 46)])
def test_the_samples_hold_what_they_say(campaign: str, num_items: int) -> None:
    """The random policy is uniform, and both policies show every item of the prior."""
    if store.file_state(open_bandit.FILES["random", campaign]) == "to download":
        pytest.skip("the obp wheel has not been downloaded")
    alpha, beta = open_bandit.load_prior(campaign)
    assert len(alpha) == len(beta) == num_items and (alpha > 0).all() and (beta > 0).all()
    random, bts = (open_bandit.load(policy, campaign) for policy in open_bandit.POLICIES)
    assert len(random.click) == len(bts.click) == 10_000
    np.testing.assert_allclose(random.propensity, 1 / num_items)
    assert random.num_items == bts.num_items == num_items
    assert 30 <= random.click.sum() <= 50 and bts.click.sum() >= 42
