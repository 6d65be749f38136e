"""Ends tiny runs at random moments, starts them again by the same command, and compares what they end with.

A run is ended during steps, evaluations, the writing of checkpoints and results, and a download, by SIGKILL,
by SIGTERM, or by writes that fail as on a full disk, several times in a row. Then it is let go on. It has to
end with the metrics and the parameters of a run that was never ended, to the bit, and with no file that can't
be read. Beside that, a second run on the work directory of a running one has to be refused.

Run:     python -m experiments.benchmarks.crashes --runs 50
Also:    --only stamp --runs 4 --seed 7 --out runs/crashes.json

The output is JSON: how many runs were ended at each moment by each means, and what was wrong; the exit code
is 1 if anything was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks import crash_files
from experiments.benchmarks.crash_server import CONTENT, served
from experiments.benchmarks.crashed import MEANS, POINTS, STRUCK, Strike
from jaxrec.config import cli

ROOT = Path(__file__).resolve().parents[2]
# The runs: name -> module and options.
RUNS: Mapping[str, tuple[str, ...]] = {
    "ticoserec": ("experiments.sequential.ticoserec", "--rows", "ticoserec-bce"),
    "census": ("experiments.multitask.census", "--rows", "mmoe"),
    "stamp": ("experiments.sequential.stamp", "--rows", "stamp-ce"),
    "lightgcn": ("experiments.retrieval.lightgcn", "--rows", "lightgcn"),
}
IN_A_ROW = 5  # a run is ended so often before it is let go on
HANGS = 300.0  # seconds after which a process is said to hang
DELAYS = {"download": 0.3, "step": 0.3, "evaluation": 0.1, "checkpoint": 0.15, "result": 0.02}  # the largest
LAST_LINES = 2000  # characters of a process's errors that are shown


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line."""

    runs: int = 50  # how often a run is ended, over all experiments
    only: tuple[str, ...] = ()  # these experiments; empty: all
    seed: int = 0  # of the moments
    out: str = ""  # file for the JSON that is printed; empty: none

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"runs={self.runs}: must be at least 1")
        for name in self.only:
            if name not in RUNS:
                raise ValueError(f"only: {name!r} is none of {', '.join(RUNS)}")


def start(name: str, folder: Path, address: str, **strike: Any) -> subprocess.Popen[str]:
    """Starts a tiny run whose results, work directory and cache are below a folder."""
    module, *options = RUNS[name]
    folders = ["--results", str(folder / "results"), "--workdir", str(folder / "work")]
    what = Strike(address=address, sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT), **strike)
    words = [json.dumps(dataclasses.asdict(what)), module, "--tiny", "--seeds", "0", *options, *folders]
    command = [sys.executable, "-m", "experiments.benchmarks.crashed", *words]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags.strip(),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def end_of(process: subprocess.Popen[str]) -> tuple[int | None, str]:
    """Exit code and errors of a process; None if it hangs."""
    try:
        errors = process.communicate(timeout=HANGS)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return None, process.communicate()[1]
    return process.returncode, errors


def whole(name: str, folder: Path, address: str) -> tuple[dict[str, Any], dict[str, int]]:
    """What a run that is never ended stores, and how often it calls the function of each moment.

    Raises:
      RuntimeError: it failed.
    """
    calls = folder / "calls.json"
    folder.mkdir(parents=True)
    code, errors = end_of(start(name, folder, address, calls=str(calls)))
    if code != 0:
        raise RuntimeError(f"{name}: ended with {code}:\n{errors[-LAST_LINES:]}")
    return crash_files.stored(folder), json.loads(calls.read_text(encoding="utf-8"))


