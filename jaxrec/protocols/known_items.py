"""Leave-one-out over the items that a trained model knows, as the code of eSASRec measures it.

Tikhonovich et al., RecSys 2025, arXiv:2508.06450 (github.com/blondered/transformer_benchmark): candidates are
the items of training events, and test users are dropped whose target is the target or input of no other event
of training or validation. A target that is a target of validation alone stays, and is a miss. Seen items,
the validation target among them, are no candidates (`seen="exclude"`).

Departs from that code: validation excludes all items of the input there too, not only its most recent ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.events.split import Queries, Split
from jaxrec.protocols.next_item import Data
from jaxrec.types import ONLY

TRAINED = f"{ONLY}trained"  # of `Protocol.candidates`: the items that have a training event


def known_items(data: Data) -> Data:
    """The same data with the test users whose target is known before it, and the set of items `TRAINED`.

    Measure by it what was trained on `data`; the training events and the validation queries are equal.

    Raises:
      ValueError: no test target is known.
    """
    split = data.split
    mask = np.zeros(data.num_items + 1, bool)
    mask[split.sequences.items[split.in_training]] = True
    return data._replace(split=_with_known_targets(split, mask), columns={**data.columns, TRAINED: mask})


def _with_known_targets(split: Split, trained: np.ndarray) -> Split:
    """The split without test queries whose target is in no event before. trained: bool by id [V + 1]."""
    known = trained.copy()
    known[split.validation.target] = True
    kept = known[split.test.target]
    if not kept.any():
        raise ValueError(
            f"{split.sequences.name}: no test target has an event in training or validation; measure among "
            "all items instead"
        )
    return dataclasses.replace(
        split,
        test=Queries(*(column[kept] for column in split.test)),
        rule=f"{split.rule}, test targets known before",
        left_out=split.left_out + int((~kept).sum()),
    )
