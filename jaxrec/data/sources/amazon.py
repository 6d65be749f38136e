"""Amazon reviews and the categories of products (McAuley, release of 2014): the data of DIN and DIEN.

`load` reads your own files as distributed for a product category such as Electronics or Books:
reviews_Electronics_5.json.gz, one JSON object per line, and meta_Electronics.json.gz, one Python dict per
line. `load_table` reads a table `user_id,item_id,time,cate_id`, which several libraries prepare from them.
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
_REMEDY = "repair or remove the line"


def load(
    reviews: str | Path,
    metadata: str | Path,
    *,
    path: CategoryPath = "last",
    unlisted: Literal["error", "unknown"] = "error",
) -> tuple[Sequences, SideInfo]:
    """Every review is an event; the side information is the category of each product.

    Users, products and categories are numbered in the order of their names. A product has one or more paths
    of categories: its category is the end of the last path, as in DIN's code, or of the first, as in DIEN's.
    unlisted: products without metadata or a path raise, or have a common category of their own.

    Times are whole days, and for `next_clicks` events of equal time have no order. With
    dataclasses.replace(sequences, times=None) those of one day are in file order, as in DIN's code.
    DIN counts 192,403 users, 63,001 products, 801 categories and 1,689,188 reviews of Electronics.

    Raises ValueError naming file and line for a malformed line, and for a product with two categories.
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
            f"{reviews} has; give the metadata of the same product category, or unlisted='unknown'"
        )
    names = sorted(set(category.values()))
    number = {name: place for place, name in enumerate(names, 1)}
    ids = [0, *(number[category[asin]] if asin in category else len(names) + 1 for asin in products)]
    return events.to_sequences(), SideInfo({"category": np.array(ids, np.int32)}, {})


def load_table(path: str | Path, *, category: str | None = "cate_id") -> tuple[Sequences, SideInfo]:
    """Events of a table of integers with a header, and the items' category.

    category: name of its column; None for a table without.

    Columns user_id, item_id, time and that of the category are read. Times are seconds since 1970 in tables
    of Electronics; those of Books and Beauty count days from another start, so that only their order is
    meaningful. Raises ValueError as `table_reader.read_integers` does, and for an item with two categories;
    ImportError without pyarrow.
    """
    names = ("user_id", "item_id", "time")
    header = read_column_names(path)
    if category is not None and category not in header:
        raise ValueError(
            f"{path}: no column {category!r} in the header {header!r}; category=None reads only events"
        )
    columns = read_integers(path, names if category is None else (*names, category))
    user, item, time = (columns[name] for name in names)
    events = Interactions.from_raw(Path(path).name, user=user, item=item, time=time, order="sorted")
    if category is None:
        return events.to_sequences(), NO_SIDE_INFO
    column = item_column(
        events.item, values=columns[category], item_ids=events.item_ids, where=f"{path}: {category}"
    )
    return events.to_sequences(), SideInfo({"category": column}, {})


def read_reviews(path: str | Path) -> Interactions:
    """Reviews in the order of the file. Raises ValueError naming file and line."""
    users, items = IdCodes("reviewerID"), IdCodes("asin")
    user, item, time = array("i"), array("i"), array("q")
    for line, content in _read_lines(path):
        try:
            review = json.loads(content)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {line}: {_quote(content)} is not JSON ({error}); {_REMEDY}"
            ) from None
        try:
            user.append(users[_text_field(review, name="reviewerID", path=path, line=line)])
            item.append(items[_text_field(review, name="asin", path=path, line=line)])
        except BadCell as error:
            raise ValueError(f"{path}, line {line}: {error}; {_REMEDY}") from None
        second = review.get("unixReviewTime")
        if type(second) is not int or abs(second) >= 2**63:
            raise ValueError(
                f"{path}, line {line}: unixReviewTime {second!r}: expected seconds since 1970; {_REMEDY}"
            )
        time.append(second)
    seen, user_ids = _sorted_ids(users, str(path))
    bought, item_ids = _sorted_ids(items, str(path))
    return Interactions(
        Path(path).name,
        user=seen[np.asarray(user)],
        item=bought[np.asarray(item)],
        time=np.array(time, np.int64),
        value=None,
        user_ids=user_ids,
        item_ids=item_ids,
    )


def read_categories(
    path: str | Path, wanted: Container[str], *, path_of: CategoryPath = "last"
) -> dict[str, str]:
    """The category of each wanted product that has one; lines of other products are skipped if possible.

    Lines are read as literals (`ast.literal_eval`): nothing in them is executed. Raises as `load` does.
    """
    found: dict[str, str] = {}
    for line, content in _read_lines(path):
        start = _ASIN.match(content)
        if start and start[1].decode(errors="replace") not in wanted:
            continue
        product = _parse_line(content, path, line)
        asin = _text_field(product, name="asin", path=path, line=line)
        if asin not in wanted or not product.get("categories"):
            continue
        paths = product["categories"]
        names = paths[-1 if path_of == "last" else 0] if isinstance(paths, list) else None
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise ValueError(
                f"{path}, line {line}: categories {paths!r}: expected lists of names, "
                f"such as [['Electronics', 'Cables']]; {_REMEDY}"
            )
        category = names[-1]
        if found.setdefault(asin, category) != category:
            raise ValueError(
                f"{path}, line {line}: product {asin} has category {category!r}, and {found[asin]!r} in an "
                "earlier line; remove one"
            )
    return found


def _read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yields the number and content of each line of a file, `.gz` allowed."""
    number = 0
    opener: Any = gzip.open if is_gzip(path) else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}, after line {number}: {error}; the file is corrupt: fetch it again"
        ) from None
    if not number:
        raise ValueError(f"{path}: the file is empty; expected one object per line")


def _parse_line(content: bytes, path: str | Path, line: int) -> dict[str, Any]:
    """A line as JSON, or as a Python literal, as in the release of 2014."""
    try:
        return json.loads(content)  # type: ignore[no-any-return]
    except ValueError:
        pass
    try:
        return ast.literal_eval(content.decode("utf-8-sig"))  # type: ignore[no-any-return]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(
            f"{path}, line {line}: {_quote(content)} is neither JSON nor a Python dict of literals; {_REMEDY}"
        ) from None


def _text_field(found: object, name: str, path: str | Path, line: int) -> str:
    value = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}, line {line}: {name} {value!r}: expected text; {_REMEDY}")
    return value


def _quote(content: bytes) -> str:
    text = content.decode(errors="replace").strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _sorted_ids(codes: IdCodes, path: str) -> tuple[np.ndarray, np.ndarray]:
    """The id of each code when names are sorted, from 1, and the sorted names."""
    names = text_array(f"{path}: {codes.feature}", list(codes))
    order = np.argsort(names)
    ids = np.empty(len(names), np.int32)
    ids[order] = np.arange(1, len(names) + 1)
    return ids, names[order]
