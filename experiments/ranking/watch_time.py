"""Watch time: D2Q's quantiles within durations, logistic regression weighted by time, and plain regression.

    mean, duration-mean, item-mean    of the training watch times, the last two with one mean example added
    vr             squared error of the watch time itself
    wlr            impressions above the 60th percentile are positives, weighted by their time (Covington et
                   al., RecSys 2016, as Zhan et al. take it where nothing is clicked)
    wlr-exact      every impression is a positive and, once, a negative: odds are the mean watch time
    d2q-1          D2Q with one group, which ignores durations
    d2q, res-d2q   quantiles within groups of durations (Zhan et al., KDD 2022), the latter with a branch of
                   the duration alone

All models have one base, an MLP of the vectors of user, item and duration group. A row keeps the epoch of
best validation XAUC. `xauc_within` compares impressions of one duration group, where the duration is no help.

--dataset synthetic: durations, interest and their part in watch times are known
(`data.synthetic.watch_times`). Interest says nothing about durations, so within each the mean of the true
distribution function at predicted times is 1/2: `quantile_shift` is the largest distance from it,
`quantile_outside` the number of durations beyond their joint 95 % interval. `xauc/best` and `mae/best` are
those of an oracle that knows interest and durations and predicts the median.

--dataset steam: hours that users played games, split at random. Steam states no length of a game; the median
hours of its training players stand for it, the median of all where there are fewer than five.

Run:     python -m experiments.ranking.watch_time
Also:    --dataset steam
         --rows d2q --groups 10

Expect:  on the synthetic set (three seeds) D2Q and Res-D2Q have quantiles free of durations (none of ten
         outside, shift 0.03); with one group 5.7 of ten are outside (0.13), with regression 8.3 (0.12). D2Q
         has an XAUC of 0.839 and an error of 41.6 s, the oracle 0.845 and 39.9, regression and exact
         weighting 0.800 and 52.3 and 51.5, as the means of items (0.800, 51.6). On Steam Res-D2Q has an
         XAUC of 0.682, D2Q 0.681, with one group 0.680; weighted regression 0.664 and 0.660, regression
         0.659, the mean of a game's group 0.648; their errors are 42.6, 42.7, 43.4, 94.3, 55.2, 52.4 and
         60.9 hours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import numpy as np
import optax

from experiments import common
from experiments.ranking import watch_time_data
from experiments.ranking.watch_time_data import Setting
from jaxrec import config as command_line
from jaxrec import losses
from jaxrec.config import check_run
from jaxrec.data.synthetic.watch_times import watch_times
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.d2q import D2Q
from jaxrec.protocols import watch_time as protocol
from jaxrec.tasks import watch_time as tasks
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.fit import Fitted
from jaxrec.types import Task, Tested

EXPERIMENT = "watch_time"
SELECTION = "xauc"


@dataclasses.dataclass(frozen=True)
class Config(common.Options):
    """Counts or trains, and tests, the rows of the table."""

    dataset: Literal["synthetic", "steam"] = "synthetic"  # the data set
    num_examples: int = 100_000  # of the synthetic set
    data_seed: int = 0  # of the generator, and of the split
    groups: int = 30  # groups of durations, at most
    dim: int = 16  # width of the vectors of users, items and duration groups
    hidden_dims: tuple[int, ...] = (64, 32)  # layers between them and the output
    residual_dims: tuple[int, ...] = (16,)  # res-d2q: layers of the branch of the duration
    batch_size: int = 1024  # examples per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 30  # at most
    patience: int = 3  # epochs without better validation XAUC before a seed stops
    workdir: str = "runs/watch_time"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ALL)
        common.check(self, "num_examples", "groups", "dim", "batch_size", "epochs", "patience", "save_every")


def base(setting: Setting, config: Config) -> Featured:
    """An MLP of the vectors of user, item and duration group."""
    sizes = {"user": setting.num_users + 1, "item": setting.num_items + 1}
    sizes["duration_group"] = setting.data.groups.num_groups
    fields = tuple(Categorical(name, size, config.dim) for name, size in sizes.items())
    return Featured(FeatureEmbedding(fields), Tower(config.hidden_dims))


def regression(setting: Setting, config: Config) -> Task:
    """Squared error of the watch time."""
    return multitask(base(setting, config), [Target("watch_time", None, "watch_time", losses.squared_error)])


def wlr(setting: Setting, config: Config) -> Task:
    """Positives are above a percentile of the watch times."""
    return tasks.weighted_logistic(base(setting, config))


def wlr_exact(setting: Setting, config: Config) -> Task:
    """Every impression is watched."""
    return tasks.weighted_logistic(base(setting, config), watched="mask", exact=True)


def d2q(setting: Setting, config: Config, *, residual: bool = False) -> Task:
    """Quantiles within the groups of the data."""
    groups = setting.data.groups
    dims = config.residual_dims if residual else None
    module: nn.Module = D2Q(base(setting, config), groups.num_groups, len(groups.levels), dims)
    return tasks.d2q(module, groups)


class Row(NamedTuple):
    """A trained row: its task, and the number of groups; None: that of the configuration."""

    task: Callable[[Setting, Config], Task]
    loss: str
    groups: int | None = None


ROWS: Mapping[str, Row] = {
    "vr": Row(regression, "mse"),
    "wlr": Row(wlr, "weighted bce"),
    "wlr-exact": Row(wlr_exact, "weighted bce"),
    "d2q-1": Row(d2q, "mse of quantiles", groups=1),
    "d2q": Row(d2q, "mse of quantiles"),
    "res-d2q": Row(lambda setting, config: d2q(setting, config, residual=True), "mse of quantiles"),
}
FLOORS: Mapping[str, str | None] = {"mean": None, "duration-mean": "duration_group", "item-mean": "item"}
ALL = (*FLOORS, *ROWS)
TINY: Mapping[str, Any] = {"num_examples": 600, "epochs": 2, "batch_size": 64, "groups": 5, "dim": 4}


def load(config: Config, groups: int) -> Setting:
    """Impressions of a configuration with a number of groups of durations."""
    if config.dataset == "steam" and not config.tiny:
        return watch_time_data.steam_hours(groups, config.groups, seed=config.data_seed)
    small: dict[str, Any] = {"num_users": 10, "num_items": 12, "num_durations": 3} if config.tiny else {}
    made = watch_times(config.num_examples, seed=config.data_seed, **small)
    name = f"{'tiny-' if config.tiny else ''}synthetic-{config.num_examples}"
    return watch_time_data.synthetic(made, name, groups, config.groups, seed=config.data_seed)


def count(row: str, setting: Setting) -> Tested:
    """The test of a row that is not trained: a mean of the training watch times."""
    columns, by, batch = setting.data.columns, FLOORS[row], setting.data.test
    time = columns["watch_time"].astype(np.float64)
    mean = time.mean()
    if by is None:
        predicted = np.full(batch["user"].shape, mean)
    else:
        size = int(max(columns[by].max(), batch[by].max())) + 1
        total, number = (np.bincount(columns[by], weight, size) for weight in (time, None))
        predicted = ((total + mean) / (number + 1))[batch[by]]
    return watch_time_data.tested(predicted[None], setting)


def train(row: str, config: Config) -> tuple[Setting, Fitted, Tested]:
    """Trains a row for all seeds; returns what it read, the run and its test."""
    setting = load(config, ROWS[row].groups or config.groups)
    task = ROWS[row].task(setting, config)
    fitted = protocol.train(
        setting.data, task, SELECTION, optax.adam(config.learning_rate), epochs=config.epochs,
        batch_size=config.batch_size, patience=config.patience,
        **common.training_options(config, setting.data.name, row, row=row),
    )  # fmt: skip
    predicted = protocol.predict_test(setting.data, task, fitted.variables, num_devices=config.num_devices)
    return (
        setting,
        fitted,
        watch_time_data.tested(predicted, setting),
    )


def run(config: Config) -> None:
    """Counts or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    for row in config.rows or ALL:
        fitted = None
        if row in FLOORS:
            setting = load(config, config.groups)
            found = count(row, setting)
        else:
            setting, fitted, found = train(row, config)
        path = common.save(
            config.results, experiment=EXPERIMENT, dataset=setting.data.name, model=row, metrics=found,
            config=common.describe_settings(config), seeds=config.seeds[: len(found.metrics)], fitted=fitted,
            protocol=protocol.protocol(
                setting.data, SELECTION if fitted else "none", ROWS[row].loss if fitted else ""
            ),
        )  # fmt: skip
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
