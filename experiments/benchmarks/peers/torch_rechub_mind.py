"""Training examples per second of torch-rechub's MIND, at the sizes of `experiments.benchmarks.interests`.

The model and the step of its trainer (list-wise: cross-entropy, Adam with its default weight decay), batches
with their negatives ready in memory. Needs torch-rechub (0.9.0) and PyTorch; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/torch_rechub_mind.py --output peer.json

and give the file to `python -m experiments.speed --only interests --baseline peer.json`.
"""

from __future__ import annotations

import numpy as np
import torch
from rechub_steps import main
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import MIND

USERS, ITEMS, LENGTH, NEGATIVES, DIM, USER_DIM, INTERESTS = 6040, 3706, 50, 20, 64, 16, 4
BATCH, BATCHES = 1024, 20


def batches(seed: int) -> list[dict[str, torch.Tensor]]:
    """Batches of users, their histories, targets and negatives."""
    rng = np.random.default_rng(seed)

    def items(*shape: int) -> torch.Tensor:
        return torch.from_numpy((1 + ITEMS * rng.random(shape) ** 2).astype(np.int64))

    return [
        {
            "user": torch.from_numpy(rng.integers(0, USERS, BATCH)),
            "history": items(BATCH, LENGTH),
            "item": items(BATCH),
            "negatives": torch.from_numpy(rng.integers(1, ITEMS + 1, (BATCH, NEGATIVES))),
        }
        for _ in range(BATCHES)
    ]


def build() -> torch.nn.Module:
    def sequence(name: str) -> SequenceFeature:
        return SequenceFeature(name, ITEMS + 1, embed_dim=DIM, pooling="concat", shared_with="item")

    return MIND(
        [SparseFeature("user", USERS, embed_dim=USER_DIM)],
        [sequence("history")],
        [SparseFeature("item", ITEMS + 1, embed_dim=DIM)],
        [sequence("negatives")],
        max_length=LENGTH,
        interest_num=INTERESTS,
    )


if __name__ == "__main__":
    main("interests/mind", __doc__, build, batches(0))
