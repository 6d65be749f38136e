"""Trains in several processes on this host: each has devices of its own, and all share every batch.

Run:     python -m jaxrec.launch --processes 2 --devices 2 -- experiments.sequential.sasrec --num-devices 4

What follows -- is a module and its options; `num_devices` is the number of all devices together. Metrics are
those of one process with as many devices. A process that dies ends the others. On clusters every host runs
`jaxrec.launch.member` instead: docs/scale.md.
"""

from __future__ import annotations

import dataclasses
import sys

from jaxrec import config
from jaxrec.launch.children import run_together


@dataclasses.dataclass(frozen=True)
class Config:
    """Options before --."""

    processes: int = 2  # how many run together
    devices: int = 0  # virtual devices of each on a CPU; 0: the devices that JAX finds


def main() -> None:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    prog = "python -m jaxrec.launch"
    options = config.cli(Config, prog=prog, description=__doc__, args=words[:cut])
    try:
        code = run_together(words[cut + 1 :], processes=options.processes, devices=options.devices)
    except ValueError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        code = 2
    raise SystemExit(code)


if __name__ == "__main__":
    main()
