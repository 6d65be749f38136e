"""Tables of which a step touches only the rows that its batch looks up, however large they are.

`sparse_tables(dense, optimiser, tables)` is an optimiser as any other: `optax` for all parameters but the
tables that it names, and a `RowOptimiser` for the rows of these. A step (`train.step`) then

    1. runs the losses once to see which ids of each table they look up, of which the compiled program keeps
       nothing but the ids,
    2. gathers the distinct rows, those of all devices, which make up for skipped steps,
    3. takes the gradient of the losses with respect to these rows [U, D],
    4. updates them, and writes each once into the table, in place.

Nothing in a model changes: every lookup goes through `segments.rows_by_id`, where a table's stand-in answers.
U is the number of lookups of a step, and no array of the program but the table has its length V.

In the state of a run a table is a `SparseTable`: values and moments of a row are side by side, so that a row
is read and written as one piece. Repeated ids add up as in the dense gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.core.tracers import current_trace

from jaxrec.optim.row_optimisers import KINDS, Rate, RowOptimiser, Rows, unchanged
from jaxrec.optim.task_gradients import Parameters
from jaxrec.segments import TableByRows, refusal, rows_by_id
from jaxrec.types import Array

Kind = Literal["", "sgd", "adagrad", "rowwise-adagrad", "lazy-adam", "lazy-adam-corrected"]

ROWS_AT_ONCE = 1024  # of a whole table, where all of it makes up for skipped steps


class SparseTable(flax.struct.PyTreeNode):
    """A table and what its optimiser keeps. Leading axes, of seeds or devices, are possible.

    packed: each row's values and then its moments, [V, (1 + moments) · D]; numbers: [V] by name.
    """

    packed: Array
    numbers: dict[str, Array]
    dim: int = flax.struct.field(pytree_node=False)

    @property
    def values(self) -> Array:
        """The table itself, [V, D]: a copy."""
        return self.packed[..., : self.dim]


class SparseTransformation(optax.GradientTransformation):
    """An optimiser of dense parameters that brings one for rows of tables along; see `sparse_tables`.

    rows(state of the dense optimiser) -> the optimiser of rows. tables: which parameters are such tables.
    """

    rows: Callable[[Any], RowOptimiser]
    tables: Parameters

    def __new__(
        cls, init: Any, update: Any, rows: Callable[[Any], RowOptimiser], tables: Parameters
    ) -> SparseTransformation:
        made = super().__new__(cls, init, update)
        made.rows, made.tables = rows, tables
        return made


def id_tables(path: str) -> bool:
    """Tables of ids by the names of their parameters: those ending in `_embedding`, but of positions."""
    return path.endswith("_embedding") and not path.endswith("position_embedding")


def sparse_tables(
    dense: optax.GradientTransformation, optimiser: RowOptimiser, tables: Parameters = id_tables
) -> SparseTransformation:
    """`dense` for all parameters but some tables, and `optimiser` for the rows of these that are looked up.

    A transformation of gradients as a whole, such as clipping by their norm, sees those of `dense` alone.
    It has to be the outermost: `train.state.create` and the step must see it.

    tables: prefixes of paths of the model's parameters, such as ["embedding/item_embedding"], or a predicate.
    """

    def init(params: Any) -> Any:
        model = params.get("model", params) if isinstance(params, dict) else params
        left = [
            path for path, leaf in _by_path(model) if isinstance(leaf, jax.Array) and _is_in(tables, path)
        ]
        if left:
            raise ValueError(
                f"sparse tables {left}: reach their dense optimiser; sparse_tables must be the outermost, as "
                "in sparse_tables(optax.chain(…), …)"
            )
        return dense.init(params)

    return SparseTransformation(init, dense.update, lambda state: optimiser, tables)


def by_name(
    kind: Kind,
    dense: optax.GradientTransformation,
    learning_rate: Rate,
    *,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
    tables: Parameters = id_tables,
) -> optax.GradientTransformation:
    """`dense` itself for "", else with the tables under the optimiser of rows of that name (`Kind`).

    b2: of Adam.

    Raises:
      ValueError: there is no such optimiser, or a number is out of range.
    """
    if not kind:
        return dense
    if kind not in KINDS:
        raise ValueError(f"sparse={kind!r}: is none of {', '.join(map(repr, KINDS))}, or '' for dense tables")
    options = {"b2": b2} if kind.startswith("lazy-adam") else {}
    rows = KINDS[kind](learning_rate, weight_decay=weight_decay, max_norm=max_norm, **options)
    return sparse_tables(dense, rows, tables)


# --- parameters of a run --------------------------------------------------------------------------------


def is_table(node: Any) -> bool:
    """Whether a node of parameters is a sparse table."""
    return isinstance(node, SparseTable)


def with_tables(tx: optax.GradientTransformation, model: Any) -> Any:
    """A model's parameters with a `SparseTable` wherever `tx` says so; the same without such.

    Raises:
      ValueError: it names no parameter, or one that is no float table [V, D].
    """
    if not isinstance(tx, SparseTransformation):
        return model
    paths = [path for path, _ in _by_path(model)]
    chosen = [path for path in paths if _is_in(tx.tables, path)]
    unmatched = [] if callable(tx.tables) else [p for p in _prefixes(tx.tables) if not _any_under(p, paths)]
    if unmatched or not chosen:
        raise ValueError(
            f"sparse tables {unmatched or '(a predicate)'}: match none of the parameters {paths}; name some"
        )
    optimiser = tx.rows(tx.init(hidden(_replaced(model, {path: optax.MaskedNode() for path in chosen}))))

    def packed(path: str, leaf: Array) -> SparseTable:
        if leaf.ndim != 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"sparse table {path!r}: is {leaf.dtype}{list(leaf.shape)}, must be floats [V, D]"
            )
        beside = [jnp.full_like(leaf, start) for start in optimiser.moments.values()]
        numbers = {name: jnp.full(leaf.shape[:1], start) for name, start in optimiser.numbers.items()}
        return SparseTable(jnp.concatenate([leaf, *beside], axis=-1), numbers, leaf.shape[1])

    return _replaced(model, {path: packed(path, leaf) for path, leaf in _by_path(model) if path in chosen})


def values(model: Any) -> Any:
    """A model's parameters as its modules know them: tables in place of each `SparseTable`."""
    return jax.tree.map(lambda x: x.values if is_table(x) else x, model, is_leaf=is_table)


