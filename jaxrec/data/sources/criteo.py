"""Criteo display advertising: clicks, 13 counts and 26 hashed categories (Kaggle challenge of 2014).

The data are behind a login, so they cannot be downloaded: `load` reads your own file, `train.txt` as
distributed (tabs, no header) or a CSV with the header label,I1..I13,C1..C26. The first line decides between
tabs and commas, and whether there is a header.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrec.data.tables.features import Category, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random
from jaxrec.data.tables.table_reader import read_first_line, read_table

COUNTS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = ("label", *COUNTS, *CATEGORIES)


def load(
    path: str | Path, *, min_count: int = 10, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> ImpressionSplit:
    """One task, `click`; split at random, since there are no times.

    Counts become sign(x) log(1 + |x|), standardised (some are negative), with an indicator of missing ones; a
    category that occurs fewer than `min_count` times in training rows is out of vocabulary.
    """
    first = read_first_line(path)
    delimiter = "\t" if "\t" in first else ","
    has_header = first.split(delimiter)[0].strip('"') == "label"
    raw, _ = read_table(
        [path],
        categories=CATEGORIES,
        numbers=("label", *COUNTS),
        names=None if has_header else COLUMNS,
        delimiter=delimiter,
    )
    label = np.asarray(raw["label"])
    split = split_at_random(len(label), validation=validation, test=test, seed=seed)
    specs = [Number(name, log=True, missing="indicator") for name in COUNTS]
    encoders = fit_encoders(
        [*specs, *(Category(name, min_count=min_count) for name in CATEGORIES)], raw, split.train
    )
    table = Impressions(
        "criteo", columns=encode(encoders, raw), fields=encoders.fields, labels={"click": label}
    )
    return table.split(*split[:3], rule=split.rule)
