"""PeterRec on cold items, with a frozen NextItNet and small patches (SIGIR 2020, arXiv:2001.04253).

Like the paper's data sets ColdRec, but on click sessions. 100 items, drawn from those with 60 to 400 clicks,
are the cold items. Source task: the next click in sessions without a cold item. Target task: the first cold
item of another session, from the clicks before it and a token after them; the source task has none of these
sessions. 300 examples are for training, 500 for validation and 2,000 for test, drawn at random, one per
session. hit@5 and mrr@5 rank all 100 cold items; a row's parameters are those of the epoch of best validation
mrr@5, also for `log_loss`, which measures confidence more than ranking. `peterrec_rows` describes the rows.

Departs from the paper: other data, since the paper's are not available, so there are no comparable published
numbers; see `jaxrec.recipes.peterrec` for the losses. The released code trains the second norm of each block
along with patches and head; here they stay frozen, except with `--norms` (`peterrec-serial-norms` and so on).

Run:     python -m experiments.sequential.peterrec_cold_items
Also:    --dataset diginetica, --labels 1000, --norms --rows peterrec-serial,
         --data clicks.csv --user session --item sku --time ts (your own sessions)

Expect:  a NextItNet that was trained without 100 items of Yoochoose is adapted to predict which of them a
         session leads to. With 3,000 examples hit@5 is 0.54 from scratch, 0.67 with all parameters
         fine-tuned, 0.70 with the head alone (0.5 % of the parameters) and 0.71 with PeterRec's serial
         patches (3 %). With 300 examples the head alone is best (0.53), before serial patches (0.49),
         fine-tuning (0.46) and training from scratch (0.19). Parallel patches are below serial ones.
         Counting which items led to which, in the examples alone, has 0.69 with 3,000 examples, with an
         mrr@5 of 0.550, above serial patches (0.531), and 0.40 (mrr@5 0.308; the head 0.369) with 300.
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

SOURCE_SHARE = 0.05  # share of the source sessions for validation of the pre-trained model
TINY: Mapping[str, Any] = {
    "dim": 8, "dilations": (1,), "max_len": 10, "batch_size": 32, "pretrain_epochs": 2, "epochs": 2,
    "labels": 40, "num_cold": 6, "validation": 60, "test": 100, "min_clicks": 1, "max_clicks": 10_000,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(peterrec_rows.Options, common.EventOptions):
    """Pre-trains once, then trains and tests the rows of the table, one after the other."""

    dataset: Literal["yoochoose1_64", "diginetica"] = "yoochoose1_64"  # data set
    labels: int = 300  # training examples of the target task
    num_cold: int = 100  # cold items
    min_clicks: int = 60  # least clicks of a cold item
    max_clicks: int = 400  # most clicks of a cold item
    validation: int = 500  # examples
    test: int = 2000  # examples
    user: str = "session"  # column of sessions of your own file

    def __post_init__(self) -> None:
        super().__post_init__()
        common.check(self, "labels", "num_cold", "min_clicks", "max_clicks", "validation", "test")


def load(config: Config) -> Sequences:
    """The sessions of a data set or of your own file; synthetic for --tiny."""
    if config.data:
        return common.own_events(config)
    if config.tiny:
        return grouped_sessions()
    return data.load(f"sessions/{config.dataset}", kind="sessions").train


def split(log: Sequences, config: Config) -> tuple[next_item.Data, profiles.Data]:
    """The source task and the target task of a log, split by cold items."""
    seed = config.split_seed
    found = cold_items.hold_out_items(
        log, num_cold=config.num_cold, min_clicks=config.min_clicks, max_clicks=config.max_clicks, seed=seed
    )
    parts = cold_items.split_examples(
        len(found.label), train=config.labels, validation=config.validation, test=config.test, seed=seed
    )
    num_items, num_classes = found.source.num_items, len(found.cold_ids)
    sizes = f"{config.labels:,} / {config.validation:,} / {config.test:,}"
    target = profiles.Data(
        name=found.source.name.split("/")[-1],
        task=str(config.labels),
        rule=f"{sizes} sessions at random, seed {seed}",
        columns=labelled_columns(
            found.items, found.offsets, found.label, num_items=num_items, num_classes=num_classes
        ),
        classes=tuple(map(str, found.cold_ids)),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        num_items=num_items,
        ranked=True,
    )
    source = cold_items.hold_out_last_clicks(found.source, share=SOURCE_SHARE, seed=seed)
    return next_item.resident(source), target


def run(config: Config) -> None:
    """Pre-trains, then trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    source, target = split(load(config), config)
    pretrained = None
    if peterrec_rows.needs_pretraining(config):
        pretrained = peterrec_rows.pretrain(
            source,
            config,
            target.name,
            seen="keep",  # users click an item again
            left_out=("labels", "validation", "test"),
        )
    peterrec_rows.run_rows(target, config, pretrained)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
