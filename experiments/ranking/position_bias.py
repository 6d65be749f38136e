"""Position bias: PAL, a shallow tower, the position as a feature, and models that ignore it.

In the synthetic impressions (`data.synthetic.positions`) a policy puts items in order of what attracts, so
position and attraction go together, and the curve of examination is known. With --world examination a
position's factor is on the probability of a click, as in PAL (Guo et al., RecSys 2019); with --world logit it
is on the odds, as in the shallow tower (Zhao et al., RecSys 2019). Models learn from clicks where they
happened; the test asks for clicks at the logged positions (`click`), and for what is served without one:
whether an item attracts (`attracted`).

    base-rate      one click rate for all
    click-rates    the click rate of each item, and that of each position as the curve
    no-position    the model alone
    position-as-feature    one more feature, served at --served-at
    pal            probability of being seen · probability of a click on what is seen
    shallow-tower  a weight of the position is added to the logit; a tenth of the positions is left out in
                   training, so that a missing one is nothing new
    shallow-tower-all    the same with all positions

The curve of a model is what a position does to its probability of a click (or the log odds), over the
test impressions, each set at every position. `curve_error` is the largest distance of log curves,
`curve_outside` the number of positions whose distance is beyond the margin: the joint 95 % interval of an
efficient estimate from as many training impressions. auc/best is that of an oracle that knows the true
attraction. A row keeps the epoch of lowest validation log loss of clicks.

Departs from the papers: synthetic data, so there are no published numbers; the base is a linear model of an
item's and a group's vector, or an MLP with --hidden-dims.

Run:     python -m experiments.ranking.position_bias
Also:    --world logit
         --rows position-as-feature --served-at 9

Expect:  with the defaults (three seeds) PAL finds the curve of --world
         examination (no position outside, `curve_error` 0.16) and ranks what attracts by an AUC of 0.729,
         where the oracle has 0.732 and the model without positions 0.713. In --world logit the shallow tower
         with all positions and the position as a feature find theirs (none outside, 0.16 and 0.14), PAL does
         not (all nine outside). Leaving out positions in training costs the shallow tower two of nine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from experiments.ranking import position_curves
from jaxrec import config as command_line
from jaxrec import metrics
from jaxrec.config import check_run
from jaxrec.data.synthetic.positions import Displayed, displayed
from jaxrec.nn.layers.dropout import across_devices, counter_bits
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.pal import PAL, PositionAsFeature, Positioned, ShallowTower, Unpositioned
from jaxrec.protocols import impressions
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train import parallel
from jaxrec.train.evaluate import impression_metrics
from jaxrec.train.per_user import keep_impressions
from jaxrec.types import Tested

EXPERIMENT = "position_bias"
CLICK = Target("click", "observed", "label/click")
ATTRACTED = Target("attracted", "ctr", "label/attracted")
NAMES = (CLICK.name, ATTRACTED.name)
FLOORS = tuple(position_curves.FLOORS)
SELECTION = "log_loss/click"


@dataclasses.dataclass(frozen=True)
class Config(common.Options):
    """Counts or trains, and tests, the rows of the table."""

    world: Literal["examination", "logit"] = "examination"  # what a position changes: probability or odds
    num_lists: int = 10_000  # lists of impressions; a tenth each for validation and test
    num_items: int = 50  # items, of which lists are drawn
    num_positions: int = 10  # impressions of a list
    decay: float = 1.0  # the curve is 1 / position^decay
    placement: float = 1.0  # how well the logging policy knows what attracts
    data_seed: int = 0  # of the generator: all runs have the same impressions
    dim: int = 8  # width of the vectors of items, groups and positions
    hidden_dims: tuple[int, ...] = ()  # layers between them and the logit
    served_at: int = 1  # position-as-feature: the position that is served
    batch_size: int = 1024  # examples per step
    learning_rate: float = 1e-2  # of Adam
    epochs: int = 30  # at most
    patience: int = 5  # epochs without a lower validation loss before a seed stops
    workdir: str = "runs/position_bias"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ALL)
        common.check(self, "num_lists", "dim", "batch_size", "epochs", "patience", "save_every")
        if not 1 <= self.served_at <= self.num_positions:
            raise ValueError(
                f"served_at={self.served_at}: must lie in 1..{self.num_positions} (num_positions)"
            )


def base(config: Config, *, position: bool = False) -> Featured:
    """A model of the item and the user's group and, if asked for, of the position."""
    sizes = {"item": config.num_items, "group": NUM_GROUPS}
    sizes |= {"position": config.num_positions} if position else {}
    fields = tuple(Categorical(name, size + 1, config.dim) for name, size in sizes.items())
    return Featured(FeatureEmbedding(fields), Tower(config.hidden_dims))


