"""Conversions that arrive days after their click, on generated clicks of known probability.

At day `now` a model is trained on what is known by then, in the order in which it became known, in one pass;
it is tested on the clicks of the days after, by whether they convert at all. The probability depends on
campaign, site and price, the rate of the exponential delay on the campaign; --drift changes probabilities.

    base-rate      no model: the share of conversions seen by now
    oracle         each click with its conversion however late: what cannot be had
    naive          each click as it is seen now: without a conversion yet it is a negative
    window         clicks of the last `window` days are left out, conversions after a window are not counted
    vanilla        a stream: each click is a negative at once, and each conversion a positive when it comes
    fnw, fnc       the same stream with weights, or with predictions corrected (Ktena et al., RecSys 2019)
    fsiw           as naive, with weights by the time since the click (Yasui et al., WWW 2020)
    es-dfm         a stream in which clicks wait a quarter of a day, with weights (Yang et al., AAAI 2021)
    dfm            as naive, with the likelihood of probability and delay (Chapelle, KDD 2014)

The weights of fsiw and es-dfm are made by models of their own, of conversions known by the same day, as means
over the seeds. All rows have the same tower over the same features. These data have no published numbers.

Run:     python -m experiments.ranking.delayed_feedback
Also:    --drift 2; --mean-delay 1; --rows naive dfm fsiw --order shuffled

Expect:  (three seeds) es-dfm, fnw and dfm are next to the oracle: AUC 0.8365, 0.8355, 0.8348
         and 0.8357, log loss 0.466, 0.468, 0.468 and 0.466, with biases of at most 0.016. naive predicts 0.12
         of the true rate, since its last steps see negatives alone; shuffled it has 0.93. fsiw has 0.831,
         shuffled 0.835: the largest weights are those of the last clicks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from experiments import common
from jaxrec import config as command_line
from jaxrec import losses
from jaxrec.config import check_run
from jaxrec.data.synthetic.delayed_feedback import DelayedClicks, delayed_clicks
from jaxrec.data.tables import conversions as examples
from jaxrec.data.tables.conversions import Conversions, Examples
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.ranking.delayed_feedback import DelayedFeedback
from jaxrec.protocols import conversions, impressions
from jaxrec.tasks import delayed_feedback as tasks
from jaxrec.types import Array, Task

EXPERIMENT = "delayed_feedback"
TINY: Mapping[str, Any] = {"num_clicks": 2_000, "batch_size": 64, "dims": (8,)}


@dataclasses.dataclass(frozen=True)
class Config(common.Options):
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = ()  # rows of the table; empty: all
    num_clicks: int = 200_000  # over all days
    days: float = 45.0  # of clicks; their conversions come after them, too
    now: float = 40.0  # the day up to which is trained; the clicks after it are for the test
    conversion_rate: float = 0.2  # of a click without effects
    mean_delay: float = 3.0  # days from click to conversion, of a campaign without effect
    drift: float = 0.0  # deviation of what a campaign's logit changes by over the days
    data_seed: int = 0  # of the generator: all runs have the same clicks
    window: float = 3.0  # days that `window` waits
    wait: float = 0.25  # days that `es-dfm` waits
    deadline: float = 7.0  # days before now of the snapshot that weights are learned from (fsiw)
    settled: float = 14.0  # days after which a click is taken to have converted or not (es-dfm)
    dim: int = 8  # width of embeddings
    dims: tuple[int, ...] = (64, 32)  # of the tower
    learning_rate: float = 2e-3
    batch_size: int = 256
    epochs: int = 1  # passes through time
    order: Literal["time", "shuffled"] = "time"  # of examples; shuffled: possible of snapshots alone
    workdir: str = "runs/delayed_feedback"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ("base-rate", *ROWS))
        common.check(self, "num_clicks", "dim", "batch_size", "epochs", "save_every")
        streams = [row for row in self.rows or ROWS if row in ROWS and ROWS[row].known is examples.stream]
        if self.order == "shuffled" and streams:
            raise ValueError(f"order='shuffled': {', '.join(streams)} read streams; name other rows")
        if not 0 < self.now < self.days:
            raise ValueError(f"now={self.now}: must be after the first day and before the last, {self.days}")


class Setting(NamedTuple):
    """Generated clicks, and columns of those after `now`."""

    made: DelayedClicks
    test: Mapping[str, np.ndarray]


def load(config: Config) -> Setting:
    """Clicks of all days."""
    made = delayed_clicks(
        config.num_clicks,
        days=config.days,
        conversion_rate=config.conversion_rate,
        mean_delay=config.mean_delay,
        drift=config.drift,
        seed=config.data_seed,
    )
    after = examples.complete(made.clicks, config.days, since=config.now)
    truth = made.prob[after.click].astype(np.float32)
    return Setting(made, columns_of(after, made.clicks) | {conversions.TRUTH: truth})


def columns_of(found: Examples, clicks: Conversions) -> dict[str, np.ndarray]:
    """Columns of examples, with the logarithm of the time since the click as a feature."""
    return found.columns(clicks) | {"log_elapsed": np.log1p(10 * found.elapsed)}


Weights = Callable[[Setting, Config, Mapping[str, np.ndarray]], Array]


class Row(NamedTuple):
    """A row of the table: what is known, its task, its model behind the features, and weights of examples.

    waits: settings that what is known depends on, by the name of the argument.
    """

    known: Callable[..., Examples]
    task: Callable[[Any], Task]
    loss: str
    model: Callable[[tuple[int, ...]], nn.Module] = Tower
    weights: Weights | None = None
    waits: Callable[[Config], dict[str, float]] = lambda config: {}

    def examples(self, clicks: Conversions, config: Config) -> Examples:
        """What is known of clicks by now, in the order of time."""
        return self.known(clicks, config.now, **self.waits(config))


def observation(setting: Setting, config: Config, columns: Mapping[str, np.ndarray]) -> Array:
    """FSIW's weights, which read the time since the click."""
    learned = examples.observed_labels(setting.made.clicks, config.now, deadline=config.deadline)
    found = learn("fsiw", ("observed", "negative"), learned, setting, config, columns)
    return losses.observation_weights(jnp.asarray(columns["label/conversion"]), *found)


