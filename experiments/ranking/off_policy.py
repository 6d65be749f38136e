"""Off-policy evaluation: the click rate of Thompson sampling from the logs of a random policy.

The samples of the Open Bandit Dataset (Saito et al., arXiv:2008.07146) hold what a uniform random policy and
Bernoulli Thompson sampling (BTS) showed in one week. From the random logs alone the value of BTS, its click
rate of an item shown, is estimated, and compared with the mean click of BTS's own logs (on-policy), which has
an interval too. BTS's probabilities of an item at a position are counted in draws from the Beta
distributions that it began with; within the week it learns, which no estimator here follows.

    on-policy   the mean click of BTS's own logs
    logged      the mean click of the random logs, which ignores the policy
    direct      a model of the click rate: each item's, shrunken towards the mean; fitted on the other half
    ips, snips  inverse propensities, plain and self-normalised
    dr          doubly robust, with the model of `direct`

--dataset synthetic (`data.synthetic.logged_policy`): the true value is known and stands for on-policy; the
model of `direct` knows actions and no contexts, so that it is wrong.

Metrics: `value`, `standard_error`, `low` and `high` (95 %), `effective_rows` (what the weights leave of the
rows), and `off`: the distance from the on-policy value in standard errors of the difference.

Run:     python -m experiments.ranking.off_policy
Also:    --campaigns men women; --dataset synthetic

Expect:  with the defaults and --campaigns all men women SNIPS and DR
         have the on-policy value within their 95 % intervals for each campaign; IPS misses it for "men" by
         0.00004. The intervals are wide: 10,000 random rows have 38 to 46 clicks and are worth 1,644 to 2,480
         rows under BTS. For "all" DR says 0.0048 with a standard error of 0.0021, on-policy 0.0042 (0.0006).
         For "men" the logs' own mean (0.0046) and the model (0.0049) are 2.2 and 2.4 standard errors below
         on-policy (0.0069), and DR (0.0046) is 1.6.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import common
from jaxrec import config as command_line
from jaxrec import metrics
from jaxrec.config import check_run
from jaxrec.data.sources import open_bandit
from jaxrec.data.synthetic.logged_policy import logged_policy
from jaxrec.metrics import Estimate
from jaxrec.types import Protocol

EXPERIMENT = "off_policy"
ROWS = ("on-policy", "logged", "direct", "ips", "snips", "dr")
TINY: Mapping[str, Any] = {"num_rows": 500, "draws": 1_000}


@dataclasses.dataclass(frozen=True)
class Config(common.Options):
    """Estimates the value of a policy in every way."""

    dataset: Literal["open-bandit", "synthetic"] = "open-bandit"  # the logs; --tiny takes synthetic ones
    campaigns: tuple[str, ...] = ("all",)  # of the Open Bandit Dataset: all, men, women
    seeds: tuple[int, ...] = (0,)  # of the halves that the model is fitted on, of draws and of synthetic logs
    num_rows: int = 10_000  # rows of synthetic logs
    draws: int = 100_000  # draws of BTS, in which its probabilities are counted
    prior_rows: float = 100.0  # rows of the mean click rate that are added to each item's
    max_weight: float = 0.0  # weights above it are cut off; 0: none are

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check(self, "num_rows", "draws")
        common.check_untrained(self)
        for campaign in self.campaigns:
            common.check_choice("campaigns", campaign, open_bandit.CAMPAIGNS)
        for name, value in (("prior_rows", self.prior_rows), ("max_weight", self.max_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must be at least 0 and finite")


class Logs(NamedTuple):
    """Logs, and the policy to value.

    action, cell: what was shown and where (a position, or a context), [N]; reward, propensity: [N]. target:
    probabilities of the policy, [cells, actions]. truth: its value, and the standard error of that.
    """

    name: str
    action: np.ndarray
    cell: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray
    target: np.ndarray
    truth: Estimate


def thompson(alpha: np.ndarray, beta: np.ndarray, *, positions: int, draws: int, seed: int) -> np.ndarray:
    """How often each item is at each position when the largest drawn rates are shown: [positions, items]."""
    rng = np.random.default_rng(seed)
    found = np.zeros((positions, len(alpha)))
    for start in range(0, draws, 10_000):
        rates = rng.beta(alpha, beta, (min(10_000, draws - start), len(alpha)))
        best = np.argsort(-rates, axis=1)[:, :positions]
        for position in range(positions):
            found[position] += np.bincount(best[:, position], minlength=len(alpha))
    return found / draws


def load(config: Config, campaign: str, seed: int) -> Logs:
    """Random logs and BTS, or synthetic logs and their target policy."""
    if config.dataset == "synthetic" or config.tiny:
        made = logged_policy(config.num_rows, seed=seed)
        logged = made.logging[made.context, made.action]
        truth = Estimate(jnp.float32(made.value), jnp.float32(0.0))
        name = f"{'tiny-' if config.tiny else ''}synthetic-{config.num_rows}"
        return Logs(name, made.action, made.context, made.reward, logged, made.target, truth)
    log, own = (open_bandit.load(policy, campaign) for policy in ("random", "bts"))
    alpha, beta = open_bandit.load_prior(campaign)
    target = thompson(alpha, beta, positions=open_bandit.NUM_POSITIONS, draws=config.draws, seed=seed)
    truth = metrics.direct(jnp.asarray(own.click))
    name = f"open-bandit-{campaign}"
    return Logs(name, log.item - 1, log.position - 1, log.click, log.propensity, target, truth)


def fitted_rates(logs: Logs, *, seed: int, prior_rows: float) -> np.ndarray:
    """Predicted rewards of all actions for each row, by the other half of the rows: [N, actions]."""
    half = np.random.default_rng(seed).permutation(len(logs.action)) % 2
    found = np.empty((2, logs.target.shape[1]))
    for number in range(2):
        read = half != number
        action, reward = logs.action[read], logs.reward[read].astype(np.float64)
        total, count = (np.bincount(action, weight, found.shape[1]) for weight in (reward, None))
        found[number] = (total + prior_rows * reward.mean()) / np.maximum(count + prior_rows, 1e-9)
    return found[half]


def estimates(logs: Logs, *, seed: int, prior_rows: float, max_weight: float) -> dict[str, Estimate]:
    """Every row of the table."""
    of_policy = logs.target[logs.cell]  # [N, actions]
    rates = fitted_rates(logs, seed=seed, prior_rows=prior_rows)
    shown = np.arange(len(logs.action)), logs.action
    reward, predicted = jnp.asarray(logs.reward), jnp.asarray(rates[shown])
    expected = jnp.asarray((of_policy * rates).sum(axis=1))
    weight = weights(logs, max_weight)
    return {
        "on-policy": logs.truth,
        "logged": metrics.direct(reward),
        "direct": metrics.direct(expected),
        "ips": metrics.ips(reward, weight),
        "snips": metrics.snips(reward, weight),
        "dr": metrics.doubly_robust(reward, weight, predicted, expected),
    }


def weights(logs: Logs, max_weight: float) -> jnp.ndarray:
    """The policy's probability of what was shown over the propensity, [N]."""
    target = logs.target[logs.cell, logs.action]
    maximum = max_weight or None
    return metrics.importance_weights(jnp.asarray(target), jnp.asarray(logs.propensity), maximum=maximum)


