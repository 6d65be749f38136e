"""Training examples per second of torch-rechub's MIND, at the sizes of `experiments.benchmarks.interests`.

The model and the step of its trainer (list-wise: cross-entropy, Adam with its default weight decay), batches
with their negatives ready in memory. Needs torch-rechub (0.9.0) and PyTorch; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/torch_rechub_mind.py --output peer.json

and give the file to `python -m experiments.speed --only interests --baseline peer.json`.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file of examples per second by name")
    parser.add_argument("--repeats", type=int, default=3, help="passes over the batches that are timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    def sequence(name: str) -> SequenceFeature:
        return SequenceFeature(name, ITEMS + 1, embed_dim=DIM, pooling="concat", shared_with="item")

    model = MIND(
        [SparseFeature("user", USERS, embed_dim=USER_DIM)],
        [sequence("history")],
        [SparseFeature("item", ITEMS + 1, embed_dim=DIM)],
        [sequence("negatives")],
        max_length=LENGTH,
        interest_num=INTERESTS,
    )
    loss = torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    target, rounds, ready = torch.zeros(BATCH, dtype=torch.long), [], batches(0)
    model.train()
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        for batch in ready:
            found = loss(model(batch), target)
            model.zero_grad()
            found.backward()
            optimiser.step()
            found.item()
        rounds.append(time.perf_counter() - start)
    rate = BATCH * BATCHES / float(np.median(rounds[1:]))
    print(f"{rate:.0f} samples/s")
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump({"interests/mind": rate}, file)


if __name__ == "__main__":
    main()
