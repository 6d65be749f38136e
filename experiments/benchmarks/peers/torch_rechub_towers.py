"""Training examples per second of torch-rechub's YoutubeSBC, at the sizes of `experiments.benchmarks.towers`.

The model and the step of its trainer (list-wise: cross-entropy, Adam with its default weight decay), batches
ready in memory. Each example is against all others of its batch (n_neg of 1,023; at its
default of 3 the model computes all scores, too, and keeps three). Needs torch-rechub (0.9.0) and
PyTorch; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/torch_rechub_towers.py --output peer.json

and give the file to `python -m experiments.speed --only towers --baseline peer.json`.
"""

from __future__ import annotations

import numpy as np
import torch
from rechub_steps import main
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.matching import YoutubeSBC

USERS, ITEMS, WIDTH, DIMS = 6040, 3706, 16, [256, 128, 64]
USER_FEATURES = {"user": USERS, "gender": 2, "age": 7, "occupation": 21}
ITEM_FEATURES = {"item": ITEMS, "year": 81, "genre": 18}
BATCH, BATCHES = 1024, 20


def batches(seed: int) -> list[dict[str, torch.Tensor]]:
    """Batches of users and items with their features, and the share of pairs of each item."""
    rng = np.random.default_rng(seed)
    of_users = {name: rng.integers(0, size, USERS) for name, size in USER_FEATURES.items()}
    of_items = {name: rng.integers(0, size, ITEMS) for name, size in ITEM_FEATURES.items()}
    of_users["user"], of_items["item"] = np.arange(USERS), np.arange(ITEMS)
    user = rng.integers(0, USERS, BATCH * BATCHES)
    item = (ITEMS * rng.random(BATCH * BATCHES) ** 2).astype(np.int64)
    share = (1 + np.bincount(item, minlength=ITEMS)) / (len(item) + ITEMS)
    found = []
    for first in range(0, len(user), BATCH):
        rows = slice(first, first + BATCH)
        batch = {name: torch.from_numpy(column[user[rows]]) for name, column in of_users.items()}
        batch |= {name: torch.from_numpy(column[item[rows]]) for name, column in of_items.items()}
        batch["share"] = torch.from_numpy(share[item[rows]].astype(np.float32))
        found.append(batch)
    return found


def build() -> torch.nn.Module:
    tower = {"dims": DIMS, "activation": "relu"}
    return YoutubeSBC(
        [SparseFeature(name, size, embed_dim=WIDTH) for name, size in USER_FEATURES.items()],
        [SparseFeature(name, size, embed_dim=WIDTH) for name, size in ITEM_FEATURES.items()],
        [DenseFeature("share")],
        tower,
        tower,
        batch_size=BATCH,
        n_neg=BATCH - 1,
        temperature=0.1,
    )


if __name__ == "__main__":
    main("towers/in_batch", __doc__, build, batches(0))
