"""The best items for users, by the program in this folder. Needs jax, flatbuffers and NumPy alone.

python reader.py u1 u2              a JSON line for each user
Reader().recommend(["u1", "u2"])    [{"items": [...], "scores": [...]}], best first
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
        self.about, self.items, users = (
            json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("export", "items", "users")
        )
        self.numbers = {str(item): number for number, item in enumerate(self.items, 1)}
        self.users = {str(user): number for number, user in enumerate(users, 1)}
        seen = folder / "seen.json"
        self.seen = json.loads(seen.read_text("utf-8")) if seen.exists() else [[]] * len(users)
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        program = export.deserialize(bytearray((folder / "program.bin").read_bytes()))
        self.program = jax.jit(program.call)  # compiled for each number of users, and doubling of `excluded`

    def recommend(self, users: Any, k: int = 10, excluded: Any = None) -> list[dict[str, Any]]:
        """excluded: items of no list, for each user; None: those that the user had in the data of the run."""
        if not 0 < k <= self.about["k"] or not len(users):
            raise ValueError(f"k={k}: must be 1 to {self.about['k']}, with a user at least")
        numbers = lookup("users", self.users, users)
        left_out = [self.seen[number - 1] for number in numbers]
        if excluded is not None:
            left_out = [lookup("items", self.numbers, items) for items in excluded]
        inputs = {"users": np.array(numbers, np.int32), "excluded": padded(left_out)}
        found = jax.device_get(self.program(self.weights, inputs))
        if (np.isnan(found["scores"]) | (found["scores"] == np.inf)).any():
            raise ValueError("scores are NaN or infinite: the training diverged")
        return [
            {"items": [self.items[i - 1] for i in items if i], "scores": scores[items > 0].tolist()}
            for items, scores in zip(found["items"][:, :k], found["scores"][:, :k], strict=True)
        ]


def lookup(what: str, numbers: dict[str, int], values: Any) -> list[int]:
    if isinstance(values, str):
        raise ValueError(f"{what}: {values!r} is one text; give a list")
    unknown = {str(value) for value in values} - numbers.keys()
    if unknown:
        raise ValueError(f"{what} that the run does not know: {', '.join(sorted(unknown))}")
    return [numbers[str(value)] for value in values]


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
        for line in reader.recommend(words, k=min(10, reader.about["k"])):
            print(json.dumps(line, ensure_ascii=False))
    except (ValueError, OSError) as error:
        print(f"{sys.argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
