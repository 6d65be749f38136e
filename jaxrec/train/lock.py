"""Keeps two processes from one work directory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock file, which names the host and the process, as long as the context lasts.

    The operating system lets go of the lock when its process ends, however it ends, so a run that was killed
    leaves nothing in the way. On a file system without locks, the process that the file names is looked for.

    Raises:
      ValueError: another process, or another run of this one, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(folder, handle)
        owner = {"host": socket.gethostname(), "process": os.getpid()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)  # an empty file names no owner
    finally:
        os.close(handle)


def _take(folder: Path, handle: int) -> None:
    owner = _owner(handle)
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(_message(folder, owner)) from error
        except OSError:  # no locks on this file system
            pass
        else:
            return
    if owner and (owner["host"] != socket.gethostname() or _runs(owner["process"])):
        raise ValueError(_message(folder, owner))


def _owner(handle: int) -> dict[str, str | int]:
    """What the lock file says; {} where it is empty or another process is just writing it."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return {"host": str(found["host"]), "process": int(found["process"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _runs(process: str | int) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _message(folder: Path, owner: dict[str, str | int]) -> str:
    who = f"process {owner['process']} on {owner['host']}" if owner else "another process"
    return (
        f"{folder}: in use by {who}, which trains there; wait until it has ended, or choose another "
        f"--workdir. If it is gone for good, remove {folder / LOCK}"
    )
