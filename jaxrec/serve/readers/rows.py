"""Probabilities of each label of rows, by the program in this folder. Needs jax, flatbuffers and NumPy alone.

python reader.py rows.csv > scores.csv              a line for each row
Reader().score({"city": ["a"], "price": [1.5]})     {label: probabilities}
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

HERE = Path(__file__).parent
NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?nan", re.I)  # as data.cells has it


class Reader:
    def __init__(self, folder: str | Path = HERE) -> None:
        folder = Path(folder)
        self.about = json.loads((folder / "export.json").read_text("utf-8"))
        self.columns = json.loads((folder / "columns.json").read_text("utf-8"))
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        program = export.deserialize(bytearray((folder / "program.bin").read_bytes()))
        self.program = jax.jit(program.call)  # compiled for each number of rows

    def score(self, rows: dict[str, Any]) -> dict[str, np.ndarray]:
        """rows: {raw column: values}, text, numbers, or lists of tags; None and "" are missing."""
        inputs: dict[str, np.ndarray] = {}
        for column in self.columns:
            if column["column"] not in rows:
                raise ValueError(f"column {column['column']!r}: is missing; the model reads it")
            if isinstance(values := rows[column["column"]], str) or not len(values):
                raise ValueError(f"column {column['column']!r}: must be a list of values, one at least")
            inputs |= encode(column, values)
        found: dict[str, np.ndarray] = jax.device_get(self.program(self.weights, inputs))
        if not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError("probabilities are NaN or infinite: the training diverged")
        return {label: found[label] for label in self.about["labels"]}


def encode(column: dict[str, Any], values: Any) -> dict[str, np.ndarray]:
    """What the model reads of a raw column."""
    name, kind = column["name"], column["kind"]
    if kind == "category":
        return {name: np.array([number(column, value) for value in values], np.int32)}
    if kind == "tags":
        width, rows = (
            column["width"],
            [[row] if row is None or isinstance(row, str) else row for row in values],
        )
        lists = [[number(column, value) for value in row] or [1] for row in rows]
        if column["all"] and max(map(len, lists)) > width:
            raise ValueError(f"column {column['column']!r}: a row has more values than any row of training")
        return {name: np.array([(ids + [0] * width)[:width] for ids in lists], np.int32)}
    x = np.array([real(column, row, value) for row, value in enumerate(values, 1)], np.float64)
    absent = np.isnan(x)
    if kind == "number" and not column["indicator"] and absent.any():
        raise ValueError(f"{place(column, int(absent.argmax()) + 1)}: a number is missing")
    if kind == "buckets":
        return {name: np.where(absent, 1, 3 + np.searchsorted(column["edges"], x, "right")).astype(np.int32)}
    x = np.where(absent, column["mean"], np.sign(x) * np.log1p(np.abs(x)) if column["log"] else x)
    found = {name: ((x - column["shift"]) / column["scale"]).astype(np.float32)}
    return found | ({f"{name}_missing": absent.astype(np.float32)} if column["indicator"] else {})


def place(column: dict[str, Any], row: int) -> str:
    return f"column {column['column']!r}, row {row} (the first is 1)"


def real(column: dict[str, Any], row: int, value: Any) -> float:
    """A number, rounded to float32 as those of training were; NaN where it is missing.

    Of text Python's `float` takes more than the readers of training: underscores, spaces, other digits.
    """
    try:
        if isinstance(value, str) and value and not NUMBER.fullmatch(value):
            raise ValueError(value)
        with np.errstate(over="ignore"):
            found = float(np.float32(np.nan if value is None or value == "" else float(value)))
    except (TypeError, ValueError, OverflowError):
        found = np.inf
    if np.isinf(found):
        raise ValueError(f"{place(column, row)}: {value!r} is not a finite number")
    return float(found)


def number(column: dict[str, Any], value: Any) -> int:
    """The id of a category: 1 where it is missing, 2 where training did not know it."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (value is None or whole or isinstance(value, str)):
        raise ValueError(f"column {column['column']!r}: {value!r}: categories are text or whole numbers")
    return int(column["ids"].get("" if value is None else str(value), 2))


if __name__ == "__main__":
    words = sys.argv[1:]
    asks_help = bool({"-h", "--help"} & {*words})
    if asks_help or len(words) != 1:
        print(__doc__, file=sys.stdout if asks_help else sys.stderr)
        sys.exit(0 if asks_help else 2)
    try:
        with open(words[0], newline="", encoding="utf-8-sig") as file:
            header, *lines = [*csv.reader(file)] or [[]]
        if not lines:
            raise ValueError(f"{words[0]}: has no rows; the first line names the columns")
        if len({*header}) < len(header):
            raise ValueError(f"{words[0]}: two columns have one name")
        if any(len(line) != len(header) for line in lines):
            raise ValueError(f"{words[0]}: a line has more or fewer cells than the first one")
        scores = Reader().score({name: [line[i] for line in lines] for i, name in enumerate(header)})
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(scores)
        writer.writerows(zip(*(values.tolist() for values in scores.values()), strict=True))
    except (ValueError, OSError, csv.Error) as error:
        print(f"{sys.argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
