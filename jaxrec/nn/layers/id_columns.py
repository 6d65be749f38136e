"""Target and histories that are columns of the same kinds of ids, and the age of a behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.features import Categorical, table_shapes
from jaxrec.types import Array

Columns = Mapping[str, Array]
TABLE_INIT = nn.initializers.normal(0.01)
NUM_AGES = 33  # rows of a table of ages: padding, and 32 powers of 2


class ItemEmbedding(nn.Module):
    """Vectors of all columns of an item side by side, for one item or a whole history of them.

    Unlike `FeatureEmbedding` it pools nothing. Row 0 of a table is zero and never trains; an id out of range
    gives NaN.

    Fields: items are the columns; `average` does not matter here. table_init: of the tables but row 0.
    """

    items: tuple[Categorical, ...]
    table_init: nn.initializers.Initializer = TABLE_INIT

    def __post_init__(self) -> None:
        table_shapes(self.items)
        super().__post_init__()

    def setup(self) -> None:
        self.tables = {
            name: self.param(f"{name}_embedding", pad_row(self.table_init), shape)
            for name, shape in table_shapes(self.items).items()
        }

    def __call__(self, columns: Columns) -> Array:
        """Maps columns of ids, each [...], to [..., D]; D is the sum of the columns' widths."""
        return self.reader()(columns)

    def reader(self) -> Callable[[Columns], Array]:
        """The same as a function of the columns alone, for use inside `over_blocks`."""
        tables = dict(self.tables)

        def read(columns: Columns) -> Array:
            parts = [lookup(tables[i.vocabulary or i.name], column(columns, i.name)) for i in self.items]
            return jnp.concatenate(parts, axis=-1)

        return read


def over_blocks(
    function: Callable[[Columns], tuple[Any, Array]], columns: Columns, block: int | None
) -> tuple[Any, Array]:
    """What a long history adds up to, and a number of each event, with few of its vectors held at a time.

    Args:
      function: maps columns [B, n] of any n events to what is summed over events (a tree of arrays), and
        numbers [B, n]. Padding (0) must add nothing; there may be more of it on the left. Its inner results
        are computed again for the gradient, not kept.
      columns: ids, [B, L]. block: events that `function` sees at a time; None: all.
    """
    length = next(iter(columns.values())).shape[1]
    if block is None or length <= block:
        return function(columns)
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1 event, or None for all at once")
    count = -(-length // block)
    blocks = {
        name: jnp.pad(ids, ((0, 0), (count * block - length, 0))).reshape(-1, count, block).swapaxes(0, 1)
        for name, ids in columns.items()
    }

    def add(total: Any, part: Columns) -> tuple[Any, Array]:
        found, numbers = function(part)
        return jax.tree.map(jnp.add, total, found), numbers

    shapes, _ = jax.eval_shape(function, {name: ids[0] for name, ids in blocks.items()})
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, numbers = jax.lax.scan(jax.checkpoint(add), start, blocks)
    return total, numbers.swapaxes(0, 1).reshape(-1, count * block)[:, -length:]


class AgeEmbedding(nn.Module):
    """A vector for the time between a behaviour and the request, by powers of 2 (SIM leaves the edges open).

    Bucket 1 is an age of 0, bucket 1 + i holds ages from 2ⁱ - 1 to 2ⁱ⁺¹ - 2 seconds, and no int32 is too old.
    A negative age, a behaviour after the request, gives NaN.
    """

    dim: int

    @nn.compact
    def __call__(self, ages: Array | None, mask: Array, slots: Array | None = None) -> Array:
        """Maps ages in seconds to vectors, zero where masked: [B, k, dim].

        Args:
          ages: int32 [B, L]. slots: those of the L that are looked up, [B, k]; None: all.
          mask: True where real, of the slots that are looked up, [B, k].
        """
        if ages is None:
            raise ValueError(f"ages missing: age_dim={self.dim} needs the age of each behaviour, in seconds")
        ages = ages if slots is None else jnp.take_along_axis(ages, slots, axis=1)
        table = self.param("embedding", pad_row(TABLE_INIT), (NUM_AGES, self.dim))
        return lookup(table, jnp.where(mask, age_buckets(ages), 0))


def age_buckets(ages: Array) -> Array:
    """1 + ⌊log₂(1 + age)⌋ of ages in seconds, int32 [...] → 1..32; -1 where an age is negative.

    >>> age_buckets(jnp.array([0, 1, 2, 3, 2**31 - 1, -5])).tolist()
    [1, 2, 2, 3, 32, -1]
    """
    if not jnp.issubdtype(ages.dtype, jnp.integer):
        raise ValueError(f"ages of type {ages.dtype}: expected whole seconds, int32")
    buckets = 32 - jax.lax.clz(ages.astype(jnp.uint32) + 1).astype(jnp.int32)
    return jnp.where(ages < 0, -1, buckets)


class Sequenced(nn.Module):
    """A model of a target and its histories behind the other features, from the flat columns of a batch.

    The model gets ids, not vectors as from `WithHistory`, since what a search does not choose need not be
    looked up. For each of `model.items` it gets the target's column of that name, and for each of
    `model.histories` (such as "long") the column `long_<name>`, and for those in `model.aged` their ages in
    seconds, `long_age`.

    Fields: embedding gives the other features [B, F]; None if there are none.
    """

    model: Any
    embedding: nn.Module | None = None

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Any:
        """Applies `model` to columns of ids, [B] and [B, L], by their roles."""
        names = [item.name for item in self.model.items]
        roles: dict[str, Any] = {"target": {name: column(batch, name) for name in names}}
        for history in self.model.histories:
            roles[history] = {name: column(batch, f"{history}_{name}") for name in names}
        roles |= {f"{history}_age": column(batch, f"{history}_age") for history in self.model.aged}
        features = None if self.embedding is None else self.embedding(batch)
        return self.model(**roles, features=features, train=train)


class Pooled(nn.Module):
    """Σ_j w_j z_j with the weights of another module, such as DIN's `ActivationUnit`."""

    unit: nn.Module

    def __call__(self, target: Array, history: Array, mask: Array, *, train: bool = False) -> Array:
        """Maps [B, D], [B, L, D] and bool [B, L] to [B, D]."""
        weights = jnp.where(mask, self.unit(target, history, mask, train=train), 0.0)  # type: ignore[operator]
        return jnp.einsum("bl,bld->bd", weights, history)


def column(columns: Columns, name: str) -> Array:
    """A column of ids or ages. Raises ValueError if it is not there or holds no whole numbers."""
    if name not in columns:
        raise ValueError(f"column {name}: not there, only {', '.join(sorted(columns)) or 'nothing'}")
    found = jnp.asarray(columns[name])
    if not jnp.issubdtype(found.dtype, jnp.integer):
        raise ValueError(f"column {name}: {found.dtype} values, expected integers")
    return found


def real(columns: Columns, items: tuple[Categorical, ...]) -> Array:
    """Where a history holds behaviours: ids of its first column that are not 0, bool [B, L]."""
    return column(columns, items[0].name) != 0


def take(columns: Columns, indices: Array) -> dict[str, Array]:
    """The slots `indices` [B, k] of every column [B, L], as columns [B, k]."""
    return {name: jnp.take_along_axis(ids, indices, axis=1) for name, ids in columns.items()}
