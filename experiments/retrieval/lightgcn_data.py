"""The data of `lightgcn`: an interaction matrix without a validation part, and attributes of its items."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from experiments import common
from jaxrec import data
from jaxrec.data.events.held_out import HeldOut, Sets, split_items
from jaxrec.data.item_attributes import ItemAttributes, load_item_attributes, number_attributes
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import ItemModel, RetrievalModel

MATRICES = {"gowalla": "lightgcn/gowalla", "lastfm": "lightgcn/lastfm", "amazon-book": "kgat/amazon-book"}
DATASETS = (*MATRICES, "ml-100k")


def load(config: Any) -> HeldOut:
    """A data set without a validation part, or your own file; synthetic for --tiny."""
    if not config.data and not config.tiny and config.dataset in MATRICES:
        return data.load(MATRICES[config.dataset], kind="matrix")
    known = group_tastes() if config.tiny else None
    sequences = common.own_events(config) if config.data else known or data.load("movielens/ml-100k")
    split = split_items(sequences, by="random", test=0.2)
    length = split.train_length.copy()
    length[split.validation.user] += split.validation.number
    none = Sets(*(np.zeros(0, np.int32) for _ in range(3)))
    rule = "a fifth of each user's items, at random, for test"
    return dataclasses.replace(split, train_length=length, validation=none, rule=rule)


def attributes_of(config: Any, split: HeldOut) -> ItemAttributes | None:
    """Attributes of the items, if the data have some."""
    if config.item_attributes and not config.data:
        raise ValueError(
            f"item_attributes={config.item_attributes!r}: is for your own file; give it with --data FILE"
        )
    ids = split.sequences.item_ids
    if config.data:
        given = config.item_attributes
        return load_item_attributes(given, ids, item=config.item) if given else None
    if config.tiny:
        return number_attributes({"group": [[item // 6] for item in range(len(ids))]})
    if config.dataset != "ml-100k":
        return None
    movies = movielens.load_movies("ml-100k")
    return number_attributes(
        {
            "decade": [[year // 10] if year else [] for year in movies.year.tolist()],
            "genre": [np.flatnonzero(row).tolist() for row in movies.genres],
        }
    )


def read_by(entry: RetrievalModel | ItemModel, columns: Data, found: ItemAttributes | None) -> Data:
    """The data with the attributes that a model reads: of EGES those of one value an item."""
    if found is None or not entry.attributes:
        return columns
    one = found.ids[:, (found.ids[:, :, 1:] == 0).all(axis=(0, 2)), :1]
    ids = one if isinstance(entry, ItemModel) else found.ids
    return columns._replace(columns={**columns.columns, "attributes": ids})
