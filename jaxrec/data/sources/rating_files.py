"""Rating files with times that HSTU was evaluated on: MovieLens-1M and 20M, and Amazon Books of 2014.

Harper and Konstan, doi:10.1145/2827872; McAuley et al., SIGIR 2015, doi:10.1145/2766462.2767755. Every rating
is an event, whatever its value, as in HSTU's research code (Zhai et al., ICML 2024, arXiv:2402.17152).

MovieLens is read from the GroupLens archives, verified by checksum. No checksum of ratings_Books.csv is
published by its authors (a third party lists an MD5, `BOOKS_MD5`), so it is read from a path that the caller
gives; the files inside the archives can be, too. The data must have the published counts.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.cells import DECIMAL, INTEGER, PLAIN_INTEGER, BadCell, check_id, quote
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.sources import movielens
from jaxrec.data.store import File, Source, http, read_bytes, read_file, show_terms, verify

AMAZON = Source(
    "amazon-2014",
    title="Amazon ratings of 2014 (J. McAuley)",
    homepage="http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Books.csv",
    licence="research use",
    terms="Cite McAuley et al., SIGIR 2015, doi:10.1145/2766462.2767755.",
)
BOOKS_MD5 = (
    "77b4a5b887e14e16b13e7788bdf70156"  # data/ratings_Books.csv.dvc of PIReTship/bookdata-tools @0b652a51
)
_LONGEST_ID = 24  # characters of a text id
_BLOCK = 1 << 20  # bytes of a file that are checked at once
_MIN_RATINGS = 5  # ratings of a user, and of an item, of Books

_ZIP_20M = File(
    "movielens-20m/ml-20m.zip",
    sha256="96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    size=198702078,
    routes=(http("https://files.grouplens.org/datasets/movielens/ml-20m.zip"),),
)


class Layout(NamedTuple):
    """The format of a rating file, and its counts; None for an unknown count.

    header: the first line, "" for none. text_ids: users and items are text rather than integers. filtered:
    rare users and items are dropped, see `drop_rare`. archive, member: where the file is found; None: only
    from a path.
    """

    separator: bytes
    header: str
    text_ids: bool
    filtered: bool
    users: int | None
    items: int
    events: int | None
    source: Source
    archive: File | None = None
    member: str = ""
    md5: str = ""


LAYOUTS = {
    "ml-1m": Layout(
        b"::", header="", text_ids=False, filtered=False,
        users=6040, items=3706, events=1_000_209,
        source=movielens.SOURCE, archive=movielens.ZIP_1M, member="ml-1m/ratings.dat",
    ),
    "ml-20m": Layout(
        b",", header="userId,movieId,rating,timestamp", text_ids=False, filtered=False,
        users=138_493, items=26_744, events=20_000_263,
        source=movielens.SOURCE, archive=_ZIP_20M, member="ml-20m/ratings.csv",
    ),
    # items: as many as the research code numbers, before it drops users with fewer than five events
    "Books": Layout(
        b",", header="", text_ids=True, filtered=True, users=None, items=695_762, events=None,
        source=AMAZON, md5=BOOKS_MD5,
    ),
}  # fmt: skip


def load(name: str, path: str = "", *, sample: bool = False) -> Sequences:
    """Sequences with times, of ml-1m, ml-20m or Books; equal times keep file order.

    path: the rating file, plain or compressed (.gz), or its archive (.zip); "" finds or downloads the archive
    with `jaxrec.data.store`. sample: the file is only a part, so its counts are not checked.

    Raises:
      ValueError: an unknown name, a malformed line, or counts or a checksum other than the published ones.
      FileNotFoundError: the path does not exist, or none was given and the file is not available.
    """
    if name not in LAYOUTS:
        raise ValueError(f"data set {name!r}: unknown; one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    show_terms(layout.source)
    content, where = _read_content(layout, name, path)
    interactions = parse(content, name, where)
    if not sample:
        _check_counts(interactions, layout, where)
    return interactions.to_sequences()


def parse(content: bytes, name: str, where: str) -> Interactions:
    """Ratings in file order, in the layout of `name`; ids have the order of the raw ids.

    Raises:
      ValueError: naming file and rule, for another header or a line other than `user, item, rating, seconds`.
    """
    layout = LAYOUTS[name]
    form = layout.separator.decode().join(("user", "item", "rating", "seconds"))
    if layout.header:
        first, _, content = content.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
        if first.strip().decode(errors="replace") != layout.header:
            raise ValueError(f"{where}: starts with {first[:60]!r}, expected the header {layout.header!r}")
    if not content.strip():
        raise ValueError(f"{where}: has no rating; expected lines `{form}`")
    _check_lines(content, layout=layout, where=where, form=form)
    identifier = f"S{_LONGEST_ID}" if layout.text_ids else "i8"
    columns = [("user", identifier), ("item", identifier), ("value", "f4"), ("time", "i8")]
    separator = layout.separator
    if len(separator) > 1:
        content, separator = content.replace(separator, b","), b","
    try:
        table = np.loadtxt(
            io.BytesIO(content), np.dtype(columns), comments=None, delimiter=separator.decode(), ndmin=1
        )
    except ValueError as error:
        raise ValueError(f"{where}: expected lines `{form}` with integer seconds: {error}") from error
    if layout.text_ids:
        _check_text_ids(table, where)
    if layout.filtered:
        return drop_rare(table, f"ratings/{name}", where)
    return _to_interactions(table, f"ratings/{name}")


def drop_rare(table: np.ndarray, name: str, where: str) -> Interactions:
    """Drops users and items with fewer than five ratings, as HSTU's research code does.

    Both are counted once, over the whole table; the remaining items are numbered, and then users with fewer
    than five remaining ratings are dropped, so that some item ids may not occur.

    Raises:
      ValueError: nothing remains.
    """
    kept = np.ones(len(table), bool)
    for column in ("user", "item"):
        _, codes, counts = np.unique(table[column], return_inverse=True, return_counts=True)
        kept &= counts[codes] >= _MIN_RATINGS
    table = table[kept]
    items, item = np.unique(table["item"], return_inverse=True)
    _, codes, counts = np.unique(table["user"], return_inverse=True, return_counts=True)
    stays = (counts >= _MIN_RATINGS)[codes] if len(table) else np.zeros(0, bool)
    if not stays.any():
        raise ValueError(f"{where}: no user has {_MIN_RATINGS} ratings of items with {_MIN_RATINGS} ratings")
    return _to_interactions(table[stays], name=name, items=items, item=item[stays])


def _to_interactions(
    table: np.ndarray, name: str, items: np.ndarray | None = None, item: np.ndarray | None = None
) -> Interactions:
    if items is None or item is None:
        items, item = np.unique(table["item"], return_inverse=True)
    users, user = np.unique(table["user"], return_inverse=True)
    decode: Callable[[np.ndarray], np.ndarray] = (
        (lambda raw: np.char.decode(raw, "utf-8")) if users.dtype.kind == "S" else np.asarray
    )
    return Interactions(
        name,
        user=(user + 1).astype(np.int32),
        item=(item + 1).astype(np.int32),
        time=table["time"].astype(np.int64),
        value=table["value"].astype(np.float32),
        user_ids=decode(users),
        item_ids=decode(items),
    )


def _check_lines(content: bytes, layout: Layout, where: str, form: str) -> None:
    """Raises ValueError naming the first malformed line: NumPy accepts more forms of numbers.

    Text ids may have any character but NUL, which NumPy strips from the end.
    """
    whole = INTEGER.encode()
    identifier = rb"[^\0\r\n" + layout.separator + rb"]*" if layout.text_ids else rb"(?:" + whole + rb")"
    cells = (identifier, identifier, DECIMAL.encode(), rb"(?:" + whole + rb")")
    line = re.compile(rb"(?>" + layout.separator.join(cells) + rb"(?:\r?\n|\Z))*+")
    start, number = 0, 1
    while start < len(content):  # in parts, since a repeated pattern takes memory
        end = content.find(b"\n", start + _BLOCK) + 1 or len(content)
        found = line.match(content, start, end)
        good = start if found is None else found.end()
        if good != end:
            number += content.count(b"\n", start, good)
            bad = content[good : content.find(b"\n", good) + 1 or len(content)].decode(errors="replace")
            raise ValueError(
                f"{where}, line {number + bool(layout.header)}: {quote(bad)}: expected lines `{form}` with "
                f"integer seconds; numbers have {PLAIN_INTEGER}"
            )
        number += content.count(b"\n", start, end)
        start = end


def _check_text_ids(table: np.ndarray, where: str) -> None:
    for column in ("user", "item"):
        long = np.flatnonzero(np.char.str_len(table[column]) >= _LONGEST_ID)
        if long.size:
            raise ValueError(
                f"{where}: {column} {table[column][long[0]].decode(errors='replace')!r}… is as long as "
                f"{_LONGEST_ID} characters or longer; ids of this file are shorter"
            )
        empty = np.flatnonzero(table[column] == b"")
        if empty.size:
            raise ValueError(f"{where}: rating {empty[0] + 1} has no {column}; fill it in or remove the line")
        for raw in np.unique(table[column]).tolist():
            try:
                check_id(column, raw.decode())
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: a {column} is not UTF-8 text: {error}") from error
            except BadCell as error:
                raise ValueError(f"{where}: {error}") from None


def _read_content(layout: Layout, name: str, path: str) -> tuple[bytes, str]:
    if not path:
        if layout.archive is None:
            raise FileNotFoundError(
                f"{name}: its checksum is unknown, so it is not downloaded: fetch "
                f"{layout.source.homepage} and give the path of the file"
            )
        return _extract(read_file(layout.archive), layout.member), layout.archive.path
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give the rating file of {name}")
    content = read_bytes(Path(path))
    if path.lower().endswith(".zip"):
        if layout.archive is None:
            raise ValueError(f"{path}: {name} has no archive; give the rating file itself")
        verify(content, file=layout.archive, where=path, remedy="fetch it again")
        return _extract(content, layout.member), path
    if layout.md5 and hashlib.md5(content, usedforsecurity=False).hexdigest() != layout.md5:
        print(f"note: {path}: does not have the MD5 {layout.md5} that a third party lists", file=sys.stderr)
    return content, path


def _extract(archive: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return opened.read(name)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ValueError(f"{name}: not in the archive, or corrupt ({error}); fetch it again") from error


def _check_counts(found: Interactions, layout: Layout, where: str) -> None:
    counts = {"users": found.num_users, "items": found.num_items, "events": found.user.size}
    for name, count in counts.items():
        expected = getattr(layout, name)
        if expected is not None and count != expected:
            raise ValueError(
                f"{where}: {count:,} {name}, expected {expected:,}: not the complete file of the "
                "published numbers; fetch it again"
            )
