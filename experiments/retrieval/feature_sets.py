"""Interaction matrices with features of their users and items, as `two_tower` compares towers on."""

from __future__ import annotations

import dataclasses

from experiments import common
from jaxrec import data
from jaxrec.data.events.held_out import hold_out_validation, split_items
from jaxrec.data.events.side_features import SideFeatures, encode_features
from jaxrec.data.sources import coserec, ncf
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols import retrieval
from jaxrec.protocols.retrieval import Data

GROUP_SIZE = 12  # of synthetic items


def load(dataset: str, config: common.EventOptions, *, split_seed: int) -> Data:
    """ml-1m, beauty or gowalla; your own file, without features; synthetic for --tiny."""
    if config.data:
        return retrieval.resident(split_items(common.own_events(config), by="last"))
    if config.tiny:
        found = retrieval.resident(split_items(group_tastes(num_groups=12), by="last"))
        return found._replace(
            items=encode_features({"group": [i // GROUP_SIZE for i in range(found.num_items)]})
        )
    if dataset == "beauty":
        attributes = coserec.load_attributes("Beauty")
        found = retrieval.resident(split_items(data.load("coserec/Beauty"), by="last"))
        sizes = {"attributes": int(attributes.max())}
        return found._replace(items=SideFeatures({"attributes": attributes}, sizes))
    if dataset == "gowalla":
        return retrieval.resident(data.load("lightgcn/gowalla", kind="matrix"))
    split = data.load("ncf/ml-1m", kind="matrix")
    held = hold_out_validation(split, share=1e-9, least="one", seed=split_seed)
    rule = f"{split.rule}; one training item of each user, at random, for validation"
    users, items = ncf.load_features("ml-1m")
    return retrieval.resident(dataclasses.replace(held, rule=rule))._replace(users=users, items=items)
