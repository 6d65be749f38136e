"""A run to be killed and started again: `python -m tests.train.killed --workdir W --epochs N`, final.npz at
its end."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import jax
import numpy as np

from jaxrec import config
from jaxrec.train.fit import Fitted
from tests.train import toy


def train(workdir: Path, epochs: int) -> Fitted:
    """Two seeds, two phases."""
    return toy.run(workdir, epochs=(2, epochs - 2), seeds=(3, 7))


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line."""

    workdir: str = "runs/killed"  # folder of checkpoints
    epochs: int = 3  # epochs of both phases


def run(cfg: Config) -> None:
    leaves = jax.tree.leaves(train(Path(cfg.workdir), cfg.epochs).variables)
    np.savez(Path(cfg.workdir) / "final.npz", *[np.asarray(leaf) for leaf in leaves])


if __name__ == "__main__":
    # As of a program in a terminal; shells start those in the background without it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.run_program(Config, run)
