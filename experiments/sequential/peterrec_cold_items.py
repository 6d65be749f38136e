"""PeterRec on cold items: what a frozen NextItNet says through small patches (SIGIR 2020, arXiv:2001.04253).

After the paper's data sets ColdRec, on click sessions. 100 items, drawn among those of 60 to 400 clicks, are
taken out as cold. Source task: the next click in sessions without a cold item. Target task: which of the 100
another session leads to, from the clicks before its first cold one and a token behind them; nothing of those
sessions is in the source. 300 examples train, 500 validate and 2,000 test, all drawn at random, one a
session. hit@5 and mrr@5 are among all 100; a row's parameters are those of the epoch of best validation
mrr@5, and `log_loss` is taken there too: it says more of confidence than of ranking. `peterrec_rows`
describes the rows.

Departs from the paper: other data, as its own are not to be had here, so no published number stands beside
ours; see `jaxrec.recipes.peterrec` for the losses. The released code trains the second norm of each block
along with patches and head; here they stay frozen, unless `--norms` asks for `peterrec-serial-norms` and so
on.

Run:     python -m experiments.sequential.peterrec_cold_items
Also:    --dataset diginetica, --labels 1000, --norms --rows peterrec-serial,
         --data clicks.csv --user session --item sku --time ts (sessions of yours)

Expect:  a NextItNet that was trained without 100 items of Yoochoose is adapted to tell which of them a
         session leads to. From 3,000 examples hit@5 is 0.54 from scratch, 0.67 with all parameters
         fine-tuned, 0.70 with the head alone (0.5 % of the parameters) and 0.71 with PeterRec's serial
         patches (3 %). From 300 examples the head alone is best (0.53), before serial patches (0.49),
         fine-tuning (0.46) and training from scratch (0.19). Parallel patches stay behind serial ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from experiments import common
from experiments.sequential import peterrec_rows
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events import cold_items
from jaxrec.data.events.batching import labelled_columns
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.synthetic.grouped_sessions import grouped_sessions
from jaxrec.protocols import next_item, profiles

SOURCE_SHARE = 0.05  # of the source sessions, to choose the pre-trained model by
TINY: Mapping[str, Any] = {
    "dim": 8, "dilations": (1,), "max_len": 10, "batch_size": 32, "pretrain_epochs": 2, "epochs": 2,
    "labels": 40, "num_cold": 6, "validation": 60, "test": 100, "min_clicks": 1, "max_clicks": 10_000,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(peterrec_rows.Options, common.EventOptions):
    """Pre-trains once, then trains and tests the rows of the table, one after the other."""

    dataset: Literal["yoochoose1_64", "diginetica"] = "yoochoose1_64"  # what is trained on
    labels: int = 300  # training examples of the task of cold items
    num_cold: int = 100  # cold items
    min_clicks: int = 60  # that a cold item has at least
    max_clicks: int = 400  # that a cold item has at most
    validation: int = 500  # examples
    test: int = 2000  # examples
    user: str = "session"  # a file's column of sessions

    def __post_init__(self) -> None:
        super().__post_init__()
        common.check(self, "labels", "num_cold", "min_clicks", "max_clicks", "validation", "test")


def load(config: Config) -> Sequences:
    """The sessions of a data set or of a file of yours; made up for --tiny."""
    if config.data:
        return common.own_events(config)
    if config.tiny:
        return grouped_sessions()
    return data.load(f"sessions/{config.dataset}", kind="sessions").train


def split(log: Sequences, config: Config) -> tuple[next_item.Data, profiles.Data]:
    """The source task and the target task of a log, parted by cold items."""
    seed = config.split_seed
    held = cold_items.hold_out_items(
        log, num_cold=config.num_cold, min_clicks=config.min_clicks, max_clicks=config.max_clicks, seed=seed
    )
    parts = cold_items.split_examples(
        len(held.label), train=config.labels, validation=config.validation, test=config.test, seed=seed
    )
    num_items, num_classes = held.source.num_items, len(held.cold_ids)
    sizes = f"{config.labels:,} / {config.validation:,} / {config.test:,}"
    target = profiles.Data(
        name=held.source.name.split("/")[-1],
        task=str(config.labels),
        rule=f"{sizes} sessions at random, seed {seed}",
        columns=labelled_columns(
            held.items, held.offsets, held.label, num_items=num_items, num_classes=num_classes
        ),
        classes=tuple(map(str, held.cold_ids)),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        num_items=num_items,
        ranked=True,
    )
    source = cold_items.hold_out_last_clicks(held.source, share=SOURCE_SHARE, seed=seed)
    return next_item.resident(source), target


def run(config: Config) -> None:
    """Pre-trains, then trains, tests and stores every row."""
    check_run(config)
    config = common.shrunk(config, **TINY)
    source, target = split(load(config), config)
    pretrained = None
    if peterrec_rows.needs_pretraining(config):
        pretrained = peterrec_rows.pretrain(
            source,
            config,
            target.name,
            seen="keep",  # shoppers go back to an item
            left_out=("labels", "validation", "test"),
        )
    peterrec_rows.run_rows(target, config, pretrained)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
