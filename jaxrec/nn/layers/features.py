"""Named columns of a batch to one vector an example."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.types import Array


class Categorical(NamedTuple):
    """A column of ids, int32 [B], or several ids an example [B, L], where 0 is padding.

    vocab_size: rows of the table, that of id 0 counted. dim: width of the vectors.
    vocabulary: columns of the same vocabulary share a table; None: the column has its own, under its name.
    average: of several ids, True takes the mean vector, False the sum; no real id gives zero.
    """

    name: str
    vocab_size: int
    dim: int
    vocabulary: str | None = None
    average: bool = True


class Numeric(NamedTuple):
    """A column of numbers, [B], or of vectors [B, k], used as it is.

    dim: None, or the width of a learned vector that the number is multiplied with.
    """

    name: str
    dim: int | None = None


class FeatureEmbedding(nn.Module):
    """Looks up categorical columns, passes numbers through, and concatenates in the order of `fields`.

    Row 0 of a table is zero, is read like any other by single ids, and never trains. An id out of range
    gives NaN.

    Fields:
      fields: the columns to read; others of the batch are ignored.
      table_init: of tables (but their row 0) and of the vectors of numeric columns.
    """

    fields: tuple[Categorical | Numeric, ...]
    table_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

    def __post_init__(self) -> None:
        table_shapes(self.fields)
        super().__post_init__()

    def __call__(self, batch: Mapping[str, Array]) -> Array:
        """Maps columns to one vector an example, [B, F]."""
        return jnp.concatenate(list(self.vectors(batch).values()), axis=-1)

    def stacked(self, batch: Mapping[str, Array]) -> Array:
        """Maps columns to one vector a field, [B, fields, D]; all must have the same width."""
        vectors = self.vectors(batch)
        widths = {name: vector.shape[-1] for name, vector in vectors.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"widths of fields {widths}: must be equal to stack them; give each the same dim"
            )
        return jnp.stack(list(vectors.values()), axis=1)

    @nn.compact
    def vectors(self, batch: Mapping[str, Array], names: Collection[str] | None = None) -> dict[str, Array]:
        """Maps columns to the vectors of each field by name, {name: [B, D]}; names: of these fields alone."""
        embeddings = {
            vocabulary: self.param(f"{vocabulary}_embedding", pad_row(self.table_init), shape)
            for vocabulary, shape in table_shapes(self.fields).items()
        }
        found = {}
        for field in self.fields:
            if names is not None and field.name not in names:
                continue
            column = _column(batch, field)
            if isinstance(field, Categorical):
                found[field.name] = _pooled(embeddings[field.vocabulary or field.name], column, field.average)
            elif field.dim is None:
                found[field.name] = column if column.ndim == 2 else column[:, None]
            else:
                kernel = self.param(f"{field.name}_kernel", self.table_init, (1, field.dim))
                found[field.name] = column[:, None] @ kernel
        return found


class Featured(nn.Module):
    """A model behind its features: columns of a batch → vector an example → whatever the model gives."""

    embedding: nn.Module
    model: nn.Module

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Any:
        """Applies `model` to the vectors [B, F] of `embedding`."""
        return self.model(self.embedding(batch), train=train)


class Conditioned(nn.Module):
    """A model of two inputs: all features, and those that it is conditioned on, with their own tables.

    In evaluation a model that takes `where`, for statistics of the batch, gets the real examples ("mask"). In
    training all examples count: what fills up a batch there are random examples (`train.epoch.shuffled`).
    """

    embedding: nn.Module
    condition: nn.Module
    model: nn.Module

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Any:
        """Applies `model` to the vectors of `embedding` [B, F] and of `condition` [B, Z]."""
        takes = "where" in inspect.signature(type(self.model).__call__).parameters
        real = {"where": batch["mask"]} if takes and not train and "mask" in batch else {}
        return self.model(self.embedding(batch), self.condition(batch), **real, train=train)


def table_shapes(fields: tuple[Categorical | Numeric, ...]) -> dict[str, tuple[int, int]]:
    """Shapes of the tables by vocabulary.

    Raises:
      ValueError: no field, a name twice, a size below 1, or fields of one vocabulary that disagree.
    """
    if not fields:
        raise ValueError("fields=(): name at least one column to read")
    for name, count in Counter(field.name for field in fields).items():
        if count > 1:
            raise ValueError(f"field {name}: stands {count} times in fields; name each column once")
    shapes: dict[str, tuple[int, int]] = {}
    for field in fields:
        if field.dim is not None and field.dim < 1:
            raise ValueError(f"field {field.name}: dim={field.dim} must be at least 1")
        if isinstance(field, Categorical):
            if field.vocab_size < 1:
                raise ValueError(f"field {field.name}: vocab_size={field.vocab_size} must be at least 1")
            shape = (field.vocab_size, field.dim)
            shared = shapes.setdefault(field.vocabulary or field.name, shape)
            if shared != shape:
                raise ValueError(
                    f"field {field.name}: a table of {shape}, but another field of vocabulary "
                    f"{field.vocabulary or field.name!r} has {shared}; make them equal or the names different"
                )
    return shapes


def _column(batch: Mapping[str, Array], field: Categorical | Numeric) -> Array:
    if field.name not in batch:
        raise ValueError(f"field {field.name}: not in the batch, which has {', '.join(sorted(batch))}")
    column = jnp.asarray(batch[field.name])
    whole = jnp.issubdtype(column.dtype, jnp.integer)
    if isinstance(field, Categorical) and not whole:
        raise ValueError(f"field {field.name}: {column.dtype} values, expected integer ids")
    if not 1 <= column.ndim <= (1 if isinstance(field, Numeric) and field.dim is not None else 2):
        raise ValueError(
            f"field {field.name}: shape {column.shape}, see {type(field).__name__} for what fits"
        )
    return column if isinstance(field, Categorical) else column.astype(jnp.result_type(column, jnp.float32))


def _pooled(table: Array, ids: Array, average: bool) -> Array:
    """Vectors of ids [B] → [B, D], or the mean or sum over the real ids of [B, L] → [B, D]."""
    rows = lookup(table, ids)
    if ids.ndim == 1:
        return rows
    real = (ids != 0)[..., None]
    total = jnp.sum(jnp.where(real, rows, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(real, axis=1), 1) if average else total
