"""PeterRec on attributes of users, from a frozen NextItNet (Yuan et al., SIGIR 2020, arXiv:2001.04253).

On MovieLens. Source task: the next film of each user, trained on all but the last two events. Target task:
the user's gender, age group or occupation, from all events and a token after them. 60 % of the users are for
training, 10 % for validation, 30 % for test. A row's parameters are those of the epoch of best validation log
loss. `peterrec_rows` describes the rows.

Departs from the paper: other data, since the paper's are not available, so there are no comparable published
numbers; see `jaxrec.recipes.peterrec` for the losses. Events of ml-1m are in the order of its file, which
reveals much of the next item: metrics of its source task mean nothing, and patches adapt a model that has
learned that order too.

Run:     python -m experiments.sequential.peterrec_attributes
Also:    --attribute age, --dataset ml-1m (more users, no times)

Expect:  there is little to transfer: a linear model of the frozen states predicts gender worse than a linear
         model of the set of items. No results are stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from experiments import common
from experiments.sequential import peterrec_rows
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.batching import labelled_columns
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import next_item, profiles

AGES = (18, 25, 35, 45, 50, 56)  # first ages of GroupLens' age groups after the first
VALIDATION, TEST = 0.1, 0.3  # shares of users
TINY: Mapping[str, Any] = {
    "dim": 8, "dilations": (1,), "max_len": 10, "batch_size": 32, "pretrain_epochs": 2, "epochs": 2,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(peterrec_rows.Options):
    """Pre-trains once, then trains and tests the rows of the table, one after the other."""

    dataset: Literal["ml-100k", "ml-1m"] = "ml-100k"  # data set
    attribute: Literal["gender", "age", "occupation"] = "gender"  # of a user
    max_len: int = 100  # most recent events read, including the token
    pretrain_batch_size: int = 32  # users a step
    pretrain_epochs: int = 60  # at most; the best one is used
    pretrain_patience: int = 5  # epochs without improvement of the validation score
    epochs: int = 30  # of a row, at most; the best one is used
    patience: int = 5  # epochs without improvement of the validation score


def load(config: Config) -> tuple[Sequences, np.ndarray]:
    """The sequences of a data set and the attribute of each user; synthetic for --tiny."""
    if config.tiny:
        sequences = markov_chain(80, 24, noise=0.1).sequences
        first = sequences.items[sequences.offsets[:-1]]
        return sequences, np.where(first > 12, "high", "low")
    sequences, users = movielens.load_with_users(config.dataset)
    groups = np.array(["under 18", *(f"from {age}" for age in AGES)])
    named = {
        "gender": users.gender,
        "age": groups[np.searchsorted(AGES, users.age, "right")],
        "occupation": users.occupation,
    }
    return sequences, named[config.attribute]


def split(sequences: Sequences, labels: np.ndarray, config: Config) -> profiles.Data:
    """Users split at random; labels [U] become classes 1..T in the order of their names."""
    classes, ids = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(config.split_seed).permutation(sequences.num_users).astype(np.int32)
    cuts = np.cumsum([round(share * order.size) for share in (TEST, VALIDATION)])
    test, validation, train = (np.sort(part) for part in np.split(order, cuts))
    columns = labelled_columns(
        sequences.items,
        sequences.offsets,
        ids.reshape(-1) + 1,
        num_items=sequences.num_items,
        num_classes=len(classes),
    )
    shares = " / ".join(f"{share:.0%}" for share in (1 - VALIDATION - TEST, VALIDATION, TEST))
    return profiles.Data(
        name=sequences.name.split("/")[-1],
        task="half" if config.tiny else config.attribute,
        rule=f"{shares} of users at random, seed {config.split_seed}",
        columns=columns,
        classes=tuple(map(str, classes)),
        train=train,
        validation=validation,
        test=test,
        num_items=sequences.num_items,
        ranked=False,
    )


def run(config: Config) -> None:
    """Pre-trains, then trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    sequences, labels = load(config)
    target = split(sequences, labels, config)
    pretrained = None
    if peterrec_rows.needs_pretraining(config):
        pretrained = peterrec_rows.pretrain(
            next_item.resident(leave_one_out(sequences, short="train")),
            config,
            target.name,
            seen="exclude",  # users rate a film once
            left_out=("attribute", "split_seed"),  # the source task has all users
        )
    peterrec_rows.run_rows(target, config, pretrained)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
