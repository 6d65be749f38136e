"""Batches of rows from shards on disk, in a random order that needs little memory: a source for grain.

The order of an epoch follows from the seed and the epoch's number alone. The row groups of all files are
permuted; as many of them as a window holds are read together, and the rows of a window are shuffled; the
batches are cut from one window after the other. So every row comes once an epoch, and a batch mixes rows of
as many groups as a window has; in memory are two windows at most, beside the one being read. Rows of one
group stay within one window: where neighbouring rows of a file are alike (a day, a user), larger windows mix
better.

Of several processes each has row groups of its own, dealt out once by their rows, and reads no others.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from jaxrec.data.tables.shards import Group, Shards, read_group

Columns = dict[str, np.ndarray]


class ShardBatches:
    """The batch of every step of a run, by the step's number; what `train.stream.StreamedEpoch` reads.

    batch_size: rows of a step of all processes together. epochs: that the source has. seed: of the order.
    window: row groups that are shuffled together. process, processes: which of how many this is; each gives
    its batch_size / processes rows of a step, and the steps of all are the same in number.

    An element is (examples, columns): {"example": numbers of the rows in the step, int32 [b], "mask": bool
    [b], False where there is no row left}, and the columns of the shards, [b], which masked places fill with
    other rows of the last window. Batch b of epoch e can be read at any time, so a run goes on from its step.

    Raises:
      ValueError: a number is out of range, processes do not divide the batch size or outnumber the row
        groups. While reading: as `shards.read_group`.
    """

    def __init__(
        self,
        shards: Shards,
        batch_size: int,
        *,
        epochs: int,
        seed: int,
        window: int = 8,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        for name, value in {"batch_size": batch_size, "epochs": epochs, "window": window}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= process < processes:
            raise ValueError(f"process={process}: must be in 0..{processes - 1}, of processes={processes}")
        if seed < 0:
            raise ValueError(f"seed={seed}: must be at least 0")
        if batch_size % processes:
            raise ValueError(f"batch_size={batch_size}: {processes} processes do not divide it")
        if processes > len(shards.groups):
            raise ValueError(
                f"processes={processes}: there are {len(shards.groups)} row groups, and each process needs "
                "one; write smaller row groups"
            )
        dealt = _deal(shards.groups, processes)
        self._size = batch_size // processes
        self.num_steps = max(-(-_rows(groups) // self._size) for groups in dealt)
        self.processes = processes
        self._process, self._epochs, self._seed, self._window = process, epochs, seed, window
        self._shards, self._groups = shards, dealt[process]
        self._batch_size = batch_size
        self._held: dict[tuple[int, int], Columns] = {}  # the last two windows, by epoch and number
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._epochs * self.num_steps

    def description(self) -> dict[str, Any]:
        """What a run over these batches says of itself: their order, and the rows of each file."""
        return {
            "batch_size": self._batch_size,
            "seed": self._seed,
            "window": self._window,
            "processes": self.processes,
            "shards": self._shards.description(),
        }

    def __getitem__(self, index: Any) -> tuple[Columns, Columns]:
        epoch, step = divmod(int(index), self.num_steps)
        if not 0 <= epoch < self._epochs:
            raise IndexError(f"batch {index}: there are {len(self)}")
        windows = self._windows(epoch)
        ends = np.cumsum([_rows(groups) for groups in windows])
        total = int(ends[-1])
        first, last = min(step * self._size, total), min((step + 1) * self._size, total)
        parts: list[Columns] = []
        at = first
        while at < last:
            number = int(np.searchsorted(ends, at, side="right"))
            begin = int(ends[number - 1]) if number else 0
            stop = min(last, int(ends[number]))
            whole = self._read(epoch, number, windows[number])
            parts.append({name: values[at - begin : stop - begin] for name, values in whole.items()})
            at = stop
        filled = self._size - (last - first)
        if filled:
            whole = self._read(epoch, len(windows) - 1, windows[-1])
            parts.append({name: np.resize(values, filled) for name, values in whole.items()})
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        place = np.arange(self._size, dtype=np.int32)
        return {
            "example": place + np.int32(self._process * self._size),
            "mask": place < last - first,
        }, columns

    def _windows(self, epoch: int) -> list[list[Group]]:
        """The row groups of this process in the order of an epoch, a list for each window."""
        order = np.random.default_rng([self._seed, self._process, epoch]).permutation(len(self._groups))
        groups = [self._groups[at] for at in order]
        return [groups[start : start + self._window] for start in range(0, len(groups), self._window)]

    def _read(self, epoch: int, number: int, groups: list[Group]) -> Columns:
        with self._lock:  # grain's threads ask for the same window at the same time
            if (epoch, number) not in self._held:
                parts = [read_group(self._shards, group) for group in groups]
                rng = np.random.default_rng([self._seed, self._process, epoch, number])
                order = rng.permutation(_rows(groups))
                found: Columns = {}
                for column in self._shards.columns:
                    found[column.name] = np.concatenate([part.pop(column.name) for part in parts])[order]
                while len(self._held) > 1:
                    del self._held[next(iter(self._held))]
                self._held[epoch, number] = found
            return self._held[epoch, number]


def _rows(groups: list[Group]) -> int:
    return sum(group.rows for group in groups)


def _deal(groups: tuple[Group, ...], processes: int) -> list[list[Group]]:
    """Row groups for each process, of about equally many rows: the largest first, to whoever has fewest."""
    dealt: list[list[Group]] = [[] for _ in range(processes)]
    rows = [0] * processes
    for group in sorted(groups, key=lambda group: -group.rows):
        least = rows.index(min(rows))
        dealt[least].append(group)
        rows[least] += group.rows
    return dealt
