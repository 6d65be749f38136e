"""Several interests a user: ComiRec, MIND, SINE, SDM and Poly-encoder, with the settings of their papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax

from jaxrec import sampling
from jaxrec.nn.retrieval.comirec import ComiRecSA
from jaxrec.protocols import interests, next_item
from jaxrec.recipes import trainable
from jaxrec.recipes.trainable import SequenceModel, evaluate_every
from jaxrec.tasks.objectives import Objective, sampled_softmax
from jaxrec.train.epoch import Plan
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol


@dataclasses.dataclass(frozen=True)
class ComiRec:
    """How ComiRec is trained. Defaults: the authors' code (github.com/THUDM/ComiRec) on Amazon Books."""

    dim: int = 64  # width of item vectors and interests
    num_interests: int = 4  # vectors of each user
    max_len: int = 20  # most recent events read
    num_samples: int = 1280  # negatives of a batch, log-uniform by popularity: 10 for each of its examples
    least: int = 4  # events before a target, at least
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 128  # users per step, a random cut of each
    epochs: int = 300  # at most, each user once in each; the authors train for up to a million steps
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 10  # evaluations without a better one before a seed stops; 0: never


def comirec_sa(num_items: int, recipe: ComiRec) -> ComiRecSA:
    """Interests by self-attention."""
    return ComiRecSA(
        num_items=num_items, dim=recipe.dim, max_len=recipe.max_len, num_interests=recipe.num_interests
    )


# --- objectives --------------------------------------------------------------------------------------


def log_uniform(counts: np.ndarray) -> sampling.PopularityTable:
    """The distribution of TensorFlow's log-uniform sampler: p = log((r + 2) / (r + 1)) / log(I + 1).

    r is the number of more popular items, of equally popular ones those of smaller ids; I is the number of
    items. counts: of each id in training, [vocab_size]; entry 0 is ignored.
    """
    order = np.argsort(-np.asarray(counts, np.float64)[1:], kind="stable") + 1
    weights = np.zeros(len(counts))
    rank = np.arange(len(order))
    weights[order] = np.log((rank + 2) / (rank + 1))
    return sampling.popularity_table(weights, alpha=1.0)


def ssm(data: next_item.Data, recipe: Any) -> Objective:
    """Cross-entropy over the target and log-uniform negatives of the batch, with the logQ correction."""
    events = data.split.training_events()
    counts = np.bincount(events.item, minlength=data.num_items + 1)
    made = sampled_softmax(recipe.num_samples, log_uniform(counts))
    text = f"sampled softmax, logQ 1; {recipe.num_samples} log-uniform by popularity, shared by the batch"
    return dataclasses.replace(made, description=text)


LOSSES: Mapping[str, trainable.MakeObjective] = {"ssm-logq": ssm, "ce": trainable.ce, "bpr": trainable.bpr}


# --- training ----------------------------------------------------------------------------------------


def one_cut(data: next_item.Data, recipe: Any) -> Plan:
    """A random cut of each user."""
    return interests.one_cut(data, recipe.batch_size, least=recipe.least)


def every_event(data: next_item.Data, recipe: Any) -> Plan:
    """Each event with one before it at least."""
    return interests.every_event(data, recipe.batch_size)


def no_weights(recipe: Any) -> Mapping[str, float] | None:
    """Each loss has the weight 1."""
    return None


def trained(
    plan: Callable[[next_item.Data, Any], Plan],
    weights: Callable[[Any], Mapping[str, float] | None] = no_weights,
) -> Callable[..., Fitted]:
    """How a model learns: `SequenceModel.train`, by the cuts of a plan and with weights of its losses."""

    def train(
        model: Any,
        objective: Objective,
        data: next_item.Data,
        protocol: Protocol,
        tx: optax.GradientTransformation,
        recipe: Any,
        **options: Any,
    ) -> Fitted:
        return interests.train(
            model,
            objective,
            data,
            protocol,
            tx,
            plan(data, recipe),
            epochs=recipe.epochs,
            every=evaluate_every(recipe),
            patience=recipe.patience or None,
            weights=weights(recipe),
            **options,
        )

    return train


def adam(recipe: Any) -> optax.GradientTransformation:
    """The optimiser of the papers."""
    return optax.adam(recipe.learning_rate)


def _model(recipe: Any, module: Callable[[int, Any], Any], train: Callable[..., Fitted]) -> SequenceModel:
    return SequenceModel(recipe, module, LOSSES, adam, train=train, sessions=None, multi_interest=True)


MODELS: Mapping[str, SequenceModel] = {
    "comirec-sa": _model(ComiRec, comirec_sa, trained(one_cut)),
}
