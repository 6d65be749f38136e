"""HSTU over alternating movies and ratings (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2).

One model for retrieval and ranking, on MovieLens-100K. An event is a movie and its rating, the action. The
histories of all users are split at the same two times, the first 80 % of events for training, 10 % each for
validation and test, so that no model reads the future. Every event of a part that has an earlier one is a
query:

    ranking    whether the rating is 4 or 5 ("liked"), given the movie and all earlier events: AUC, log loss,
               and normalised entropy (log loss divided by that of a constant; the paper's ranking metric)
    retrieval  which movie comes next, for events with a rating of 4 or 5: full ranking without earlier movies

Earlier events of the same part are read with their ratings, as in serving. Most users of the later parts are
new; the model has no user ids.

    generative            both losses, of equal weight, in one pass over each user's events
    generative-ranking    the loss of ranking alone
    generative-retrieval  the loss of retrieval alone
    random, popularity, co-visitation and so on    baselines of retrieval, `experiments.floors`
    rates                 baseline of ranking: log-odds of the shares of liked of the movie and of the user

In tables the names of trained rows end in their losses: `generative-bce-ssm` and so on.

A row with the loss of retrieval has the parameters of the best validation NDCG@10, `generative-ranking`
those of the best AUC. There are no comparable published numbers: the paper's ranking is on industrial
logs.

Run:     python -m experiments.sequential.hstu_generative
Also:    --rows generative --seeds 0, --no-times, --data FILE --user … --item … --time … --value … --liked 4 5
Expect:  trained with both losses, the AUC is 0.762 and the NDCG@10 0.074; with ranking alone the AUC is
         0.750, with retrieval alone the NDCG@10 is 0.067: each gains from the other loss, by little more than
         one standard deviation. The baseline `rates` has an AUC of 0.744, popularity an NDCG@10 of 0.040.
         Counting co-visits has an NDCG@10 of 0.107, item-KNN 0.086: above all that is trained here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import common, floors
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import actions, next_item
from jaxrec.protocols.actions import Question
from jaxrec.recipes import hstu_generative as recipes
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol, Tested

EXPERIMENT = "hstu_generative"
KS = (5, 10, 20, 50)
SHORT: Mapping[Question, str] = {"ranking": "bce", "retrieval": "ssm"}  # names of the losses in those of rows
SELECTION: Mapping[Question, str] = {
    "retrieval": "ndcg@10",
    "ranking": "auc",
}  # of the first question that is trained


class Row(NamedTuple):
    """A trained row: the weights of its losses."""

    weights: Mapping[Question, float]

    @property
    def questions(self) -> tuple[Question, ...]:
        """The questions that it is trained for."""
        return tuple(question for question in SHORT if self.weights[question])


ROWS: Mapping[str, Row] = {
    "generative": Row({"ranking": 1.0, "retrieval": 1.0}),
    "generative-ranking": Row({"ranking": 1.0, "retrieval": 0.0}),
    "generative-retrieval": Row({"ranking": 0.0, "retrieval": 1.0}),
}
BASELINES = floors.RANKING  # of retrieval
RATES = "rates"  # the baseline of ranking

TINY: Mapping[str, Any] = {
    "dim": 8, "key_dim": 8, "num_layers": 1, "max_len": 12, "num_samples": 8, "epochs": 2, "every": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.RankingOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other. Sizes: the public code's for ML-1M."""

    value: str = "rating"  # column of actions of your own file: integers from 1
    liked: tuple[int, ...] = (4, 5)  # actions that count as positive
    rows: tuple[str, ...] = (*BASELINES, RATES, *ROWS)  # rows of the table
    save_every: int = 10  # epochs between checkpoints
    workdir: str = "runs/hstu_generative"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, RATES, *ROWS))
        common.check(self, "dim", "key_dim", "num_layers", "num_samples", "epochs", "every", "batch_size",
                     "num_devices", "save_every")  # fmt: skip
        if self.max_len < 2 or self.patience < 0:
            raise ValueError(
                f"max_len={self.max_len}, patience={self.patience}: must be at least 2, and at least 0"
            )


