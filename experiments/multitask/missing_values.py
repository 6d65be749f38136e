"""Missing numbers, and orders tied to clicks: two devices of Meituan's ranker (technical blog, 2018-03-29).

Clicks and orders depend on eight numbers, of which 30 % are missing: at random, or where they are largest, so
that what is missing lies above all that is seen (`data.synthetic.objectives.missing_numbers`).

    zero          0 in place of what is missing
    mean          the training mean
    mean-flags    the mean, and a flag for each column: as strong as a vector a column, of which `learned` is
                  a special case
    learned       a learned value for each column, from the mean on
    learned-kl    the same, and `tie` × the divergence of P(order) from P(click) P(order | click)
    learned-esmm  the same, where the order is that product (Ma et al., SIGIR 2018)

All rows have the same layers but learned-esmm, whose towers of click and of order after a click share none;
the baselines read flags too. A row's parameters are those of the epoch of best validation AUC, the mean over
tasks. Besides the AUC, `gap` is the mean |P(click) P(order | click) - P(order)| on test. The blog's formulas
and numbers are pictures, so there are no published numbers.

Run:     python -m experiments.multitask.missing_values
Also:    --mechanism large; --rows learned-kl --tie 1
Expect:  where numbers are missing at random (3 seeds), 0 in their place costs .04 of AUC (.757; the training
         mean .7985, a learned value .7987, flags beside the mean .7966). The divergence changes nothing that
         the deviations (.001) would show: the AUC is .7989, the gap .0164 in place of .0171; the product has
         no gap and an AUC of .7973. Clicks are logistic in the numbers, and logistic regression has .8000.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments import common, floors
from experiments.multitask.training import Model, Trained, train
from jaxrec import config as command_line
from jaxrec import losses
from jaxrec.config import check_run
from jaxrec.data.synthetic.objectives import missing_numbers
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.nn.layers.missing import MissingValues
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.recipes import objectives as recipes
from jaxrec.tasks.multitask import multitask
from jaxrec.types import Array, Batch, Outputs, Tested

EXPERIMENT = "missing_values"
TASKS = ("ctr", "cvr", "ctcvr")


class Row(NamedTuple):
    """A row: what stands for missing numbers. tied: whether orders are tied to clicks; esmm: by a product."""

    fill: Literal["zero", "mean"] = "mean"
    learned: bool = False
    flags: bool = False
    tied: bool = False
    esmm: bool = False


ROWS: Mapping[str, Row] = {
    "zero": Row(fill="zero"),
    "mean": Row(),
    "mean-flags": Row(flags=True),
    "learned": Row(learned=True),
    "learned-kl": Row(learned=True, tied=True),
    "learned-esmm": Row(learned=True, esmm=True),
}
TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64, "num_examples": 800}


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Missing):
    """Trains and tests the rows of the table, one after the other."""

    mechanism: Literal["at-random", "large"] = "at-random"  # which numbers are missing
    num_examples: int = 20_000  # four fifths of them for training
    share: float = 0.3  # of the numbers that are missing
    tie: float = 0.1  # learned-kl: weight of the divergence
    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # rows of the table
    workdir: str = "runs/missing_values"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        common.check(self, "epochs", "patience", "batch_size", "num_examples", "save_every")
        common.check_unread(self, "dim")  # there are no columns of ids
        if not 0 <= self.tie < math.inf:
            raise ValueError(f"tie={self.tie}: must be at least 0 and finite; 0 trains without it")


def divergence(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
    """The divergence of the heads of a model with columns for TASKS."""
    heads = (outputs[:, k] for k in range(3))
    return losses.product_divergence(*heads, where=batch["mask"], axis_name=axis_name)


def build(row: str, split: ImpressionSplit, columns: impressions.Data, config: Config) -> Model:
    """A row's model of clicks, orders after a click, and orders."""
    made, names = ROWS[row], [f.name for f in split.impressions.fields if not f.name.endswith("_missing")]
    means = (seen_mean(split, name) if made.fill == "mean" else 0.0 for name in names)
    layer = MissingValues(fill=tuple(means), learned=made.learned, flags=made.flags)
    module = recipes.filled(tuple(names), layer, config, esmm=made.esmm)
    outputs: dict[str, Any] = {task: task if made.esmm else k for k, task in enumerate(TASKS)}
    targets = impressions.targets(columns, outputs)
    learned = [target for target in targets if not (made.esmm and target.name == "cvr")]
    terms = {"divergence": divergence} if made.tied and config.tie else {}
    weights = {target.name: 1.0 for target in learned} | dict.fromkeys(terms, config.tie)
    tested = [target for target in targets if target not in learned]
    task = multitask(module, learned, terms=terms)
    return Model(row, task, learned, "auc", tested=tested, terms=tuple(terms), weighting=static(weights))


def seen_mean(split: ImpressionSplit, name: str) -> float:
    """The mean of a number over the training examples that have it."""
    columns = split.impressions.columns
    seen = columns[f"{name}_missing"][split.train] == 0
    return float(columns[name][split.train][seen].mean(dtype=np.float64))


def with_gap(run: Trained, model: Model, columns: impressions.Data, esmm: bool) -> Tested:
    """The test with how far P(order) is from the product of the other two, on average."""
    batch = {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.test.items()}

    def of_seed(variables: Any) -> Array:
        found = model.task.predict(variables, batch)
        click, after, order = (jax.nn.sigmoid(found[t] if esmm else found[:, k]) for k, t in enumerate(TASKS))
        return losses.masked_mean(abs(click * after - order), jax.numpy.asarray(batch["mask"]))

    gaps = np.asarray(jax.jit(lambda v: jax.lax.map(of_seed, v))(run.fitted.variables))
    pairs = zip(run.test.metrics, gaps, strict=True)
    return run.test._replace(metrics=[{**metrics, "gap": float(gap)} for metrics, gap in pairs])


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    split = missing_numbers(config.num_examples, mechanism=config.mechanism, share=config.share).split
    columns = impressions.resident(split)
    models = {row: build(row, split, columns, config) for row in config.rows if row in ROWS}
    fields = impressions.features(split.impressions, 1).fields
    floors.measure(config, EXPERIMENT, columns, fields, impressions.targets(columns))
    for row, model in models.items():
        name = f"{row}-{config.tie:g}" if ROWS[row].tied else row
        options = common.training_options(config, columns.name, name, row=row)
        trained = train(model, columns, config, **options)
        found = with_gap(trained, model, columns, ROWS[row].esmm)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=columns.name,
            model=name,
            config=common.describe_settings(config),
            protocol=impressions.protocol(columns, model.selection, model.loss),
            seeds=config.seeds,
            metrics=found,
            fitted=trained.fitted,
        )
        print(f"{name}: test {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
