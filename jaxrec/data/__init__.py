"""From raw files to validated columns, splits and batches, with NumPy only: no model code, no devices.

    from jaxrec.data import load
    sequences = load("movielens/ml-100k")

own_files   reads a user's own file: load_events, load_sessions, load_labelled
catalogue   every data set and file format by name: load, names, entries, describe
store       finds or downloads a file: JAXREC_DATA_DIR, the cache, the source's public address
vocab       maps raw ids to 1..n and back
validation  checks ids, times and names
cells       parses cells of files, with one grammar for all readers
delimited   reads delimited text files
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
    from jaxrec.data.own_files import load_events, load_interactions, load_labelled, load_sessions

__all__ = ["load", "load_events", "load_interactions", "load_labelled", "load_sessions"]


def __getattr__(name: str) -> Any:
    """The readers of a user's file, imported when they are needed, as sources are."""
    if name in __all__:
        return getattr(importlib.import_module("jaxrec.data.own_files"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
