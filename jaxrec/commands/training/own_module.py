"""A user's own module, by its import path, as a model that can be trained."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import optax

from jaxrec.nn.layers.features import Featured
from jaxrec.recipes import trainable
from jaxrec.recipes.trainable import SequenceModel, Table, TableModel
from jaxrec.serve import modules

LOSSES: Mapping[str, trainable.MakeObjective] = {
    "ce": trainable.ce,
    "bce": trainable.bce,
    "bpr": trainable.bpr,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a module of your own is trained, which encodes sequences of events."""

    fields: tuple[str, ...] = ()  # of the module, such as dim=64 num_layers=2; the others have their defaults
    epochs: int = 50  # at most; the best one on validation counts
    patience: int = 5  # epochs without a better one before a seed stops; 0: never
    batch_size: int = 128  # users or sessions a step
    learning_rate: float = 1e-3  # of Adam


@dataclasses.dataclass(frozen=True)
class RowsRecipe:
    """How a module of your own is trained, which reads the vectors [B, F] of the columns of labelled rows."""

    fields: tuple[str, ...] = ()  # of the module, such as dims=(64,32); the others have their defaults
    embedding_dim: int = 8  # width of the vector of each column of categories
    epochs: int = 20  # at most; the best one on validation counts
    patience: int = 3  # epochs without a better one before a seed stops; 0: never
    batch_size: int = 1024  # rows a step
    learning_rate: float = 1e-3  # of Adam


def own(path: str, *, labelled: bool) -> tuple[str, SequenceModel | TableModel]:
    """The name and the entry of a module, found in the working directory too.

    Raises:
      ValueError: it can't be imported, or is no Flax module.
    """
    kind = modules.find(path, "model", named=True)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"model={path!r}: is no class of a flax.linen.Module; name one")
    if not labelled:

        def encoder(num_items: int, recipe: Recipe) -> nn.Module:
            return made(kind, recipe.fields, num_items=num_items)

        return kind.__name__, SequenceModel(Recipe, encoder, LOSSES, adam, own=path)

    def module(table: Table, recipe: RowsRecipe) -> nn.Module:
        sizes = {"num_tasks": table.num_tasks} if "num_tasks" in field_names(kind) else {}
        return Featured(table.features(recipe.embedding_dim), made(kind, recipe.fields, **sizes))

    several = "num_tasks" in field_names(kind)
    return kind.__name__, TableModel(
        RowsRecipe, module, trainable.a_column_each if several else trainable.one_logit, own=path
    )


def adam(recipe: Any) -> optax.GradientTransformation:
    """Adam with its usual constants."""
    return optax.adam(recipe.learning_rate)


def field_names(kind: type[nn.Module]) -> list[str]:
    """The fields of a module that can be given."""
    return [f.name for f in dataclasses.fields(kind) if f.init and f.name not in ("parent", "name")]


def made(kind: type[nn.Module], given: Sequence[str], **sizes: int) -> nn.Module:
    """A module from its fields as they are typed, `name=value`, and the sizes that the data have.

    Raises:
      ValueError: a field that the module does not have (the nearest is named) or that the data decide, or a
        module without a field for a size.
    """
    known = field_names(kind)
    for name in sizes:
        if name not in known:
            raise ValueError(
                f"{kind.__name__}: has no field {name}: an encoder is built with the number of items; add it"
            )
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"fields: {text!r}: must be name=value, such as dim=64")
        if name in sizes:
            raise ValueError(f"fields: {name}={value}: the data decide it ({sizes[name]}); leave it out")
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"the nearest is {nearest[0]!r}" if nearest else "it has none"
            raise ValueError(f"fields: {kind.__name__} has no field {name!r}; {hint}")
        values[name] = _parsed(value)
    return kind(**sizes, **values)


def _parsed(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
