"""Folders of runs, as training and `jaxrec train` leave them, with invented numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
MANIFEST: dict[str, Any] = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "sources": {"jaxrec": "0123456789abcdef"},
    "settings": {"jax_enable_x64": False, "XLA_FLAGS": "--xla_dump_to=/srv/someone/dump"},
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "python": "3.11.7",
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "host": {"system": "Linux", "processor": "a processor with quite a long name", "cores": 2},
}
SETTINGS: dict[str, Any] = {
    "model": "mmoe",
    "data": {"file": "rows.csv", "sha256": "ab" * 32},
    "recipe": {"dim": 16, "expert_dims": [64, 32], "dropout": 0.1},
    "workdir": "/srv/someone/runs/mine",
    "a_setting_with_an_unusually_long_name_that_has_to_wrap": "and_a_value_without_any_space_" * 4,
}
PROTOCOL: dict[str, Any] = {
    "split": "leave-one-out",
    "candidates": "all",
    "seen": "exclude",
    "ties": "pessimistic",
    "ks": [10],
    "loss": "bce",
    "selection": "ndcg@10",
}


def history(epochs: int = 12) -> list[dict[str, Any]]:
    """Two losses with weights that change, a metric that rises and falls again, an evaluation every epoch."""

    def per_seed(value: float) -> list[float]:
        return [value * (1 + 0.02 * seed) for seed in SEEDS]

    return [
        {
            "epoch": epoch,
            "phase": "plain" if epoch < 8 else "views",
            "loss": per_seed(2 * math.exp(-epoch / 5) + 0.3),
            "click": per_seed(math.exp(-epoch / 5) + 0.2),
            "buy": per_seed(0.8 * math.exp(-epoch / 4) + 0.1),
            "weight/click": per_seed(1 - 0.03 * epoch),
            "weight/buy": per_seed(1 + 0.05 * epoch),
            "valid/ndcg@10": per_seed(0.1 + 0.03 * math.sin(epoch / 4)),
            "valid/hit@10": per_seed(0.2 + 0.06 * math.sin(epoch / 4)),
            "train_seconds": 1.5,
            "seconds": 2.0,
        }
        for epoch in range(epochs)
    ]


def write_training(folder: Path, **changes: Any) -> Path:
    """A work directory of training: history.jsonl and training.json. changes: of training.json."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = history()
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    training = {
        "format": 1,
        "seeds": SEEDS,
        "metric": "ndcg@10",
        "lower_is_better": False,
        "phases": [["plain", 8], ["views", 4]],
        "epochs": len(entries),
        "complete": True,
        "best_epoch": [6, 5, 6],
        "best_value": [0.13, 0.13, 0.13],
        "made_by": [{"first_epoch": 0, **MANIFEST}],
        "seconds": 24.0,
        "compile_seconds": 3.25,
        "settings": SETTINGS,
    }
    (folder / "training.json").write_text(json.dumps({**training, **changes}))
    return folder


def write_finished(folder: Path, *, gates: bool = True, slices: bool = True) -> Path:
    """A finished run with its training below it."""
    write_training(folder / "training" / "0a1b2c3d" / "seeds-0-1-2-epochs-8+4")
    metrics: dict[str, list[float]] = {
        "ndcg@10": [0.12, 0.13, 0.11],
        "hit@10": [0.25, 0.26, 0.24],
        "auc/click": [0.7, 0.71, 0.72],
    }
    if slices:
        parts = {
            "head": 0.6,
            "tail": 0.35,
            "cold": 0.05,
            "length_0-5": 0.3,
            "length_6-20": 0.5,
            "length_21+": 0.2,
        }
        for number, (name, share) in enumerate(parts.items(), 1):
            metrics[f"share/{name}"] = [share] * 3
            if name != "cold":
                metrics[f"ndcg@10/{name}"] = [0.2 / number, 0.21 / number, 0.19 / number]
    run = {
        "format": 1,
        "kind": "table",
        "name": "mmoe",
        "seeds": SEEDS,
        "metrics": metrics,
        "validation": {},
        "settings": SETTINGS,
        "data": SETTINGS["data"],
        "made_by": MANIFEST,
        "protocol": PROTOCOL,
    }
    (folder / "run.json").write_text(json.dumps(run))
    if gates:
        shares = {"click": [[0.7, 0.2, 0.1]] * 3, "buy": [[0.1, 0.3, 0.6], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4]]}
        found = {"of": "400 validation examples", "shares": {"gates": shares}}
        (folder / "gates.json").write_text(json.dumps(found))
    return folder
