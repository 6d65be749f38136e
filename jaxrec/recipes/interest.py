"""Interest models of a behaviour history: base model, DIN, DIEN (Zhou et al., KDD 2018; AAAI 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrec.data.tables.click_histories import Clicks
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.recipes.trainable import ClickModel, ClickTask
from jaxrec.tasks.ctr import NEGATIVE, Regularised, ctr, next_behaviour, other_events
from jaxrec.types import HISTORY, Variables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained. Hidden layers: those of the papers' code; other sizes: for small data sets."""

    epochs: int = 20  # at most; the best one is used
    patience: int = 3  # epochs without better validation AUC before a seed stops
    batch_size: int = 256  # examples per step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 16  # width of each embedding
    length: int = 50  # most recent events of a history that are read
    mba: float = 0.01  # λ of mini-batch aware regularisation
    auxiliary: float = 1.0  # weight of DIEN's loss on the next event


def base(axis: str | None) -> nn.Module:
    """The mean of the history. axis: of the devices that share batch statistics; None: one device."""
    return DINBase(mlp=Factory(MLP, activation=PReLU, axis_name=axis))


def din(axis: str | None) -> nn.Module:
    """DIN with PReLU."""
    return DIN(attention=ActivationUnit(activation=PReLU), mlp=Factory(MLP, activation=PReLU, axis_name=axis))


def din_dice(axis: str | None) -> nn.Module:
    """DIN with Dice."""
    return DIN(
        attention=ActivationUnit(activation=Dice, axis_name=axis),
        mlp=Factory(MLP, activation=Dice, axis_name=axis),
    )


def dien(axis: str | None) -> nn.Module:
    """DIEN with Dice."""
    return DIEN(mlp=Factory(MLP, activation=Dice, axis_name=axis))


def with_history(body: nn.Module, clicks: Clicks, *, dim: int, negatives: bool = False) -> WithHistory:
    """A model with the embeddings of target, history and user, one table for each kind of id.

    negatives: whether it also reads a sampled item for each event of the history, as DIEN does in training.
    """
    items = {"item": clicks.num_items + 1} | clicks.side_info.item_sizes()
    users = {name: int(column.max()) + 1 for name, column in clicks.side_info.users.items()}
    prefixes = ("", HISTORY, NEGATIVE) if negatives else ("", HISTORY)
    fields = tuple(
        Categorical(f"{prefix}{name}", size, dim, vocabulary=name)
        for prefix in prefixes
        for name, size in (items | (users if not prefix else {})).items()
    )
    return WithHistory(
        FeatureEmbedding(fields),
        body,
        targets=tuple(items),
        histories=tuple(f"{HISTORY}{name}" for name in items),
        negatives=tuple(f"{NEGATIVE}{name}" for name in items) if negatives else (),
    )


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The optimiser of all rows."""
    return optax.adam(recipe.learning_rate)


def regularised_items(clicks: Clicks, *, length: int) -> list[Regularised]:
    """The item table, whose ids are rare, for mini-batch aware regularisation (DIN, section 5.1)."""

    def table(variables: Variables) -> jax.Array:
        found: jax.Array = variables["params"]["embedding"]["item_embedding"]
        return found

    counts = jnp.asarray(clicks.count_examples_with(length), jnp.int32)
    return [Regularised(table, ("item", f"{HISTORY}item"), counts)]


# --- models of events of one's own -------------------------------------------------------------------


def _mini_batch_aware(module: nn.Module, clicks: Clicks, recipe: Recipe) -> ClickTask:
    """The click, and mini-batch aware regularisation of the item table."""
    regularised = regularised_items(clicks, length=recipe.length)
    task = ctr(module, length=recipe.length, regularised=regularised)
    return ClickTask(task, {"click": 1.0, "mini_batch_aware": recipe.mba}, "bce + mini-batch aware")


def _next_behaviour(module: nn.Module, clicks: Clicks, recipe: Recipe) -> ClickTask:
    """The click, and DIEN's loss on the next event."""
    task = ctr(
        module,
        length=recipe.length,
        terms={"next_behaviour": next_behaviour},
        columns=other_events(clicks.num_items),
    )
    return ClickTask(task, {"click": 1.0, "next_behaviour": recipe.auxiliary}, "bce + next behaviour")


def _behind_features(
    body: Callable[[str | None], nn.Module], *, negatives: bool = False
) -> Callable[[Clicks, Recipe, str | None], nn.Module]:
    def module(clicks: Clicks, recipe: Recipe, axis: str | None) -> nn.Module:
        return with_history(body(axis), clicks, dim=recipe.dim, negatives=negatives)

    return module


MODELS: Mapping[str, ClickModel] = {
    "din-base": ClickModel(Recipe, _behind_features(base)),
    "din": ClickModel(Recipe, _behind_features(din)),
    "din-dice": ClickModel(Recipe, _behind_features(din_dice)),
    "din-mba": ClickModel(Recipe, _behind_features(din), _mini_batch_aware),
    "dien": ClickModel(Recipe, _behind_features(dien, negatives=True), _next_behaviour),
}
