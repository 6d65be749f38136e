"""Trials that train side by side in one program, and programs that later trials use again.

Members of the seeds axis are trials × seeds. Trials of one group differ only in numbers that the optimiser
reads from its state; groups whose other settings are equal share their compiled programs, so that a study
compiles once for each set of settings that shape the program, and once in all if there are none of those.
"""

from __future__ import annotations

import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.train.trial import Trial
from jaxrec.tuning.progress import Progress
from jaxrec.tuning.reads import Measured, Row, Train
from jaxrec.tuning.space import replace

PROGRAMS = 4  # sets of compiled programs that are kept
ON_ACCELERATORS = 8  # trials at once


def trials_at_once(asked: int) -> int:
    """The number of trials of a group. asked: 0 stands for 8 on accelerators and 1 on CPU, where a group
    gains nothing but compilation."""
    if asked < 0:
        raise ValueError(f"trials_at_once={asked}: must be at least 1, or 0 to choose by the device")
    return asked or (1 if jax.default_backend() == "cpu" else ON_ACCELERATORS)


class Runner:
    """Trains groups of proposals: the `evaluate` of a study.

    folder_field: the field of the configuration that names where a run is kept. folder: of the checkpoints
    of trials. It is emptied as they end; a trial that the budget stopped keeps its own, and so does one that
    was killed, which goes on from there.
    """

    def __init__(
        self,
        train: Train,
        config: Any,
        row: Row,
        *,
        numbers: Sequence[str],
        seeds: tuple[int, ...],
        folder: Path,
        folder_field: str = "workdir",
    ) -> None:
        self.train, self.config, self.row = train, config, row
        self.numbers, self.seeds, self.folder = tuple(numbers), seeds, folder
        self.folder_field = folder_field
        self.programs: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __call__(self, proposals: Sequence[Mapping[str, Any]], progress: Progress) -> None:
        """Trains the proposals and shows every epoch to `progress`."""
        count, start = len(proposals), time.perf_counter()
        first = f"{progress.trials[0].number:04d}"
        where = self.folder / f"{first}-{count}"  # with a larger budget a group may be larger

        def watch(entry: Mapping[str, Any], seconds: float, complete: bool) -> bool:
            values = entry.get("best_value")  # of each member, until its own patience was spent
            gone = [any(part) for part in np.reshape(entry["diverged"], (count, -1))]
            return progress.observe(
                None if values is None else np.reshape(values, (count, -1)),
                seconds=seconds,
                complete=complete,
                diverged=gone,
            )

        trial = Trial(
            seeds=self.seeds * count,
            numbers={
                name: [float(proposal[name]) for proposal in proposals for _ in self.seeds]
                for name in self.numbers
            },
            programs=self._shared(proposals[0], count),
            begin=lambda metric, lower_is_better, num_epochs: None,
            watch=watch,
        )
        found = self.train(replace(self.config, {**proposals[0], self.folder_field: str(where)}), trial)
        if isinstance(found, Measured):
            values = np.reshape(found.values, (1, -1))
            bad = [not np.isfinite(values).all()]
            progress.observe(values, seconds=time.perf_counter() - start, complete=True, diverged=bad)
        if "stopped" not in progress.states:
            for folder in self.folder.glob(f"{first}-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _shared(self, proposal: Mapping[str, Any], count: int) -> dict[str, Any]:
        """The programs of groups of this size with these settings, the numbers aside."""
        key = repr((count, sorted((n, v) for n, v in proposal.items() if n not in self.numbers)))
        programs = self.programs.setdefault(key, {})
        self.programs.move_to_end(key)
        while len(self.programs) > PROGRAMS:
            self.programs.popitem(last=False)
        return programs
