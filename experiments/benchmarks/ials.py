"""iALS: seconds of a sweep over users and items of Gowalla by each solver, with 64 and 128 coordinates.

The peer is `experiments/benchmarks/peers/implicit_als.py`. `ials_64` and `ials_128` are exact, `_blocks` has
blocks of 32 coordinates, `_gradients` three steps of conjugate gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks.timing import Figure, time_calls
from jaxrec.baselines.als import Penalty, alternating
from jaxrec.baselines.als_layout import Pairs
from jaxrec.baselines.ials import random_start
from jaxrec.data.events.held_out import HeldOut
from jaxrec.optim.least_squares import Blocks, ConjugateGradients, Exact, Solver

PENALTY = Penalty(regularisation=0.003, alpha0=0.1, nu=1.0)
SOLVERS: dict[str, Solver] = {"": Exact(), "_blocks": Blocks(32), "_gradients": ConjugateGradients(3)}


def sweeps(split: HeldOut, repeats: int, dims: tuple[int, ...] = (64, 128)) -> Iterator[Figure]:
    """Seconds of a sweep; the tables are laid out before."""
    events = split.training_events()
    user, item = events.group.astype(np.int64), events.item - 1
    sizes = split.sequences.num_users, split.sequences.num_items
    for dim in dims:
        for suffix, solver in SOLVERS.items():
            als = alternating(Pairs(user, item), *sizes, penalty=PENALTY, solver=solver)
            tables = als.sweep(als.start(*random_start(0, *sizes, dim, 0.1)))
            name = f"baselines/ials_{dim}{suffix}"
            yield from time_calls(name, functools.partial(als.sweep, tables), repeats)
