"""Amazon and Yelp sequences without times, as S3-Rec and CoSeRec distribute them (5-core, one line a user).

Zhou et al., CIKM 2020, doi:10.1145/3340531.3411954; Liu et al., 2021, arXiv:2108.06479. `load_attributes` has
the attributes of items that S3-Rec adds: categories and brands (Amazon), categories (Yelp).
"""

from __future__ import annotations

import json

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sequence_files import parse_sequences
from jaxrec.data.sources.dataset import Dataset, Expected, check, pick
from jaxrec.data.store import File, Source, github, read_file, show_terms

SOURCE = Source(
    "coserec",
    "S3-Rec / CoSeRec Amazon and Yelp sequences",
    "https://github.com/YChen1993/CoSeRec",
    "no licence file",
    "Underlying data: Amazon reviews (McAuley, research use) and the Yelp open data set (academic use).",
)
_COMMIT = "692cb4108c458bfb60c1bcd0daa5f2a12e0b362d"
_S3REC = "2a81540ae18615d88ef88227b0c066e5b74781e5"


def _dataset(
    name: str, sha256: str, size: int, expected: Expected, *, attributes: tuple[str, int]
) -> Dataset:
    """Each file with its sha256 and size: the sequences, and the attributes of their items."""
    route = github("YChen1993/CoSeRec", _COMMIT, f"data/{name}.txt")
    beside = f"{name}_item2attributes.json"
    described = github("RUCAIBox/CIKM2020-S3Rec", _S3REC, f"data/{beside}")
    files = (
        (File(f"coserec/{name}.txt", sha256, size, (route,)),),
        (File(f"s3rec/{beside}", *attributes, (described,)),),
    )
    return Dataset(name, files, expected)


DATASETS = (
    _dataset(
        "Beauty",
        "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        1090094,
        Expected(22363, 12101, 198502),
        attributes=("129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4", 305674),
    ),
    _dataset(
        "Sports_and_Outdoors",
        "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        1707483,
        Expected(35598, 18357, 296337),
        attributes=("7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b", 653780),
    ),
    _dataset(
        "Toys_and_Games",
        "176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
        922166,
        Expected(19412, 11924, 167597),
        attributes=("d371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0", 327536),
    ),
    _dataset(
        "Yelp",
        "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
        1814224,
        Expected(30431, 20033, 316354, repeat_users=7102),
        attributes=("f25acd5e1e680e0b22fd4e3f4fb6be4b2a7461e9222610616e3e1ee6702dd58d", 600360),
    ),
)


def load(name: str) -> Sequences:
    """Sequences without times; item ids are those of the file, so published item tables fit as they are."""
    dataset = pick(DATASETS, name)
    show_terms(SOURCE)
    (file,), _ = dataset.files
    sequences = parse_sequences(f"coserec/{name}", read_file(file), file.path)
    check(sequences.name, sequences.statistics(), dataset.expected)
    return sequences


def load_attributes(name: str) -> np.ndarray:
    """Attributes of each item of `load`, ids from 1: int32 [num_items + 1, A], row 0 and the ends of rows 0.

    A row holds each attribute once, though some files repeat one. An item without any (one of Yelp) has an
    id of its own, the largest. The paper counts 1,221 attributes of Beauty; its file has 637.
    """
    dataset = pick(DATASETS, name)
    show_terms(SOURCE)
    _, (file,) = dataset.files
    lists = parse_attributes(read_file(file), dataset.expected.items, file.path)
    none = 1 + max(max(row, default=0) for row in lists)
    rows = [list(dict.fromkeys(row)) or [none] for row in lists]
    attributes = np.zeros((len(rows) + 1, max(map(len, rows))), np.int32)
    for item, row in enumerate(rows, 1):
        attributes[item, : len(row)] = row
    return attributes


def parse_attributes(content: bytes, num_items: int, where: str) -> list[list[int]]:
    """Attributes of items 1..num_items, as JSON {"item": [attribute, ...]} lists them.

    Raises ValueError naming file, item and rule for other content, an item that is not there or is not of
    1..num_items, and an attribute that is no integer from 1.
    """
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; expected JSON {{item: [attribute, ...]}}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: a JSON {type(found).__name__}; expected {{item: [attribute, ...]}}")
    items = [str(item) for item in range(1, num_items + 1)]
    for what, wrong in (("missing", set(items) - set(found)), ("no item", set(found) - set(items))):
        if wrong:
            raise ValueError(
                f"{where}: item {min(wrong)} ({len(wrong):,} such) is {what} of 1..{num_items:,}; give the "
                "file that belongs to the sequences"
            )
    for item in items:
        row = found[item]
        if not isinstance(row, list) or not all(type(a) is int and 1 <= a < 2**31 - 1 for a in row):
            raise ValueError(f"{where}: item {item} has {row!r}; expected a list of integers from 1")
    return [found[item] for item in items]
