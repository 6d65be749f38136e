"""The best items after histories, by the program in this folder. Needs jax, flatbuffers and NumPy alone.

python reader.py a,b,c d,e          a JSON line for each history, its items oldest first
Reader().recommend([["a", "b"]])    [{"items": [...], "scores": [...]}], best first
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
        self.items = json.loads((folder / "items.json").read_text("utf-8"))
        self.numbers = {str(item): number for number, item in enumerate(self.items, 1)}
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        program = export.deserialize(bytearray((folder / "program.bin").read_bytes()))
        self.program = jax.jit(program.call)  # compiled for each number of histories, and doubling of length

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        excluded: Any = None,
        times: Any = None,
        now: int | None = None,
        actions: Any = None,
    ) -> list[dict[str, Any]]:
        """excluded: items of no list, for each history; None: as the run was measured. times: of each event,
        and now: of the question, seconds since 1970, for a model that reads times. actions: of each event,
        from 1, for a model that reads them."""
        if not 0 < k <= self.about["k"] or not len(histories) or not all(map(len, histories)):
            raise ValueError(f"k={k}: must be 1 to {self.about['k']}, with a history at least, none empty")
        if excluded is None:
            excluded = [[]] * len(histories) if self.about["seen"] == "keep" else histories
        inputs = {"histories": self.encode(histories), "excluded": self.encode(excluded)}
        if not self.about["times"] and (times is not None or now is not None):
            raise ValueError("the model reads no times: leave out times and now")
        if not self.about.get("actions") and actions is not None:
            raise ValueError("the model reads no actions: leave them out")
        if self.about["times"]:
            if times is None or now is None or [*map(len, times)] != [*map(len, histories)]:
                raise ValueError("the model reads times: give times of each event, and now")
            check_seconds([now, *(time for events in times for time in events)])
            if any([*events, now] != sorted([*events, now]) for events in times):
                raise ValueError("times must ascend in each history, and none be after now")
            if any(now - events[0] >= 2**31 for events in times if len(events)):
                raise ValueError("a history begins more than 68 years before now; check the unit of time")
            inputs["times"] = padded([[time - events[0] for time in events] for events in times])
            inputs["now"] = np.array([now - events[0] for events in times], np.int32)
        if most := self.about.get("actions"):
            if actions is None or [*map(len, actions)] != [*map(len, histories)]:
                raise ValueError("the model reads actions: give that of each event")
            if any(not 1 <= action <= most for events in actions for action in events):
                raise ValueError(f"actions must be whole numbers from 1 to {most}")
            inputs["actions"] = padded([list(events) for events in actions])
        found = jax.device_get(self.program(self.weights, inputs))
        if (np.isnan(found["scores"]) | (found["scores"] == np.inf)).any():
            raise ValueError("scores are NaN or infinite: the training diverged")
        return [
            {"items": [self.items[i - 1] for i in items if i], "scores": scores[items > 0].tolist()}
            for items, scores in zip(found["items"][:, :k], found["scores"][:, :k], strict=True)
        ]

    def encode(self, lists: Any) -> np.ndarray:
        if isinstance(lists, str) or any(isinstance(items, str) for items in lists):
            raise ValueError(f"{lists!r}: must be a list of items for each history, such as [['a', 'b']]")
        unknown = {str(item) for items in lists for item in items} - self.numbers.keys()
        if unknown:
            raise ValueError(f"items that the run does not know: {', '.join(sorted(unknown))}")
        return padded([[self.numbers[str(item)] for item in items] for items in lists])


def check_seconds(times: Any) -> None:
    """A cast to whole numbers would cut fractions."""
    for time in times:
        if isinstance(time, bool) or not isinstance(time, int | np.integer):
            raise ValueError(f"time {time!r}: must be whole seconds since 1970")


def padded(lists: list[list[int]]) -> np.ndarray:
    width = 1 << (max(1, *map(len, lists)) - 1).bit_length()
    return np.array([[*values] + [0] * (width - len(values)) for values in lists], np.int32)


if __name__ == "__main__":
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & {*words}:
        print(__doc__, file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    try:
        reader = Reader()
        asked = [history.split(",") for history in words]
        for line in reader.recommend(asked, k=min(10, reader.about["k"])):
            print(json.dumps(line, ensure_ascii=False))
    except (ValueError, OSError) as error:
        print(f"{sys.argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
