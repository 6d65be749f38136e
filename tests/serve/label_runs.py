"""Runs of labelled rows and of clicks, with drawn parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.tables.columns import Ragged
from jaxrec.data.tables.features import Buckets, Category, Number, Tags, encode, fit_encoders
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.recipes import interaction
from jaxrec.serve.run_folder import Kept
from jaxrec.types import Protocol
from tests.nn.drawn import drawn
from tests.serve import small_runs

RAW: dict[str, Any] = {
    "city": np.array(["Oslo", "Rome", "", "Rome", "Bonn"]),
    "size": np.array([3, 4, 3, 5, 4]),
    "tags": Ragged(np.array(["x", "y", "x", "z"]), np.array([0, 2, 2, 3, 4, 4])),
    "price": np.array([1.0, np.nan, 3.0, 4.0, 10.0]),
    "age": np.array([20.0, 30.0, 40.0, np.nan, 60.0]),
}
SPECS = (
    Category("city", missing=("Bonn",)),
    Category("size"),
    Tags("tags", max_values=2),
    Number("price", log=True, missing="indicator"),
    Buckets("age", num_buckets=3),
)


def table_run() -> Kept:
    encoders = fit_encoders(SPECS, RAW, np.arange(4))
    fields = tuple(
        Numeric(f.name) if f.kind == "numeric" else Categorical(f.name, f.vocab_size, 3)
        for f in encoders.fields
    )
    model = MMoE(num_tasks=2, num_experts=2, expert_dims=(4,), tower_dims=(3,))
    module = Featured(FeatureEmbedding(fields), model)
    variables = drawn(module, encode(encoders, RAW), train=False)
    return Kept(
        "table", "mmoe", module, jax.tree.map(lambda leaf: np.stack([leaf, -leaf]), variables), (0, 1),
        encoders=encoders, outputs={"click": 0, "buy": 1}, columns={"city": "categorical"},
        protocol=Protocol(candidates="impressions"),
    )  # fmt: skip


def click_run(*, reads_users: bool = True) -> Kept:
    item, user = Categorical("item", small_runs.NUM_ITEMS + 1, 4), Categorical("user", 7, 4)
    fields = (item, user) if reads_users else (item,)
    module = interaction.din(interaction.Columns(fields, (item,)))
    batch = {"item": jnp.ones(1, int), "user": jnp.ones(1, int), "history_item": jnp.ones((1, 3), int)}
    variables = drawn(module, batch, train=False)
    return Kept(
        "clicks", "din", module, jax.tree.map(lambda leaf: leaf[None], variables), (0,),
        {"item": small_runs.ITEMS, "user": small_runs.USERS}, small_runs.EVENTS,
        outputs={"click": None}, length=3,
    )  # fmt: skip
