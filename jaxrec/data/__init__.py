"""From raw files to validated columns, splits and batches, with NumPy only: no model code, no devices.

    from jaxrec.data import load
    sequences = load("movielens/ml-100k")

own_files, own_tables  a user's own file or data frame: load_events, load_sessions, load_labelled, encode_rows
item_vectors  frozen vectors of items, as a table by item id
catalogue   every data set and file format by name: load, names, entries, describe
store       finds or downloads a file: JAXREC_DATA_DIR, the cache, the source's public address
vocab       maps raw ids to 1..n and back
validation  checks ids, times and names
cells       parses cells of files, with one grammar for all readers
delimited   reads delimited text files
unpacking   limits on what packed files unpack to
typed_columns, typed_sources  columns with types, of Parquet, JSON lines and data frames, and their checks
events/     user-item events: tables of events, sequences, sessions, splits, batches, cold items, clusters
tables/     labelled tables: readers, feature encoders, impressions, click histories, the leakage check
synthetic/  generated data sets with known answers
sources/    one module per public source

`python -m jaxrec.data --help` lists, downloads, describes and validates data sets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxrec.data.catalogue import load

if TYPE_CHECKING:
    from jaxrec.data.item_vectors import load_item_vectors
    from jaxrec.data.own_files import load_events, load_interactions, load_sessions
    from jaxrec.data.own_tables import encode_rows, load_labelled, read_labelled

__all__ = [
    "encode_rows",
    "load",
    "load_events",
    "load_interactions",
    "load_item_vectors",
    "load_labelled",
    "load_sessions",
    "read_labelled",
]


_MODULES = {
    **dict.fromkeys(("load_events", "load_interactions", "load_sessions"), "jaxrec.data.own_files"),
    **dict.fromkeys(("encode_rows", "load_labelled", "read_labelled"), "jaxrec.data.own_tables"),
    "load_item_vectors": "jaxrec.data.item_vectors",
}


def __getattr__(name: str) -> Any:
    """The readers of a user's file, imported when they are needed, as sources are."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
