"""Probabilities of each label of items after histories, by the program in this folder.

Needs jax, flatbuffers and NumPy alone.

python reader.py a,b,c d e                   a JSON line for each of the items d and e after a, b and c
Reader().score(["d"], [["a", "b", "c"]])     {label: probabilities}
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

HERE = Path(__file__).parent


class Reader:
    def __init__(self, folder: str | Path = HERE) -> None:
        folder = Path(folder)
        self.about = json.loads((folder / "export.json").read_text("utf-8"))
        self.items = read_ids(folder / "items.json")
        self.users = read_ids(folder / "users.json") if self.about["users"] else {}
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        program = export.deserialize(bytearray((folder / "program.bin").read_bytes()))
        self.program = jax.jit(program.call)  # compiled for each number of items, and doubling of length

    def score(
        self, items: Any, histories: Any, users: Any = None, times: Any = None, now: int | None = None
    ) -> dict[str, np.ndarray]:
        """users: one for each item, for a model that reads them. times: of each event, and now: of the
        question, seconds since 1970, for a model that reads times."""
        if not 0 < len(items) == len(histories):
            raise ValueError(f"{len(items)} items, {len(histories)} histories: give a history for each item")
        for name, given in {"users": users, "times": times, "now": now}.items():
            if given is not None and not self.about["users" if name == "users" else "times"]:
                raise ValueError(f"{name}: the model reads none; leave it out")
        inputs = {"items": numbers(self.items, items)}
        inputs["histories"] = padded([numbers(self.items, history) for history in histories])
        if self.about["users"]:
            if users is None:
                raise ValueError("the model reads users: give one for each item")
            inputs["users"] = numbers(self.users, users)
        if self.about["times"]:
            if times is None or now is None or [*map(len, times)] != [*map(len, histories)]:
                raise ValueError("the model reads times: give times of each event, and now")
            check_seconds([now, *(time for events in times for time in events)])
            if any([*events, now] != sorted([*events, now]) for events in times):
                raise ValueError("times must ascend in each history, and none be after now")
            if any(now - events[0] >= 2**31 for events in times if len(events)):
                raise ValueError("a history begins more than 68 years before now; check the unit of time")
            inputs["times"] = padded([[time - events[0] for time in events] for events in times])
            inputs["now"] = np.array([now - events[0] if events else 0 for events in times], np.int32)
        found: dict[str, np.ndarray] = jax.device_get(self.program(self.weights, inputs))
        if not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError("probabilities are NaN or infinite: the training diverged")
        return found


def read_ids(path: Path) -> dict[str, int]:
    return {str(raw): number for number, raw in enumerate(json.loads(path.read_text("utf-8")), 1)}


def numbers(known: dict[str, int], raw: Any) -> np.ndarray:
    if isinstance(raw, str):
        raise ValueError(f"{raw!r}: is one text; give a list")
    unknown = {str(value) for value in raw} - known.keys()
    if unknown:
        raise ValueError(f"ids that the run does not know: {', '.join(sorted(unknown))}")
    return np.array([known[str(value)] for value in raw], np.int32)


def check_seconds(times: Any) -> None:
    """A cast to whole numbers would cut fractions."""
    for time in times:
        if isinstance(time, bool) or not isinstance(time, int | np.integer):
            raise ValueError(f"time {time!r}: must be whole seconds since 1970")


def padded(lists: Any) -> np.ndarray:
    width = 1 << (max(1, *map(len, lists)) - 1).bit_length()
    return np.array([[*values] + [0] * (width - len(values)) for values in lists], np.int32)


if __name__ == "__main__":
    words = sys.argv[1:]
    asks_help = bool({"-h", "--help"} & {*words})
    if asks_help or len(words) < 2:
        print(__doc__, file=sys.stdout if asks_help else sys.stderr)
        sys.exit(0 if asks_help else 2)
    try:
        history, *wanted = words
        found = Reader().score(wanted, [history.split(",")] * len(wanted))
        for number, item in enumerate(wanted):
            line = {"item": item} | {label: float(values[number]) for label, values in found.items()}
            print(json.dumps(line, ensure_ascii=False))
    except (ValueError, OSError) as error:
        print(f"{sys.argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
