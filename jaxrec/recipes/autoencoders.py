"""Mult-VAE and Mult-DAE (Liang et al., WWW 2018), MacridVAE (Ma et al., NeurIPS 2019): published settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.macridvae import MacridVAE
from jaxrec.nn.retrieval.multivae import MultDAE, MultVAE
from jaxrec.optim.loss_weighting import LossWeighting, by_schedule
from jaxrec.protocols.retrieval import Data
from jaxrec.tasks.autoencoder import autoencoder, scorer
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Scorer, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. Defaults: the authors' code, on MovieLens-20M where it depends on the data.

    Mult-VAE's beta grows by 1 / 200,000 at a step of 500 of 116,677 users, so it has its value after 40,000
    steps or 170 epochs; here the epochs are kept, which fewer users leave at fewer steps.
    """

    hidden_dim: int = 600  # of Mult-VAE's hidden layer; Mult-DAE has none
    latent_dim: int = 200  # of the codes of Mult-VAE and Mult-DAE
    l2: float = 2e-5  # of Mult-DAE's weights: 0.01 of a batch of 500
    anneal_epochs: int = 170  # epochs in which Mult-VAE's beta grows to its value
    batch_size: int = 500  # users per step of Mult-VAE and Mult-DAE
    concepts: int = 7  # of MacridVAE
    concept_dim: int = 100  # of MacridVAE's codes, items and hidden layer
    temperature: float = 0.1  # of MacridVAE's cosines
    prior_std: float = 0.075  # of MacridVAE's codes around their means
    concept_anneal_epochs: int = 5  # epochs in which MacridVAE's beta grows to its value
    concept_batch_size: int = 350  # users per step of MacridVAE
    beta: float = 0.2  # weight of the divergence
    dropout: float = 0.5  # of the entries of a user's row
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 200  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


class Training(NamedTuple):
    """How a row is trained and ranked: the task, the plan of an epoch, weights of losses, scores of items."""

    task: Task
    plan: Plan
    weighting: LossWeighting
    model: Scorer


def mult_vae(data: Data, recipe: Recipe) -> Training:
    """Mult-VAE with an annealed divergence, Mult-VAE^PR of the paper."""
    model = MultVAE(
        num_items=data.num_items,
        hidden_dims=(recipe.hidden_dim,),
        latent_dim=recipe.latent_dim,
        dropout=recipe.dropout,
        bits=counter_bits,
    )
    return _training(data, model, recipe.beta, recipe.anneal_epochs, recipe.batch_size)


def mult_dae(data: Data, recipe: Recipe) -> Training:
    """Mult-DAE: no divergence, a penalty of the weights."""
    model = MultDAE(
        num_items=data.num_items, latent_dim=recipe.latent_dim, dropout=recipe.dropout, bits=counter_bits
    )
    return _training(data, model, None, 0, recipe.batch_size, l2=recipe.l2)


def macrid_vae(data: Data, recipe: Recipe) -> Training:
    """MacridVAE with concepts that training draws."""
    model = MacridVAE(
        num_items=data.num_items,
        num_concepts=recipe.concepts,
        dim=recipe.concept_dim,
        hidden_dims=(recipe.concept_dim,),
        dropout=recipe.dropout,
        temperature=recipe.temperature,
        prior_std=recipe.prior_std,
        bits=counter_bits,
    )
    return _training(data, model, recipe.beta, recipe.concept_anneal_epochs, recipe.concept_batch_size)


def _training(
    data: Data, model: Any, beta: float | None, anneal_epochs: int, batch_size: int, l2: float = 0.0
) -> Training:
    """Every user of training once an epoch. beta: of the divergence, None where the model has none."""
    users = np.flatnonzero(data.split.train_length > 0)
    plan = shuffled(data.num_users, min(batch_size, len(users)), examples=users)
    weights: dict[str, Any] = {"reconstruction": 1.0}
    if beta is not None:
        steps = anneal_epochs * plan.num_steps
        weights["kl"] = optax.linear_schedule(0.0, beta, steps) if steps else beta
    if l2:
        weights["l2"] = 1.0
    task = autoencoder(model, num_items=data.num_items, width=data.most, l2=l2)
    return Training(task, plan, by_schedule(weights), scorer(model, num_items=data.num_items))


AUTOENCODERS: Mapping[str, Callable[[Data, Recipe], Training]] = {
    "mult-vae": mult_vae,
    "mult-dae": mult_dae,
    "macridvae": macrid_vae,
}
NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "mult-vae": "an interaction matrix whose users are held out: see experiments/retrieval/multivae.py",
    "mult-dae": "as mult-vae",
    "macridvae": "as mult-vae",
}
