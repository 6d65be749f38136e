"""A run to be killed and started again: `python -m tests.train.killed WORKDIR EPOCHS` leaves final.npz."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np

from jaxrec.train.fit import Fitted
from tests.train import toy


def train(workdir: Path, epochs: int) -> Fitted:
    """Two seeds, two phases."""
    return toy.run(workdir, epochs=(2, epochs - 2), seeds=(3, 7))


def main(workdir: Path, epochs: int) -> None:
    leaves = jax.tree.leaves(train(workdir, epochs).variables)
    np.savez(workdir / "final.npz", *[np.asarray(leaf) for leaf in leaves])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
