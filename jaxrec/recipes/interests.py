"""Several interests a user: ComiRec, MIND, SINE, SDM, Poly-encoder and Octopus, with settings of papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax

from jaxrec import sampling
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.comirec import ComiRecDR, ComiRecSA
from jaxrec.nn.retrieval.mean_of_events import MeanOfEvents
from jaxrec.nn.retrieval.mind import MIND
from jaxrec.nn.retrieval.octopus import Octopus
from jaxrec.nn.retrieval.poly_encoder import PolyEncoder
from jaxrec.nn.retrieval.sdm import SDM
from jaxrec.nn.retrieval.sine import SINE
from jaxrec.protocols import interests, next_item
from jaxrec.recipes import trainable
from jaxrec.recipes.trainable import SequenceModel, evaluate_every
from jaxrec.tasks.interests import IN_BATCH
from jaxrec.tasks.objectives import Objective, sampled_softmax
from jaxrec.train.epoch import Plan
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

AT_LEAST_ONE = (
    "num_samples", "least", "num_interests", "num_channels", "num_prototypes", "iterations", "short_len"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. Defaults: ComiRec's code (github.com/THUDM/ComiRec) on Amazon Books."""

    dim: int = 64  # width of item vectors and of a user's vectors
    max_len: int = 20  # most recent events read
    num_samples: int = 1280  # negatives of a batch in sampled losses, log-uniform by popularity
    least: int = 4  # events before a target, at least, where an epoch has a random cut of each user
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 128  # targets per step
    epochs: int = 300  # at most; the authors train for up to a million steps
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 10  # evaluations without a better one before a seed stops; 0: never

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            if getattr(self, name, 1) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class ComiRec(Recipe):
    """ComiRec as its code has it on Amazon Books; a random cut of each user is an epoch."""

    num_interests: int = 4  # vectors of each user


@dataclasses.dataclass(frozen=True)
class ComiRecRouted(ComiRec):
    """ComiRec-DR, which its README says needs a higher learning rate."""

    learning_rate: float = 5e-3  # of Adam
    iterations: int = 3  # of routing


@dataclasses.dataclass(frozen=True)
class Mind(Recipe):
    """MIND as the paper has it on Amazon Books; every event is a target once an epoch."""

    dim: int = 36  # width of item vectors and interests
    num_interests: int = 3  # vectors of each user, at most; users of few events have fewer
    iterations: int = 3  # of routing
    sigma: float = 1.0  # standard deviation of the routing logits
    power: float | None = None  # of label-aware attention; None: the nearest interest alone
    epochs: int = 100  # at most
    evaluate_every: int = 1  # epochs between evaluations on validation


@dataclasses.dataclass(frozen=True)
class Sine(Recipe):
    """SINE as the paper has it on Amazon; every event is a target once an epoch."""

    dim: int = 128  # width of item vectors and prototypes
    num_interests: int = 4  # prototypes that a user has
    num_prototypes: int = 500  # prototypes to choose from
    temperature: float = 0.1  # of the weights of interests
    penalty: float = 0.5  # weight of the covariance of prototypes
    epochs: int = 100  # at most
    evaluate_every: int = 1  # epochs between evaluations on validation


@dataclasses.dataclass(frozen=True)
class Sdm(Recipe):
    """SDM as the paper has it offline; every event is a target once an epoch."""

    max_len: int = 50  # most recent events read
    short_len: int = 10  # events of the present session; those before it are the past
    num_heads: int = 4  # attention heads
    dropout: float = 0.2  # of the inputs and outputs of the LSTM
    max_norm: float = 5.0  # gradients are scaled down to this norm
    batch_size: int = 256  # targets per step
    epochs: int = 100  # at most
    evaluate_every: int = 1  # epochs between evaluations on validation


@dataclasses.dataclass(frozen=True)
class Poly(Recipe):
    """A Poly-encoder of items; every event is a target once an epoch.

    The paper's 64 codes and batch of 256; its other settings are those of fine-tuning BERT.
    """

    max_len: int = 50  # most recent events read
    num_interests: int = 64  # codes, each of which gives a vector
    batch_size: int = 256  # targets per step, each against the others
    epochs: int = 100  # at most
    evaluate_every: int = 1  # epochs between evaluations on validation


@dataclasses.dataclass(frozen=True)
class OctopusRecipe(Recipe):
    """Octopus, whose settings are ours, as its paper's were not at hand; every event is a target an epoch."""

    max_len: int = 50  # most recent events read
    num_channels: int = 16  # at most `dim`; a user has a vector of each that an event of theirs goes to
    penalty: float = 1.0  # weight of what keeps channels orthogonal
    projection: bool = False  # a linear layer follows, the same for all channels
    batch_size: int = 256  # targets per step
    epochs: int = 100  # at most
    evaluate_every: int = 1  # epochs between evaluations on validation


