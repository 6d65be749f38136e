"""SASRec and the encoders that it is compared with (Kang and McAuley, ICDM 2018, arXiv:1808.09781)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import optax

from jaxrec import losses
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols.next_item import Data
from jaxrec.recipes import trainable
from jaxrec.recipes.compute import Compute, dtype_of
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks.objectives import Objective, full_softmax, sampled


@dataclasses.dataclass(frozen=True)
class Recipe(Compute):
    """How a row is trained. Defaults: the authors' code (github.com/kang205/SASRec) on Amazon Video Games."""

    dim: int = 50  # width of the encoder; a GRU's state is twice as wide
    num_layers: int = 2  # blocks; a GRU has one layer
    num_heads: int = 1  # attention heads
    max_len: int = 50  # most recent events read
    dropout: float = 0.5  # of embeddings, attention weights and layers
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.98  # decay of Adam's second moment
    batch_size: int = 128  # users per step
    epochs: int = 201  # epochs to train
    evaluate_every: int = 20  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never
    replacement: bool = True  # draw users independently; False: each once per epoch


def original(num_items: int, recipe: Recipe) -> SASRecOriginal:
    """SASRec as its authors' code has it: norms before each layer."""
    return SASRecOriginal(
        num_items=num_items,
        dim=recipe.dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        bits=counter_bits,
        dtype=dtype_of(recipe),
        remat=recipe.remat,
    )


def post_norm(num_items: int, recipe: Recipe) -> SASRec:
    """SASRec with norms after each layer, as in S3-Rec's code family, with inner layers of the same width."""
    return SASRec(
        num_items=num_items,
        dim=recipe.dim,
        inner_dim=recipe.dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.dropout,
        bits=counter_bits,
        dtype=dtype_of(recipe),
        remat=recipe.remat,
    )


def gru4rec(num_items: int, recipe: Recipe) -> GRU4Rec:
    """A GRU in place of attention, trained in the same way.

    Raises:
      ValueError: blocks are to be computed again, and a GRU has none.
    """
    if recipe.remat:
        raise ValueError("remat=True: a GRU has no blocks to compute again; leave it out, or this row")
    return GRU4Rec(
        num_items=num_items,
        dim=recipe.dim,
        hidden_dim=2 * recipe.dim,
        dropout=recipe.dropout,
        max_len=recipe.max_len,
        bits=counter_bits,
        dtype=dtype_of(recipe),
    )


def bce(data: Data) -> Objective:
    """Binary cross-entropy with one negative per event, as in the paper."""
    return sampled(losses.bce, data.num_items, data.excluded_width)


def ce(data: Data) -> Objective:
    """Cross-entropy over all items."""
    return full_softmax()


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The authors' optimiser."""
    return optax.adam(recipe.learning_rate, b2=recipe.b2)


LOSSES: Mapping[str, trainable.MakeObjective] = {
    "bce": trainable.bce,
    "ce": trainable.ce,
    "bpr": trainable.bpr,
}
MODELS: Mapping[str, SequenceModel] = {
    "sasrec": SequenceModel(Recipe, original, LOSSES, adam),
    "sasrec-postnorm": SequenceModel(Recipe, post_norm, LOSSES, adam),
}
