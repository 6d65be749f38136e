"""Dropout of a table of item vectors, as RecTools 0.13 has it (MobileTeleSystems, `IdEmbeddingsItemNet`).

One mask is drawn a step for the whole table, and everything that reads the table in this step reads what is
left: inputs, targets and negatives alike. The dropout of an encoder's inputs comes on top, is drawn for each
event, and does not reach the vectors that scores are products with. RecTools took it out in a later version;
eSASRec's benchmark (Tikhonovich et al., RecSys 2025, arXiv:2508.06450) pins the one that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.segments import TableByRows
from jaxrec.types import Array, Batch, Key, Task, Variables

ITEM_TABLE = ("params", "item_embedding")


def drop_table(
    task: Task,
    rate: float,
    *,
    bits: Callable[[Key, tuple[int, ...]], Array],
    table: tuple[str, ...] = ITEM_TABLE,
) -> Task:
    """The task whose losses read a table of which each unit is zero with probability `rate`.

    The units that are left are divided by 1 - rate. The mask derives from the step's key, which all devices
    hold, so it is the same on each; `predict` reads the whole table. The task itself for rate=0.

    Args:
      bits: random words, uint32 of a shape, such as `nn.layers.dropout.counter_bits`.
      table: where the table, [V, D], lies in the variables.

    Raises:
      ValueError: the rate is not in 0..1, 1 excluded; while tracing: there is no such table, or it is sparse,
        of which a step reads some rows alone.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"table_dropout={rate}: must be at least 0 and below 1")
    if rate == 0.0:
        return task

    def dropped(variables: Variables, key: Key) -> Variables:
        def drop(x: Array) -> Array:
            kept = bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
            return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))

        return _replaced(variables, table, drop)

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: Any = None
    ) -> tuple[dict[str, Array], Variables]:
        key, own = jax.random.split(key)
        return task.losses(dropped(variables, own), batch, key, axis_name)

    return task._replace(losses=losses)


def _replaced(tree: Any, path: tuple[str, ...], change: Any) -> Any:
    """A nested mapping with one leaf changed."""
    name, *rest = path
    if not isinstance(tree, Mapping) or name not in tree:
        known = sorted(tree) if isinstance(tree, Mapping) else []
        raise ValueError(f"table_dropout: the variables have no {name!r}, but {', '.join(known) or 'a leaf'}")
    if rest:
        return {**tree, name: _replaced(tree[name], tuple(rest), change)}
    if isinstance(tree[name], TableByRows):
        raise ValueError(f"table_dropout: the table {name!r} is sparse; train it as a dense one")
    return {**tree, name: change(tree[name])}
