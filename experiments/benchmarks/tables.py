"""A training step on a table of vectors of width 64: 8,192 ids, drawn uniformly, against dense Adam.

`table/adam_<rows>` is `optax.adam`, which reads and writes the whole table and its moments at every step;
`table/lazy_adam_<rows>` is `optim.sparse`, which does so with the rows that are looked up. Seconds a step,
within a compiled epoch. `table/lazy_adam_<rows>:speedup` is their ratio, and `table/lazy_adam:growth` how
much longer a step of the largest table takes than one of the table of a million rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.timing import Figure, ratio, time_epoch
from jaxrec.nn.layers.embedding import lookup
from jaxrec.optim import row_optimisers, sparse
from jaxrec.optim.loss_weighting import static
from jaxrec.train.epoch import Plan
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

RATE = 1e-3


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Seconds a step, and ratios."""
    sizes, ids, dim = ((1_000, 5_000), 64, 8) if tiny else ((100_000, 1_000_000, 5_000_000), 8192, 64)
    lazy = sparse.sparse_tables(optax.adam(RATE), row_optimisers.lazy_adam(RATE), ["table"])
    found: dict[str, Figure] = {}
    for rows in sizes:
        task, dense_name, lazy_name = lookups(rows, ids, dim), f"table/adam_{rows}", f"table/lazy_adam_{rows}"
        for name, tx, steps in ((dense_name, optax.adam(RATE), 4), (lazy_name, lazy, 64)):
            timed = time_epoch(name, task, static(), plan(steps), {}, repeats, tx=tx, scale=1 / steps)
            for figure in timed:
                found[figure.name] = figure
                yield figure
        yield ratio(f"{lazy_name}:speedup", found[dense_name], found[lazy_name])
    yield ratio(
        "table/lazy_adam:growth", *(found[f"table/lazy_adam_{rows}"] for rows in (sizes[-1], sizes[-2]))
    )


def plan(steps: int) -> Plan:
    """An epoch of so many steps; a step's ids are drawn by its key alone."""

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        return {"example": jnp.arange(steps)}, jnp.array(True)

    return Plan(steps, draw)


def lookups(rows: int, ids: int, dim: int) -> Task:
    """A loss of nothing but rows of a table [rows, dim], by new ids at every step."""

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        return {"ids": jax.random.randint(key, (ids,), 1, rows)}

    def init(key: Key, batch: Batch) -> Variables:
        return {"params": {"table": jnp.full((rows, dim), 0.01)}}

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        read = lookup(variables["params"]["table"], batch["ids"])
        return {"loss": jnp.mean(jnp.square(read - 1.0))}, {}

    return Task(prepare, init, losses, lambda variables, batch: batch["ids"])