def hidden(tree: Any) -> Any:
    """Parameters as the dense optimiser sees them: nothing in place of a `SparseTable`."""
    return jax.tree.map(lambda x: optax.MaskedNode() if is_table(x) else x, tree, is_leaf=is_table)


def caught_up(tx: optax.GradientTransformation, params: Any, opt_state: Any, step: Array) -> Any:
    """Parameters {"model": …, …} whose sparse rows have all made up for the steps without a lookup.

    The same, and no work, for optimisers of rows that need not; else a pass over the whole table, in place
    where its buffer is donated.
    """
    if not isinstance(tx, SparseTransformation):
        return params
    optimiser = tx.rows(opt_state)
    if optimiser.catch_up is unchanged:
        return params

    def whole(table: SparseTable) -> SparseTable:
        size = min(ROWS_AT_ONCE, table.packed.shape[0])

        def block(number: Array, table: SparseTable) -> SparseTable:
            first = jnp.minimum(number * size, table.packed.shape[0] - size)  # a row caught up stays as it is
            part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), table)
            rows = optimiser.catch_up(_unpacked(part.packed, part.numbers, table.dim, optimiser), step)
            put = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda x, y: put(x, y, first, 0), table, _packed(rows, table.dim))

        return jax.lax.fori_loop(0, -(-table.packed.shape[0] // size), block, table)

    return jax.tree.map(lambda x: whole(x) if is_table(x) else x, params, is_leaf=is_table)


# --- a step ---------------------------------------------------------------------------------------------


class Reads(NamedTuple):
    """The rows that a step reads, of each sparse table in the order of parameters.

    params: the model's parameters with these rows [U, D] in place of tables; names, tables, ids int32 [U] and
    rows: of each table. spots: where they are, a tree of bool.
    """

    params: Any
    spots: Any
    names: Sequence[str]
    tables: Sequence[SparseTable]
    ids: Sequence[Array]
    rows: Sequence[Rows]

    def stand_ins(self, params: Any) -> Any:
        """What modules read in place of the tables, from parameters as in `params`."""
        found = iter(zip(self.names, self.tables, self.ids, strict=True))

        def stand_in(is_spot: bool, leaf: Any) -> Any:
            if not is_spot:
                return leaf
            name, table, ids = next(found)
            return _Looked(name, table, ids, leaf)

        return jax.tree.map(stand_in, self.spots, params)

    def dense(self, tree: Any) -> Any:
        """A tree like `params` without the rows, as the dense optimiser sees it."""
        return jax.tree.map(lambda spot, x: optax.MaskedNode() if spot else x, self.spots, tree)

    def updated(self, optimiser: RowOptimiser | None, model: Any, gradient: Any, step: Array) -> Any:
        """The dense parameters `model`, with the tables after the update of their rows.

        gradient: a tree like `params`.
        """
        others = iter(jax.tree.leaves(model))
        found = iter(zip(self.tables, self.ids, self.rows, strict=True))
        leaves: list[Any] = []
        pairs = zip(jax.tree.leaves(self.spots), jax.tree.leaves(gradient), strict=True)
        for is_spot, change in pairs:
            if not is_spot or optimiser is None:
                leaves.append(next(others))
                continue
            table, ids, rows = next(found)
            leaves.append(_written(table, ids, optimiser.update(rows, change, step)))
        return jax.tree.unflatten(jax.tree.structure(self.spots), leaves)


def read_rows(
    optimiser: RowOptimiser | None,
    model: Any,
    step: Array,
    run: Callable[[Any], Any],
    axis_name: str | None = None,
) -> Reads:
    """The rows of sparse tables that `run(model's parameters)` looks up, on all devices, ready to be read.

    optimiser: None where there is no sparse table.

    Raises (while tracing):
      ValueError: a table is not looked up, is read as a whole, or ids are made within a transformation of
        their own, such as a scan.
    """
    spots = jax.tree.map(is_table, model, is_leaf=is_table)
    if optimiser is None:
        return Reads(model, spots, (), (), (), ())
    names = [path for path, is_spot in _by_path(spots) if is_spot]
    tables = [node for node in jax.tree.leaves(model, is_leaf=is_table) if is_table(node)]
    recorders = [_Recorder(name, table) for name, table in zip(names, tables, strict=True)]
    try:
        run(_put(spots, model, recorders))
    except ValueError as error:
        if "__jax_array__" in str(error):  # a compiled function of jax.numpy does not ask the stand-in
            raise ValueError(refusal(" or ".join(names))) from error
        raise
    ids = [_distinct(each.found(axis_name), each.shape[0]) for each in recorders]
    rows = []
    for table, own in zip(tables, ids, strict=True):
        packed = table.packed.at[own].get(mode="clip")
        numbers = {name: column.at[own].get(mode="clip") for name, column in table.numbers.items()}
        rows.append(optimiser.catch_up(_unpacked(packed, numbers, table.dim, optimiser), step))
    return Reads(_put(spots, model, [each.values for each in rows]), spots, names, tables, ids, rows)


class _Recorder(TableByRows):
    """A table that remembers which ids are read."""

    def __init__(self, name: str, table: SparseTable) -> None:
        super().__init__(name, (table.packed.shape[0], table.dim), table.packed.dtype)
        self.table, self.ids, self.trace = table, list[Array](), current_trace()

    def read(self, ids: Array) -> Array:
        if current_trace() != self.trace:
            raise ValueError(
                f"table {self.name!r}: is sparse, but is looked up within a transformation such as a scan or "
                "a vmap, where the step cannot see the ids; look it up before, or leave it dense"
            )
        self.ids.append(ids.reshape(-1))
        return rows_by_id(self.table.packed, ids)[..., : self.table.dim]

    def found(self, axis_name: str | None) -> Array:
        """All ids that were read, on all devices, int32 [N]."""
        if not self.ids:
            raise ValueError(
                f"table {self.name!r}: is sparse, but the losses look up none of its rows; leave it dense"
            )
        ids = jnp.concatenate(self.ids)
        return ids if axis_name is None else jax.lax.all_gather(ids, axis_name, tiled=True)


class _Looked(TableByRows):
    """The rows of a table that a step reads, [U, D], found by their ids in ascending order."""

    def __init__(self, name: str, table: SparseTable, ids: Array, rows: Array) -> None:
        super().__init__(name, (table.packed.shape[0], table.dim), rows.dtype)
        self.ids, self.rows = ids, rows

    def read(self, ids: Array) -> Array:
        place = jnp.minimum(jnp.searchsorted(self.ids, ids), self.ids.shape[0] - 1)
        known = (ids >= 0) & (ids < self.shape[0]) & (self.ids[place] == ids)
        return rows_by_id(self.rows, jnp.where(known, place, -1))


def _distinct(ids: Array, num_rows: int) -> Array:
    """The ids in 0..num_rows-1, ascending, each once, and then others past the table: int32 [min(N, V)]."""
    past = num_rows + jnp.arange(ids.shape[0], dtype=ids.dtype)
    ordered = jnp.sort(jnp.where((ids >= 0) & (ids < num_rows), ids, num_rows))
    again = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] == ordered[:-1]])
    return jnp.sort(jnp.where(again | (ordered == num_rows), past, ordered))[:num_rows]


