"""The strongest next-item recipes: many sampled negatives an event, with or without LiGR layers.

eSASRec (Tikhonovich et al., RecSys 2025, arXiv:2508.06450) is SASRec's objective with LiGR layers and a
sampled softmax over 256 uniform negatives; gSASRec (Petrov and Macdonald, RecSys 2023, arXiv:2308.07192)
keeps SASRec's layers and has generalised binary cross-entropy with as many negatives. Settings are those of
eSASRec's benchmark (github.com/blondered/transformer_benchmark). Of the three Amazon sets its README says
width 64 and its configuration files 256; the default here is 64. The library that it pins drops units of the
item table itself, with the same rate (`tasks.table_dropout`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import optax

from jaxrec import losses
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.ligr import LiGR
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols.next_item import Data
from jaxrec.recipes import ticoserec, trainable
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks.objectives import Objective, sampled

SIZES = (
    "dim", "num_layers", "num_heads", "inner_factor", "max_len", "num_negatives", "epochs", "evaluate_every",
    "batch_size",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the rows of one data set are trained; `Changes` documents the fields. Defaults: Amazon Beauty."""

    dim: int = 64
    num_layers: int = 1
    num_heads: int = 1
    inner_factor: int = 4
    max_len: int = 50
    dropout: float = 0.2
    table_dropout: float = 0.2
    num_negatives: int = 256
    calibration: float = 0.75
    epochs: int = 200
    evaluate_every: int = 1
    patience: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3
    b2: float = 0.98

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience}: must be positive, or 0 for never")
        if not 0 <= self.table_dropout < 1:
            raise ValueError(f"table_dropout={self.table_dropout}: must be at least 0 and below 1")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"calibration={self.calibration}: must be in 0..1")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide dim={self.dim}")


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes of a recipe; None keeps its value."""

    dim: int | None = None  # width of every encoder; 256 is that of the published configuration files
    num_layers: int | None = None  # blocks of every encoder
    num_heads: int | None = None  # attention heads of every encoder
    inner_factor: int | None = None  # width of LiGR's feed-forward network over dim; SASRec's is dim
    max_len: int | None = None  # most recent events read
    dropout: float | None = None  # of embeddings, attention weights and layers
    table_dropout: float | None = None  # of the table of item vectors, one mask a step for all that reads it
    num_negatives: int | None = None  # of each event, uniform over all items; bce has one
    calibration: float | None = None  # t of gbce, in 0..1; 0: binary cross-entropy
    epochs: int | None = None  # epochs to train, at most
    evaluate_every: int | None = None  # epochs between evaluations on validation
    patience: int | None = None  # evaluations without improvement before a seed stops; 0: never
    batch_size: int | None = None  # users per step
    learning_rate: float | None = None  # of Adam
    b2: float | None = None  # decay of Adam's second moment


_ML_1M = Recipe(num_layers=2, dropout=0.1, table_dropout=0.1, max_len=200, epochs=100)
RECIPES: Mapping[str, Recipe] = {
    "Beauty": Recipe(),
    "Sports": Recipe(inner_factor=2),
    "Toys": Recipe(inner_factor=1),
    "Video": Recipe(),  # not in the benchmark; Beauty is the most similar of its sets
    "ml-100k": _ML_1M,  # as is ML-1M
}


def usual(dataset: str) -> Recipe:
    """The settings for a data set; those of Beauty if `RECIPES` does not have it."""
    return RECIPES.get(dataset, Recipe())


def with_views(recipe: Recipe, dataset: str) -> ticoserec.Recipe:
    """CoSeRec's views for a data set, with the length, the epochs and the batches of a recipe here.

    Raises:
      ValueError: the recipe does not evaluate after every epoch, as training with views does.
    """
    if recipe.evaluate_every != 1:
        raise ValueError(f"evaluate_every={recipe.evaluate_every}: must be 1 for rows with views")
    return dataclasses.replace(
        ticoserec.coserec(f"coserec-{dataset}"),
        max_len=recipe.max_len,
        epochs=recipe.epochs,
        patience=recipe.patience or recipe.epochs,
        batch_size=recipe.batch_size,
    )


# --- encoders, objectives and optimiser --------------------------------------------------------------


def ligr(num_items: int, recipe: Recipe) -> LiGR:
    """Gated layers with a SwiGLU network, as eSASRec has them."""
    return LiGR(
        num_items=num_items,
        dim=recipe.dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        inner_dim=recipe.inner_factor * recipe.dim,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        bits=counter_bits,
    )


def sasrec(num_items: int, recipe: Recipe) -> SASRecOriginal:
    """SASRec's layers as RecTools builds them, which eSASRec is compared with."""
    return SASRecOriginal(
        num_items=num_items,
        dim=recipe.dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        norm_epsilon=1e-5,
        output_projection=True,
        scaled=False,
        bits=counter_bits,
    )


def ssm(data: Data, recipe: Recipe) -> Objective:
    """Softmax over the target and uniform negatives of each event, without a correction."""
    return sampled(losses.sampled_softmax, data.num_items, None, num_negatives=recipe.num_negatives)


def gbce(data: Data, recipe: Recipe) -> Objective:
    """Generalised binary cross-entropy with uniform negatives of each event."""
    loss: Any = functools.partial(losses.gbce, num_items=data.num_items, calibration=recipe.calibration)
    number = recipe.num_negatives
    text = f"gbce, t {recipe.calibration:g}, {number} negatives an event from all items"
    return sampled(loss, data.num_items, None, num_negatives=number, description=text)


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The benchmark's optimiser."""
    return optax.adam(recipe.learning_rate, b2=recipe.b2)


MODELS: Mapping[str, SequenceModel] = {
    "esasrec": SequenceModel(
        Recipe,
        ligr,
        {"ssm": ssm, "gbce": gbce, "bce": trainable.bce, "ce": trainable.ce},
        adam,
        documented=Changes,
        sessions=None,
    ),
    "gsasrec": SequenceModel(
        Recipe(table_dropout=0.0),  # as its authors' code
        sasrec,
        {"gbce": gbce, "ssm": ssm, "bce": trainable.bce, "ce": trainable.ce},
        adam,
        documented=Changes,
        sessions=None,
    ),
}
