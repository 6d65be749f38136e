"""HSTU over items and actions in turn (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2)."""

from __future__ import annotations

import dataclasses

import optax

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.protocols.actions import Data
from jaxrec.tasks.objectives import Objective, uniform_softmax


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. Sizes: the public code's for ML-1M."""

    times: bool = True  # HSTU's bias by time
    dim: int = 50  # width of tokens
    key_dim: int = 50  # of queries and keys, and of values and gates, of the one head
    num_layers: int = 2  # units
    max_len: int = 200  # events of a user that are read at a time
    dropout: float = 0.2  # of tokens, and of each unit's output
    num_samples: int = 128  # negatives of each event in retrieval
    temperature: float = 0.05  # that scores are divided by in retrieval
    epochs: int = 100  # at most; the best one counts
    every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without a better one before a seed stops; 0: never
    batch_size: int = 32  # users a step
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.98  # decay of Adam's second moment


def generative(data: Data, recipe: Recipe) -> GenerativeHSTU:
    """HSTU over two tokens an event."""
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
    """A softmax over the next item and uniform negatives, of retrieval."""
    return uniform_softmax(data.num_items, recipe.num_samples, temperature=recipe.temperature)


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The public code's optimiser."""
    return optax.adam(recipe.learning_rate, b2=recipe.b2)
