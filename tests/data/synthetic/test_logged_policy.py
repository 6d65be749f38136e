"""Logs of a policy, and the value of another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.logged_policy import logged_policy


def test_logs_follow_the_policy_and_the_rewards() -> None:
    made = logged_policy(40_000, num_contexts=3, num_actions=4)
    for context in range(3):
        here = made.context == context
        share = np.bincount(made.action[here], minlength=4) / here.sum()
        np.testing.assert_allclose(share, made.logging[context], atol=4 * 0.5 / np.sqrt(here.sum()))
        for action in range(4):
            shown = here & (made.action == action)
            error = np.sqrt(made.rewards[context, action] / shown.sum())
            assert abs(made.reward[shown].mean() - made.rewards[context, action]) < 4 * error
    np.testing.assert_allclose(made.reward.mean(), made.logged_value, atol=0.01)


def test_the_value_is_that_of_the_target_policy() -> None:
    made = logged_policy(10, num_contexts=2, num_actions=3)
    want = np.mean([made.target[x] @ made.rewards[x] for x in range(2)])
    assert np.isclose(made.value, want)
    assert made.value > made.logged_value
    for policy in (made.target, made.logging):
        np.testing.assert_allclose(policy.sum(axis=1), 1.0)
        assert (policy > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_rows": 0}, "num_rows=0: must be at least 1"),
        ({"skill": -1.0}, "skill=-1.0: must be at least 0"),
        ({"exploration": float("inf")}, "exploration=inf: must be at least 0 and finite"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logged_policy(**change)
