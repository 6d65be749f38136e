"""Which data a model is trained on, and how they are read and prepared for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxrec.commands.training import (
    actions,
    clicks,
    codes,
    items,
    matrix,
    ratings,
    sequences,
    sessions,
    tables,
    transfer,
)
from jaxrec.commands.training.prepared import Prepared
from jaxrec.commands.training.source import Source
from jaxrec.recipes import trainable, trainable_apart, trainable_rankings


class Kind(NamedTuple):
    """How a kind of data is read, (options, source) -> data, and prepared for a model, see `Prepared`."""

    read: Callable[[Any, Source], Any]
    prepare: Callable[..., Prepared]


MODULES: dict[type, Any] = {  # by the type of a model's entry
    trainable.TableModel: tables,
    trainable.ClickModel: clicks,
    trainable.RetrievalModel: matrix,
    trainable.CountingModel: matrix,
    trainable.ItemModel: items,
    trainable.SuccessorModel: items,
    trainable.RatingModel: ratings,
    trainable_apart.SemanticIdModel: codes,
    trainable_apart.TransferModel: transfer,
    trainable_rankings.ActionModel: actions,
    trainable_rankings.RankedModel: items,
}


def kind_of(entry: Any, options: Any) -> Kind:
    """The kind of data that a model is trained on."""
    if isinstance(entry, trainable.SequenceModel):
        module: Any = sessions if options.split == "sessions" else sequences
    else:
        module = MODULES[type(entry)]
    return Kind(module.read, module.prepare)
