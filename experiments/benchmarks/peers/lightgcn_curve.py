"""Test curve of LightGCN in PyTorch (`lightgcn_pytorch.py`) on LastFM or Gowalla, to lie beside ours.

Its model, loss, sampler and settings, trained from several seeds. Recall@20 and NDCG@20 are means over users
who have items of both parts, and rank all items but those of the user's training part; NDCG's ideal list has
min(20, relevant) items. Epochs count from 1; a point is measured after its epoch.

Run (in an environment of its own, with PyTorch and NumPy):

    python experiments/benchmarks/peers/lightgcn_curve.py --train data1.txt.gz --test test1.txt.gz \\
        --epochs 100 --every 20 --seeds 0 1 2 --output curve.json
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch
from lightgcn_pytorch import BATCH, LEARNING_RATE, LightGCN, adjacency, sample

K = 20


def read(path: str) -> np.ndarray:
    """Pairs of user and item from 0, [N, 2]: of `train.npz`, of lines `user item item …` (from 0, as Gowalla
    has them) or of lines `user <tab> item <tab> 1` (from 1, as LastFM has them)."""
    if path.endswith(".npz"):
        with np.load(path) as archive:
            indptr, item = archive["indptr"], archive["indices"]
        return np.stack([np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), item], axis=1)
    content = Path(path).read_bytes()
    lines = (gzip.decompress(content) if path.endswith(".gz") else content).decode().splitlines()
    if "\t" in lines[0]:
        return np.array([line.split("\t")[:2] for line in lines], np.int64) - 1
    rows = [list(map(int, line.split())) for line in lines]
    return np.array([(row[0], item) for row in rows for item in row[1:]], np.int64)


@torch.no_grad()
def measure(model: LightGCN, train: list[np.ndarray], test: list[np.ndarray]) -> tuple[float, float]:
    """Recall@20 and NDCG@20."""
    users, items = model.vectors()
    gains = 1.0 / np.log2(np.arange(2, K + 2))
    recall, ndcg = [], []
    for user, relevant in enumerate(test):
        if not len(relevant) or not len(train[user]):
            continue
        scores = items @ users[user]
        scores[torch.from_numpy(train[user])] = -torch.inf
        hits = np.isin(torch.topk(scores, K).indices.numpy(), relevant)
        recall.append(hits.sum() / len(relevant))
        ndcg.append(gains[hits].sum() / gains[: min(K, len(relevant))].sum())
    return float(np.mean(recall)), float(np.mean(ndcg))


def lists(pairs: np.ndarray, num_users: int) -> list[np.ndarray]:
    """The items of each user."""
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return np.split(pairs[:, 1], np.cumsum(np.bincount(pairs[:, 0], minlength=num_users))[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", required=True, help="pairs of training, see `read`")
    parser.add_argument("--test", required=True, help="pairs of test")
    parser.add_argument("--output", required=True, help="JSON file of the curves")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--every", type=int, default=20, help="epochs between measurements")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs, held = read(arguments.train), read(arguments.test)
    num_users, num_items = (1 + max(pairs[:, axis].max(), held[:, axis].max()) for axis in (0, 1))
    train, test = lists(pairs, num_users), lists(held, num_users)
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in train])])
    item = np.concatenate(train)
    curves, seconds = {}, []
    for seed in arguments.seeds:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  that of the code's sampler
        model = LightGCN(adjacency(indptr, item, num_users, num_items), num_users, num_items)
        optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        curve = []
        for epoch in range(1, arguments.epochs + 1):
            start = time.perf_counter()
            triplets = torch.from_numpy(sample(indptr, item, num_items))
            for batch in torch.split(triplets[torch.randperm(len(triplets))], BATCH):
                loss = model.loss(*batch.unbind(1))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            seconds.append(time.perf_counter() - start)
            if epoch % arguments.every == 0:
                found = measure(model, train, test)
                curve.append({"epoch": epoch, "recall@20": found[0], "ndcg@20": found[1]})
                print(
                    f"seed {seed}, epoch {epoch}: recall@20 {found[0]:.4f}, ndcg@20 {found[1]:.4f}",
                    flush=True,
                )
        curves[str(seed)] = curve
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump({"curves": curves, "seconds_of_an_epoch": float(np.median(seconds))}, file, indent=1)


if __name__ == "__main__":
    main()
