"""Shards read by several processes: `python -m jaxrec.launch … -- tests.launch.streamed --workdir W`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from jaxrec import config
from jaxrec.data.tables.shard_batches import ShardBatches
from jaxrec.data.tables.shards import open_shards
from jaxrec.train import parallel
from jaxrec.train.streamed import fit_stream
from tests.data.tables.small_shards import COLUMNS
from tests.train.test_streamed import TX, clicks


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line."""

    workdir: str = "runs/streamed"  # folder with the shards in rows/
    num_devices: int = 4  # of all processes


def run(cfg: Config) -> None:
    folder, number = Path(cfg.workdir), jax.process_index()
    source = ShardBatches(
        open_shards(folder / "rows", COLUMNS), 16, epochs=2, seed=1, window=3,
        process=number, processes=jax.process_count(),
    )  # fmt: skip
    rows = [source[i][1]["row"][source[i][0]["mask"]].tolist() for i in range(source.num_steps)]
    options = {"seed": 3, "workdir": folder / "run", "description": {}, "num_devices": cfg.num_devices}
    fit_stream(clicks(), TX, source, **options, stop_after=9)
    found = fit_stream(clicks(), TX, source, **options)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(found.variables)]
    np.savez(folder / f"final{number}.npz", *leaves)
    (folder / f"found{number}.json").write_text(json.dumps({"rows": rows, "history": found.history}))
    parallel.wait_for_all("end")


def main() -> None:
    config.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
