"""MOBIUS: a click model of two towers with a class of bad cases (Fan et al., KDD 2019).

The paper's vectors have 96 numbers; its threshold and how many bad cases are drawn are not stated, so those
are ours, as are all sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import optax

from jaxrec.data.events.side_features import SideFeatures, tower_columns
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.mobius import Mobius
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.recipes.towers import feature_fields
from jaxrec.tasks.mobius import LABEL, Relevance, mobius
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a student is trained."""

    dim: int = 16  # width of the vectors of ids
    hidden_dims: tuple[int, ...] = (64,)  # widths of the towers' layers before the last
    part_dim: int = 32  # width of a class's part of a vector
    temperature: float = 0.1  # divides the cosines
    threshold: float = 0.5  # pairs of at most so much relevance may be bad cases
    bad_cases: int = 64  # that are drawn for each batch
    bad_weight: float = 1.0  # of a bad case's loss, beside 1 of an impression
    batch_size: int = 256  # impressions per step, whose queries and ads are crossed
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 15  # at most; the best one is used
    patience: int = 3  # epochs without better validation AUC before a seed stops


def student(
    num_users: int,
    num_items: int,
    users: SideFeatures | None,
    items: SideFeatures | None,
    recipe: Recipe,
    *,
    num_classes: int = 3,
) -> Mobius:
    """Towers of ids and features."""
    dims = (*recipe.hidden_dims, num_classes * recipe.part_dim)
    towers = TwoTower(
        (Categorical("user_id", num_users + 1, recipe.dim), *feature_fields("user", users, recipe.dim)),
        (Categorical("item_id", num_items + 1, recipe.dim), *feature_fields("item", items, recipe.dim)),
        dims,
        dims,
        Factory(MLP, activate_last=False),
        cosine=False,
    )
    return Mobius(towers, num_classes, recipe.temperature)


def task(model: Mobius, relevance: Relevance | None, recipe: Recipe, *, by_click: bool = True) -> Task:
    """Clicks, and bad cases if there is a teacher."""
    return mobius(
        model,
        relevance,
        threshold=recipe.threshold,
        bad_cases=recipe.bad_cases,
        by_click=by_click,
        bad_weight=recipe.bad_weight,
    )


def columns(
    user: np.ndarray,
    item: np.ndarray,
    click: np.ndarray,
    *,
    num_users: int,
    num_items: int,
    users: SideFeatures | None = None,
    items: SideFeatures | None = None,
) -> Context:
    """The resident columns of training impressions: users from 0, items from 1, and clicks, all [P]."""
    found = tower_columns(user, item, num_users=num_users, num_items=num_items, users=users, items=items)
    clicked = np.unique(np.stack([user, item], axis=1)[np.asarray(click) > 0], axis=0)
    length = np.bincount(clicked[:, 0], minlength=num_users)
    none = np.zeros(num_users, np.int32)
    return {
        **found,
        "pair_user": user.astype(np.int32),
        "pair_item": item.astype(np.int32),
        LABEL: click.astype(np.float32),
        "clicked": clicked[:, 1].astype(np.int32),
        "clicked_start": (np.cumsum(length) - length).astype(np.int32),
        "clicked_length": length.astype(np.int32),
        "items": np.zeros(1, np.int32),  # the towers read no history
        "start": none,
        "length": none,
    }


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "mobius": "queries, ads and a model of their relevance: see experiments/retrieval/mobius.py",
}