def elapsed_time(setting: Setting, config: Config, columns: Mapping[str, np.ndarray]) -> Array:
    """ES-DFM's weights."""
    learned = examples.delayed_labels(
        setting.made.clicks, config.now, wait=config.wait, window=config.settled
    )
    found = learn("es-dfm", ("delayed", "negative"), learned, setting, config, columns)
    return losses.elapsed_time_weights(jnp.asarray(columns["label/conversion"]), *found)


def learn(
    name: str, labels: tuple[str, str], learned: tuple[Examples, Mapping[str, np.ndarray]], setting: Setting,
    config: Config, columns: Mapping[str, np.ndarray],
) -> Array:  # fmt: skip
    """The logits that weights are made of, a row for each label."""
    known = columns_of(learned[0], setting.made.clicks) | dict(learned[1])
    tower = MLP((*config.dims, len(labels)), activate_last=False)
    model = Featured(features(config, elapsed=name == "fsiw"), tower)
    row = f"{name}-weights"
    options = common.training_options(config, dataset_name(config), row, row=row)
    options |= {"epochs": config.epochs, "batch_size": config.batch_size}
    tx = optax.adam(config.learning_rate)
    return jnp.asarray(conversions.learn_weights(model, labels, known, columns, tx, **options)).T


weighted = functools.partial(tasks.cross_entropy, weighted=True)


ROWS: Mapping[str, Row] = {
    "oracle": Row(examples.complete, tasks.cross_entropy, "bce"),
    "naive": Row(examples.snapshot, tasks.cross_entropy, "bce"),
    "window": Row(examples.waited, tasks.cross_entropy, "bce", waits=lambda c: {"window": c.window}),
    "vanilla": Row(examples.stream, tasks.cross_entropy, "bce"),
    "fnw": Row(examples.stream, tasks.fake_negative_weighted, "fake negative weighted"),
    "fnc": Row(examples.stream, tasks.fake_negative_calibrated, "bce"),
    "fsiw": Row(examples.snapshot, weighted, "weighted bce", weights=observation),
    "es-dfm": Row(
        examples.stream, weighted, "weighted bce", weights=elapsed_time, waits=lambda c: {"wait": c.wait}
    ),
    "dfm": Row(examples.snapshot, tasks.delayed_feedback, "delayed feedback", model=DelayedFeedback),
}


def features(config: Config, *, elapsed: bool = False) -> FeatureEmbedding:
    """Campaign, site and price of a click; elapsed: and the time since."""
    ids = (Categorical("campaign", 51, config.dim), Categorical("site", 21, config.dim))
    return FeatureEmbedding((*ids, Numeric("price"), *[Numeric("log_elapsed")] * elapsed))


def dataset_name(config: Config) -> str:
    return f"{'tiny' if config.tiny else 'generated'}-drift{config.drift:g}"


def prepare(name: str, setting: Setting, config: Config) -> tuple[impressions.Data, Task]:
    """A row's examples, with their weights, and its task."""
    row = ROWS[name]
    columns = columns_of(row.examples(setting.made.clicks, config), setting.made.clicks)
    if row.weights is not None:
        columns["weight"] = np.asarray(row.weights(setting, config, columns))
    rule = f"clicks by day {config.now:g} to train on, those until day {config.days:g} to test"
    data = conversions.resident(dataset_name(config), columns, setting.test, rule=rule)
    return data, row.task(Featured(features(config), row.model(config.dims)))


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    setting = load(config)
    stored: dict[str, Any] = {
        "experiment": EXPERIMENT,
        "dataset": dataset_name(config),
        "seeds": config.seeds,
    }
    for name in config.rows or ("base-rate", *ROWS):
        fitted = None
        data, task = prepare("naive" if name == "base-rate" else name, setting, config)
        if name == "base-rate":
            share = float(np.mean(data.columns["label/conversion"], dtype=np.float64))
            found = conversions.test_constant(data, share, len(config.seeds))
        else:
            options = common.training_options(config, data.name, name, row=name)
            options |= {"epochs": config.epochs, "batch_size": config.batch_size, "order": config.order}
            fitted = conversions.train(data, task, optax.adam(config.learning_rate), **options)
            found = conversions.run_test(data, task, fitted.variables, num_devices=config.num_devices)
        path = common.save(
            config.results,
            model=name,
            config=common.describe_settings(config),
            protocol=conversions.protocol(data, ROWS[name].loss if name in ROWS else ""),
            metrics=found,
            fitted=fitted,
            **stored,
        )
        print(f"{name}: test {common.means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
