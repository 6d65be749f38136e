"""STAMP and the encoders that it is compared with (Liu et al., KDD 2018), with its authors' settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.protocols import sessions
from jaxrec.protocols.next_item import Data
from jaxrec.recipes import trainable
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_click import sigmoid_softmax
from jaxrec.tasks.objectives import Objective
from jaxrec.train.fit import Fitted
from jaxrec.types import Array, Protocol


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. Defaults: the authors' code; `for_dataset` sets what depends on the data set."""

    dim: int = 100  # width of all encoders
    max_len: int = 50  # most recent clicks read
    epochs: int = 10  # epochs to train
    patience: int = 0  # epochs without better validation recall@20 before a seed stops; 0: never
    batch_size: int = 512  # prefixes per step of STAMP and STMP
    learning_rate: float = 3e-3  # of Adam, for STAMP and STMP
    max_norm: float = 0.0  # of item vectors that are read; 0: 1.5 on Diginetica, else 1
    clip: float = 0.0  # maximal norm of each parameter's summed gradient; 0: 110 on Diginetica, else 150
    session_batch_size: int = 160  # sessions per step of GRU4Rec and SASRec: about 512 prefixes
    session_learning_rate: float = 1e-3  # of Adam, for GRU4Rec and SASRec
    dropout: float = 0.25  # of GRU4Rec and SASRec
    neighbours: int = 100  # item-KNN: nearest items of the last one
    regularisation: float = 20.0  # item-KNN: added to the number of sessions of each item


def for_dataset(recipe: Any, dataset: str) -> Any:
    """The recipe with the authors' maximal norm and clipping for a data set, where they are 0."""
    wide = dataset == "diginetica"
    return dataclasses.replace(
        recipe,
        max_norm=recipe.max_norm or (1.5 if wide else 1.0),
        clip=recipe.clip or (110.0 if wide else 150.0),
    )


def stamp(num_items: int, recipe: Recipe, *, attention: bool = True) -> STAMP:
    """STAMP as the authors' code has it, without biases after the pooling."""
    return STAMP(
        num_items=num_items,
        dim=recipe.dim,
        attention=attention,
        use_bias=False,
        max_norm=recipe.max_norm,
        max_len=recipe.max_len,
    )


stmp = functools.partial(stamp, attention=False)  # the mean of the clicks in place of attention


def gru4rec(num_items: int, recipe: Recipe) -> GRU4Rec:
    """One GRU layer as wide as the item table."""
    return GRU4Rec(
        num_items=num_items,
        dim=recipe.dim,
        hidden_dim=recipe.dim,
        dropout=recipe.dropout,
        max_len=recipe.max_len,
        bits=counter_bits,
    )


def sasrec(num_items: int, recipe: Recipe) -> SASRec:
    """Two layers of attention, with norms after each."""
    return SASRec(
        num_items=num_items,
        dim=recipe.dim,
        inner_dim=recipe.dim,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.dropout,
        bits=counter_bits,
    )


def summed_adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam on the gradient summed over a batch, clipped for each parameter to the norm `clip`.

    The loss is such a sum divided by `batch_size` (`protocols.sessions.by_prefix` with `summed`).
    """

    def cut(gradient: Array, _: Any) -> Array:
        norm = jnp.linalg.norm(gradient.reshape(-1))
        return gradient * (recipe.clip / jnp.maximum(norm, recipe.clip))

    return optax.chain(
        optax.scale(recipe.batch_size),
        optax.stateless_with_tree_map(cut),
        optax.adam(recipe.learning_rate),
    )


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The optimiser of encoders of whole sessions."""
    return optax.adam(recipe.session_learning_rate)


def _settle(recipe: Recipe, loss: str) -> Recipe:
    filled: Recipe = for_dataset(recipe, "")
    return filled


def _sigmoid(data: trainable.Events, recipe: Recipe) -> Objective:
    """The objective that the paper prints."""
    return sigmoid_softmax()


def _by_prefix(
    encoder: Encoder, objective: Objective, data: sessions.Data, recipe: Recipe, num_devices: int
) -> sessions.Training:
    """A prefix of a session an example, as in the authors' code."""
    return sessions.by_prefix(encoder, objective, data, recipe.batch_size, last_only=True, summed=True)


def _by_user(
    encoder: Encoder,
    objective: Objective,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    recipe: Recipe,
    **options: Any,
) -> Fitted:
    """A user an example, in batches of `session_batch_size`."""
    sized = dataclasses.replace(recipe, batch_size=recipe.session_batch_size)
    return trainable.by_user(encoder, objective, data, protocol, tx, sized, **options)


def _listed(encoder: Any) -> SequenceModel:
    """An encoder that learns from prefixes of sessions by the authors' optimiser, from users by Adam."""
    losses: Mapping[str, trainable.MakeObjective] = {
        "ce": trainable.ce,
        "sigmoid": _sigmoid,
        "bce": trainable.bce,
        "bpr": trainable.bpr,
    }
    return SequenceModel(
        Recipe,
        encoder,
        losses,
        adam,
        settle=_settle,
        train=_by_user,
        sessions=_by_prefix,
        session_optimiser=summed_adam,
    )


MODELS: Mapping[str, SequenceModel] = {
    "stamp": _listed(stamp),
    "stmp": _listed(stmp),
}
