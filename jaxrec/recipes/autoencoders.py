"""Mult-VAE and Mult-DAE (Liang et al., WWW 2018), MacridVAE (Ma et al., NeurIPS 2019): published settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.macridvae import MacridVAE
from jaxrec.nn.retrieval.multivae import MultDAE, MultVAE
from jaxrec.optim.loss_weighting import Weighting, by_schedule
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks.autoencoder import autoencoder, scorer
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Scorer, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How Mult-VAE is trained. Defaults: the authors' code (github.com/dawenl/vae_cf) on MovieLens-20M.

    There beta grows by 1 / 200,000 at a step of 500 of 116,677 users, so it has its value after 40,000 steps,
    which are 170 epochs; here the number of epochs is kept, which fewer users pass in fewer steps.
    """

    hidden_dim: int = 600  # hidden layer of the encoder, and of the decoder
    latent_dim: int = 200  # of the codes
    dropout: float = 0.5  # of the entries of a user's row
    beta: float = 0.2  # weight of the divergence in the end
    anneal_epochs: int = 170  # epochs in which beta grows to its value; 0: it has it at once
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 500  # users per step
    epochs: int = 200  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class DenoisingRecipe:
    """How Mult-DAE is trained. Defaults: as of `Recipe`."""

    latent_dim: int = 200  # of the codes
    dropout: float = 0.5  # of the entries of a user's row
    l2: float = 2e-5  # of the squares of all weights: 0.01 of a batch of 500
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 500  # users per step
    epochs: int = 200  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class MacridRecipe:
    """How MacridVAE is trained. Defaults: the authors' code."""

    concepts: int = 7  # their number
    dim: int = 100  # of codes and items, and of the encoder's hidden layer
    temperature: float = 0.1  # which divides cosines
    prior_std: float = 0.075  # of a code around its mean
    dropout: float = 0.5  # of the entries of a concept's part of a user's row
    beta: float = 0.2  # weight of the divergence in the end
    anneal_epochs: int = 5  # epochs in which beta grows to its value; 0: it has it at once
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 350  # users per step
    epochs: int = 200  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


def mult_vae(data: Data, recipe: Recipe) -> MultVAE:
    """Mult-VAE, with an annealed divergence Mult-VAE^PR of the paper."""
    return MultVAE(
        num_items=data.num_items,
        hidden_dims=(recipe.hidden_dim,),
        latent_dim=recipe.latent_dim,
        dropout=recipe.dropout,
        bits=counter_bits,
    )


def mult_dae(data: Data, recipe: DenoisingRecipe) -> MultDAE:
    """Mult-DAE, without hidden layers around the code."""
    return MultDAE(
        num_items=data.num_items, latent_dim=recipe.latent_dim, dropout=recipe.dropout, bits=counter_bits
    )


def macrid_vae(data: Data, recipe: MacridRecipe) -> MacridVAE:
    """MacridVAE, whose training draws the concepts of items."""
    return MacridVAE(
        num_items=data.num_items,
        num_concepts=recipe.concepts,
        dim=recipe.dim,
        hidden_dims=(recipe.dim,),
        dropout=recipe.dropout,
        temperature=recipe.temperature,
        prior_std=recipe.prior_std,
        bits=counter_bits,
    )


def reconstructed(model: Any, data: Data, recipe: Any) -> Task:
    """The items of a user's row predict themselves."""
    return autoencoder(model, num_items=data.num_items, width=data.most, l2=getattr(recipe, "l2", 0.0))


def every_user(data: Data, recipe: Any) -> Plan:
    """Every user of training once an epoch."""
    users = np.flatnonzero(data.split.train_length > 0)
    return shuffled(data.num_users, min(recipe.batch_size, len(users)), examples=users)


def annealed(data: Data, recipe: Recipe | MacridRecipe) -> Weighting:
    """The divergence has a weight that grows linearly to beta.

    Raises:
      ValueError: beta or anneal_epochs is negative, of which optax would make a weight that stays 0.
    """
    for name in ("beta", "anneal_epochs"):
        if not getattr(recipe, name) >= 0:
            raise ValueError(f"{name}={getattr(recipe, name)}: must be 0 or more")
    steps = recipe.anneal_epochs * every_user(data, recipe).num_steps
    beta: Any = optax.linear_schedule(0.0, recipe.beta, steps) if steps else recipe.beta
    return by_schedule({"reconstruction": 1.0, "kl": beta})


def by_history(model: Any, data: Data) -> Scorer:
    """Scores from the items of a history, whoever's."""
    return scorer(model, num_items=data.num_items)


def adam(recipe: Any) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


BOUND = "multinomial likelihood and KL divergence"
MODELS: Mapping[str, RetrievalModel] = {
    "mult-vae": RetrievalModel(
        Recipe, mult_vae, reconstructed, every_user, adam, BOUND, ranked=by_history, weighting=annealed
    ),
    "mult-dae": RetrievalModel(
        DenoisingRecipe,
        mult_dae,
        reconstructed,
        every_user,
        adam,
        "multinomial likelihood",
        ranked=by_history,
    ),
    "macridvae": RetrievalModel(
        MacridRecipe,
        macrid_vae,
        reconstructed,
        every_user,
        adam,
        BOUND,
        ranked=by_history,
        weighting=annealed,
    ),
}
