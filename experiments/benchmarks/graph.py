"""Graph models: an epoch of LightGCN on Gowalla (396 steps of 2,048 triplets, width 64, three layers).

The first steps of an epoch are timed, and the result is scaled to the whole epoch. The peer is
`experiments/benchmarks/peers/lightgcn_pytorch.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from experiments.benchmarks.timing import Figure, time_epoch
from jaxrec import data
from jaxrec.data.events.held_out import split_items
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import retrieval
from jaxrec.recipes import graphs

STEPS = 20


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Seconds of an epoch."""
    split = split_items(group_tastes(), by="last") if tiny else data.load("lightgcn/gowalla", kind="matrix")
    columns, recipe, entry = retrieval.resident(split), graphs.Recipe(), graphs.MODELS["lightgcn"]
    if tiny:
        recipe = dataclasses.replace(recipe, batch_size=64)
    yield from time_epoch(
        "graph/lightgcn_epoch",
        entry.task(entry.module(columns, recipe), columns, recipe),
        static(),
        entry.plan(columns, recipe),
        {**columns.columns, **entry.columns(columns, recipe)},
        repeats,
        tx=entry.optimiser(recipe),
        steps=1 if tiny else STEPS,
    )
