"""Processes of one program on this host: started together, watched, and ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from jaxrec.launch import member

GRACE = 5.0  # seconds that a process has to end by itself
SHOWN = 20  # last lines of what a failed process wrote


class Child(NamedTuple):
    """A started process, and where it writes its errors; the first one's errors go to the terminal."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes] | None


def run_together(words: Sequence[str], *, processes: int, devices: int = 0) -> int:
    """Runs `python -m WORDS` in so many processes that know of each other; returns the exit code.

    devices: virtual devices of each process on a CPU; 0: those that JAX finds.

    The first process prints. One that fails or is killed ends the others within seconds, and stderr says
    which and how: the code is then its own, 128 + the signal if it was killed by one. SIGTERM is passed on to
    all, which save before they end.

    Raises:
      ValueError: no module is named, or a number is out of range.
    """
    if not words or words[0].startswith("-"):
        raise ValueError("name a module and its options after --, such as -- experiments.sequential.sasrec")
    if processes < 1 or devices < 0:
        raise ValueError(f"processes={processes}, devices={devices}: at least 1 process, 0 or more devices")
    coordinator = f"127.0.0.1:{_free_port()}"
    children: list[Child] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: _ask([c.process for c in children]))
    try:
        for number in range(processes):
            env = {**os.environ, **member.settings(coordinator, processes, number, devices)}
            children.append(_start(words, number, env))
        return _watch(children)
    finally:
        end([child.process for child in children])
        for child in children:
            if child.errors is not None:
                child.errors.close()
        signal.signal(signal.SIGTERM, before)


def _start(words: Sequence[str], number: int, env: Mapping[str, str]) -> Child:
    command = [sys.executable, "-m", "jaxrec.launch.member", *words]
    if number == 0:
        return Child(subprocess.Popen(command, env=dict(env)), None)
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by run_together)
    process = subprocess.Popen(command, env=dict(env), stdout=subprocess.DEVNULL, stderr=errors)
    return Child(process, errors)


def _watch(children: Sequence[Child]) -> int:
    """Waits for all, or for the first that fails. Ctrl-C reaches the processes from the terminal itself."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            codes = [child.process.poll() for child in children]
            failed = next((number for number, code in enumerate(codes) if code), None)
            if failed is not None:
                return _report(children, failed)
            if None not in codes:
                return 0
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGINT, before)


def _report(children: Sequence[Child], failed: int) -> int:
    """Says what became of a process, with its last words. Returns its exit code."""
    child, code = children[failed], int(children[failed].process.returncode)
    if child.errors is not None:
        child.errors.seek(0)
        for line in child.errors.read().decode(errors="replace").splitlines()[-SHOWN:]:
            print(f"process {failed}: {line}", file=sys.stderr)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    others = "; the others are ended too" if len(children) > 1 else ""
    print(
        f"jaxrec.launch: process {failed} of {len(children)} (pid {child.process.pid}) {how}{others}. The "
        "same command goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    return code if code > 0 else 128 - code


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends those that still run: asks first, and kills what has not ended after `GRACE` seconds."""
    _ask(processes)
    limit = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(limit - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Sends SIGTERM to those that still run."""
    for process in processes:
        if process.poll() is None:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
