"""SASRec on Amazon Video Games (Kang and McAuley, ICDM 2018, arXiv:1808.09781, table III, "Games").

Train: events 1..n-2 of each user predict the next, with binary cross-entropy and one negative an event,
uniform over the items outside the user's training events. Users are drawn with replacement, as in the
authors' sampler. Test: the last event among 100 negatives; the parameters are those of the best validation
NDCG@10. Rows ending in -full rank the same parameters among all items: numbers of the two protocols do not
compare (Krichene and Rendle, KDD 2020).

Run:     python -m experiments.sequential.sasrec
Also:    --rows sasrec-bce --no-replacement (each user once an epoch), --dataset ml-100k

Departs from the authors' evaluation:
  - all users are asked; the code asks 10,000 drawn at random;
  - negatives are drawn once, with a fixed seed, for all epochs and models; the code draws anew each time;
  - negatives avoid the target, which the code may draw (once in 237 queries here);
  - ties rank the target last; the code's argsort puts it first, where a constant score gives Hit@10 = 1.
As in the code, negatives avoid the items of training events only: the validation item may be among those of a
test query. Of the code's draws of users, those with fewer than two training events are drawn again; here they
stay and teach nothing (1 % of them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optax

from experiments.published import NONE, Published, published
from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import movielens, sasrec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks.next_item import Encoder, next_item
from jaxrec.tasks.objectives import full_softmax, sampled_bce
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted, Phase
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Protocol, Retriever

EXPERIMENT = "sasrec"
Row = Literal["random", "popularity", "sasrec-bce", "sasrec-bce-postnorm", "gru4rec-bce", "sasrec-ce"]
FLOORS = ("random", "popularity")

TABLE = "table III of the SASRec paper"
TWO = ("hit@10", "ndcg@10")
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("Video", "sasrec-bce"): published(TWO, TABLE, 0.7410, 0.5360),
    ("Video", "popularity"): published(TWO, f"{TABLE} (PopRec)", 0.4724, 0.2779),
    ("Video", "gru4rec-bce"): published(TWO, f"{TABLE} (GRU4Rec)", 0.2938, 0.1837)._replace(
        incomparable="the paper's GRU4Rec is the session-based one, which has another loss and output table"
    ),
    ("Video", "sasrec-bce-postnorm"): published(
        TWO, "study of layer norms that the README of pmixer/SASRec.pytorch links, post-norm", 0.7350, 0.5297
    ),
}
NEGATIVES = "negatives avoid training items only, so a validation item may be among them"
ASKED = "published: of 10,000 users drawn at random and negatives drawn anew, here of all users"

TINY: Mapping[str, Any] = {"dim": 8, "max_len": 12, "batch_size": 32, "epochs": 2, "evaluate_every": 1}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other. Defaults: the authors' code."""

    dataset: Literal["Video", "ml-100k"] = "Video"  # what is trained on
    rows: tuple[Row, ...] = (
        "random",
        "popularity",
        "sasrec-bce",
        "sasrec-bce-postnorm",
        "gru4rec-bce",
        "sasrec-ce",
    )  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    tiny: bool = False  # a synthetic set and two epochs, in seconds: to see that all works
    dim: int = 50  # width of the encoder; a GRU's state is twice as wide
    num_layers: int = 2  # blocks; a GRU has one layer
    num_heads: int = 1  # attention heads
    max_len: int = 50  # most recent events read
    dropout: float = 0.5  # of embeddings, attention weights and layers
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.98  # decay of Adam's second moment
    batch_size: int = 128  # users a step
    epochs: int = 201  # epochs to train
    evaluate_every: int = 20  # epochs between evaluations on validation
    patience: int = 0  # evaluations without a better one before a seed stops; 0: never
    replacement: bool = True  # draw users independently; no: each once an epoch
    num_candidates: int = 100  # negatives that the target is ranked among
    num_devices: int = 1  # devices that share each batch
    save_every: int = 10  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/sasrec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        least_one = ("dim", "num_layers", "num_heads", "max_len", "batch_size", "epochs", "evaluate_every")
        check(self, *least_one, "num_candidates", "num_devices", "save_every")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience}: must be positive, or 0 for never")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide dim={self.dim}")


def effective(config: Config) -> Config:
    """The settings with those of --tiny in place of defaults, and at least one evaluation."""
    if config.tiny:
        defaults = {field.name: field.default for field in dataclasses.fields(Config)}
        kept = {name: value for name, value in TINY.items() if getattr(config, name) == defaults[name]}
        config = dataclasses.replace(config, **kept)
    return dataclasses.replace(config, evaluate_every=min(config.evaluate_every, config.epochs))


