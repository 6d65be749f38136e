"""HSTU over alternating items and actions (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import optax

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.protocols.actions import Data
from jaxrec.recipes.trainable_rankings import ActionModel
from jaxrec.tasks.objectives import Objective, uniform_softmax


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. Sizes: the public code's for ML-1M."""

    times: bool = True  # HSTU's bias by time
    dim: int = 50  # width of tokens
    key_dim: int = 50  # of queries, keys, values and gates; there is one head
    num_layers: int = 2  # units
    max_len: int = 200  # events of a user that are read at a time
    dropout: float = 0.2  # of tokens, and of each unit's output
    num_samples: int = 128  # negatives of each event in retrieval
    temperature: float = 0.05  # divides the scores of retrieval
    epochs: int = 100  # at most; the best one is used
    every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never
    batch_size: int = 32  # users per step
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.98  # decay of Adam's second moment


def generative(data: Data, recipe: Recipe) -> GenerativeHSTU:
    """HSTU with two tokens per event."""
    return GenerativeHSTU(
        num_items=data.num_items,
        num_actions=data.num_actions,
        dim=recipe.dim,
        num_layers=recipe.num_layers,
        key_dim=recipe.key_dim,
        value_dim=recipe.key_dim,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        linear_dropout=recipe.dropout,
        time_bias=recipe.times,
        bits=counter_bits,
    )


def ssm(data: Data, recipe: Recipe) -> Objective:
    """Softmax over the next item and uniform negatives, the loss of retrieval."""
    return uniform_softmax(data.num_items, recipe.num_samples, temperature=recipe.temperature)


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The public code's optimiser."""
    return optax.adam(recipe.learning_rate, b2=recipe.b2)


MODELS: Mapping[str, ActionModel] = {"hstu-generative": ActionModel(Recipe, generative, ssm, adam)}
