"""Amazon Video Games as SASRec distributes it (Kang and McAuley, ICDM 2018, arXiv:1808.09781): "Games".

Events are in time order, without times. The authors removed users and items with fewer than 5 events once,
not repeatedly, so that shorter sequences and rarer items remain; users with fewer than 3 events are for
training only: leave_one_out(sasrec.load("Video"), short="train").
"""

from __future__ import annotations

import numpy as np

from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.sequence_files import parse_table
from jaxrec.data.sources.dataset import Dataset, Expected, check_statistics, find_by_name
from jaxrec.data.store import File, Source, github, read_file, show_terms
from jaxrec.data.validation import as_int32_ids

SOURCE = Source(
    "sasrec",
    title="SASRec Amazon Video Games",
    homepage="https://github.com/kang205/SASRec",
    licence="Apache-2.0 (repository)",
    terms="Underlying data: Amazon review data 2014 (McAuley, research use).",
)
_ROUTE = github("kang205/SASRec", "e3738967fddab206d6eeb4fda433e7a7034dd8b1", "data/Video.txt")
_SHA256 = "b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651"

DATASETS = (
    Dataset(
        "Video",
        ((File("sasrec/Video.txt", sha256=_SHA256, size=3187124, routes=(_ROUTE,)),),),
        Expected(users=31013, items=23715, interactions=287107),
    ),
)


def load(name: str) -> Sequences:
    """Sequences without times; item ids are those of the file."""
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    ((file,),) = dataset.files
    table = parse_table(read_file(file), ("user", "item"), file.path)
    users, items = int(table[:, 0].max()), int(table[:, 1].max())
    sequences = Interactions(
        f"sasrec/{name}",
        user=as_int32_ids(table[:, 0], users, f"{file.path}: user"),
        item=as_int32_ids(table[:, 1], items, f"{file.path}: item"),
        time=None,
        value=None,
        user_ids=np.arange(1, users + 1),
        item_ids=np.arange(1, items + 1),
    ).to_sequences()
    check_statistics(sequences.name, sequences.statistics(), dataset.expected)
    return sequences
