"""Where a run's history is written while it goes on: a line of JSON an epoch, and TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Logs:
    """Writes `history.jsonl` and TensorBoard event files into `folder`.

    past: epochs already done, when a run is resumed; the file is rewritten from them, so that it never
    holds an epoch twice or one that the checkpoint has not seen.
    """

    def __init__(self, folder: str | Path, past: Sequence[Mapping[str, Any]]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "history.jsonl"
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in past))
        os.replace(partial, path)
        self._file = path.open("a")
        try:
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=len(past))
        except BaseException:
            self._file.close()
            raise

    def write(self, entry: Mapping[str, Any]) -> None:
        """Adds an epoch: {"epoch": …, name: number, or one number per seed}."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in entry.items():
            values = value if isinstance(value, list) else [value]
            for seed, number in enumerate(values):
                if isinstance(number, int | float):
                    tag = f"{name}/{seed}" if isinstance(value, list) else name
                    self._board.add_scalar(tag, number, entry["epoch"])

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()
