"""Probabilities of each class after histories, by the program in this folder.

Needs jax, flatbuffers and NumPy alone.

python reader.py a,b,c d,e           a JSON line for each history, its items oldest first
Reader().classify([["a", "b"]])      {class: probabilities}
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
        items = json.loads((folder / "items.json").read_text("utf-8"))
        self.numbers = {str(item): number for number, item in enumerate(items, 1)}
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        program = export.deserialize(bytearray((folder / "program.bin").read_bytes()))
        self.program = jax.jit(program.call)  # compiled for each number of histories, and doubling of length

    def classify(self, histories: Any) -> dict[str, np.ndarray]:
        if not len(histories) or not all(map(len, histories)):
            raise ValueError("give a history at least, and none that is empty")
        if isinstance(histories, str) or any(isinstance(items, str) for items in histories):
            raise ValueError(f"{histories!r}: must be a list of items for each history, such as [['a', 'b']]")
        unknown = {str(item) for items in histories for item in items} - self.numbers.keys()
        if unknown:
            raise ValueError(f"items that the run does not know: {', '.join(sorted(unknown))}")
        lists = [[self.numbers[str(item)] for item in items] for items in histories]
        found: dict[str, np.ndarray] = jax.device_get(
            self.program(self.weights, {"histories": padded(lists)})
        )
        if not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError("probabilities are NaN or infinite: the training diverged")
        return found


def padded(lists: list[list[int]]) -> np.ndarray:
    width = 1 << (max(1, *map(len, lists)) - 1).bit_length()
    return np.array([[*values] + [0] * (width - len(values)) for values in lists], np.int32)


if __name__ == "__main__":
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & {*words}:
        print(__doc__, file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    try:
        found = Reader().classify([history.split(",") for history in words])
        for number in range(len(words)):
            line = {name: float(values[number]) for name, values in found.items()}
            print(json.dumps(line, ensure_ascii=False))
    except (ValueError, OSError) as error:
        print(f"{sys.argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
