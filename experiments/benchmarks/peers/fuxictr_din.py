"""Training examples per second of FuxiCTR's DIN, at the sizes of `experiments.benchmarks.ranking`.

The model of its model zoo and its own `train_step` (clipping of gradients included), batches ready in memory.
Needs a checkout of reczoo/FuxiCTR, FuxiCTR (2.3.10) and PyTorch; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/fuxictr_din.py --code FuxiCTR --output peer.json

and give the file to `python -m experiments.speed --only ranking --baseline peer.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap

ITEMS, CATEGORIES, DIM, LENGTH, BATCH, BATCHES = 63_001, 801, 10, 50, 1024, 10
MAX_NORM = 10.0  # that its `fit` clips gradients to


def feature_map() -> FeatureMap:
    """An item and its category, and a history of both that shares their tables."""
    made = FeatureMap("made", ".")
    for name, number in (("item", ITEMS), ("category", CATEGORIES)):
        common = {"source": "", "padding_idx": 0, "vocab_size": number + 1}
        made.features[name] = {**common, "type": "categorical"}
        made.features[f"{name}_history"] = {
            **common, "type": "sequence", "max_len": LENGTH, "share_embedding": name, "feature_encoder": None,
        }  # fmt: skip
    order = ("item", "category", "item_history", "category_history")
    made.features = OrderedDict((name, made.features[name]) for name in order)
    made.labels, made.default_emb_dim = ["click"], DIM
    made.num_fields = made.get_num_fields()
    made.set_column_index()
    return made


def batches(seed: int) -> list[dict[str, torch.Tensor]]:
    """Batches of targets, full histories and labels."""
    rng = np.random.default_rng(seed)
    category = np.append(0, rng.integers(1, CATEGORIES + 1, ITEMS))
    made = []
    for _ in range(BATCHES):
        item, history = rng.integers(1, ITEMS + 1, BATCH), rng.integers(1, ITEMS + 1, (BATCH, LENGTH))
        of_batch = {
            "item": item, "category": category[item], "item_history": history,
            "category_history": category[history], "click": rng.random(BATCH) < 0.5,
        }  # fmt: skip
        made.append({name: torch.from_numpy(np.asarray(column)) for name, column in of_batch.items()})
    return made


def build(code: Path) -> Any:
    """Its DIN, with Dice in the activation unit."""
    sys.path.insert(0, str(code / "model_zoo" / "DIN"))
    from src.DIN import DIN

    model = DIN(
        feature_map(),
        dnn_hidden_units=[512, 128, 64],
        attention_hidden_units=[64],
        attention_hidden_activations="Dice",
        embedding_dim=DIM,
        din_target_field=[("item", "category")],
        din_sequence_field=[("item_history", "category_history")],
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        model_root=".",
        verbose=0,
    )
    model._max_gradient_norm = MAX_NORM
    model.train()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--code", required=True, help="checkout of reczoo/FuxiCTR")
    parser.add_argument("--output", required=True, help="JSON file of examples per second by name")
    parser.add_argument("--repeats", type=int, default=5, help="passes over the batches that are timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, ready, rounds = build(Path(arguments.code).resolve()), batches(0), []
    for _ in range(arguments.repeats + 1):  # the first one warms up
        start = time.perf_counter()
        for batch in ready:
            model.train_step(batch).item()
        rounds.append(time.perf_counter() - start)
    rate = BATCH * len(ready) / float(np.median(rounds[1:]))
    print(f"{rate:.0f} samples/s")
    Path(arguments.output).write_text(json.dumps({"ranking/din": rate}), encoding="utf-8")


if __name__ == "__main__":
    main()
