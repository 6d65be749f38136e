"""Files that are whole or not there: each is written beside its place and moved into it at the end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def write_whole(path: str | Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes one file by write(binary file). A reader sees the file before or the file after, no half.

    Raises:
      OSError: it can't be written; nothing is left of it, and what stood there stays.
    """
    with replacing({Path(path): write}) as put:
        put()


def check_parent(path: str | Path) -> None:
    """Raises ValueError for a file in a folder that does not exist, before anything is computed for it."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise ValueError(
            f"out={str(path)!r}: there is no folder {str(folder)!r}; make it, or correct the path"
        )


@contextlib.contextmanager
def replacing(files: Mapping[Path, Callable[[IO[bytes]], None]]) -> Iterator[Callable[[], None]]:
    """Writes files beside their places; the function that the context gives moves them there, in order.

    What has not been moved when the context ends is taken away. Folders are made.

    Raises:
      OSError: a file can't be written, naming it.
    """
    written: dict[Path, Path] = {}

    def put() -> None:
        for path in list(written):
            with _naming(path):
                os.replace(written[path], path)
            del written[path]

    try:
        for path, write in files.items():
            with _naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(f"{path} is a folder; name a file")
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
                written[path] = Path(name)
                with open(handle, "wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o666 & ~umask())  # mkstemp gives 0600
        yield put
    finally:
        for left in written.values():
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the operating system that name the file they are about."""
    try:
        yield
    except OSError as error:
        if str(path) in str(error) and ".partial" not in str(error):
            raise
        raise OSError(f"{path}: could not be written ({error.strerror or error})") from error


def umask() -> int:
    """Permissions that new files of this process do not have."""
    current = os.umask(0)
    os.umask(current)
    return current


def text(content: str) -> Callable[[IO[bytes]], Any]:
    """What writes a text."""
    return lambda file: file.write(content.encode())
