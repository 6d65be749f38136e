"""Latent Cross and the encoders that it is compared with (Beutel et al., WSDM 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import optax

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.latent_cross import LatentCross
from jaxrec.protocols.next_item import Data
from jaxrec.tasks.objectives import Objective, full_softmax


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. The paper has 256 units and 100 events; its learning rates are not known."""

    dim: int = 64  # width of the item table
    hidden_dim: int = 128  # units of the ReLU layer and of the GRU
    context_dim: int = 16  # width of context vectors that are concatenated
    max_len: int = 50  # most recent events read
    dropout: float = 0.3  # of item vectors
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 128  # users per step
    epochs: int = 100  # at most; the best one is used
    evaluate_every: int = 2  # epochs between evaluations on validation
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never


def encoder(
    num_items: int,
    recipe: Recipe,
    *,
    pre: bool = False,
    post: bool = False,
    concat: bool = False,
    wider: int = 0,
) -> LatentCross:
    """The network with the given uses of its context. wider: units that its layers have in addition."""
    return LatentCross(
        num_items=num_items,
        dim=recipe.dim,
        hidden_dim=recipe.hidden_dim + wider,
        context_dim=recipe.context_dim,
        pre=pre,
        post=post,
        concat=concat,
        dropout=recipe.dropout,
        max_len=recipe.max_len,
        bits=counter_bits,
    )


def num_weights(num_items: int, recipe: Recipe, wider: int = 0, **parts: bool) -> int:
    """Parameters of `encoder`, whose layers are dense."""
    hidden, context = recipe.hidden_dim + wider, recipe.context_dim if parts.get("concat") else 0
    crossed = (parts.get("pre", False) + parts.get("post", False)) * 34 * hidden
    layers = (
        (recipe.dim + context + 1) * hidden + 6 * hidden * (hidden + 1) + (hidden + context + 1) * recipe.dim
    )
    return (num_items + 1) * recipe.dim + crossed + layers + 2 * 34 * context


def ce(data: Data, recipe: Recipe) -> Objective:
    """Cross-entropy over all items."""
    return full_softmax(num_items=data.num_items)


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The optimiser of all rows."""
    return optax.adam(recipe.learning_rate)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "latent-cross": "the gap before each event as its context: see experiments/sequential/latent_cross.py",
}
