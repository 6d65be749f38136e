"""Amazon reviews and the categories of products (McAuley, release of 2014): the data of DIN and DIEN.

`load` reads files of yours as distributed for a kind of product such as Electronics or Books:
reviews_Electronics_5.json.gz, a JSON object a line, and meta_Electronics.json.gz, a Python dict a line.
`load_table` reads a table `user_id,item_id,time,cate_id`, which several libraries prepare from them.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from array import array
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.data.cells import BadCell, IdCodes
from jaxrec.data.delimited import is_gzip
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.tables.click_histories import NO_SIDE_INFO, SideInfo, item_column
from jaxrec.data.tables.table_reader import read_column_names, read_integers
from jaxrec.data.vocab import text_array

CategoryPath = Literal["last", "first"]
_ASIN = re.compile(rb"""\{['"]asin['"]: ['"]([^'"\\]*)['"]""")
_REPAIR = "repair the line or take it out"


def load(
    reviews: str | Path,
    metadata: str | Path,
    *,
    path: CategoryPath = "last",
    unlisted: Literal["error", "unknown"] = "error",
) -> tuple[Sequences, SideInfo]:
    """Every review is an event; side_info: the category of a product.

    Users, products and categories are numbered in the order of their names. A product stands in one path of
    categories or more: its category is the end of the last path, as in DIN's code, or of the first, as in
    DIEN's. unlisted: products without metadata or without a path raise, or share a category of their own.

    Times are whole days, and to `next_clicks` events of one time have no order. With
    dataclasses.replace(sequences, times=None) those of one day go by the order of the file, as in DIN's code.
    DIN counts 192,403 users, 63,001 products, 801 categories and 1,689,188 reviews of Electronics.

    Raises ValueError naming file and line for what is no such object, and for a product with two categories.
    """
    if path not in ("last", "first") or unlisted not in ("error", "unknown"):
        raise ValueError(
            f"path={path!r}, unlisted={unlisted!r}: must be 'last' or 'first', and 'error' or 'unknown'"
        )
    events = read_reviews(reviews)
    products = events.item_ids.tolist()
    category = read_categories(metadata, set(products), path_of=path)
    bare = [asin for asin in products if asin not in category]
    if bare and unlisted == "error":
        raise ValueError(
            f"{metadata}: no category of product {bare[0]} ({len(bare):,} such of {len(products):,}), which "
            f"{reviews} has; give the metadata of the same kind of product, or unlisted='unknown'"
        )
    names = sorted(set(category.values()))
    number = {name: place for place, name in enumerate(names, 1)}
    ids = [0, *(number[category[asin]] if asin in category else len(names) + 1 for asin in products)]
    return events.to_sequences(), SideInfo({"category": np.array(ids, np.int32)}, {})


def load_table(path: str | Path, *, category: str | None = "cate_id") -> tuple[Sequences, SideInfo]:
    """Events of a table of integers with a header, and the items' category.

    category: name of its column; None for a table without.

    Columns user_id, item_id and time are read, and that of the category; others are not. Times are seconds
    since 1970 in tables of Electronics; those of Books and Beauty count days from another start, so that
    only their order means something. Raises ValueError as `tables.read_integers`, and for an item with two
    categories; ImportError without pyarrow.
    """
    names = ("user_id", "item_id", "time")
    header = read_column_names(path)
    if category is not None and category not in header:
        raise ValueError(
            f"{path}: no column {category!r} in the header {header!r}; category=None reads events alone"
        )
    columns = read_integers(path, names if category is None else (*names, category))
    user, item, time = (columns[name] for name in names)
    events = Interactions.from_raw(Path(path).name, user, item, time, order="sorted")
    if category is None:
        return events.to_sequences(), NO_SIDE_INFO
    column = item_column(events.item, columns[category], events.item_ids, f"{path}: {category}")
    return events.to_sequences(), SideInfo({"category": column}, {})


def read_reviews(path: str | Path) -> Interactions:
    """Reviews in the order of the file. Raises ValueError naming file and line."""
    users, items = IdCodes("reviewerID"), IdCodes("asin")
    user, item, time = array("i"), array("i"), array("q")
    for line, content in _lines(path):
        try:
            review = json.loads(content)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {line}: {_shown(content)} is no JSON ({error}); {_REPAIR}"
            ) from None
        try:
            user.append(users[_text(review, "reviewerID", path, line)])
            item.append(items[_text(review, "asin", path, line)])
        except BadCell as error:
            raise ValueError(f"{path}, line {line}: {error}; {_REPAIR}") from None
        second = review.get("unixReviewTime")
        if type(second) is not int or abs(second) >= 2**63:
            raise ValueError(
                f"{path}, line {line}: unixReviewTime {second!r}: expected seconds since 1970; {_REPAIR}"
            )
        time.append(second)
    seen, user_ids = _in_order(users, str(path))
    bought, item_ids = _in_order(items, str(path))
    return Interactions(
        Path(path).name,
        seen[np.asarray(user)],
        bought[np.asarray(item)],
        np.array(time, np.int64),
        None,
        user_ids,
        item_ids,
    )


def read_categories(
    path: str | Path, wanted: Container[str], *, path_of: CategoryPath = "last"
) -> dict[str, str]:
    """The category of each wanted product that has one. Lines of others are skipped unread where they can be.

    Lines are read as literals (`ast.literal_eval`): nothing in them is executed. Raises as `load`.
    """
    found: dict[str, str] = {}
    for line, content in _lines(path):
        start = _ASIN.match(content)
        if start and start[1].decode(errors="replace") not in wanted:
            continue
        product = _literal(content, path, line)
        asin = _text(product, "asin", path, line)
        if asin not in wanted or not product.get("categories"):
            continue
        paths = product["categories"]
        names = paths[-1 if path_of == "last" else 0] if isinstance(paths, list) else None
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise ValueError(
                f"{path}, line {line}: categories {paths!r}: expected lists of names, "
                f"such as [['Electronics', 'Cables']]; {_REPAIR}"
            )
        category = names[-1]
        if found.setdefault(asin, category) != category:
            raise ValueError(
                f"{path}, line {line}: product {asin} is of category {category!r}, and of {found[asin]!r} in "
                "an earlier line; take one out"
            )
    return found


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the lines of a file, `.gz` allowed."""
    number = 0
    opener: Any = gzip.open if is_gzip(path) else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: {error}; the file is damaged: get it again") from None
    if not number:
        raise ValueError(f"{path}: the file is empty; expected an object a line")


def _literal(content: bytes, path: str | Path, line: int) -> dict[str, Any]:
    """A line as JSON, or as the Python literal it is in the release of 2014."""
    try:
        return json.loads(content)  # type: ignore[no-any-return]
    except ValueError:
        pass
    try:
        return ast.literal_eval(content.decode("utf-8-sig"))  # type: ignore[no-any-return]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(
            f"{path}, line {line}: {_shown(content)} is neither JSON nor a Python dict of literals; {_REPAIR}"
        ) from None


def _text(found: object, name: str, path: str | Path, line: int) -> str:
    value = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}, line {line}: {name} {value!r}: expected text; {_REPAIR}")
    return value


def _shown(content: bytes) -> str:
    text = content.decode(errors="replace").strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _in_order(codes: IdCodes, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Names numbered as they came → the id of each number, in the order of the names, and the names so."""
    names = text_array(f"{path}: {codes.feature}", list(codes))
    order = np.argsort(names)
    ids = np.empty(len(names), np.int32)
    ids[order] = np.arange(1, len(names) + 1)
    return ids, names[order]
