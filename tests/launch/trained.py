"""A run for several processes: `python -m jaxrec.launch … -- tests.launch.trained --workdir W`."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import jax
import numpy as np

from jaxrec import config
from jaxrec.train import parallel, sharded
from jaxrec.train.evaluate import evaluate
from tests.train import interest, toy


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line."""

    workdir: str = "runs/together"  # folder of checkpoints
    num_devices: int = 4  # of all processes
    epochs: int = 3  # of both phases
    wait: bool = False  # after the first epoch, for whoever kills one of the processes


def shard(folder: Path, num_devices: int, *, accept_changed_code: bool = False) -> sharded.Trained:
    """Two epochs of a model whose table is sharded."""
    task, tables = interest.clicks(interest.CAPACITY), interest.table(interest.EXCHANGES["bucketed"])
    return sharded.train(
        *(task, interest.DENSE, tables, interest.plan(), interest.context()),
        epochs=2, num_devices=num_devices, workdir=folder / "sharded",
        accept_changed_code=accept_changed_code,
    )  # fmt: skip


def run(cfg: Config) -> None:
    folder = Path(cfg.workdir)
    fitted = toy.run(
        folder, epochs=(1 if cfg.wait else cfg.epochs,), seeds=(3, 7), num_devices=cfg.num_devices
    )
    if cfg.wait:
        (folder / f"pid{jax.process_index()}").write_text(str(os.getpid()))
        time.sleep(600)
    metrics = evaluate(toy.evaluation(), fitted.variables, toy.context(), num_devices=cfg.num_devices)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(fitted.variables)]
    table = shard(folder, num_devices=cfg.num_devices)
    found = {
        "metrics": metrics, "history": toy.without_times(fitted.history), "sharded": table.history,
        "rows": sharded.collect(table.state, interest.table())["params"]["item_embedding"].tolist(),
    }  # fmt: skip
    name = jax.process_index()
    np.savez(folder / f"final{name}.npz", *leaves)
    (folder / f"found{name}.json").write_text(json.dumps(found))
    parallel.wait_for_all("end")


if __name__ == "__main__":
    config.run_program(Config, run)