def synthetic_events() -> Interactions:
    """Synthetic users who watch a cycle of 40 movies and like every second one of them.

    Which of the two halves a user likes can be learned from earlier ratings alone.
    """
    chain = markov_chain(80, 40, min_length=6, max_length=20, noise=0.2).sequences
    user = chain.event_users
    number = np.arange(user.size) - chain.offsets[:-1][user]
    value = np.where((chain.items + user) % 2 == 1, 5, 2).astype(np.float32)
    time = 1 + 12 * user + 60 * number
    return Interactions.from_raw("tiny", user, chain.items, time, value, order="sorted")


def load(config: Config) -> Interactions:
    """Events with ratings, of the data set or of your own file; synthetic for --tiny."""
    if config.data:
        return data.load_interactions(
            config.data,
            user=config.user,
            item=config.item,
            time=config.time or None,
            value=config.value,
            k_core=config.k_core,
        )
    return synthetic_events() if config.tiny else movielens.load_interactions("ml-100k")


def model_name(row: str) -> str:
    """The row's name in tables, with its losses: bce for ranking and ssm for retrieval."""
    return "-".join([row, *(SHORT[question] for question in ROWS[row].questions)] if row in ROWS else [row])


def protocols(columns: actions.Data, loss: str, selection: str) -> dict[Question, Protocol]:
    """The protocol of each of the two questions."""
    return {
        "retrieval": Protocol(columns.retrieval.split.rule, ks=KS, loss=loss, selection=selection),
        "ranking": Protocol(columns.rule, "impressions", "keep", "half", (), loss, selection),
    }


def measure_baseline(
    row: str, columns: actions.Data, protocol: Protocol, dataset: str, config: Config
) -> tuple[Tested, Protocol, dict[str, Any]]:
    """The test of a baseline of retrieval, its protocol, and its settings."""
    names = (EXPERIMENT, f"{dataset}-retrieval")
    model, variables, protocol, settings = floors.fit(row, columns.retrieval, protocol, config, *names)[:4]
    where = common.for_test(config, protocol)
    return next_item.run_test(model, columns.retrieval, protocol, variables, **where), protocol, settings


def train(
    row: str, columns: actions.Data, by_question: Mapping[Question, Protocol], dataset: str, config: Config
) -> tuple[dict[Question, Tested], Fitted]:
    """Trains a row for all seeds: its test by question, and the run."""
    model, objective = recipes.generative(columns, config), recipes.ssm(columns, config)
    questions = ROWS[row].questions
    if "retrieval" in questions:
        common.check_label(model_name(row), objective.name)
    selected = next(question for question in SELECTION if question in questions)
    fitted = actions.train(
        model,
        objective,
        columns,
        ROWS[row].weights,
        selected,
        by_question[selected],
        recipes.adam(config),
        epochs=config.epochs,
        batch_size=config.batch_size,
        every=config.every,
        patience=config.patience or None,
        **common.training_options(config, dataset, row, row=row),
    )
    found = {
        question: actions.run_test(
            model,
            columns,
            question,
            by_question[question],
            fitted.variables,
            **common.for_test(config, by_question[question]),
        )
        for question in questions
    }
    return found, fitted


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    config = dataclasses.replace(config, every=min(config.every, config.epochs))
    columns = actions.resident(load(config), positive=config.liked)
    dataset = columns.retrieval.split.sequences.name.split("/")[-1]
    for row in config.rows:
        questions = ROWS[row].questions if row in ROWS else ()
        selection = next((SELECTION[question] for question in SELECTION if question in questions), "none")
        by_question = protocols(columns, " + ".join(questions), selection)
        fitted: Fitted | None = None
        settings: dict[str, Any] = {}
        found: dict[Question, Tested]
        if row in ROWS:
            found, fitted = train(row, columns, by_question, dataset, config)
            settings = common.describe_settings(config)
        elif row == RATES:
            found = {"ranking": actions.rates_test(columns, len(config.seeds))}
        else:
            asked = by_question["retrieval"]._replace(selection=SELECTION["retrieval"])
            tested, asked, settings = measure_baseline(row, columns, asked, dataset, config)
            found, by_question["retrieval"] = {"retrieval": tested}, asked
        for question, values in found.items():
            path = common.save(
                config.results,
                experiment=EXPERIMENT,
                dataset=f"{dataset}-{question}",
                model=model_name(row),
                config=settings,
                protocol=by_question[question],
                seeds=config.seeds,
                metrics=values,
                fitted=fitted,
            )
            print(f"{model_name(row)}, {question}: {common.means(values)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
