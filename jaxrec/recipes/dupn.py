"""DUPN with the sizes of our table, which are smaller than the paper's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn

from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.multitask.dupn import DUPN, PerceivedUser
from jaxrec.recipes.multitask import Training

INIT = nn.initializers.normal(0.1)  # of tables: from smaller ones the LSTM reads nothing for epochs


@dataclasses.dataclass(frozen=True)
class Recipe(Training):
    """Training and sizes. The paper has 128 units, layers of 128 and 64, AdaGrad and batches of 1,024."""

    hidden_dim: int = 32  # units of the LSTM
    attention_dims: tuple[int, ...] = (32, 16)  # hidden layers of the attention
    head_dims: tuple[int, ...] = (32,)  # hidden layers of each task
    epochs: int = 20  # at most; the best one is used
    batch_size: int = 256  # examples per step


def fields(num_items: int, num_categories: int, dim: int) -> tuple[Categorical, ...]:
    """The columns of `data.synthetic.behaviours`."""
    return (
        Categorical("item", num_items + 1, dim),
        Categorical("query", num_categories + 1, dim),
        Categorical("profile", 4, dim),
        Categorical("history_item", num_items + 1, dim, vocabulary="item"),
        Categorical("history_kind", 3, dim),
    )


def dupn(
    read: tuple[Categorical, ...], recipe: Recipe, *, gate: bool = True, attend: bool = True
) -> PerceivedUser:
    """The model of a click and of two price levels. gate, attend: what reads the kinds of behaviours."""
    model = DUPN(
        recipe.hidden_dim,
        num_levels=2,
        gate=gate,
        attend=attend,
        attention_dims=recipe.attention_dims,
        head_dims=recipe.head_dims,
    )
    return PerceivedUser(FeatureEmbedding(read, table_init=INIT), model)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "dupn": "behaviours with kinds and a query, and labels of several tasks: see "
    "experiments/multitask/dupn.py",
}
