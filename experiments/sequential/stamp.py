"""STAMP on Yoochoose, Diginetica and Tmall sessions (Liu et al., KDD 2018, doi:10.1145/3219819.3219950).

Train: every prefix of a training session predicts the click after it, against all items. Test: every prefix
of the test sessions; recall@20 is the paper's P@20. Items of the session stay candidates, and so do items
that occur in test sessions only, as in the authors' code: a model can hardly hit those. Parameters are
those of the best validation recall@20, on a tenth of the training sessions drawn at random. The authors'
code trains on all sessions and reports the epoch that is best on test: --select test does that, and its rows
are labelled so.

STAMP and STMP follow the authors' code: softmax cross-entropy without the paper's sigmoid, no biases after
the pooling, item vectors no longer than 1 (1.5 on Diginetica) where they are read, Adam with learning rate
0.003 on summed gradients, each parameter's cut to a norm of 150 (110), 10 epochs of batches of 512.
`stamp-sigmoid` has the objective that the paper prints. Departs from the code: a batch is 512 prefixes drawn
at random, where the code takes one position of up to 512 sessions of equal length.

GRU4Rec and SASRec read whole sessions, with cross-entropy over all items: the same examples, except that of
a session longer than `max_len` only the last clicks teach.

Published numbers stand beside Yoochoose alone. The paper's on Diginetica belong to other sequences: its code
orders the clicks of a session by their date, a day, which leaves those of one day in the order of the raw
file, where repeated views of an item stand together. The sessions here are in order of time. --order file
brings the repeated views of a session together, as there, and its items in random order; --order file-fixed
has one order of items for all sessions, which a public sample of the file does not rule out. Both are
ablations, to see how much of the published numbers the order is.

Run:     python -m experiments.sequential.stamp
Also:    --dataset diginetica, --rows stamp-ce --seeds 0, --select test, --dataset diginetica --order file
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from experiments.published import NONE, Published, published
from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import packing
from jaxrec.config import check_run
from jaxrec.data.events.sessions import Part, Sessions, split_sessions
from jaxrec.data.sources import session_logs as source
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as ranking
from jaxrec.protocols import sessions
from jaxrec.tasks import next_click as session
from jaxrec.tasks import next_item, objectives
from jaxrec.tasks.next_item import Encoder
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Evaluation, Protocol, Task

EXPERIMENT = "stamp"
Floor = Literal["random", "popularity", "session-popularity", "item-knn", "markov"]
Row = Literal[Floor, "stamp-ce", "stmp-ce", "stamp-sigmoid", "gru4rec-ce", "sasrec-ce"]
ROWS: tuple[Row, ...] = (
    "random",
    "popularity",
    "session-popularity",
    "item-knn",
    "markov",
    "stamp-ce",
    "stmp-ce",
    "gru4rec-ce",
    "sasrec-ce",
)
FLOORS = {
    "random": sessions.random,
    "popularity": sessions.popularity,
    "session-popularity": sessions.session_popularity,
    "item-knn": sessions.item_knn,
    "markov": sessions.markov,
}
METRIC = "recall@20"

PREPARATION = (
    "the paper's preparation has 375,073 training examples where this one has 369,859 before validation is "
    "taken out, and the same 55,898 for test"
)
NOTES = {
    "validation": f"the paper trains on all sessions, and its epoch is the one best on test; {PREPARATION}",
    "test": f"trained on all sessions, parameters of the epoch best on test, as in the paper; {PREPARATION}",
}
FLOOR_NOTES: Mapping[str, str] = {  # recall@20 where these rows count other training sessions
    "popularity": "counts 90 % of the training sessions, drawn at random; with all of them recall@20 is "
    "0.0731 too, with the first 90 % 0.0542, so the tenth left out does not lift it above the paper's",
    "item-knn": "counts 90 % of the training sessions, drawn at random; with all of them recall@20 is "
    "0.5273, with the first 90 % 0.5193",
}
TABLE = "comparison of methods in the STAMP paper"
OTHER_GRU4REC = (
    "the paper's GRU4Rec is that of 2016, with another loss (ranking losses over the other targets of the "
    "batch), one-hot inputs and sessions in parallel"
)
NAMES = ("recall@20", "mrr@20")
SIX = ("recall@5", "mrr@5", "recall@10", "mrr@10", *NAMES)

PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("yoochoose1_64", "popularity"): published(NAMES, f"{TABLE} (POP)", 0.0671, 0.0165),
    ("yoochoose1_64", "item-knn"): published(NAMES, f"{TABLE} (Item-KNN)", 0.5160, 0.2181),
    ("yoochoose1_64", "gru4rec-ce"): published(NAMES, f"{TABLE} (GRU4Rec)", 0.6064, 0.2289)._replace(
        incomparable=OTHER_GRU4REC
    ),
    ("yoochoose1_64", "stmp-ce"): published(NAMES, f"{TABLE} (STMP)", 0.6779, 0.2863),
    ("yoochoose1_64", "stamp-ce"): published(SIX, TABLE, 0.4569, 0.2726, 0.5807, 0.2892, 0.6874, 0.2967),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other. Defaults: the authors' code."""

    dataset: Literal["yoochoose1_64", "diginetica", "tmall"] = "yoochoose1_64"  # what is trained on
    rows: tuple[Row, ...] = ROWS  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # made-up sessions and two epochs, in seconds: to see that all works
    dim: int = 100  # width of all encoders
    max_len: int = 50  # most recent clicks read
    epochs: int = 10  # epochs to train
    patience: int = 0  # epochs without a better validation recall@20 before a seed stops; 0: never
    batch_size: int = 512  # prefixes a step of STAMP and STMP
    learning_rate: float = 3e-3  # of Adam, for STAMP and STMP
    max_norm: float = 0.0  # of item vectors that are read; 0: 1.5 on Diginetica, else 1
    clip: float = 0.0  # norm of a summed gradient, by parameter; 0: 110 on Diginetica, else 150
    session_batch_size: int = 160  # sessions a step of GRU4Rec and SASRec: about 512 prefixes
    session_learning_rate: float = 1e-3  # of Adam, for GRU4Rec and SASRec
    dropout: float = 0.25  # of GRU4Rec and SASRec
    select: Literal["validation", "test"] = "validation"  # whose recall@20 chooses the epoch
    order: Literal["time", "file", "file-fixed"] = "time"  # of a session's clicks; file: see the top
    share: float = 0.1  # of the training sessions, for validation; none with --select test
    validation: Literal["random", "last"] = "random"  # which sessions those are
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/stamp"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        sizes = ("dim", "max_len", "epochs", "batch_size", "session_batch_size", "num_devices", "save_every")
        check(self, *sizes)
        for name in ("max_norm", "clip", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive, or 0; see --help")


def effective(config: Config) -> Config:
    """The settings with those of the data set where there are none, and small ones for --tiny."""
    wide = config.dataset == "diginetica"
    filled = dataclasses.replace(
        config,
        share=config.share if config.select == "validation" else 0.0,
        max_norm=config.max_norm or (1.5 if wide else 1.0),
        clip=config.clip or (110.0 if wide else 150.0),
    )
    if not config.tiny:
        return filled
    return dataclasses.replace(filled, dim=8, max_len=8, epochs=2, batch_size=64, session_batch_size=32)


def load(config: Config) -> Sessions:
    """The sessions of a data set, or for --tiny a chain cut into two parts, in the order asked for."""
    found = made_up() if config.tiny else source.load(config.dataset)
    if config.order == "time":
        return found
    return sessions.repeats_together(found, fixed=config.order == "file-fixed")


def made_up() -> Sessions:
    """Sessions along a noisy cycle of 30 items, and every prefix of others as test."""
    chain = markov_chain(150, 30, min_length=2, max_length=7, noise=0.2).sequences
    rows = [chain.user_items(user).tolist() for user in range(chain.num_users)]
    asked = [(row[:cut], row[cut]) for row in rows[110:] for cut in range(len(row) - 1, 0, -1)]
    prefixes, targets = map(list, zip(*asked, strict=True))
    return Sessions.from_arrays("tiny", **source.arrays_from_lists(rows[:110], (prefixes, targets), "tiny"))


def summed(batch_size: int, clip: float, learning_rate: float) -> optax.GradientTransformation:
    """Adam on the gradient summed over a batch, that of each parameter cut to the norm `clip`.

    Of the last batch of an epoch, which is shorter, it is the mean times `batch_size`.
    """

    def cut(gradient: Array, _: Any) -> Array:
        return gradient * (clip / jnp.maximum(jnp.linalg.norm(gradient.reshape(-1)), clip))

    return optax.chain(optax.scale(batch_size), optax.stateless_with_tree_map(cut), optax.adam(learning_rate))


class Method(NamedTuple):
    """How a row is trained, and how it ranks: ask(part) -> the measure and its queries."""

    task: Task
    plan: Plan
    tx: optax.GradientTransformation
    ask: Callable[[Part], Evaluation]


def method(row: Row, data: sessions.Data, of: Protocol, config: Config) -> Method:
    """Examples are prefixes for STAMP and its kin, whole sessions for the others."""
    match row:
        case "stamp-ce" | "stmp-ce" | "stamp-sigmoid":
            model = STAMP(
                data.split.num_items,
                config.dim,
                attention=row != "stmp-ce",
                use_bias=False,
                max_norm=config.max_norm,
                max_len=config.max_len,
            )
            return of_prefixes(model, loss_of(row), data, of, config)
        case "gru4rec-ce":
            return of_sessions(
                GRU4Rec(
                    data.split.num_items,
                    dim=config.dim,
                    hidden_dim=config.dim,
                    dropout=config.dropout,
                    max_len=config.max_len,
                    bits=counter_bits,
                ),
                data,
                of,
                config,
            )
        case "sasrec-ce":
            return of_sessions(
                SASRec(
                    data.split.num_items,
                    dim=config.dim,
                    inner_dim=config.dim,
                    max_len=config.max_len,
                    dropout=config.dropout,
                    attention_dropout=config.dropout,
                    bits=counter_bits,
                ),
                data,
                of,
                config,
            )
    raise ValueError(f"row={row!r}: learns nothing")


def of_prefixes(model: Encoder, loss: str, data: sessions.Data, of: Protocol, config: Config) -> Method:
    """Batches of prefixes; the state after the last click is all that is computed."""
    objective = objectives.full_softmax() if loss == "ce" else session.sigmoid_softmax()

    def ask(part: Part) -> Evaluation:
        return sessions.evaluation(
            session.retriever(model, last_only=True), data, of, sessions.queries(data, part)
        )

    return Method(
        session.next_click(model, objective, last_only=True),
        shuffled(data.split.num_examples, config.batch_size),
        summed(config.batch_size, config.clip, config.learning_rate),
        ask,
    )


def of_sessions(model: Encoder, data: sessions.Data, of: Protocol, config: Config) -> Method:
    """Batches of sessions that share rows; each click predicts the next one."""
    longest, devices = config.max_len, config.num_devices
    inputs = np.minimum(data.split.lengths[: data.split.num_train] - 1, longest)
    count = packing.rows_needed(inputs, config.session_batch_size, longest, multiple=devices, deviations=3.0)
    rows = Packing(count, longest)

    def lengths(context: Context, row: Array) -> Array:
        return jnp.clip(context["length"][row] - 1, 0, longest)

    def ask(part: Part) -> Evaluation:
        ranked = ranking.ranking(data.split.queries(part), longest)
        return sessions.evaluation(next_item.retriever(model, ranked.rows), data, of, ranked.queries)

    return Method(
        next_item.next_item(model, objectives.full_softmax(), packed=rows),
        shuffled(
            data.split.num_train, config.session_batch_size, lengths=lengths, rows=rows.rows, width=rows.width
        ),
        optax.adam(config.session_learning_rate),
        ask,
    )


def loss_of(row: Row) -> str:
    """The loss that a row's name ends in; "" for one that learns nothing."""
    return "" if row in FLOORS else "sigmoid softmax" if row == "stamp-sigmoid" else "ce"


def train(
    row: Row, data: sessions.Data, of: Protocol, config: Config
) -> tuple[Fitted, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    how = method(row, data, of, config)
    fitted = fit_reusing(
        [Phase("train", how.task, config.epochs)],
        how.tx,
        how.plan,
        data.columns,
        Selection(how.ask(config.select), METRIC, patience=config.patience or None),
        seeds=config.seeds,
        workdir=Path(config.workdir) / dataset_name(config) / model_name(row, config),
        description={"row": row, **described(config)},
        vocabulary={"item": data.split.item_ids},
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    asked = how.ask("test")
    return fitted, evaluate(asked, fitted.variables, data.columns, num_devices=config.num_devices)


def dataset_name(config: Config) -> str:
    return "tiny" if config.tiny else config.dataset


def model_name(row: Row, config: Config) -> str:
    """The row's name, with the order of clicks and how its epoch was chosen where those are not the usual.

    A floor chooses nothing: with --select test it reads the sessions of validation too.
    """
    order = "" if config.order == "time" else f"+{config.order}-order"
    whole = "+all-sessions" if row in FLOORS else "+test-selected"
    return row + order + (whole if config.select == "test" else "")


def published_numbers(row: Row, config: Config) -> Published:
    """What was published for a row, where the settings it reads are those of the authors' code."""
    official = described(effective(Config(dataset=config.dataset, select=config.select)))
    read = ("dataset", "order", "share", "validation") if row in FLOORS else tuple(official)
    if any(described(config)[name] != official[name] for name in read):
        return NONE
    return PUBLISHED.get((dataset_name(config), row), NONE)


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = effective(config)
    split = split_sessions(load(config), share=config.share, by=config.validation)
    data = sessions.resident(split)
    for row in config.rows:
        floor = FLOORS.get(row)
        chosen = METRIC if config.select == "validation" else f"{METRIC} on test"
        of = sessions.protocol(split, loss_of(row), "none" if floor else METRIC)
        fitted: Fitted | None = None
        if floor is not None:
            scorer = floor(data)
            found = evaluate(
                sessions.floor_evaluation(scorer, data, of),
                sessions.floor_variables(scorer, config.seeds),
                data.columns,
                num_devices=config.num_devices,
            )
        else:
            fitted, found = train(row, data, of, config)
        numbers = published_numbers(row, config)
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset_name(config),
            model=model_name(row, config),
            config={"share": config.share, "order": config.order} if floor else described(config),
            protocol=of if floor else of._replace(selection=chosen),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
            note=note_of(row, config) if numbers.values else "",
            **numbers.fields(),
        )
        print(f"{model_name(row, config)}: {means(found)}\nsaved {path}", flush=True)


def note_of(row: Row, config: Config) -> str:
    """What a reader has to know of a row beside published numbers."""
    if row not in FLOORS:
        return NOTES[config.select]
    return PREPARATION if config.select == "test" else f"{FLOOR_NOTES[row]}; {PREPARATION}"


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
