"""Logs of a policy that shows actions at random, and the true value of another one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class LoggedPolicy(NamedTuple):
    """N rows of a log and the truth. X contexts, A actions.

    context, action: from 0, int32 [N]; reward: 0 or 1, float32 [N]. logging, target: probabilities of actions
    in each context, float64 [X, A]. rewards: expected ones, float64 [X, A]. value: of the target policy, over
    contexts that are all as likely.
    """

    context: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    rewards: np.ndarray
    value: float

    @property
    def logged_value(self) -> float:
        """The value of the logging policy."""
        return float((self.logging * self.rewards).sum(axis=1).mean())


def logged_policy(
    num_rows: int = 10_000,
    *,
    num_contexts: int = 10,
    num_actions: int = 20,
    skill: float = 1.0,
    exploration: float = 1.0,
    seed: int = 0,
) -> LoggedPolicy:
    """A log of a policy that prefers bad actions a little, and a target policy that prefers good ones.

    The logit of an action's expected reward is normal, of mean -2. Both policies are a softmax of it, the
    target's times `skill`, the logging policy's times -skill / (1 + exploration), so that all actions have a
    positive propensity.

    Raises:
      ValueError: a count is below 1, or skill or exploration is negative or not finite.
    """
    counts = {"num_rows": num_rows, "num_contexts": num_contexts, "num_actions": num_actions}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    for name, value in (("skill", skill), ("exploration", exploration)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value}: must be at least 0 and finite")
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2.0, 1.0, (num_contexts, num_actions))
    rewards = 1 / (1 + np.exp(-logits))
    target, logging = _softmax(skill * logits), _softmax(-skill / (1 + exploration) * logits)
    context = rng.integers(0, num_contexts, num_rows)
    uniform = rng.random(num_rows)
    action = (uniform[:, None] > np.cumsum(logging, axis=1)[context][:, :-1]).sum(axis=1)
    reward = rng.random(num_rows) < rewards[context, action]
    return LoggedPolicy(
        context=context.astype(np.int32),
        action=action.astype(np.int32),
        reward=reward.astype(np.float32),
        logging=logging,
        target=target,
        rewards=rewards,
        value=float((target * rewards).sum(axis=1).mean()),
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
