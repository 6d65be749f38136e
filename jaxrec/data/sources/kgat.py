"""Amazon-book as KGAT distributes it (Wang et al., KDD 2019, arXiv:1905.07854), training and test items.

It is another set than LightGCN's Amazon-book: fewer users and items. The published table counts 847,733
interactions, the files have 1,299 fewer. There is no validation part.
"""

from __future__ import annotations

import numpy as np

from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.sources.dataset import Dataset, Expected, find_by_name
from jaxrec.data.sources.matrix_files import check_counts, parse_user_lines
from jaxrec.data.store import File, Source, github, read_file, show_terms

SOURCE = Source(
    "kgat",
    title="KGAT Amazon-book",
    homepage="https://github.com/xiangwang1223/knowledge_graph_attention_network",
    licence="MIT (repository)",
    terms="Underlying data: Amazon reviews (McAuley, research use).",
)
_ROUTE = ("xiangwang1223/knowledge_graph_attention_network", "c03737be46ac26a0b5431efe149828e982ffbbfb")


def _file(part: str, sha256: str, size: int) -> File:
    route = github(*_ROUTE, f"Data/amazon-book/{part}.txt")
    return File(f"amazon-book-kgat/{part}.txt", sha256=sha256, size=size, routes=(route,))


MATRICES = (
    Dataset(
        "amazon-book",
        (
            (_file("train", "4d10106bb06a77e11df660429903c0067aeb85b86431807836b0d8b7edc30c38", 3897477),),
            (_file("test", "f47eff9d35fb95c07d74251a991478a84095ce6c5969b0dafcb4afe99fc716ec", 1478039),),
        ),
        Expected(users=70679, items=24915, interactions=846434),
    ),
)


def load_matrix(name: str) -> HeldOut:
    """Training and test items of each user; raw ids are those of the files, from 0."""
    dataset = find_by_name(MATRICES, name)
    show_terms(SOURCE)
    train, test = (parse_user_lines(read_file(file), file.path) for (file,) in dataset.files)
    empty = np.zeros(0, np.int64)
    split = from_parts(
        f"kgat/{name}",
        ((train[0], train[1] + 1), (empty, empty), (test[0], test[1] + 1)),
        num_items=dataset.expected.items,
        rule="the files' training and test items",
        user_ids=np.arange(1 + max(train[0].max(), test[0].max())),
        item_ids=np.arange(dataset.expected.items),
    )
    check_counts(split, dataset.expected, test=193_920)
    return split
