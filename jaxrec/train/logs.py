"""What a work directory says of its run while it is trained, for people and for `jaxrec.report`.

history.jsonl   a line of JSON for each epoch; docs/running.md documents its fields
training.json   seeds, best epochs, settings and provenance, replaced after each epoch
tensorboard/    the numbers of history.jsonl as TensorBoard's event files, if asked for
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

HISTORY, TRAINING, TENSORBOARD = "history.jsonl", "training.json", "tensorboard"
TRAINING_FORMAT = 1  # of training.json


class Logs:
    """Writes the files of a run into `folder`.

    past: epochs already trained, if a run is resumed; history.jsonl is rewritten from them, so that it never
    holds an epoch twice or one that the checkpoint lacks.
    tensorboard: whether to write event files too.

    Raises:
      ImportError: event files are asked for and tensorboardX is not installed.
    """

    def __init__(
        self, folder: str | Path, past: Sequence[Mapping[str, Any]], *, tensorboard: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._board: SummaryWriter | None = None
        if tensorboard:
            self._board = _writer()(str(self.folder / TENSORBOARD), purge_step=len(past))
        _replace(self.folder / HISTORY, "".join(json.dumps(entry) + "\n" for entry in past))
        self._file = (self.folder / HISTORY).open("a")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Adds an epoch: {"epoch": …, name: number, or one number per seed}."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for name, value in entry.items():
            values = value if isinstance(value, list) else [value]
            for seed, number in enumerate(values):
                if isinstance(number, int | float):
                    tag = f"{name}/{seed}" if isinstance(value, list) else name
                    self._board.add_scalar(tag, number, entry["epoch"])

    def close(self) -> None:
        """Flushes all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def write_training(folder: str | Path, training: Mapping[str, Any]) -> None:
    """Replaces training.json, which docs/running.md documents."""
    _replace(Path(folder) / TRAINING, json.dumps(training, indent=1) + "\n")


def check_tensorboard() -> None:
    """Raises ImportError, which names the remedy, if tensorboardX is not installed."""
    _writer()


def _writer() -> type[SummaryWriter]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard=True: event files need tensorboardX: pip install 'jaxrec[tensorboard]', or train "
            f"without them: {HISTORY} has the same numbers"
        ) from error
    return SummaryWriter


def _replace(path: Path, text: str) -> None:
    """Writes a file at once: a reader, or a run that is killed, finds the old text or the new one."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
