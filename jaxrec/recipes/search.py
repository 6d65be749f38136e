"""Models of long histories: truncation, pooling, search (SIM, ETA) and memory (MIMN), for
`data.synthetic.lifelong`.

Sizes are for the synthetic data. The initial standard deviation of all tables is 1 / √dim: from the papers'
smaller values a learned search stays at an AUC of 0.5 in this number of epochs.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import optax

from jaxrec.data.tables.click_histories import Clicks
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.long_short import Windows
from jaxrec.nn.layers.memory import InterestMemory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.mimn import MIMN
from jaxrec.nn.ranking.sim import SIM, of_search
from jaxrec.recipes.trainable import ClickModel, ClickTask
from jaxrec.tasks.ctr import ctr, memory_utilisation
from jaxrec.tasks.multitask import Target
from jaxrec.types import HISTORY, Task, Variables

SEARCH = Target("search", "search", "label/click")  # the loss of the search
CHUNK = 256  # events between two states of MIMN that are stored for the gradient


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained."""

    epochs: int = 20  # at most; the best one is used
    patience: int = 8  # epochs without better validation AUC before a seed stops
    batch_size: int = 128  # examples per step
    learning_rate: float = 3e-3  # of Adam
    dim: int = 8  # width of the embeddings of item, category and style
    recent: int = 30  # events that din-recent reads, and of the short history of a search
    k: int = 20  # events that a search returns
    slots: int = 8  # of MIMN's memory
    utilisation: float = 0.1  # λ of its regulariser, over shares of writes
    rebalance: Literal["utilisation", "shift"] = "utilisation"  # of its writes; shift: as its public code
    key_memory: bool = False  # its slots also have trained keys, as in the public code
    sum_pooling: bool = False  # its MLP also sees the sum of all events, as in the public code
    gate_bias: float = 0.0  # start of its gates' biases; TensorFlow's GRU, and so the public code, has 1


def din(clicks: Clicks, recipe: Recipe) -> nn.Module:
    """DIN over the history."""
    return _pooled(
        clicks,
        recipe,
        DIN(attention=ActivationUnit(activation=PReLU), mlp=Factory(MLP, activation=PReLU)),
    )


def base(clicks: Clicks, recipe: Recipe) -> nn.Module:
    """The sum of the history."""
    return _pooled(clicks, recipe, DINBase(average=False))


def mimn(clicks: Clicks, recipe: Recipe) -> nn.Module:
    """MIMN: a memory of fixed size, written event by event."""
    memory = InterestMemory(
        recipe.slots,
        rebalance=recipe.rebalance,
        shares=True,
        strength=True,
        key_memory=recipe.key_memory,
        chunk=CHUNK,
        gate_bias=recipe.gate_bias,
    )
    body = MIMN(
        memory=memory,
        attention=ActivationUnit(activation=PReLU, softmax=True),
        sum_pooling=recipe.sum_pooling,
        mlp=Factory(MLP, activation=PReLU),
    )
    return _pooled(clicks, recipe, body)


def sim_hard(clicks: Clicks, recipe: Recipe) -> nn.Module:
    """SIM hard search: the last k events of the target's category."""
    items, init = _items(clicks, recipe), _init(recipe)
    return Windows(SIM(items, k=recipe.k, category="category", table_init=init), recipe.recent)


def sim_soft(clicks: Clicks, recipe: Recipe) -> nn.Module:
    """SIM soft search: k events by a learned inner product."""
    return Windows(SIM(_items(clicks, recipe), k=recipe.k, table_init=_init(recipe)), recipe.recent)


def eta(clicks: Clicks, recipe: Recipe) -> nn.Module:
    """ETA: k events by hashed vectors."""
    return Windows(ETA(_items(clicks, recipe), k=recipe.k, table_init=_init(recipe)), recipe.recent)


def search_alone(clicks: Clicks, recipe: Recipe, *, length: int) -> Task:
    """The task of a soft search alone, whose output is the prediction."""
    search: Any = sim_soft(clicks, recipe)
    return ctr(search.clone(served="search"), length=length, targets=[SEARCH])


def beyond_search(variables: Variables) -> Variables:
    """True for the parameters that a pre-trained search does not provide: a tree of bool."""
    return jax.tree.map(operator.not_, of_search(variables))


def frozen_search(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser of all parameters but those of the search."""

    def kinds(params: Variables) -> Variables:
        return jax.tree.map(lambda search: "frozen" if search else "own", of_search(params))

    return optax.partition({"own": tx, "frozen": optax.set_to_zero()}, kinds)


def _items(clicks: Clicks, recipe: Recipe) -> tuple[Categorical, ...]:
    """Item, category and style of a target, which past events have too."""
    sizes = {"item": clicks.num_items + 1} | clicks.side_info.item_sizes()
    return tuple(Categorical(name, size, recipe.dim) for name, size in sizes.items())


def _init(recipe: Recipe) -> nn.initializers.Initializer:
    return nn.initializers.normal(recipe.dim**-0.5)


def _pooled(clicks: Clicks, recipe: Recipe, body: nn.Module) -> nn.Module:
    items = _items(clicks, recipe)
    past = tuple(Categorical(f"{HISTORY}{i.name}", i.vocab_size, i.dim, vocabulary=i.name) for i in items)
    return WithHistory(
        FeatureEmbedding((*items, *past), _init(recipe)),
        body,
        targets=tuple(item.name for item in items),
        histories=tuple(item.name for item in past),
    )


# --- models of events of one's own -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EventsRecipe(Recipe):
    """How a model of long histories is trained on events of one's own."""

    length: int = 200  # events of a history that are read, the last ones; more than `recent`


def _with_search(module: nn.Module, clicks: Clicks, recipe: EventsRecipe) -> ClickTask:
    """The click, and the same of the search alone."""
    task = ctr(module, length=recipe.length, targets=[SEARCH])
    return ClickTask(task, {"click": 1.0, "search": 1.0}, "bce + search")


def _with_memory(module: nn.Module, clicks: Clicks, recipe: EventsRecipe) -> ClickTask:
    """The click, and an even use of the memory."""
    task = ctr(module, length=recipe.length, terms={"memory_utilisation": memory_utilisation})
    weights = {"click": 1.0, "memory_utilisation": recipe.utilisation}
    return ClickTask(task, weights, "bce + memory utilisation")


def _of_events(
    model: Callable[[Clicks, Recipe], nn.Module],
) -> Callable[[Clicks, EventsRecipe, str | None], nn.Module]:
    def module(clicks: Clicks, recipe: EventsRecipe, axis: str | None) -> nn.Module:
        return model(clicks, recipe)

    return module


MODELS: Mapping[str, ClickModel] = {
    "sim": ClickModel(EventsRecipe, _of_events(sim_soft), _with_search),
    "sim-hard": ClickModel(EventsRecipe, _of_events(sim_hard), category=True),
    "eta": ClickModel(EventsRecipe, _of_events(eta)),
    "mimn": ClickModel(EventsRecipe, _of_events(mimn), _with_memory),
}
