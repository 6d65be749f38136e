"""GRU4Rec with its losses (Hidasi et al., ICLR 2016 and CIKM 2018): the authors' settings for RSC15."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
import optax

from jaxrec import losses
from jaxrec.data.events.sessions import SessionSplit
from jaxrec.data.events.split import Split
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.protocols import sessions
from jaxrec.recipes import trainable
from jaxrec.recipes.trainable import MakeObjective, SequenceModel
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.objectives import Negatives, Objective, negatives, shared_negatives


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. None: the authors' value for the row's loss."""

    dim: int = 100  # width of the item table and the state
    batch_size: int = 32  # parallel sessions or, in ordinary batches, whole sessions per step
    epochs: int = 10  # at most; the best one is used
    patience: int = 3  # epochs without better validation MRR@20 before a seed stops
    learning_rate: float | None = None  # of Adagrad; None, here and below: the authors' value for the loss
    momentum: float | None = None  # of Adagrad's steps
    dropout: float | None = None  # of item vectors
    hidden_dropout: float = 0.0  # of states
    num_samples: int = 2048  # negatives in addition to the other targets of a step
    alpha: float | None = None  # samples are drawn in proportion to frequency to this power
    logq: float = 1.0  # share of the logQ correction, sampled softmax only
    regularisation: float = 0.5  # of BPR-max: weight of the squared scores of negatives
    elu: float = 0.5  # of the scores of BPR-max; 0: as they are
    leave_out_hits: bool = False  # whether negatives equal to the example's target are left out
    max_len: int = 50  # most recent events read in ordinary batches and in ranking


@dataclasses.dataclass(frozen=True)
class OfLoss:
    """The authors' settings of a loss."""

    learning_rate: float  # of Adagrad
    momentum: float  # of Adagrad's steps
    dropout: float  # of item vectors
    alpha: float  # samples are drawn in proportion to frequency to this power


_BPR_MAX = OfLoss(learning_rate=0.2, momentum=0.1, dropout=0.0, alpha=0.0)
OF_LOSS: Mapping[str, OfLoss] = {
    "ssm": OfLoss(learning_rate=0.1, momentum=0.0, dropout=0.1, alpha=0.75),
    "bpr-max": _BPR_MAX,
    "top1-max": _BPR_MAX,
}


def network(split: SessionSplit, recipe: Recipe, settings: OfLoss) -> GRU4Rec:
    """The authors' network: one GRU layer as wide as the item table, an item bias, no layer in between."""
    return encoder(split.num_items, dataclasses.replace(recipe, dropout=settings.dropout))


def encoder(num_items: int, recipe: Recipe) -> GRU4Rec:
    """The network of a recipe that says its dropout."""
    return GRU4Rec(
        num_items=num_items,
        dim=recipe.dim,
        hidden_dim=recipe.dim,
        dropout=recipe.dropout or 0.0,
        hidden_dropout=recipe.hidden_dropout,
        use_bias=True,
        max_len=recipe.max_len,
        projection=False,
        item_bias=True,
        embedding_init=nn.initializers.glorot_uniform(),
        bits=counter_bits,
    )


def sampled_softmax(split: SessionSplit | Split, recipe: Recipe, settings: OfLoss) -> Objective:
    """Softmax cross-entropy over the target and negatives, with the logQ correction for their frequencies."""
    drawn = negatives(
        training_counts(split), num_samples=recipe.num_samples, alpha=settings.alpha, logq=recipe.logq
    )
    return shared_negatives(losses.sampled_softmax, drawn, leave_out_hits=recipe.leave_out_hits)


def bpr_max(split: SessionSplit | Split, recipe: Recipe, settings: OfLoss) -> Objective:
    """BPR-max with a penalty on the squared scores of negatives."""
    elu = functools.partial(nn.elu, alpha=recipe.elu) if recipe.elu else None
    loss = functools.partial(losses.bpr_max, regularisation=recipe.regularisation)
    drawn = _uncorrected(split, recipe, settings)
    return shared_negatives(loss, drawn, activation=elu, leave_out_hits=recipe.leave_out_hits)


def top1_max(split: SessionSplit | Split, recipe: Recipe, settings: OfLoss) -> Objective:
    """TOP1-max."""
    drawn = _uncorrected(split, recipe, settings)
    return shared_negatives(losses.top1_max, drawn, leave_out_hits=recipe.leave_out_hits)


def _uncorrected(split: SessionSplit | Split, recipe: Recipe, settings: OfLoss) -> Negatives:
    return negatives(training_counts(split), num_samples=recipe.num_samples, alpha=settings.alpha, logq=0.0)


def training_counts(split: SessionSplit | Split) -> np.ndarray:
    """Clicks of each item in training, [vocab_size]."""
    events = split.training_events()
    return np.bincount(events.item, minlength=events.num_items + 1)


def adagrad(settings: OfLoss) -> optax.GradientTransformation:
    """Adagrad with sums of squares that start at 0, and with momentum."""
    momentum = [optax.trace(settings.momentum)] if settings.momentum else []
    return optax.chain(
        optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-6),
        *momentum,
        optax.scale(-settings.learning_rate),
    )


def settle(recipe: Recipe, loss: str) -> Recipe:
    """The recipe with the authors' settings for a loss where it has none; of others, those of "ssm"."""
    usual = OF_LOSS.get(loss, OF_LOSS["ssm"])
    left = {
        f.name: getattr(usual, f.name) for f in dataclasses.fields(usual) if getattr(recipe, f.name) is None
    }
    return dataclasses.replace(recipe, **left)


def _settings(recipe: Recipe) -> OfLoss:
    return OfLoss(**{field.name: getattr(recipe, field.name) for field in dataclasses.fields(OfLoss)})


def _of_data(make: Callable[[Any, Recipe, OfLoss], Objective]) -> MakeObjective:
    return lambda data, recipe: make(data.split, recipe, _settings(recipe))


def _adagrad(recipe: Recipe) -> optax.GradientTransformation:
    return adagrad(_settings(recipe))


def _side_by_side(
    encoder: Encoder, objective: Objective, data: sessions.Data, recipe: Recipe, num_devices: int
) -> sessions.Training:
    if not isinstance(encoder, GRU4Rec):
        raise ValueError(
            f"split='sessions': {type(encoder).__name__} does not read sessions side by side, a click of "
            "each at a time, as gru4rec is trained; leave --item-vectors out, or take stamp or sasrec"
        )
    return sessions.side_by_side(encoder, objective, data, recipe.batch_size)


MODELS: Mapping[str, SequenceModel] = {
    "gru4rec": SequenceModel(
        Recipe,
        encoder,
        {
            "ssm": _of_data(sampled_softmax),
            "bpr-max": _of_data(bpr_max),
            "top1-max": _of_data(top1_max),
            "ce": trainable.ce,
            "bce": trainable.bce,
            "bpr": trainable.bpr,
        },
        _adagrad,
        settle=settle,
        sessions=_side_by_side,
    ),
}
