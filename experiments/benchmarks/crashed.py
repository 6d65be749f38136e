"""An experiment that is ended at a chosen moment: what `experiments.benchmarks.crashes` starts.

Usage: python -m experiments.benchmarks.crashed STRIKE MODULE [options of MODULE]

STRIKE is JSON, the fields of `Strike`. Functions of the library are wrapped in this process alone.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import os
import resource
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from jaxrec.data import store
from jaxrec.report import results
from jaxrec.train.checkpoint import Checkpoints
from jaxrec.train.run import Run

STRUCK = "struck while:"  # begins the line that says what the process was doing
# The moments: a function of the library that is running then.
POINTS: dict[str, tuple[Any, str]] = {
    "download": (store, "_download"),
    "step": (Run, "epoch"),
    "evaluation": (Run, "_evaluate"),
    "checkpoint": (Checkpoints, "save"),
    "result": (results, "write_atomically"),
}
MEANS = ("SIGKILL", "SIGTERM", "disk full")


@dataclasses.dataclass(frozen=True)
class Strike:
    """When and how a process is ended.

    point: key of POINTS, "" for never. call: which call of it, from 1. seconds: after the start of the call.
    means: one of MEANS. calls: file that gets the number of calls of each point, if the process ends well.
    address, sha256, size: of a file that the process reads from a server first; "" for none.
    """

    point: str = ""
    call: int = 1
    seconds: float = 0.0
    means: str = "SIGKILL"
    calls: str = ""
    address: str = ""
    sha256: str = ""
    size: int = 0

    def end(self, doing: str) -> None:
        """Ends the process, or lets every write from now on fail as on a full disk."""
        os.write(2, f"\n{STRUCK} {doing}\n".encode())
        if self.means == "disk full":  # files may not grow beyond 0 bytes: writes raise OSError
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        else:
            os.kill(os.getpid(), signal.Signals[self.means])


def install(strike: Strike) -> Counter[str]:
    """Wraps the functions of POINTS; returns the counts of their calls."""
    calls: Counter[str] = Counter()
    running: list[str] = []

    def wrapped(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[point] += 1
            running.append(point)
            if (point, calls[point]) == (strike.point, strike.call):
                timer = threading.Timer(
                    strike.seconds, lambda: strike.end(running[-1] if running else "between")
                )
                timer.daemon = True
                timer.start()
                time.sleep(0)
            try:
                return function(*args, **kwargs)
            finally:
                running.pop()

        return call

    for point, (owner, name) in POINTS.items():
        mock.patch.object(owner, name, wrapped(point, vars(owner)[name])).start()
    return calls


def main(words: list[str]) -> None:
    """Reads the file to download, if there is one, and runs the module."""
    strike = Strike(**json.loads(words[0]))
    calls = install(strike)
    if strike.calls:
        atexit.register(lambda: Path(strike.calls).write_text(json.dumps(calls), encoding="utf-8"))
    if strike.address:
        route = store.http(strike.address)
        store.read_file(store.File("crashes/file.bin", strike.sha256, strike.size, (route,)))
    sys.argv = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
