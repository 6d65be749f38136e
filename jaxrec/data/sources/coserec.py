"""Amazon and Yelp sequences without times, as S3-Rec and CoSeRec distribute them (5-core, one line per user).

Zhou et al., CIKM 2020, doi:10.1145/3340531.3411954; Liu et al., 2021, arXiv:2108.06479. `load_attributes`
returns the item attributes that S3-Rec adds: categories and brands (Amazon), categories (Yelp).
"""

from __future__ import annotations

import json

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sequence_files import parse_sequences
from jaxrec.data.sources.dataset import Dataset, Expected, check_statistics, find_by_name
from jaxrec.data.store import File, Source, github, read_file, show_terms

SOURCE = Source(
    "coserec",
    title="S3-Rec / CoSeRec Amazon and Yelp sequences",
    homepage="https://github.com/YChen1993/CoSeRec",
    licence="no licence file",
    terms="Underlying data: Amazon reviews (McAuley, research use) and the Yelp open data set "
    "(academic use).",
)
_COMMIT = "692cb4108c458bfb60c1bcd0daa5f2a12e0b362d"
_S3REC = "2a81540ae18615d88ef88227b0c066e5b74781e5"


def _dataset(
    name: str, sha256: str, size: int, expected: Expected, *, attributes: tuple[str, int]
) -> Dataset:
    """A data set of two files, given by sha256 and size: the sequences, and the item attributes."""
    route = github("YChen1993/CoSeRec", _COMMIT, f"data/{name}.txt")
    attribute_file = f"{name}_item2attributes.json"
    attribute_route = github("RUCAIBox/CIKM2020-S3Rec", _S3REC, f"data/{attribute_file}")
    files = (
        (File(f"coserec/{name}.txt", sha256=sha256, size=size, routes=(route,)),),
        (File(f"s3rec/{attribute_file}", *attributes, (attribute_route,)),),
    )
    return Dataset(name, files, expected)


DATASETS = (
    _dataset(
        "Beauty",
        sha256="226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        size=1090094,
        expected=Expected(users=22363, items=12101, interactions=198502),
        attributes=("129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4", 305674),
    ),
    _dataset(
        "Sports_and_Outdoors",
        sha256="2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        size=1707483,
        expected=Expected(users=35598, items=18357, interactions=296337),
        attributes=("7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b", 653780),
    ),
    _dataset(
        "Toys_and_Games",
        sha256="176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
        size=922166,
        expected=Expected(users=19412, items=11924, interactions=167597),
        attributes=("d371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0", 327536),
    ),
    _dataset(
        "Yelp",
        sha256="724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
        size=1814224,
        expected=Expected(users=30431, items=20033, interactions=316354, repeat_users=7102),
        attributes=("f25acd5e1e680e0b22fd4e3f4fb6be4b2a7461e9222610616e3e1ee6702dd58d", 600360),
    ),
)


def load(name: str) -> Sequences:
    """Sequences without times; item ids are those of the file, as published item tables have them."""
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    (file,), _ = dataset.files
    sequences = parse_sequences(f"coserec/{name}", read_file(file), file.path)
    check_statistics(sequences.name, sequences.statistics(), dataset.expected)
    return sequences


def load_attributes(name: str) -> np.ndarray:
    """Attributes of each item of `load`, ids from 1: int32 [num_items + 1, A], padded with 0; 0 for padding.

    Attributes that a file repeats for an item count once. An item without any (there is one in Yelp) has the
    largest id, which is its own. The paper counts 1,221 attributes of Beauty; its file has 637.
    """
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    _, (file,) = dataset.files
    lists = parse_attributes(read_file(file), dataset.expected.items, file.path)
    none = 1 + max(max(ids, default=0) for ids in lists)
    distinct = [list(dict.fromkeys(ids)) or [none] for ids in lists]
    attributes = np.zeros((len(distinct) + 1, max(map(len, distinct))), np.int32)
    for item, ids in enumerate(distinct, 1):
        attributes[item, : len(ids)] = ids
    return attributes


def parse_attributes(content: bytes, num_items: int, where: str) -> list[list[int]]:
    """Attributes of items 1..num_items, from JSON {"item": [attribute, ...]}.

    Raises ValueError naming file, item and rule for other content, a missing item or one outside
    1..num_items, and an attribute that is not an integer of at least 1.
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
        ids = found[item]
        if not isinstance(ids, list) or not all(type(a) is int and 1 <= a < 2**31 - 1 for a in ids):
            raise ValueError(f"{where}: item {item} has {ids!r}; expected a list of integers from 1")
    return [found[item] for item in items]
