"""What can be known to be wrong with a run before anything is read, trained or stored."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

from jaxrec.train import parallel

FOLDERS = ("results", "workdir")


def ready(config: Any) -> None:
    """Checks settings that every experiment has.

    Raises:
      ValueError: a setting is no number, a folder of the run lies in a file or may not be written, there are
        fewer devices than asked for.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and math.isnan(number) for number in numbers):
            raise ValueError(f"{field.name}={value}: must be a number")
        if field.name in FOLDERS:
            check_folder(field.name, value)
    parallel.axis_name(getattr(config, "num_devices", 1))


def check_folder(name: str, folder: str) -> None:
    """Raises ValueError unless a folder of this name is there or can be made."""
    path = Path(folder).absolute()
    found = next(part for part in (path, *path.parents) if part.exists())
    if not found.is_dir():
        raise ValueError(f"{name}={folder!r}: {found} is a file, so no folder can be there; name another")
    if not os.access(found, os.W_OK):
        raise ValueError(f"{name}={folder!r}: {found} may not be written to; name another")