def shallow(config: Config, dropout: float = 0.1) -> nn.Module:
    """The shallow tower; positions that it does without are drawn by each device."""
    bits = across_devices(counter_bits, parallel.axis_name(config.num_devices))
    return Positioned(ShallowTower(base(config), config.num_positions, dropout=dropout, bits=bits))


NUM_GROUPS, TRAINED = 5, 0.8
ROWS: Mapping[str, Callable[[Config], nn.Module]] = {
    "no-position": lambda config: Unpositioned(base(config)),
    "position-as-feature": lambda config: PositionAsFeature(base(config, position=True), config.served_at),
    "pal": lambda config: Positioned(PAL(base(config), config.num_positions)),
    "shallow-tower": shallow,
    "shallow-tower-all": lambda config: shallow(config, dropout=0.0),
}
ALL = (*FLOORS, *ROWS)
TINY: Mapping[str, Any] = {"num_lists": 200, "num_items": 12, "num_positions": 4, "epochs": 2}


class Setting(NamedTuple):
    """The impressions as they are trained on, and with their answer; the oracle's AUC in the test part."""

    data: impressions.Data
    made: Displayed
    best: float


def load(config: Config) -> Setting:
    """Impressions of a configuration; the last lists validate and test."""
    made = displayed(
        config.num_lists, num_items=config.num_items, num_groups=NUM_GROUPS,
        num_positions=config.num_positions, decay=config.decay, placement=config.placement,
        additive=config.world == "logit", seed=config.data_seed,
    )  # fmt: skip
    tenth = max(config.num_lists // 10, 1) * config.num_positions
    train, test = len(made.attraction) - 2 * tenth, len(made.attraction) - tenth

    def batched(start: int) -> dict[str, np.ndarray]:
        part = {name: column[start : start + tenth][None] for name, column in made.columns.items()}
        return {**part, "mask": np.ones((1, tenth), bool)}

    data = impressions.Data(
        name=f"{'tiny-' if config.tiny else ''}{config.world}-{config.num_lists}",
        rule=f"lists 80/10/10; {config.num_lists:,} lists of {config.num_positions}",
        tasks=NAMES, regression=(), spaces=(),
        columns={name: column[:train] for name, column in made.columns.items()},
        validation=batched(train), test=batched(test),
    )  # fmt: skip
    label = made.columns["label/attracted"][test:]
    return Setting(data, made, float(metrics.auc(jnp.asarray(made.attraction[test:]), jnp.asarray(label))))


def add_curves(tested: Tested, log_curves: np.ndarray, setting: Setting) -> Tested:
    """A test with metrics of the curves [S, K], and without the mean AUC of two different questions."""
    of_seeds = [
        {name: value for name, value in found.items() if name != "auc"}
        | {"auc/best": setting.best}
        | position_curves.distance(log_curve, setting.made, share=TRAINED)
        for found, log_curve in zip(tested.metrics, log_curves, strict=True)
    ]
    return tested._replace(metrics=of_seeds)


def count(row: str, setting: Setting) -> Tested:
    """The test of a floor, which has one seed."""
    test, of = setting.data.test, position_curves.FLOORS[row]
    logits, log_curve = of(setting.data.columns, test, setting.made)
    found = impression_metrics(NAMES, calibration=True)(logits[None], test)
    kept = keep_impressions(NAMES)(logits[None, None], test)
    return add_curves(Tested([found], kept), log_curve[None], setting)


def train(row: str, setting: Setting, config: Config) -> tuple[Any, Tested]:
    """Trains a row for all seeds; returns the run and its test."""
    task = multitask(ROWS[row](config), [CLICK])
    fitted = impressions.train(
        setting.data, task, [CLICK], SELECTION, optax.adam(config.learning_rate),
        epochs=config.epochs, batch_size=config.batch_size, patience=config.patience,
        lower_is_better=True, **common.training_options(config, setting.data.name, row, row=row),
    )  # fmt: skip
    found = impressions.run_test(
        setting.data, task, [CLICK, ATTRACTED], fitted.variables, calibration=True,
        num_devices=config.num_devices,
    )  # fmt: skip
    log_curves = position_curves.of_task(task, fitted.variables, setting.data.test, setting.made)
    return fitted, add_curves(found, log_curves, setting)


def run(config: Config) -> None:
    """Counts or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    setting = load(config)
    for row in config.rows or ALL:
        fitted, found = (None, count(row, setting)) if row in FLOORS else train(row, setting, config)
        path = common.save(
            config.results, experiment=EXPERIMENT, dataset=setting.data.name, model=row,
            config=common.describe_settings(config), metrics=found, fitted=fitted,
            seeds=config.seeds[: len(found.metrics)],
            protocol=impressions.protocol(
                setting.data, SELECTION if fitted else "none", "bce" if fitted else ""
            ),
        )  # fmt: skip
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