@dataclasses.dataclass(frozen=True)
class Mean(Recipe):
    """ComiRec's baseline "YouTube DNN"; a random cut of each user is an epoch."""

    hidden_dims: tuple[int, ...] = ()  # widths of ReLU layers on the mean of the events
    shared: bool = True  # one table for events and targets; False: two, as in YouTube's paper


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes of a recipe; None keeps its value."""

    dim: int | None = None  # width of item vectors
    max_len: int | None = None  # most recent events read
    num_interests: int | None = None  # vectors of each user
    num_samples: int | None = None  # negatives of a batch in sampled losses
    dropout: float | None = None  # where a model has some
    temperature: float | None = None  # of SINE's weights of interests
    penalty: float | None = None  # weight of the covariance of SINE's prototypes
    learning_rate: float | None = None  # of Adam
    batch_size: int | None = None  # targets per step; of SASRec users per step
    epochs: int | None = None  # at most
    evaluate_every: int | None = None  # epochs between evaluations on validation
    patience: int | None = None  # evaluations without a better one before a seed stops; 0: never


def comirec_sa(num_items: int, recipe: ComiRec) -> ComiRecSA:
    """Interests by self-attention."""
    return ComiRecSA(num_items=num_items, **_fields(recipe, "num_interests"))


def comirec_dr(num_items: int, recipe: ComiRecRouted) -> ComiRecDR:
    """Interests by dynamic routing with a transform of each position and interest."""
    return ComiRecDR(num_items=num_items, **_fields(recipe, "num_interests", "iterations"))


def mind(num_items: int, recipe: Mind) -> MIND:
    """Interests by behaviour-to-interest routing."""
    return MIND(num_items=num_items, **_fields(recipe, "num_interests", "iterations", "sigma", "power"))


def sine(num_items: int, recipe: Sine) -> SINE:
    """Interests of the prototypes nearest to a user, in one vector."""
    return SINE(
        num_items=num_items,
        **_fields(recipe, "num_interests", "num_prototypes", "temperature", "penalty"),
    )


def sdm(num_items: int, recipe: Sdm) -> SDM:
    """One vector from the present session and the events before it."""
    return SDM(num_items=num_items, bits=counter_bits, **_fields(recipe, "short_len", "num_heads", "dropout"))


def poly_encoder(num_items: int, recipe: Poly) -> PolyEncoder:
    """A vector for each code, which an item reads by attention."""
    return PolyEncoder(num_items=num_items, **_fields(recipe, "num_interests"))


def octopus(num_items: int, recipe: OctopusRecipe) -> Octopus:
    """As many vectors as there are channels with an event of the user."""
    fields = _fields(recipe, "penalty", "projection")
    return Octopus(num_items=num_items, num_interests=recipe.num_channels, **fields)


def mean_of_events(num_items: int, recipe: Mean) -> MeanOfEvents:
    """One vector: the mean of the events through layers."""
    return MeanOfEvents(num_items=num_items, **_fields(recipe, "hidden_dims", "shared"))


def _fields(recipe: Recipe, *names: str) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in ("dim", "max_len", *names)}


# --- objectives --------------------------------------------------------------------------------------


def ssm(data: next_item.Data, recipe: Any) -> Objective:
    """Cross-entropy over the target and log-uniform negatives of the batch, with the logQ correction."""
    events = data.split.training_events()
    counts = np.bincount(events.item, minlength=data.num_items + 1)
    made = sampled_softmax(recipe.num_samples, sampling.log_uniform_table(counts))
    text = f"sampled softmax, logQ 1; {recipe.num_samples} log-uniform by popularity, shared by the batch"
    return dataclasses.replace(made, description=text)


def in_batch(data: next_item.Data, recipe: Any) -> Objective:
    """Cross-entropy of each target against the others of the batch, by the model's own scores."""
    return IN_BATCH


LOSSES: Mapping[str, trainable.MakeObjective] = {"ssm-logq": ssm, "ce": trainable.ce, "bpr": trainable.bpr}


# --- training ----------------------------------------------------------------------------------------


def one_cut(data: next_item.Data, recipe: Any) -> Plan:
    """A random cut of each user."""
    return interests.one_cut(data, recipe.batch_size, least=recipe.least)


def every_event(data: next_item.Data, recipe: Any) -> Plan:
    """Each event with one before it at least."""
    return interests.every_event(data, recipe.batch_size)


def trained(plan: Callable[[next_item.Data, Any], Plan]) -> Callable[..., Fitted]:
    """How a model learns from the cuts of a plan, see `SequenceModel.train`."""

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
            **options,
        )

    return train


by_event = trained(every_event)  # every event with one before it is a target once an epoch


def adam(recipe: Any) -> optax.GradientTransformation:
    """The optimiser of the papers."""
    return optax.adam(recipe.learning_rate)


def clipped_adam(recipe: Sdm) -> optax.GradientTransformation:
    """Adam of gradients whose norm is clipped."""
    return optax.chain(optax.clip_by_global_norm(recipe.max_norm), optax.adam(recipe.learning_rate))


def _model(
    recipe: Any, module: Callable[[int, Any], Any], train: Callable[..., Fitted], **others: Any
) -> SequenceModel:
    given: dict[str, Any] = {"objectives": LOSSES, "optimiser": adam, **others}
    return SequenceModel(recipe, module, train=train, sessions=None, multi_interest=True, **given)


MODELS: Mapping[str, SequenceModel] = {
    "comirec-sa": _model(ComiRec, comirec_sa, trained(one_cut)),
    "comirec-dr": _model(ComiRecRouted, comirec_dr, trained(one_cut)),
    "mind": _model(Mind, mind, by_event),
    "sine": _model(Sine, sine, by_event),
    "sdm": _model(Sdm, sdm, by_event, optimiser=clipped_adam),
    "poly-encoder": _model(Poly, poly_encoder, by_event, objectives={"in-batch": in_batch}),
    "octopus": _model(OctopusRecipe, octopus, by_event),
    "mean-of-events": _model(Mean, mean_of_events, trained(one_cut)),
}