def _written(table: SparseTable, ids: Array, rows: Rows) -> SparseTable:
    def put(column: Array, new: Array) -> Array:
        options: Any = {"mode": "drop", "unique_indices": True, "indices_are_sorted": True}
        return column.at[ids].set(new, wrap_negative_indices=False, **options)

    new = _packed(rows, table.dim)
    return table.replace(
        packed=put(table.packed, new.packed),
        numbers={name: put(column, new.numbers[name]) for name, column in table.numbers.items()},
    )


def _packed(rows: Rows, dim: int) -> SparseTable:
    packed = jnp.concatenate([rows.values, *rows.moments.values()], axis=-1)
    return SparseTable(packed, dict(rows.numbers), dim)


def _unpacked(packed: Array, numbers: dict[str, Array], dim: int, optimiser: RowOptimiser) -> Rows:
    parts = [packed[:, i * dim : (i + 1) * dim] for i in range(1 + len(optimiser.moments))]
    return Rows(parts[0], dict(zip(optimiser.moments, parts[1:], strict=True)), numbers)


def _put(spots: Any, model: Any, replacements: Sequence[Any]) -> Any:
    """A model's parameters with others in place of sparse tables."""
    following = iter(replacements)
    leaves = jax.tree.leaves(model, is_leaf=is_table)
    chosen = [next(following) if is_table(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(spots), chosen)


def _replaced(model: Any, replacements: dict[str, Any]) -> Any:
    def replaced(path: Any, leaf: Any) -> Any:
        return replacements.get(_name(path), leaf)

    return jax.tree_util.tree_map_with_path(replaced, model)


def _by_path(tree: Any) -> list[tuple[str, Any]]:
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _prefixes(tables: Sequence[str]) -> list[str]:
    return [tables] if isinstance(tables, str) else list(tables)


def _any_under(prefix: str, paths: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for path in paths)


def _is_in(tables: Parameters, path: str) -> bool:
    if callable(tables):
        return bool(tables(path))
    return any(_any_under(prefix, [path]) for prefix in _prefixes(tables))
