"""Training examples per second of torch-rechub's MMoE and PLE.

The models at the sizes of `experiments.benchmarks.multitask`, and an epoch of its multi-task trainer (Adam
with its default weight decay), batches ready in memory. Needs torch-rechub (0.9.0) and PyTorch; nothing of
jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/torch_rechub_multitask.py --output peer.json

and give the file to `python -m experiments.speed --only multitask --baseline peer.json`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rechub_steps import read_arguments
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import MMOE, PLE
from torch_rechub.trainers import MTLTrainer

FIELDS, VALUES, DIM, BATCH, BATCHES = 40, 100, 8, 1024, 20
TASKS = ["classification", "classification"]


def batches(seed: int) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Batches of columns and of the labels of both tasks."""
    rng = np.random.default_rng(seed)
    return [
        (
            {f"field_{i}": torch.from_numpy(rng.integers(1, VALUES, BATCH)) for i in range(FIELDS)},
            torch.from_numpy((rng.random((BATCH, 2)) < 0.3).astype(np.float32)),
        )
        for _ in range(BATCHES)
    ]


def models() -> dict[str, Any]:
    """Experts of 16 units and towers of 8, without dropout."""
    features = [SparseFeature(f"field_{i}", VALUES, embed_dim=DIM) for i in range(FIELDS)]
    expert, towers = {"dims": [16]}, [{"dims": [8]}, {"dims": [8]}]
    ple = {"n_level": 1, "n_expert_specific": 2, "n_expert_shared": 1}
    return {
        "mmoe": MMOE(features, TASKS, n_expert=8, expert_params=expert, tower_params_list=towers),
        "ple": PLE(features, TASKS, **ple, expert_params=expert, tower_params_list=towers),
    }


def main() -> None:
    arguments = read_arguments(__doc__)
    ready, found = batches(0), {}
    for name, model in models().items():
        trainer, rounds = MTLTrainer(model, TASKS), []
        for _ in range(arguments.repeats + 1):  # the first one warms up
            start = time.perf_counter()
            trainer.train_one_epoch(ready)
            rounds.append(time.perf_counter() - start)
        found[f"multitask/{name}"] = BATCH * len(ready) / float(np.median(rounds[1:]))
        print(f"{name}: {found[f'multitask/{name}']:.0f} samples/s")
    Path(arguments.output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
