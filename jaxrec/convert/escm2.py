"""Weights of orangeai-research/ESCM2, a PyTorch port of PaddleRec's ESCM², to ours.

Features are columns of several ids whose vectors are added up; all share one table, and id 0 is padding in
both. The source ends towers with a softmax over two classes, ours with one logit: the difference of the two.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.multitask.escm2 import ESCM2

TABLE = "embedding.weight"


def from_state_dict(state: State, **fields: Any) -> Converted:
    """ESCM² with columns field_0, field_1, …, [B, L]; it imputes errors where there is a third tower.

    The batch norm of the source is never applied, and left out. `fields` are what shapes do not tell, such as
    `mlp`. Locations are those of `one_logit(state)`.
    """
    state = {key: value for key, value in one_logit(state).items() if not key.startswith("bn.")}
    rows, dim = shape(state, TABLE)
    if np.any(state[TABLE][0]):
        raise ValueError(f"{TABLE}: row 0 is not zero; ours is, as that of a padding id that never trained")
    num_towers, num_experts = count(state, r"towers\.(\d+)\."), count(state, r"experts\.(\d+)\.")
    if num_towers not in (2, 3):
        raise ValueError(f"{num_towers} towers: must be 2 (click, conversion) or 3 (the conversion's error)")
    expert_dim, num_features = shape(state, "experts.0.weight")
    locations: Locations = {TABLE: Location(("params", "embedding", "ids_embedding"))}
    for i in range(num_experts):
        locations |= dense(f"experts.{i}", ("model", "experts", "layer_0"), i)
    for i in range(num_towers):
        locations |= dense(f"gates.{i}", ("model", "gate", "logits"), i)
        locations |= dense(f"towers.{i}", ("model", "towers", "mlp", "layer_0"), i)
        locations |= dense(f"tower_outs.{i}", ("model", "towers", "logit"), i)
    columns = tuple(
        Categorical(f"field_{i}", rows, dim, vocabulary="ids", average=False)
        for i in range(num_features // dim)
    )
    sizes: dict[str, Any] = {
        "impute": num_towers == 3,
        "num_experts": num_experts,
        "expert_dims": (expert_dim,),
        "tower_dims": (shape(state, "towers.0.weight")[0],),
        "error_activation": nn.sigmoid,
    }
    model = ESCM2(**{**sizes, **fields})
    batch = {column.name: np.zeros((1, 1), np.int32) for column in columns}
    return convert(Featured(FeatureEmbedding(columns), model), state, locations, batch)


def one_logit(state: State) -> dict[str, np.ndarray]:
    """The state_dict with one output in place of each two: class 1 less class 0."""
    return {
        key: value[1:] - value[:1] if key.startswith("tower_outs.") else value for key, value in state.items()
    }


def two_classes(gradients: State) -> dict[str, np.ndarray]:
    """Gradients of `one_logit(state)` as those of the state_dict: class 0 has the negative of class 1."""
    return {
        key: np.concatenate([-value, value]) if key.startswith("tower_outs.") else value
        for key, value in gradients.items()
    }