def load(config: Config) -> Sequences:
    """The sequences of a data set."""
    if config.tiny:
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    return sasrec.load("Video") if config.dataset == "Video" else movielens.load("ml-100k")


def encoder_of(row: Row, num_items: int, config: Config) -> Encoder:
    """The encoder of a row, all of one width."""
    match row:
        case "gru4rec-bce":
            return GRU4Rec(
                num_items,
                dim=config.dim,
                hidden_dim=2 * config.dim,
                dropout=config.dropout,
                max_len=config.max_len,
                bits=counter_bits,
            )
        case "sasrec-bce-postnorm":
            return SASRec(
                num_items,
                dim=config.dim,
                inner_dim=config.dim,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                max_len=config.max_len,
                dropout=config.dropout,
                attention_dropout=config.dropout,
                bits=counter_bits,
            )
        case _:
            return SASRecOriginal(
                num_items,
                dim=config.dim,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                max_len=config.max_len,
                dropout=config.dropout,
                bits=counter_bits,
            )


def loss_of(row: Row) -> str:
    """The loss that a row's name ends in or, if a variant does, holds."""
    return "ce" if "-ce" in row else "bce"


def model_name(row: Row, config: Config) -> str:
    """The row's name, with what an option changes."""
    return f"{row}+permuted" if row not in FLOORS and not config.replacement else row


def published_numbers(row: Row, config: Config) -> Published:
    """What was published for a row, where the settings it reads are those of the authors' code."""
    official = described(Config(dataset=config.dataset))
    read = ("dataset", "tiny", "num_candidates") if row in FLOORS else tuple(official)
    if any(described(config)[name] != official[name] for name in read):
        return NONE
    return PUBLISHED.get((config.dataset, row), NONE)


def train(row: Row, data: ranking.Data, config: Config, protocol: Protocol) -> tuple[Encoder, Fitted]:
    """Trains a row for all seeds."""
    model = encoder_of(row, data.num_items, config)
    objective = full_softmax() if loss_of(row) == "ce" else sampled_bce(data.num_items, data.excluded_width)
    rows = ranking.training_rows(data, config.batch_size, config.max_len, config.num_devices)
    fitted = fit_reusing(
        [Phase("train", next_item(model, objective, packed=rows), config.epochs)],
        optax.adam(config.learning_rate, b2=config.b2),
        ranking.training_plan(data, config.batch_size, config.max_len, rows, replacement=config.replacement),
        data.columns,
        ranking.selection(
            model,
            data,
            protocol,
            every=config.evaluate_every,
            patience=config.patience or None,
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / data.split.sequences.name / model_name(row, config),
        description={"row": row, **described(config)},
        vocabulary=ranking.vocabulary(data),
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    return model, fitted


def run(config: Config) -> None:
    """Trains, tests and stores every row, among sampled candidates and among all items."""
    check_run(config)
    config = effective(config)
    sequences = load(config)
    data = ranking.resident(leave_one_out(sequences, short="train"))
    dataset = sequences.name.split("/")[-1]
    among = f"sampled-{config.num_candidates}"
    for row in config.rows:
        floor = row in FLOORS
        loss = "" if floor else loss_of(row)
        sampled = Protocol(
            split=data.split.rule, candidates=among, loss=loss, selection="none" if floor else "ndcg@10"
        )
        fitted: Fitted | None = None
        model: Retriever | Encoder
        if floor:
            model = ranking.random(data) if row == "random" else ranking.popularity(data)
            variables = ranking.floor_variables(config.seeds)
        else:
            model, fitted = train(row, data, config, sampled)
            variables = fitted.variables
        everything = sampled._replace(
            candidates="all", selection="none" if floor else f"ndcg@10 among {among}"
        )
        for protocol, ending in ((sampled, ""), (everything, "-full")):
            asked = ranking.evaluation(model, data, protocol, "test")
            found = evaluate(asked, variables, data.columns, num_devices=config.num_devices)
            numbers = NONE if ending else published_numbers(row, config)
            notes = [] if ending else [NEGATIVES, *([ASKED] if numbers.values else [])]
            path = save(
                config.results,
                experiment=EXPERIMENT,
                dataset=dataset,
                model=model_name(row, config) + ending,
                config={"num_candidates": config.num_candidates} if floor else described(config),
                protocol=protocol,
                seeds=config.seeds,
                metrics=found,
                fitted=fitted,
                note="; ".join(notes),
                **numbers.fields(),
            )
            print(f"{model_name(row, config)}{ending}: {means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
