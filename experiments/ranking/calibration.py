"""Calibration of a model that was trained on a share of the negatives.

An MLP learns from all positives and each negative with probability `rate`, so it predicts too high.
Calibrators are fitted to the examples of validation and tested on those of the test, with all negatives:

    uncalibrated      the model as it is
    corrected         log rate is added to logits (He et al., ADKDD 2014): needs no label
    platt             a line of logits (Platt, 1999)
    histogram         the share of positives in bins of equal mass (Zadrozny and Elkan, ICML 2001)
    isotonic          isotonic regression (Zadrozny and Elkan, KDD 2002)
    smooth-isotonic   the same of bins, whose blocks are joined by lines (Deng et al., ECML PKDD 2020)
    by-field          the same for each value of a field
    unsampled         a model of its own, trained on all negatives
    base-rate, logistic-regression, gbdt, gbdt-lr    `experiments.floors`, fitted to all negatives

Census-Income: income over 50,000 dollars, 6 % of the people, from 32 nominal columns; the field is the major
occupation. Rows but `unsampled` are of one training, of the epoch of best validation AUC, and differ only in
how logits are read. ECE is of ten bins of equal width; by field it is the mean over examples of the
difference of predicted and observed rate of their value of the field. No published numbers exist of this.

Run:     python -m experiments.ranking.calibration
Also:    --rate 0.02; --rows isotonic by-field --seeds 0
         --data FILE --labels click --categorical item user --numeric price --field item   (your own table)

Expect:  with a tenth of the negatives (three seeds) the mean prediction is 3.3 times the
         observed rate, the log loss 0.280 and the ECE 0.142. Adding log rate alone gives 0.139 and 0.006;
         Platt, 0.1386 and 0.0035, and isotonic regression, 0.1388 and 0.0019, are the best of the others.
         Bins lose 0.003 of the AUC of 0.927 to ties. By field no calibrator is better than Platt (0.0027).
         With all negatives: AUC .930, log loss .1362; logistic regression .928, .1371; trees .931, .1353.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import common, floors
from jaxrec import calibration, data
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.synthetic.multitask import funnel
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.protocols import impressions
from jaxrec.protocols.calibrating import validation_logits
from jaxrec.recipes import interaction as recipes
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.tasks.objectives import loss_name
from jaxrec.train.evaluate import measure_queries
from jaxrec.train.fit import Fitted
from jaxrec.types import Array, Evaluation, Task, Tested, Variables

EXPERIMENT = "calibration"
UNSAMPLED = "unsampled"
TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64, "rate": 0.5}


@dataclasses.dataclass(frozen=True)
class Config(common.TableOptions, recipes.Recipe):
    """Trains a model with and without all negatives, and tests it by every calibrator."""

    rows: tuple[str, ...] = ()  # rows of the table; empty: all
    rate: float = 0.1  # share of the training negatives that are kept
    sampling_seed: int = 0  # of which these are
    field: str = ""  # column of categories by which calibration is measured; empty: the major occupation
    num_bins: int = 20  # of histogram and smooth isotonic regression
    bin_size: int = 100  # examples of a value of the field for a bin of its own
    workdir: str = "runs/calibration"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ALL)
        common.check(self, "epochs", "patience", "batch_size", "dim", "save_every", "num_bins", "bin_size")
        common.check_unread(self, "length")
        if self.data and len(self.labels) != 1:
            raise ValueError(f"labels={self.labels}: name one label, the column of 0 and 1 to predict")
        calibration.sampling_correction(self.rate)  # raises its error


class Fitting(NamedTuple):
    """What a calibrator is fitted to: logits, labels and values of the field of validation, [N] each."""

    logits: np.ndarray
    labels: np.ndarray
    field: np.ndarray


Read = Callable[[Array, Array], Array]  # (logits, field) -> calibrated logits


def of_logits(fit: Callable[..., calibration.Calibrator], fitting: Fitting, **options: Any) -> Read:
    """A calibrator that reads logits alone."""
    found = fit(fitting.logits, fitting.labels, **options)
    return lambda logits, field: found.apply(logits)


ROWS: Mapping[str, Callable[[Fitting, Config], Read]] = {
    "uncalibrated": lambda fitting, config: lambda logits, field: logits,
    "corrected": lambda fitting, config: (
        lambda logits, field: calibration.sampling_correction(config.rate).apply(logits)
    ),
    "platt": lambda fitting, config: of_logits(calibration.fit_platt, fitting),
    "histogram": lambda fitting, config: of_logits(
        calibration.fit_histogram, fitting, num_bins=config.num_bins
    ),
    "isotonic": lambda fitting, config: of_logits(calibration.fit_isotonic, fitting),
    "smooth-isotonic": lambda fitting, config: of_logits(
        calibration.fit_smooth_isotonic, fitting, num_bins=config.num_bins
    ),
    "by-field": lambda fitting, config: (
        calibration.fit_by_group(*fitting, num_bins=config.num_bins, bin_size=config.bin_size).apply
    ),
}


ALL = (*floors.CLICKS, *ROWS, UNSAMPLED)


class Setting(NamedTuple):
    """A table with all of its negatives, its target, its task, and the field."""

    columns: impressions.Data
    target: Target
    task: Task
    field: str
    fields: tuple[Categorical | Numeric, ...]


def load(config: Config) -> Setting:
    """The labelled examples of a configuration."""
    split = table(config)
    columns, fields = impressions.resident(split), split.impressions.fields
    ids = [field.name for field in fields if field.kind == "categorical"]
    field = config.field or ("major_occ_code" if "major_occ_code" in ids else ids[0] if ids else "")
    if field not in ids:
        raise ValueError(f"field={config.field!r}: must be one of the columns of categories {', '.join(ids)}")
    label = columns.tasks[0]
    target = Target(label, None, f"label/{label}")
    sized = tuple(
        f._replace(dim=config.dim) for f in impressions.features(split.impressions, config.dim).fields
    )
    return Setting(columns, target, multitask(recipes.deep(recipes.Columns(sized)), [target]), field, sized)


def table(config: Config) -> ImpressionSplit:
    """Census-Income, your own file, or for --tiny a generated table."""
    if config.data:
        return common.own_table(config)
    if config.tiny:
        return funnel(2_000, num_users=10, num_items=8).split
    return data.load("census/income", kind="impressions")


def sampled(columns: impressions.Data, label: str, rate: float, seed: int) -> impressions.Data:
    """The same data with all positives and a share of the negatives to train on."""
    kept = (columns.columns[label] > 0.5) | (np.random.default_rng(seed).random(columns.num_examples) < rate)
    return columns._replace(columns={name: column[kept] for name, column in columns.columns.items()})


def train(name: str, setting: Setting, config: Config, rate: float) -> Fitted:
    """Trains the model on a share of the negatives for all seeds."""
    return impressions.train(
        sampled(setting.columns, setting.target.label, rate, config.sampling_seed),
        setting.task,
        [setting.target],
        f"auc/{setting.target.name}",
        optax.adam(config.learning_rate),
        epochs=config.epochs,
        batch_size=config.batch_size,
        patience=config.patience,
        **common.training_options(config, setting.columns.name, name, left_out=READING, kept=rate),
    )


READING = ("field", "num_bins", "bin_size", "rate")  # settings that training does not read, or is given


def measure(setting: Setting, variables: Variables) -> tuple[list[Fitting], Evaluation, np.ndarray]:
    """What calibrators are fitted to for each seed, how a test is measured, and its logits."""
    columns, targets = setting.columns, [setting.target]
    real = columns.validation["mask"]
    of_seeds, labels = validation_logits(columns, setting.task, targets, variables)[setting.target.name]
    fittings = [Fitting(logits, labels, columns.validation[setting.field][real]) for logits in of_seeds]
    by_field = impressions.evaluation(
        columns,
        setting.task,
        targets,
        "test",
        measured=impressions.protocol(columns, ""),
        calibration=True,
        fields=(setting.field,),
    )
    return fittings, by_field, measure_queries(by_field, variables, {})


def tested(reads: list[Read], by_field: Evaluation, logits: np.ndarray, field: str) -> Tested:
    """The test of calibrated logits [S, batches, B, 1], by the calibrator of each seed."""
    ids = by_field.queries[field].reshape(-1)
    values = np.stack(
        [
            np.asarray(jax.jit(read)(of_seed.reshape(-1), ids)).reshape(of_seed.shape)
            for read, of_seed in zip(reads, logits, strict=True)
        ]
    )
    queries = by_field.queries
    assert by_field.keep is not None and by_field.curves is not None
    metrics = [by_field.summarise(of_seed, queries) for of_seed in values]
    return Tested(metrics, by_field.keep(values, queries), by_field.curves(values, queries))


def run(config: Config) -> None:
    """Trains, calibrates, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    setting, rows = load(config), config.rows or ALL
    read = (setting.columns, setting.fields, [setting.target])
    floors.measure(config, EXPERIMENT, *read, rows=rows, calibration=True)
    once = functools.cache(lambda rate: train(f"kept-{rate:g}", setting, config, rate))
    for row in [row for row in rows if row not in floors.CLICKS]:
        fitted = once(1.0 if row == UNSAMPLED else config.rate)
        fittings, by_field, logits = measure(setting, fitted.variables)
        fit = ROWS["uncalibrated" if row == UNSAMPLED else row]
        found = tested([fit(each, config) for each in fittings], by_field, logits, setting.field)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=setting.columns.name,
            model=row,
            config={**common.describe_settings(config), "field": setting.field},
            protocol=impressions.protocol(
                setting.columns, f"auc/{setting.target.name}", loss_name(setting.target.loss)
            ),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: test {common.means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
