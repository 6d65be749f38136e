"""The trained rows of `two_tower`: what each is built with, and how it learns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from experiments import common
from jaxrec import losses
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes import dfn, mv_dssm, pdn, towers
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks.two_tower import two_tower
from jaxrec.train.epoch import Plan
from jaxrec.types import Context, Task

YOUTUBE = "youtube-softmax"
VIEWS = {"ml-1m": "genres"}  # the feature of items whose first value is their view; of others all are one
SYNTHETIC_VIEW = "group"


class Row(NamedTuple):
    """A row of two towers: its task from model, data and settings, and what its recipe changes."""

    task: Callable[[Any, Data, Any], Task]
    changes: Mapping[str, Any] = {}
    loss: str = "softmax"


class Other(NamedTuple):
    """A row of another model. negatives: sampled for each pair; None: as many as rows of two towers draw."""

    entry: RetrievalModel
    negatives: int | None
    loss: str


class Learned(NamedTuple):
    """What trains a row. data: with the features that it reads; columns: resident ones besides those."""

    model: Any
    task: Task
    plan: Plan
    tx: optax.GradientTransformation
    data: Data
    columns: Context
    recipe: Any
    weighting: Weighting


def softmax(model: TwoTower, data: Data, config: Any, **options: Any) -> Task:
    """Cross-entropy of the observed item, against those of the batch by default."""
    return two_tower(model, losses.sampled_softmax, **options)


def streaming(model: TwoTower, data: Data, config: Any) -> Task:
    """The same, corrected by frequencies that are estimated from the batches so far."""
    return softmax(model, data, config, frequency=towers.stream(data))


def uniform(model: TwoTower, data: Data, config: Any) -> Task:
    """As many drawn items as a batch has."""
    return softmax(model, data, config, in_batch=False, negatives=config.negatives)


def mixed(model: TwoTower, data: Data, config: Any) -> Task:
    """The batch's items and drawn ones."""
    return softmax(model, data, config, negatives=config.negatives)


def hinge(model: TwoTower, data: Data, config: Any, **options: Any) -> Task:
    """The triplet loss of cosines, against drawn items and those of the batch."""
    of_cosines = functools.partial(losses.hinge, margin=config.margin)
    cosines, negatives = model.clone(temperature=1.0), config.negatives
    return two_tower(cosines, of_cosines, negatives=negatives, corrected=False, **options)


ROWS: Mapping[str, Row | Other] = {
    "uniform-softmax": Row(uniform),
    "batch-softmax": Row(functools.partial(softmax, corrected=False)),
    "batch-softmax-logq": Row(softmax),
    "batch-softmax-logq-streaming": Row(streaming),
    "mixed-softmax-logq": Row(mixed),
    "mixed-softmax-logq-ids": Row(mixed, {"features": False}),
    "mixed-softmax-logq-features": Row(mixed, {"ids": False}),
    "mixed-softmax-logq-history": Row(mixed, {"history": 50}),
    "uniform-hinge": Row(functools.partial(hinge, in_batch=False), loss="hinge"),
    "uniform-hard-hinge": Row(functools.partial(hinge, hard=2), loss="hinge"),
    "hard-hinge": Row(functools.partial(hinge, hardest=2), loss="hinge"),
    YOUTUBE: Row(uniform),
    "mv-dssm-softmax-logq": Other(mv_dssm.MODELS["mv-dssm"], None, "softmax"),
    "pdn-bce": Other(pdn.MODELS["pdn"], 4, "bce"),
    "dfn-bce": Other(dfn.MODELS["dfn"], 4, "bce"),
}


def recipe_of(row: str, config: Any) -> Any:
    """The settings of a row's model."""
    made = ROWS[row]
    if isinstance(made, Other):
        recipe = common.override(made.entry.recipe(), config)
        if isinstance(recipe, mv_dssm.Recipe):
            view = SYNTHETIC_VIEW if config.tiny else VIEWS.get(config.dataset, "")
            recipe = dataclasses.replace(recipe, view="" if config.data else view)
        return recipe if made.negatives is None else dataclasses.replace(recipe, negatives=made.negatives)
    if row == YOUTUBE:
        recipe = common.override(towers.YouTubeRecipe(), config)
        return dataclasses.replace(recipe, dim=config.out_dim)
    changes = {name: value for name, value in made.changes.items() if name != "features"}
    return dataclasses.replace(common.override(towers.Recipe(), config), **changes)


def build(row: str, columns: Data, config: Any) -> tuple[Any, Data]:
    """The model of a row, and the data with the features that it reads."""
    made, recipe = ROWS[row], recipe_of(row, config)
    if isinstance(made, Other):
        return made.entry.module(columns, recipe), columns
    if not made.changes.get("features", True):
        columns = columns._replace(users=None, items=None)
    if isinstance(recipe, towers.YouTubeRecipe):
        return towers.youtube(columns, recipe), columns
    if not recipe.ids and columns.users is None:  # a user without features is known by its items
        recipe = dataclasses.replace(recipe, history=50)
    return towers.towers(columns, recipe), columns


def learned(row: str, columns: Data, config: Any) -> Learned:
    """What trains a row."""
    model, data = build(row, columns, config)
    made, recipe = ROWS[row], recipe_of(row, config)
    if isinstance(made, Other):
        entry = made.entry
        return Learned(
            model,
            entry.task(model, data, recipe),
            entry.plan(data, recipe),
            entry.optimiser(recipe),
            data,
            entry.columns(data, recipe),
            recipe,
            entry.weighting(data, recipe),
        )
    task, plan = made.task(model, data, config), towers.every_pair(data, recipe)
    read = towers.columns(data, recipe)
    tx = common.with_sparse_tables(towers.adam, config)(recipe)
    return Learned(model, task, plan, tx, data, read, recipe, static())
