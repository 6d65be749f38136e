"""What `jaxrec train` knows of models whose data or training is like no other's; see `trainable`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import optax

from jaxrec.index.semantic_ids import SemanticIds
from jaxrec.protocols import next_item
from jaxrec.tasks.semantic_ids import CodeModel
from jaxrec.train.fit import Fitted
from jaxrec.types import Variables


class SemanticIdModel(NamedTuple):
    """A model that names the next item of a user code by code, and searches items by a beam.

    recipe: the dataclass of its settings, with `epochs`, `batch_size`, `patience` and `width`, the beam.
    ids: (data, vectors of items [V, E] or None, recipe) -> the codes of the items.
    module: (ids, recipe) -> the module. optimiser: recipe -> the optimiser.
    train: (module, data with the ids, protocol, optimiser, recipe, options of `train.fit.fit`) -> the run.
    """

    recipe: Any
    ids: Callable[[next_item.Data, np.ndarray | None, Any], SemanticIds]
    module: Callable[[SemanticIds, Any], CodeModel]
    optimiser: Callable[[Any], optax.GradientTransformation]
    train: Callable[..., Fitted]


class TransferModel(NamedTuple):
    """A model that takes a pre-trained encoder over to another task, the classes of users.

    recipe: the dataclass of its settings, with `epochs`, `batch_size`, `patience` and `how`, which names a
    row. source: the model whose runs it starts from.
    module: (module of such a run, number of classes, recipe) -> the module. Raises ValueError where the
    source can't be adapted.
    initial: (module, that of the run, parameters as drawn, those of the run) -> those to begin with, of one
    seed. optimiser: recipe -> the optimiser, which leaves alone what is frozen.
    """

    recipe: Any
    source: str
    module: Callable[[nn.Module, int, Any], Any]
    initial: Callable[[Any, Any, Variables, Variables], Variables]
    optimiser: Callable[[Any], optax.GradientTransformation]
