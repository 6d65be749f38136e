"""Training examples per second of a model of torch-rechub, stepped as its match trainer does."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

Batches = list[dict[str, torch.Tensor]]


def read_arguments(description: str | None) -> argparse.Namespace:
    """--output, --repeats and --threads; PyTorch gets its threads and a seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file of examples per second by name")
    parser.add_argument("--repeats", type=int, default=3, help="passes over the batches that are timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def main(name: str, description: str | None, build: Callable[[], torch.nn.Module], ready: Batches) -> None:
    """Writes {name: examples per second}. build: the model. ready: batches of one size, in memory."""
    arguments = read_arguments(description)
    model, loss = build(), torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    size = len(next(iter(ready[0].values())))
    target, rounds = torch.zeros(size, dtype=torch.long), []
    model.train()
    for _ in range(arguments.repeats + 1):  # the first one warms up
        start = time.perf_counter()
        for batch in ready:
            found = loss(model(batch), target)
            model.zero_grad()
            found.backward()
            optimiser.step()
            found.item()
        rounds.append(time.perf_counter() - start)
    rate = size * len(ready) / float(np.median(rounds[1:]))
    print(f"{rate:.0f} samples/s")
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump({name: rate}, file)
