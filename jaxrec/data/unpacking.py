"""Limits on what a small file may unpack to: one of a few megabytes can hold terabytes of zeros."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

LARGEST_UNPACKED = 1 << 30  # bytes that any file may unpack to
LARGEST_RATIO = 200  # a larger file may unpack to so many times its size; tables stay far below
_CHUNK = 1 << 20


def check_unpacked(path: str | Path, size: int) -> None:
    """Raises ValueError for a file that unpacks to `size` bytes or more, if no table does."""
    packed = Path(path).stat().st_size
    if size > LARGEST_UNPACKED and size > LARGEST_RATIO * packed:
        raise ValueError(
            f"{path}: unpacks to more than {size:,} bytes, over {LARGEST_RATIO} times its {packed:,} bytes, "
            "which tables do not; if it is one, unpack it yourself and give the unpacked file"
        )


def read_gzip(path: Path) -> bytes:
    """The unpacked content of a gzip file; ValueError if it is corrupt, or as `check_unpacked`."""
    parts, size = [], 0
    try:
        with gzip.open(path) as file:
            while part := file.read(_CHUNK):
                parts.append(part)
                size += len(part)
                check_unpacked(path, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: truncated or corrupt gzip file ({error}; {path.stat().st_size:,} bytes); fetch it again"
        ) from error
    return b"".join(parts)
