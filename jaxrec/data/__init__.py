"""Raw files to validated columns to splits, with NumPy only: no model code and nothing on a device.

    from jaxrec.data import load
    sequences = load("movielens/ml-100k")

own_files     a user's own file: load_events, load_sessions, load_labelled
catalogue     every data set and file format by name: load, names, entries, describe
cells         what a cell may hold, one grammar for every reader; delimited has the rows of text files
interactions  the event table and user sequences, k-core, the statistics papers print
vocab         raw ids to 1..n and back
split         leave-one-out, split by time
store         finds or downloads a file: JAXREC_DATA_DIR, the cache, the source's public address
sources       one file per public source
files         a user's own CSV, Parquet and line files
impressions   the labelled table and its splits; features turns raw columns into it, leakage guards it,
              negatives adds unobserved pairs, tables streams large files, summary describes it
behaviours    click impressions after a history, made of sequences and of what is known of items and users
synthetic     small sets with known answers; synthetic_multitask: task pairs and funnels

`python -m jaxrec.data --help` lists, downloads, describes and validates data sets.
"""

from jaxrec.data.catalogue import load
from jaxrec.data.own_files import load_events, load_interactions, load_labelled, load_sessions

__all__ = ["load", "load_events", "load_interactions", "load_labelled", "load_sessions"]
