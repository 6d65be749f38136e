"""AliExpress search logs: click and conversion over all impressions, per country (Tianchi data set 74690).

The data are behind a login, so they cannot be downloaded: `load` reads your own train and test files in the
form that published comparisons use: the header search_id, categorical_1..16, numerical_1..63, click,
conversion.

Departs from their protocol, which stops early on the test set: here validation is a part of training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.features import Category, FeatureSpec, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random
from jaxrec.data.tables.table_reader import read_table

CATEGORIES = tuple(f"categorical_{i}" for i in range(1, 17))
NUMBERS = tuple(f"numerical_{i}" for i in range(1, 64))
LABELS = ("click", "conversion")


def load(
    train: str | Path, test: str | Path, *, validation: float = 0.1, min_count: int = 1, seed: int = 0
) -> ImpressionSplit:
    """Tasks `click` and `conversion`, both on every row: this conversion is ESMM's ctcvr.

    validation: share of the searches of `train`, whole searches at random. The search id is the group, not a
    feature. Ids that occur only in `test` are out of vocabulary. The table's
    `as_ctr_cvr("click", "conversion")` gives the tasks of ESMM.
    """
    raw, (count, _) = read_table(
        [train, test], categories=("search_id", *CATEGORIES), numbers=(*NUMBERS, *LABELS)
    )
    search = raw["search_id"]
    assert isinstance(search, Coded)
    searches = np.unique(search.codes[:count])
    held_out = searches[split_at_random(len(searches), validation=validation, test=0, seed=seed).validation]
    in_validation = np.isin(search.codes[:count], held_out)
    fitted, chosen = np.flatnonzero(~in_validation), np.flatnonzero(in_validation)
    specs: list[FeatureSpec] = [
        *(Category(name, min_count=min_count) for name in CATEGORIES),
        *map(Number, NUMBERS),
    ]
    encoders = fit_encoders(specs, raw, fitted)
    labels = {task: np.asarray(raw[task]) for task in LABELS}
    table = Impressions(
        "aliexpress", columns=encode(encoders, raw), fields=encoders.fields, labels=labels, group=search.codes
    )
    rule = f"the source's test file; validation {validation:g} of the searches, seed {seed}"
    return table.split(fitted, chosen, np.arange(count, table.num_rows), rule=rule)
