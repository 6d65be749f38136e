"""Seconds of TiCoSeRec's own code on Beauty, at the sizes of `experiments.benchmarks.ticoserec`.

Its trainer, data set, model and operators as they are (KingGugu/TiCoSeRec, commit 302b2959, with its defaults
but width 64 and batches of 256): some steps of an epoch before and after views begin, after two that warm up,
scaled to the whole; its full ranking of all users on validation; and its operators on some two thousand
training sequences, at equal steps through the file. Needs a checkout of that repository, PyTorch, SciPy,
gensim and tqdm; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/ticoserec_official.py --code TiCoSeRec --output peer.json

and give the file to `python -m experiments.speed --only ticoserec --limit --baseline peer.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEFAULTS = {  # of its main.py, but for hidden_size and batch_size
    "hidden_size": 64, "batch_size": 256, "inner_size": 256, "n_layers": 2, "n_heads": 2,
    "hidden_act": "gelu",
    "attn_dropout_prob": 0.2, "hidden_dropout_prob": 0.5, "initializer_range": 0.02, "max_seq_length": 50,
    "layer_norm_eps": 1e-12, "lr": 1e-3, "weight_decay": 1e-6, "adam_beta1": 0.9, "adam_beta2": 0.999,
    "cf_weight": 0.1, "rec_weight": 1.0, "temperature": 1.0, "n_views": 2, "no_cuda": True, "log_freq": 1,
    "augment_threshold": 12, "augment_type_for_short": "SIM", "base_augment_type": "random", "crop_rate": 0.7,
    "mask_rate": 0.5, "reorder_rate": 0.2, "substitute_rate": 0.1, "insert_rate": 0.5,
    "max_insert_num_per_pos": 1, "insert_mode": "maximum", "crop_mode": "minimum",
    "substitute_mode": "minimum", "reorder_mode": "minimum", "mask_mode": "random",
    "var_rank_not_aug_ratio": 0.15,
    "model_warm_up_epochs": 40, "augmentation_warm_up_epochs": 80, "not_aug_data_mode": "original",
    "similarity_model_name": "ItemCF_IUF", "noise_ratio": 0.0,
}  # fmt: skip
WARM_UP = 2


class First:
    """The first batches of a loader."""

    def __init__(self, loader: Any, number: int) -> None:
        self.loader, self.number = loader, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.number)


def seconds(function: Any, *args: Any, **settings: Any) -> float:
    """The time of one call, whose printing is dropped."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        start = time.perf_counter()
        function(*args, **settings)
        return time.perf_counter() - start


def prepared(code: Path, folder: Path) -> tuple[Any, Any, list[list[int]], list[list[int]]]:
    """Its trainer on Beauty, with users by the variance of their times, and their events and times."""
    import datasets
    import models
    import trainers
    import utils
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

    given = {}
    for name in ("item", "time"):
        given[name] = str(folder / f"Beauty_{name}.txt")
        shutil.copy(code / "data" / "Beauty" / f"Beauty_{name}_var_rank.txt", given[name])
    args = argparse.Namespace(
        **DEFAULTS, data_name="Beauty", data_file=given["item"], time_file=given["time"]
    )
    args.log_file, args.test_log_file = str(folder / "log.txt"), str(folder / "test.txt")
    items, times, most, seen, _, kept = utils.get_user_seqs(args)
    args.item_size, args.mask_id, args.train_matrix = most + 2, most + 1, seen
    args.offline_similarity_model = models.OfflineItemSimilarity(
        data_file=given["item"],
        similarity_path=str(folder / "similarity.pkl"),
        model_name=args.similarity_model_name,
        dataset_name="Beauty",
    )
    args.online_similarity_model = models.OnlineItemSimilarity(args.item_size)
    made = datasets.RecWithContrastiveLearningDataset
    train = made(args, items, times, not_aug_users=kept, data_type="train")
    valid = made(args, items, times, data_type="valid")
    train = DataLoader(train, sampler=RandomSampler(train), batch_size=args.batch_size)
    valid = DataLoader(valid, sampler=SequentialSampler(valid), batch_size=args.batch_size)
    trainer = trainers.CoSeRecTrainer(models.SASRec(args=args), train, valid, valid, args)
    return trainer, args, items, times


def operators(args: Any) -> dict[str, Any]:
    """Its operators, with the settings that its random choice gives them."""
    import data_augmentation_time as its

    similar = args.offline_similarity_model
    return {
        "crop": its.Crop(args.crop_mode, args.crop_rate),
        "mask": its.Mask(args.mask_mode, args.mask_rate),
        "reorder": its.Reorder(args.reorder_mode, args.reorder_rate),
        "insert": its.Insert(similar, args.insert_mode, args.insert_rate, args.max_insert_num_per_pos),
        "substitute": its.Substitute(similar, args.substitute_mode, args.substitute_rate),
        "random": its.Random(args, similar),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--code", required=True, help="checkout of KingGugu/TiCoSeRec")
    parser.add_argument("--output", required=True, help="JSON file of seconds and sequences/s by name")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed and scaled to the epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sequences", type=int, default=2000, help="training sequences, at equal steps, that are augmented"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    code, found = Path(arguments.code).resolve(), {}
    sys.path.insert(0, str(code / "src"))
    with tempfile.TemporaryDirectory() as folder:
        trainer, args, items, times = prepared(code, Path(folder))
        loader = trainer.train_dataloader
        steps = math.ceil(len(items) / args.batch_size)
        for name, seen in (("plain", 0), ("contrastive", 10**9)):
            loader.dataset.total_train_users = seen  # its own count of when views begin
            seconds(trainer.iteration, 0, First(loader, WARM_UP))
            rounds = [
                seconds(trainer.iteration, 0, First(loader, arguments.steps)) * steps / arguments.steps
                for _ in range(arguments.repeats)
            ]
            found[name] = rounds
            print(f"epoch, {name}: " + ", ".join(f"{value:.1f}" for value in rounds), flush=True)
        ranking = [seconds(trainer.valid, 0, full_sort=True) for _ in range(arguments.repeats)]
        print("ranking: " + ", ".join(f"{value:.1f}" for value in ranking), flush=True)
        rates = {}
        inputs = list(zip(items, times, strict=True))[:: max(len(items) // arguments.sequences, 1)]
        for name, operator in operators(args).items():
            took = seconds(lambda apply: [apply(own[:-3], at[:-2]) for own, at in inputs], operator)
            rates[f"ticoserec/augment_{name}"] = len(inputs) / took
            print(f"{name}: {len(inputs) / took:.0f} sequences/s", flush=True)
    plain, contrastive = min(found["plain"]), min(found["contrastive"])
    figures = {
        "ticoserec/epoch_plain": plain,
        "ticoserec/epoch_plain_padded": plain,
        "ticoserec/epoch_contrastive_packed": contrastive,
        "ticoserec/epoch_contrastive_flat": contrastive,
        "ticoserec/evaluate": float(np.median(ranking)),
        **rates,
    }
    Path(arguments.output).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
