"""A record of one epoch of a run: what the devices and the host did, and for how long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrec.train import parallel
from jaxrec.train.arguments import check_folder
from jaxrec.train.identity import epoch_names


class Profile:
    """Records the first epoch that this process trains by a program it has run before.

    So compilation and first calls are not in it; an evaluation that is due in this epoch is. The first of
    several processes records. folder: of the record, `plugins/profile/<time>/` below it, which TensorBoard
    (with xprof) and Perfetto show; None: nothing is recorded.

    Raises:
      ValueError: the folder is a file, or no phase has a second epoch, which is the one to record.
    """

    def __init__(self, folder: str | Path | None, phases: Sequence[Any]) -> None:
        self.folder = None if not folder else check_folder(folder, "profile")
        self.names = epoch_names([[phase.name, phase.epochs] for phase in phases])
        self.before: int | None = None
        self.done = self.folder is None
        if not self.done and max(self.names.count(name) for name in self.names) < 2:
            raise ValueError(
                f"profile={str(folder)!r}: the first epoch compiles, so the second one is recorded, and no "
                "phase has two; train for more epochs"
            )

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[None]:
        """Around the epoch of this number, counted from 0."""
        again = self.before is not None and self.names[self.before] == self.names[number]
        self.before = number
        if self.done or not again:
            yield
            return
        self.done = True
        if not parallel.is_first():
            yield
            return
        with jax.profiler.trace(str(self.folder)):
            yield
        print(f"epoch {number}: recorded in {self.folder}", flush=True)

    def end(self) -> None:
        """Says so if nothing was recorded."""
        if not self.done and parallel.is_first():
            print(f"profile={self.folder}: nothing was recorded: this run had no second epoch", flush=True)
