"""Side information that a model brings along is looked up by the ids of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.nn.layers.item_columns import WithItemColumns
from jaxrec.types import Array


class Echo(nn.Module):
    """Gives the columns that it is called with, and has a parameter."""

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool) -> Any:
        return dict(batch) | {"weight": self.param("weight", nn.initializers.ones, ()), "train": train}


def test_columns_are_those_of_the_ids_and_parameters_keep_their_names() -> None:
    batch = {"item": jnp.array([2, 3]), "history_item": jnp.array([[0, 1], [3, 9]])}
    module = WithItemColumns(Echo(), ("category", "style"), num_items=3)
    drawn: Any = module.init(jax.random.key(0), batch, train=False)
    assert list(drawn["params"]) == ["weight"]
    assert {name: table.shape for name, table in drawn["constants"].items()} == {
        "category": (4,), "style": (4,)
    }  # fmt: skip
    given = {"category": jnp.array([0, 7, 8, 7]), "style": jnp.array([0, 1, 2, 3])}
    found = jax.jit(lambda v, b: module.apply(v, b))({**drawn, "constants": given}, batch)
    assert found["category"].tolist() == [8, 7] and found["style"].tolist() == [2, 3]
    np.testing.assert_array_equal(found["history_category"], [[0, 7], [7, -1]])  # 9 is no item
    np.testing.assert_array_equal(found["item"], batch["item"])
