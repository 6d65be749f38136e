"""STAMP on Yoochoose, Diginetica and Tmall sessions (Liu et al., KDD 2018, doi:10.1145/3219819.3219950).

Train: every prefix of a training session predicts the next click, with a loss over all items. Test: every
prefix of the test sessions; recall@20 is the paper's P@20. Candidates include the items of the session, and
items that occur in test sessions only, as in the authors' code: a model can hardly hit those. Parameters are
those of the best validation recall@20, on a tenth of the training sessions drawn at random. The authors'
code trains on all sessions and reports the epoch that is best on test: --select test does that, and the names
of its rows say so.

STAMP and STMP follow the authors' code: softmax cross-entropy without the paper's sigmoid, no biases after
the pooling, item vectors no longer than 1 (1.5 on Diginetica) where they are read, Adam with learning rate
0.003 on summed gradients, clipped for each parameter to a norm of 150 (110), 10 epochs of batches of 512.
`stamp-sigmoid` has the objective of the paper. Departs from the code: a batch is 512 prefixes drawn
at random, where the code takes one position of up to 512 sessions of equal length.

GRU4Rec and SASRec read whole sessions, with cross-entropy over all items: the same examples, except that a
session longer than `max_len` has only its last clicks as targets.

The paper's numbers on Diginetica are not given, as they are of other sequences: its code orders the clicks of
a session by date, which leaves those of one day in the order of the raw file, where repeated views of an item
are adjacent. The sessions here are in order of time; beside them stands what the authors of SR-GNN measured
with STAMP after they had sorted the sessions by time: recall@20 0.456. --order file makes the repeated views
of a session adjacent, as there, with the items in random order; --order file-fixed has one order of items for
all sessions, which a public sample of the file does not rule out. Both are ablations, which measure the
effect of the order on the metrics.

Run:     python -m experiments.sequential.stamp
Also:    --dataset diginetica --order file, --select test, --data clicks.csv --user session (your own)
Expect:  Yoochoose 1/64: with the epoch chosen on a tenth of the training sessions and three seeds, STAMP
         has recall@20 0.680 and MRR@20 0.294. That is 1.1 and 0.8 % below the paper, which trains on all
         training sessions and reports the epoch that is best on test. In that way, one seed has 0.685 and
         0.298: 0.3 % below and 0.5 % above. STMP, the same model without attention, is above its published
         numbers and not below STAMP (0.686 and 0.297), so the gain of attention in the paper is not seen
         here. Encoders of whole sessions are not below STAMP in recall (one seed each): GRU4Rec has 0.689 and
         0.291 with cross-entropy over all items (the 0.606 and 0.229 of the paper's table are of the GRU4Rec
         of 2016, another model), SASRec 0.710 and 0.302. Item-KNN is 1.6 and 1.9 % above its published
         numbers. The most frequent next item of the last click (`markov`, 0.628) is not far below STAMP, and
         above counting co-visits over ten clicks (0.562, chosen on validation). Popularity
         has recall@20 0.073, with all training sessions or nine tenths at random; the paper has 0.067.

         Diginetica: three epochs of one seed give STAMP recall@20 0.451 and MRR@20 0.145, with validation
         still rising (SR-GNN's authors measured 0.456); the paper has 0.620 and 0.274, for sessions in the
         order of the raw file. With adjacent repeated views and one order of items in all sessions
         (`file-fixed`) they give 0.560 and 0.248, so such an order explains most of the difference
         (docs/discussion.md). Counting co-visits has 0.402 and 0.117 in order of time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from experiments import common, sweeps
from experiments.common import NONE, Published
from experiments.sequential import session_floors
from experiments.sequential.session_floors import PLAIN, RANKING
from experiments.sequential.stamp_published import PUBLISHED, RESORTED, note_of
from experiments.sequential.stamp_sessions import dataset_name
from experiments.sequential.stamp_sessions import load as load
from jaxrec.config import check_run, run_program
from jaxrec.data.events.sessions import split_sessions
from jaxrec.protocols import sessions
from jaxrec.recipes import stamp as recipes
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_click import sigmoid_softmax
from jaxrec.tasks.objectives import Objective, full_softmax
from jaxrec.train.fit import Fitted
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import Measured
from jaxrec.types import Baseline, Protocol

EXPERIMENT = "stamp"
METRIC = "recall@20"


class Row(NamedTuple):
    """A trained row: its encoder, its loss over all items, and whether an example is a whole session, not a
    prefix."""

    encoder: Callable[[int, recipes.Recipe], Encoder]
    objective: Callable[[], Objective] = full_softmax
    whole: bool = False


ROWS: Mapping[str, Row] = {
    "stamp-ce": Row(recipes.stamp),
    "stmp-ce": Row(recipes.stmp),
    "stamp-sigmoid": Row(recipes.stamp, sigmoid_softmax),  # not in the default rows
    "gru4rec-ce": Row(recipes.gru4rec, whole=True),
    "sasrec-ce": Row(recipes.sasrec, whole=True),
}
BASELINES = (*RANKING, *PLAIN)
OF_KNN = ("neighbours", "regularisation")  # settings of item-knn alone
TINY: Mapping[str, Any] = {"dim": 8, "max_len": 8, "epochs": 2, "batch_size": 64, "session_batch_size": 32}


@dataclasses.dataclass(frozen=True)
class Config(common.RankingOptions, common.SweepOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other. Defaults: the authors' code."""

    dataset: Literal["yoochoose1_64", "diginetica", "tmall"] = "yoochoose1_64"  # data set
    rows: tuple[str, ...] = (*BASELINES, "stamp-ce", "stmp-ce", "gru4rec-ce", "sasrec-ce")
    select: Literal["validation", "test"] = "validation"  # whose recall@20 chooses the epoch
    order: Literal["time", "file", "file-fixed"] = "time"  # of a session's clicks, see the top of this file
    share: float = 0.1  # of the training sessions, for validation; none with --select test
    validation: Literal["random", "last"] = "random"  # which sessions those are
    user: str = "session"  # column of sessions of your own file
    workdir: str = "runs/stamp"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        sweeps.check(self, (*PLAIN, *ROWS))
        sizes = ("dim", "max_len", "epochs", "batch_size", "session_batch_size", "num_devices", "save_every")
        common.check(self, *sizes)
        for name in ("max_norm", "clip", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive, or 0; see --help")


def complete_settings(config: Config) -> Config:
    """The settings, with those of the data set where they are not given, and small ones for --tiny."""
    filled: Config = recipes.for_dataset(common.shrink_if_tiny(config, **TINY), config.dataset)
    return dataclasses.replace(filled, share=config.share if config.select == "validation" else 0.0)


def training_of(row: Row, columns: sessions.Data, config: Config) -> sessions.Training:
    """How a row is trained: on prefixes (STAMP and its variants) or on whole sessions."""
    model, objective = row.encoder(columns.split.num_items, config), row.objective()
    if not row.whole:
        return sessions.by_prefix(model, objective, columns, config.batch_size, last_only=True, summed=True)
    return sessions.by_session(
        model,
        objective,
        columns,
        config.session_batch_size,
        deviations=3.0,
        num_devices=common.num_shares(config),
    )


def model_name(row: str, config: Config) -> str:
    """The row's name, with suffixes for the order of clicks and the choice of the epoch if not the defaults.

    A baseline that is not chosen has no epochs: with --select test it also reads the validation sessions.
    """
    order = "" if config.order == "time" else f"+{config.order}-order"
    plain = row in BASELINES and not row.endswith("-selected")
    whole = "+all-sessions" if plain else "+test-selected"
    return row + order + (whole if config.select == "test" else "")


def published_numbers(row: str, config: Config) -> Published:
    """The published numbers of a row, if the settings that it reads are those of the authors' code; else,
    in the order of time, those of a third party.
    """
    authors = complete_settings(Config(dataset=config.dataset, select=config.select))
    official = common.describe_settings(authors)
    read: tuple[str, ...] = ("dataset", "tiny", "order", "share", "validation", *OF_KNN)
    read = read if row in BASELINES else tuple(official)
    in_time = config.order == "time" and not (config.data or config.tiny)
    others = RESORTED.get((config.dataset, row), NONE) if in_time else NONE
    if config.data or any(common.describe_settings(config)[name] != official[name] for name in read):
        return others
    return PUBLISHED.get((config.dataset, row), others)


def baseline_of(row: str, columns: sessions.Data, config: Config) -> Baseline:
    """The baseline of a row."""
    settings = {name: getattr(config, name) for name in OF_KNN} if row == "item-knn" else {}
    return PLAIN[row](columns, **settings)


def validate(row: str, columns: sessions.Data, protocol: Protocol, config: Config, trial: Trial) -> Measured:
    """Measures a baseline on validation, for a search of its settings."""
    baseline = baseline_of(row, columns, config)
    found = sessions.test(baseline, columns, protocol, baseline.for_seeds(trial.seeds), part="validation")
    return Measured(METRIC, [of_seed[METRIC] for of_seed in found])


def train(
    row: str, columns: sessions.Data, protocol: Protocol, config: Config, trial: Trial | None = None
) -> Fitted:
    """Trains a row for all seeds. trial: of a search of settings."""
    folders = (dataset_name(config, columns.split.name), model_name(row, config))
    return sessions.train(
        training_of(ROWS[row], columns, config),
        columns,
        protocol,
        common.optimiser(recipes.adam if ROWS[row].whole else recipes.summed_adam, config, trial),
        epochs=config.epochs,
        patience=config.patience or None,
        select=config.select,
        **common.training_options(config, *folders, left_out=OF_KNN, trial=trial, row=row),
    )


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = complete_settings(config)
    columns = sessions.resident(split_sessions(load(config), share=config.share, by=config.validation))
    dataset = dataset_name(config, columns.split.name)
    for row in config.rows:
        name, own, names = model_name(row, config), config, (EXPERIMENT, dataset, model_name(row, config))
        loss, selection = (ROWS[row].objective().description, METRIC) if row in ROWS else ("", "none")
        protocol = sessions.protocol(columns.split, loss, selection)
        if row not in RANKING:
            tuned = functools.partial(train if row in ROWS else validate, row, columns, protocol)
            own = common.tune(config, tuned, experiment=EXPERIMENT, dataset=dataset, model=name, row=row)
        fitted, settings = None, {"share": own.share, "order": own.order}
        if row in RANKING:
            asked = protocol._replace(selection=METRIC)
            made = session_floors.fit(row, columns, asked, config, *names, part=config.select)
            model, variables, protocol, settings = *made[:3], {**settings, **made.settings}
        elif row in PLAIN:
            model = baseline_of(row, columns, own)
            variables = model.for_seeds(config.seeds)
            settings |= {n: getattr(own, n) for n in OF_KNN} if row == "item-knn" else {}
        else:
            common.check_label(row, ROWS[row].objective().name)
            model, fitted = training_of(ROWS[row], columns, own), train(row, columns, protocol, own)
            variables, settings = fitted.variables, common.describe_settings(own, left_out=OF_KNN)
        if protocol.selection == METRIC and config.select == "test":
            protocol = protocol._replace(selection=f"{METRIC} on test")
        numbers = published_numbers(row, own)
        found = sessions.run_test(model, columns, protocol, variables, **common.for_test(config, protocol))
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=name,
            config=settings,
            protocol=protocol,
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
            note=note_of(row, own.select) if numbers in PUBLISHED.values() else "",
            **numbers.fields(),
        )
        print(f"{name}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
