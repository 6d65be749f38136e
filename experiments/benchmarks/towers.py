"""Two towers on synthetic data of the shape of MovieLens-1M with its features: 6,040 users, 3,706 items.

Training examples per second in batches of 1,024, each against the other items of the batch with the logQ
correction; vectors of ids and features of width 16, layers of 256, 128 and 64 with batch norm. "mixed" has
1,024 drawn items besides. The peer of "in_batch" is `experiments/benchmarks/peers/torch_rechub_towers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.benchmarks.timing import Figure, time_epoch
from jaxrec.data.events.side_features import SideFeatures, tower_columns
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.optim.loss_weighting import static
from jaxrec.recipes.towers import feature_fields
from jaxrec.tasks.two_tower import two_tower
from jaxrec.train.epoch import shuffled

USERS, ITEMS, WIDTH, DIMS = 6040, 3706, 16, (256, 128, 64)
USER_FEATURES = {"number": USERS, "gender": 2, "age": 7, "occupation": 21}
ITEM_FEATURES = {"number": ITEMS, "year": 81, "genre": 18}


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Training examples per second."""
    rows, batch_size, dims = (256, 64, (8, 4)) if tiny else (102_400, 1024, DIMS)
    rng = np.random.default_rng(0)
    sides: dict[str, Any] = {}
    for side, count, sizes in (("users", USERS, USER_FEATURES), ("items", ITEMS, ITEM_FEATURES)):
        features = {name: rng.integers(1, size + 1, count + 1) for name, size in sizes.items()}
        features["number"] = np.arange(count + 1)
        for column in features.values():
            column[0] = 0
        sides[side] = SideFeatures(features, sizes)
    columns: dict[str, Any] = {
        "pair_user": rng.integers(0, USERS, rows).astype(np.int32),
        "pair_item": (1 + ITEMS * rng.random(rows) ** 2).astype(np.int32),  # few items are often there
    }
    columns |= tower_columns(**columns, num_users=USERS, num_items=ITEMS, **sides)
    model = TwoTower(
        feature_fields("user", sides["users"], WIDTH),
        feature_fields("item", sides["items"], WIDTH),
        dims,
        dims,
        mlp=Factory(MLP, batch_norm=True),
        temperature=0.1,
    )
    for name, negatives in (("in_batch", 0), ("mixed", batch_size)):
        yield from time_epoch(
            f"towers/{name}",
            two_tower(model, negatives=negatives),
            static(),
            shuffled(rows, batch_size),
            columns,
            repeats,
            count=rows,
            of="samples",
        )
