"""Seconds of an epoch of LightGCN in PyTorch on Gowalla, written as LightGCN-PyTorch does it.

The computation of gusye1234/LightGCN-PyTorch (commit 947ca2b3, code/model.py and code/utils.py) with its
settings: the whole graph through `torch.sparse.mm` with a coalesced COO matrix of both directions, three
layers of width 64, 396 steps of 2,048 triplets, BPR and the L2 of the first layer, Adam, and its Python
sampler (its optional C++ one is not built). Needs PyTorch and NumPy alone; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/lightgcn_pytorch.py --data gowalla/train.npz --output peer.json

and give the file to `python -m experiments.speed --only graph --baseline peer.json`.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

DIM, LAYERS, BATCH, DECAY, LEARNING_RATE = 64, 3, 2048, 1e-4, 1e-3


def adjacency(indptr: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> torch.Tensor:
    """D^-1/2 A D^-1/2 over users, then items, coalesced."""
    user = np.repeat(np.arange(num_users), np.diff(indptr))
    by_user = np.maximum(np.bincount(user, minlength=num_users), 1)
    by_item = np.maximum(np.bincount(item, minlength=num_items), 1)
    weight = (by_user[user] * by_item[item]).astype(np.float64) ** -0.5
    row = np.concatenate([user, num_users + item])
    column = np.concatenate([num_users + item, user])
    values = torch.from_numpy(np.concatenate([weight, weight]).astype(np.float32))
    nodes = num_users + num_items
    return torch.sparse_coo_tensor(np.stack([row, column]), values, (nodes, nodes)).coalesce()


class LightGCN(torch.nn.Module):
    """Two tables, and the mean of their propagated layers."""

    def __init__(self, graph: torch.Tensor, num_users: int, num_items: int) -> None:
        super().__init__()
        self.graph, self.sizes = graph, [num_users, num_items]
        self.user = torch.nn.Embedding(num_users, DIM)
        self.item = torch.nn.Embedding(num_items, DIM)
        torch.nn.init.normal_(self.user.weight, std=0.1)
        torch.nn.init.normal_(self.item.weight, std=0.1)

    def vectors(self) -> list[torch.Tensor]:
        layer = torch.cat([self.user.weight, self.item.weight])
        layers = [layer]
        for _ in range(LAYERS):
            layer = torch.sparse.mm(self.graph, layer)
            layers.append(layer)
        return list(torch.split(torch.mean(torch.stack(layers, dim=1), dim=1), self.sizes))

    def loss(self, user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        users, items = self.vectors()
        ego = self.user(user), self.item(positive), self.item(negative)
        penalty = 0.5 * sum(rows.norm(2).pow(2) for rows in ego) / len(user)
        ahead = (users[user] * items[negative]).sum(1) - (users[user] * items[positive]).sum(1)
        return torch.nn.functional.softplus(ahead).mean() + DECAY * penalty


def sample(indptr: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """An epoch's triplets, one at a time: uniform users, a positive of each, a rejected negative."""
    draw = np.random.randint
    positives = np.split(item, indptr[1:-1])
    triplets = []
    for user in draw(0, len(positives), len(item)):
        own = positives[user]
        if len(own) == 0:
            continue
        positive = own[draw(0, len(own))]
        while (negative := draw(0, num_items)) in own:
            pass
        triplets.append([user, positive, negative])
    return np.array(triplets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="train.npz of Gowalla: indptr, indices, shape")
    parser.add_argument("--output", required=True, help="JSON file of seconds by name")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed and scaled to the epoch")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with np.load(arguments.data) as archive:
        indptr, item, shape = archive["indptr"], archive["indices"], archive["shape"]
    num_users, num_items = map(int, shape)
    model = LightGCN(adjacency(indptr, item, num_users, num_items), num_users, num_items)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    start = time.perf_counter()
    triplets = torch.from_numpy(sample(indptr, item, num_items))
    sampling = time.perf_counter() - start
    batches = torch.split(triplets[torch.randperm(len(triplets))], BATCH)
    seconds = []
    for batch in batches[: arguments.steps + 1]:
        start = time.perf_counter()
        loss = model.loss(*batch.unbind(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    step = float(np.median(seconds[1:]))
    epoch = step * len(batches) + sampling
    print(f"step {step:.3f} s (least {min(seconds):.3f}), sampling {sampling:.1f} s, epoch {epoch:.1f} s")
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump({"graph/lightgcn_epoch": epoch, "graph/lightgcn_step": step}, file)


if __name__ == "__main__":
    main()
