"""Files that are wrong in some way, and every reader of a user's files on them.

A reader gives the right result, or an error that names the file and says what to do:
`python -m tests.data.fuzz --cases 20000 --seed 1` tries so many files of random changes; the tests try fewer.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec import data
from jaxrec.config import cli
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.item_attributes import load_item_attributes
from jaxrec.data.side_feature_files import load_side_features

Row = dict[str, Any]
IDS = [f"i{n}" for n in range(6)]
FORMS = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")
INSERTED = (b'"', b",", b"\n", b"\t", b"-", b"nan", b"1e999", b"\0", b"[" * 9)  # by random changes


def event_rows(count: int = 40) -> list[Row]:
    """Events of a few users, whose values have all types."""
    draw = random.Random(0)
    return [
        {"user": f"u{n % 5}", "item": draw.choice(IDS), "time": 1_000_000 + 10 * n, "value": 0.5 + n}
        for n in range(count)
    ]


def labelled_rows(count: int = 60) -> list[Row]:
    """Labelled rows; no feature tells the label."""
    draw = random.Random(0)
    return [
        {"click": draw.randint(0, 1), "city": draw.choice("abc"), "price": draw.random(), "time": 100 + n}
        for n in range(count)
    ]


def entity_rows() -> list[Row]:
    """A row for each item, whose vector is `x`, `y`."""
    return [{"item": item, "kind": "ab"[n % 2], "x": n + 0.5, "y": -1.0 * n} for n, item in enumerate(IDS)]


# --- files ---------------------------------------------------------------------------------------------


def to_bytes(rows: list[Row], form: str) -> bytes:
    """Rows as a file of one of FORMS; columns are those of the first row."""
    plain = form.removesuffix(".gz")
    if plain == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if plain == "jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        stream = io.StringIO(newline="")
        lines = csv.writer(stream, delimiter="\t" if plain == "tsv" else ",", lineterminator="\n")
        lines.writerow(rows[0] if rows else [])
        lines.writerows(row.values() for row in rows)
        content = stream.getvalue().encode()
    return gzip.compress(content, mtime=0) if form.endswith(".gz") else content


def text_changes(content: bytes) -> Iterator[tuple[str, bytes, bool]]:
    """Names and contents of files made of a text, and whether readers have to refuse them."""
    head, *lines = content.splitlines(keepends=True)
    yield "byte order mark", b"\xef\xbb\xbf" + content, False
    yield "windows line ends", content.replace(b"\n", b"\r\n"), False
    yield "no last line end", content.removesuffix(b"\n"), False
    yield "utf-16", content.decode().encode("utf-16"), True
    yield "latin-1", content.replace(lines[3][:2], "é".encode("latin-1") + lines[3][:2]), True
    yield "binary", random.Random(1).randbytes(2000), True
    yield "zeros", bytes(4000), True
    yield "nothing", b"", True
    yield "white space", b"\n \n", True
    yield "an empty line", b"".join([head, *lines[:3], b"\n", *lines[3:]]), True
    yield "cut in a line", content[: len(head) + len(lines[0]) + 3], True
    yield "the line before without its end", b"".join([head, lines[0].rstrip(b"\n"), *lines[1:]]), True
    yield "a NUL", content.replace(lines[2], b"\0" + lines[2]), True


def cell_changes(rows: list[Row], column: str, values: list[Any]) -> Iterator[tuple[str, list[Row]]]:
    """Rows with one cell replaced by each of the values."""
    for value in values:
        changed = [dict(row) for row in rows]
        changed[7 % len(rows)][column] = value
        yield f"{column}={value!r}"[:60], changed


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file with a few random changes: bytes flipped, parts cut out, doubled or put elsewhere."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        if not found:
            break
        at, size = draw.randrange(len(found)), draw.randint(1, 12)
        match draw.randrange(5):
            case 0:
                found[at] ^= 1 << draw.randrange(8)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = found[at : at + size]
            case 3:
                found[at:at] = draw.choice(INSERTED)
            case _:
                del found[at:]
    return bytes(found)


# --- readers -------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """A reader of a path, and rows that it reads."""

    read: Callable[[Path], Any]
    rows: Callable[[], list[Row]]


READERS: dict[str, Reader] = {
    "events": Reader(lambda path: data.load_events(path), event_rows),
    "interactions": Reader(lambda path: data.load_interactions(path, value="value"), event_rows),
    "sessions": Reader(lambda path: data.load_sessions(path, session="user", test=0.5), event_rows),
    "labelled": Reader(
        lambda path: data.load_labelled(
            path, labels=["click"], categorical=["city"], numeric=["price"], time="time"
        ),
        labelled_rows,
    ),
    "features": Reader(
        lambda path: load_side_features(path, IDS, entity="item", columns=["kind"]), entity_rows
    ),
    "attributes": Reader(lambda path: load_item_attributes(path, IDS, columns=["kind"]), entity_rows),
    "archives": Reader(lambda path: data.load_item_vectors(path, IDS), list),
    "vectors": Reader(lambda path: data.load_item_vectors(path, IDS, columns=["x", "y"]), entity_rows),
}

TABLES = tuple(name for name in READERS if name != "archives")


def fault(reader: str, path: Path, *, refused: bool | None) -> str | None:
    """What is wrong with how a reader takes a file; None if nothing.

    refused: whether it has to be; None: either is right, but what is accepted of text has the rows that the
    standard library reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = READERS[reader].read(path)
    except ValueError as error:
        named = path.name.removesuffix(".gz") in str(error)  # the data set's name has no .gz
        if type(error) is not ValueError or not named or len(str(error)) < 30:
            return f"{reader}, {path.name}: no clear error: {type(error).__name__}: {error}"
        return f"{reader}, {path.name}: refused: {error}" if refused is False else None
    except Exception as error:
        return f"{reader}, {path.name}: {type(error).__name__}: {error}"
    if refused:
        return f"{reader}, {path.name}: was read, as {str(found)[:200]}"
    if isinstance(found, Interactions) and path.name.split(".")[1] in ("csv", "tsv", "jsonl"):
        return _differs(found, path)
    return None