def measured(found: Estimate, logs: Logs, rows: float) -> dict[str, float]:
    """An estimate as the metrics of a row."""
    low, high = found.interval()
    spread = math.hypot(float(found.error), float(logs.truth.error))
    off = abs(float(found.value) - float(logs.truth.value))
    return {
        "value": float(found.value),
        "standard_error": float(found.error),
        "low": float(low),
        "high": float(high),
        "off": off / spread if spread else 0.0,
        "effective_rows": rows,
    }


def run(config: Config) -> None:
    """Estimates and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    campaigns = config.campaigns if config.dataset == "open-bandit" and not config.tiny else ("",)
    for campaign in campaigns:
        run_one(campaign, config)


def run_one(campaign: str, config: Config) -> None:
    """Estimates and stores every row of a campaign."""
    found: dict[str, list[dict[str, float]]] = {row: [] for row in config.rows or ROWS}
    for seed in config.seeds:
        logs = load(config, campaign, seed)
        number = float(len(logs.action))
        left = float(metrics.effective_size(weights(logs, config.max_weight)))
        of_seed = estimates(logs, seed=seed, prior_rows=config.prior_rows, max_weight=config.max_weight)
        for row, of_row in found.items():
            rows = left if row in ("ips", "snips", "dr") else number
            of_row.append(measured(of_seed[row], logs, rows))
    protocol = Protocol(
        split=f"logs of another policy, {logs.name}", candidates="impressions", seen="keep", ks=(),
        selection="none",
    )  # fmt: skip
    for row, of_row in found.items():
        path = common.save(
            config.results, experiment=EXPERIMENT, dataset=logs.name, model=row, protocol=protocol,
            config=common.describe_settings(config, left_out=("campaigns",)), seeds=config.seeds,
            metrics=of_row, baseline=False,
        )  # fmt: skip
        print(f"{logs.name} {row}: {common.means(of_row)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
