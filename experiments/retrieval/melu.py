"""MeLU on MovieLens-1M: ratings of new users and new movies (Lee et al., KDD 2019, arXiv:1908.00413).

A user's ratings are a support set, to which a model may adapt, and ten others, which it predicts. Rows train
on the existing users' ratings of existing movies and keep the epoch of the least error on a tenth of these
users, which are held out. They are tested in four states, each a data set of the table: existing or new
users, existing or new movies. As in the paper, the state of existing users and movies is that of training.

    mean-rating, user-mean, item-mean, biases    are not trained
    wide-deep             content alone, from all ratings
    no-adaptation         MeLU's model without the inner loop
    melu-1, melu-5        one and five steps of the inner loop, melu-1-first-order without second derivatives
    poso, poso-mean       gates on the number of a user's ratings, and on their mean

Run:     python -m experiments.retrieval.melu
Also:    --rows melu-5 --local-learning-rate 0.01; --tiny

Expect:  mae of new users and existing movies: biases .7366, item-mean .7793, melu-1 .7960 and melu-5 .7955
         (published .7884 and .7854), no-adaptation .7961, wide-deep 1.1509 (published 1.0694). At the paper's
         rate inner steps change less than .001, and the biases beat every published number.

The paper says that its NDCG has gain 2^rating - 1, which is ndcg@k here. Its numbers lie where those with the
rating as gain lie, ndcg_linear@k, also those of rows that are not trained, and stand beside these.

Departs from the paper: it trains on all existing users and does not say how the number of epochs, at most 30,
was chosen. The random choice of ten ratings is ours. Wide & Deep's settings are not in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from experiments import common
from experiments.common import NONE, Published, published
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.baselines.ratings import RATINGS
from jaxrec.config import check_run
from jaxrec.data.synthetic.rated_content import rated_content
from jaxrec.data.tables.rating_tasks import RatedContent, format_ratings, hold_out_users, make_tasks
from jaxrec.protocols import cold_start
from jaxrec.protocols.cold_start import SELECTION
from jaxrec.recipes import melu as recipes
from jaxrec.train.fit import Fitted
from jaxrec.types import Task, Tested

EXPERIMENT = "melu"
ROWS = (*RATINGS, *recipes.ROWS)
STATES = ("warm", "user-cold", "item-cold", "both-cold")
TABLE_2 = "table 2 of the MeLU paper"
PUBLISHED_METRICS = ("mae", "ndcg_linear@1", "ndcg_linear@3")  # see the docstring
PUBLISHED: Mapping[str, Mapping[str, Published]] = {
    row: {
        state: published(PUBLISHED_METRICS, TABLE_2, *of_state)
        for state, of_state in zip(STATES, values, strict=True)
    }
    for row, values in {
        "wide-deep": (
            (0.9047, 0.9090, 0.9117), (1.0694, 0.8559, 0.8639), (1.2655, 0.7420, 0.7721),
            (1.3114, 0.7680, 0.7874),
        ),
        "melu-1": (
            (0.7661, 0.8866, 0.8904), (0.7884, 0.8799, 0.8810), (0.9361, 0.7715, 0.7990),
            (0.9299, 0.7760, 0.8011),
        ),
        "melu-5": (
            (0.7567, 0.8870, 0.8919), (0.7854, 0.8803, 0.8812), (0.9275, 0.7697, 0.8005),
            (0.9235, 0.7752, 0.8008),
        ),
    }.items()
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "dim": 4, "hidden_dims": (8,), "gate_dim": 4, "epochs": 2, "batch_size": 8, "learning_rate": 0.01,
    "local_learning_rate": 0.05, "least": 5, "num_query": 3,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = ROWS  # rows of the table
    states: tuple[str, ...] = STATES  # of users and items, in which rows are tested
    num_query: int = 10  # ratings of each user that are predicted
    least: int = 13  # users with fewer ratings in a state are left out
    most: int = 100  # users with more ratings in a state are left out
    validation: float = 0.1  # share of the users of training that choose the epoch
    split_seed: int = 0  # of the query ratings and the validation users
    save_every: int = 5  # epochs between checkpoints
    workdir: str = "runs/melu"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        for state in self.states:
            common.check_choice("states", state, STATES)
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}: must be in (0, 1)")
        common.check(
            self, "dim", "gate_dim", "batch_size", "epochs", "evaluate_every", "num_query", "least", "most",
            "save_every",
        )  # fmt: skip


def load(config: Config) -> RatedContent:
    """MovieLens-1M in MeLU's states; synthetic for --tiny."""
    return rated_content() if config.tiny else data.load("melu/ml-1m", kind="ratings")


def prepared(content: RatedContent, config: Config) -> cold_start.Data:
    """The tasks of all states; those of the first, less the validation users, are trained on."""
    limits = {"num_query": config.num_query, "least": config.least, "most": config.most}
    made = {
        state: make_tasks(content, state, seed=config.split_seed, **limits)
        for state in dict.fromkeys((STATES[0], *config.states))
    }
    train, validation = hold_out_users(made[STATES[0]], config.validation, seed=config.split_seed)
    made[STATES[0]] = train
    return cold_start.Data(content, train, validation, made).checked()


def train(name: str, columns: cold_start.Data, config: Config) -> tuple[Task, Fitted]:
    """Trains a row for all seeds."""
    recipe = common.override(recipes.Recipe(), config)
    _, task = recipes.ROWS[name].task(columns.content, recipe)
    fitted = cold_start.train(
        task,
        columns,
        optax.adam(recipe.learning_rate),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        every=min(recipe.evaluate_every, recipe.epochs),
        patience=recipe.patience or None,
        **common.training_options(config, columns.content.name, name, left_out=("states",), row=name),
    )
    return task, fitted


def published_numbers(row: str, state: str, config: Config) -> Published:
    """The published numbers of a row and state, if the settings that it reads are the published ones."""
    limits = ("num_query", "least", "most", *(field.name for field in dataclasses.fields(recipes.Recipe)))
    default = Config()
    if config.tiny or any(getattr(config, name) != getattr(default, name) for name in limits):
        return NONE
    return PUBLISHED.get(row, {}).get(state, NONE)


def floor(row: str, columns: cold_start.Data) -> dict[str, Tested]:
    """Tests of a row that is not trained, in each state."""
    found = {}
    for state, tasks in columns.tests.items():
        predicted = RATINGS[row](columns.train, tasks, columns.content.num_items)
        found[state] = cold_start.measure_predictions(columns, state, np.asarray(predicted)[None])
    return found


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    content = load(config)
    columns = prepared(content, config)
    print(format_ratings(content), flush=True)
    for row in config.rows:
        fitted, loss = None, ""
        if row in recipes.ROWS:
            task, fitted = train(row, columns, config)
            loss = recipes.ROWS[row].loss
            tested = cold_start.run_tests(task, columns, fitted.variables, num_devices=config.num_devices)
        else:
            tested = floor(row, columns)
        for state in config.states:
            found, tasks = tested[state], columns.tests[state]
            path = common.save(
                config.results,
                experiment=EXPERIMENT,
                dataset=f"{content.name.split('/')[-1]}-{state}",
                model=row,
                config=common.describe_settings(config, left_out=("states",)) if fitted else {},
                protocol=cold_start.protocol(tasks, loss, SELECTION if fitted else "none"),
                seeds=config.seeds if fitted else config.seeds[:1],
                metrics=found,
                fitted=fitted,
                **published_numbers(row, state, config).fields(),
            )
            print(f"{row}, {state}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