def _differs(found: Interactions, path: Path) -> str | None:
    """How events differ from what Python's own modules read in the file."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    if ".jsonl" in path.name:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        delimiter = "\t" if ".tsv" in path.name else ","
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    assert found.time is not None and found.value is not None
    read = zip(
        found.user_ids[found.user - 1].tolist() if found.user.min() > 0 else found.user_ids[found.user],
        found.item_ids[found.item - 1].tolist(),
        found.time.tolist(),
        found.value.tolist(),
        strict=True,
    )
    for row, (user, item, time, value) in zip(rows, read, strict=True):
        expected = (str(row["user"]), str(row["item"]), int(float(row["time"])), np.float32(row["value"]))
        if (str(user), str(item), time, np.float32(value)) != expected:
            return f"{path.name}: {(user, item, time, value)} was read, {expected} stands there"
    return None


def random_faults(folder: Path, *, cases: int, seed: int) -> list[str]:
    """What is wrong with how readers take files with random changes."""
    draw = random.Random(seed)
    bases = {(name, form): to_bytes(READERS[name].rows(), form) for name in TABLES for form in FORMS}
    found = []
    for number in range(cases):
        (reader, form), content = draw.choice(list(bases.items()))
        packed = form.endswith(".gz") and draw.random() < 0.5  # else the text inside is changed
        changed = damaged(gzip.decompress(content) if packed else content, draw)
        path = folder / f"case{number}.{form}"
        path.write_bytes(gzip.compress(changed, mtime=0) if packed else changed)
        wrong = fault(reader, path, refused=None)
        if wrong:
            found.append(f"{wrong} (seed {seed})")
        else:
            path.unlink()
    return found


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    cases: int = 20_000  # files
    seed: int = 0  # of their changes


def main(arguments: Arguments) -> int:
    """Prints what is wrong; files of such cases stay in the folder that is named."""
    folder = Path(tempfile.mkdtemp(prefix="jaxrec-fuzz-"))
    found = random_faults(folder, cases=arguments.cases, seed=arguments.seed)
    print(*found, sep="\n")
    print(f"{arguments.cases:,} files, {len(found)} faults; {folder}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(cli(Arguments, description=__doc__)))
