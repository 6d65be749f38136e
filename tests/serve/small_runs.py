"""Tiny runs with drawn parameters, of encoders and of baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import baselines, serve
from jaxrec.data.tables.features import Category, Number, encode, fit_encoders
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.serve.run_folder import Histories, Kept, write
from jaxrec.types import Array, Protocol

NUM_ITEMS, MAX_LEN = 12, 4
ITEMS = np.array([f"i{n:02d}" for n in range(1, NUM_ITEMS + 1)])
LENGTHS = (1, 3, 7, 2, 12, 4)  # one event; longer than max_len; every item there is
USERS = np.array([f"u{n}" for n in range(len(LENGTHS))])
SIZES: dict[str, Any] = {"num_items": NUM_ITEMS, "dim": 4, "max_len": MAX_LEN}


def events() -> Histories:
    rng = np.random.default_rng(0)
    lists = [rng.permutation(NUM_ITEMS)[:n] + 1 for n in LENGTHS]
    times = [1000 * number + np.sort(rng.integers(0, 500, n)) for number, n in enumerate(LENGTHS)]
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    return Histories(np.concatenate(lists).astype(np.int32), offsets, np.concatenate(times))


EVENTS = events()


def history(user: int) -> np.ndarray:
    return EVENTS.items[EVENTS.offsets[user] : EVENTS.offsets[user + 1]]


def kept(module: Any, kind: Any = "sequence", **changes: Any) -> Kept:
    """A run of two seeds with drawn parameters; the second is the better one."""
    if kind == "baseline":
        variables: Any = {name: np.stack([array] * 2) for name, array in changes.pop("variables").items()}
    else:
        some = jnp.ones((1, MAX_LEN), jnp.int32)
        init = jax.jit(lambda key: module.init(key, some, train=False))
        made = [init(jax.random.key(seed)) for seed in (0, 1)]
        variables = jax.tree.map(lambda *leaves: np.stack(leaves) + 0.1, *made)
    return Kept(
        kind, "mine", module, variables, (3, 8), {"item": ITEMS, "user": USERS}, EVENTS,
        protocol=Protocol(selection="ndcg@10"), validation={"ndcg@10": (0.1, 0.2)},
    )._replace(**changes)  # fmt: skip


MODULES = {
    "sasrec": SASRec(**SIZES, num_layers=1, num_heads=1, inner_dim=4),
    "gru4rec": GRU4Rec(**SIZES, hidden_dim=4),
    "hstu": HSTU(**SIZES, num_layers=1, num_heads=1, key_dim=4, value_dim=4, time_bias=True),
}


RAW = {"city": np.array(["a", "b", "b", ""]), "price": np.array([1.0, np.nan, 3.0, 5.0])}


class Linear(nn.Module):
    """One logit a label."""

    num_tasks: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return nn.Dense(self.num_tasks)(x)


def table_run() -> Kept:
    encoders = fit_encoders((Category("city"), Number("price", missing="indicator")), RAW, np.arange(4))
    features = FeatureEmbedding(
        tuple(
            Numeric(f.name) if f.kind == "numeric" else Categorical(f.name, f.vocab_size, 2, f.vocabulary)
            for f in encoders.fields
        )
    )
    module = Featured(features, Linear(2))
    columns = encode(encoders, RAW)
    init = jax.jit(lambda key: module.init(key, columns, train=False))
    made = [init(jax.random.key(seed)) for seed in (0, 1)]
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
    return Kept(
        "table", "linear", module, variables, (0, 1),
        encoders=encoders, outputs={"buy": 1, "click": 0},
        columns={"city": "categorical", "price": "numeric"},
    )  # fmt: skip


def all_runs(folder: Path) -> dict[str, serve.Run]:
    """One of each kind, written to a folder and loaded again."""
    counted = baselines.TrainingEvents(np.repeat(np.arange(len(LENGTHS)), LENGTHS), EVENTS.items, NUM_ITEMS)
    popular, knn = baselines.popularity(counted), baselines.item_knn(counted)
    made = {name: kept(module) for name, module in MODULES.items()}
    made["stamp"] = kept(STAMP(**SIZES), "session", protocol=Protocol(seen="keep", selection="ndcg@10"))
    made["popularity"] = kept(popular.model, "baseline", variables=popular.variables)
    made["item-knn"] = kept(knn.model, "baseline", variables=knn.variables)
    for name, run in made.items():
        write(folder / name, run)
    return {name: serve.load(folder / name) for name in made}
