"""Graph models: an epoch of LightGCN on Gowalla (396 steps of 2,048 triplets, width 64, three layers).

The first steps of an epoch are timed, and the result is scaled to the whole epoch. The peer is
`experiments/benchmarks/peers/lightgcn_pytorch.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import optax

from experiments.benchmarks.timing import Figure, time_epoch
from jaxrec.data import catalogue
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import retrieval
from jaxrec.recipes import graphs

STEPS = 20


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Seconds of an epoch."""
    data = retrieval.resident(catalogue.load("lightgcn/gowalla"))
    recipe = graphs.Recipe()
    model = graphs.lightgcn(data.num_users, data.num_items, recipe)
    yield from time_epoch(
        "graph/lightgcn_epoch",
        graphs.task(model, data, recipe),
        static(),
        graphs.plan(data, recipe),
        {**data.columns, **graphs.columns(data)},
        repeats,
        tx=optax.adam(recipe.learning_rate),
        steps=1 if tiny else STEPS,
    )