def ended(
    name: str,
    folder: Path,
    address: str,
    moments: list[tuple[str, str]],
    calls: Mapping[str, int],
    draw: random.Random,
) -> Iterator[tuple[str, str, list[str]]]:
    """Ends a run at each of the moments, by its means; gives the moment ("" if the process had ended
    before), the means, and what is wrong.
    """
    for point, means in moments:
        call = draw.randint(1, max(calls.get(point, 1) // 2, 1))  # fewer are left after each
        seconds = draw.uniform(0, DELAYS[point])
        code, errors = end_of(
            start(name, folder, address, point=point, call=call, seconds=seconds, means=means)
        )
        doing = [line.removeprefix(STRUCK).strip() for line in errors.splitlines() if line.startswith(STRUCK)]
        wrong = [] if code is not None else [f"hangs after {means} during {point}"]
        if not doing and code != 0:
            wrong.append(f"ended with {code} before it was struck:\n{errors[-LAST_LINES:]}")
        yield (point if doing else "", means, wrong + crash_files.unreadable(folder))
        if not doing and code == 0:
            return  # the run is complete


def second_is_refused(name: str, folder: Path, address: str) -> list[str]:
    """What is wrong with two runs on one work directory; [] if the second is refused and the first ends."""
    first = start(name, folder, address)
    while not list((folder / "work").rglob("lock.json")) and first.poll() is None:
        time.sleep(0.01)
    (lock,) = (folder / "work").rglob("lock.json")
    while not lock.read_text(encoding="utf-8") and first.poll() is None:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # it does not end before the second looks
    code, errors = end_of(start(name, folder, address))
    os.kill(first.pid, signal.SIGCONT)
    wrong = [] if code == 2 and "in use by" in errors else [f"second run: ended with {code}: {errors[-500:]}"]
    code, errors = end_of(first)
    return wrong + ([] if code == 0 else [f"first run: ended with {code}: {errors[-LAST_LINES:]}"])


class Found:
    """What was found so far, stored after every run that has ended."""

    def __init__(self, arguments: Config) -> None:
        self.arguments, self.begun = arguments, time.perf_counter()
        self.struck: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.compared, self.refused = 0, 0

    def text(self) -> str:
        """JSON; also written to the file that the command line names."""
        found = {
            "seed": self.arguments.seed,
            "experiments": list(self.arguments.only or RUNS),
            "ended": self.struck.total(),
            "at": dict(sorted(self.struck.items())),
            "runs compared with one never ended": self.compared,
            "second runs refused": self.refused,
            "unfinished files that stay": dict(self.left),
            "wrong": self.wrong,
            "seconds": round(time.perf_counter() - self.begun, 1),
        }
        text = json.dumps(found, indent=1)
        if self.arguments.out:
            Path(self.arguments.out).write_text(text + "\n", encoding="utf-8")
        return text


def measure(arguments: Config, folder: Path) -> Found:
    """Ends runs below a folder."""
    found, draw = Found(arguments), random.Random(arguments.seed)
    names = list(arguments.only or RUNS)
    cases, waiting = [(point, means) for point in POINTS for means in MEANS], list[tuple[str, str]]()
    straight: dict[str, tuple[dict[str, Any], dict[str, int]]] = {}
    with served() as address:
        for number in itertools.count():
            if found.struck.total() >= arguments.runs:
                break
            name, place = names[number % len(names)], folder / f"{names[number % len(names)]}-{number}"
            if name not in straight:
                straight[name] = whole(name, folder / f"{name}-whole", address)
            place.mkdir()
            moments = []
            for _ in range(min(IN_A_ROW, arguments.runs - found.struck.total())):
                waiting = waiting or draw.sample(cases, len(cases))
                moments.append(waiting.pop())
            moments.sort(key=lambda moment: list(POINTS).index(moment[0]))
            for moment, means, faults in ended(name, place, address, moments, straight[name][1], draw):
                found.struck.update([f"{moment}, {means}"] if moment else [])
                found.wrong += [f"{place.name}: {fault}" for fault in faults]
            code, errors = end_of(start(name, place, address))
            if code != 0:
                found.wrong.append(
                    f"{place.name}: ended with {code} after {moments}:\n{errors[-LAST_LINES:]}"
                )
            differ = crash_files.differences(straight[name][0], crash_files.stored(place))
            found.wrong += [f"{place.name}: {fault}" for fault in differ]
            found.left.update(crash_files.leftovers(place))
            found.compared += 1
            print(f"{place.name}: {found.struck.total()} ended in all", file=sys.stderr, flush=True)
            found.text()
        for name in straight:
            wrong = second_is_refused(name, folder / f"{name}-two", address)
            found.wrong += [f"{name}: {fault}" for fault in wrong]
            found.refused += not wrong
    return found


def main(arguments: Config) -> int:
    """Prints and stores what was found; 1 if anything is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    print(found.text())
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main(cli(Config, description=__doc__)))
