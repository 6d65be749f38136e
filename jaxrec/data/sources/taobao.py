"""Taobao user behaviour: page views, carts, favourites and purchases (Tianchi data set 649).

The data are behind a login, so they cannot be downloaded: `load` reads UserBehavior.csv as distributed,
without a header: user, item, category, behaviour (pv, cart, fav or buy), time in seconds. Its 100,150,807
lines are read in blocks, and take 20 bytes per event, 46 while they are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.tables.click_histories import SideInfo, item_column
from jaxrec.data.tables.table_reader import import_pyarrow, integer_cells, read_blocks

BEHAVIOURS = ("pv", "cart", "fav", "buy")
WINDOW = (1511539200, 1512316800)  # 2017-11-25 until 2017-12-04, midnight in China (UTC+8)
_IDS = ("user", "item", "category")
_COLUMNS = (*_IDS, "behaviour", "time")
_CHUNK = 1 << 20  # events numbered at once


def load(
    path: str | Path,
    *,
    behaviours: Sequence[str] = ("pv",),
    window: tuple[int, int] | None = WINDOW,
    outside: Literal["error", "drop"] = "error",
    inconsistent: Literal["error", "first"] = "error",
) -> tuple[Sequences, SideInfo]:
    """Events of the given behaviours, one sequence per user, and the category of each item.

    window: events must be in window[0] <= time < window[1], by default the nine days of the data set; None
    allows any time. outside: other events raise, or are left out (the file has some of other years).
    inconsistent: an item with two categories raises, or has that of its first event.

    Ids are numbered in ascending order. Raises ValueError naming file and line for cells of another kind,
    ImportError without pyarrow.
    """
    strange = [name for name in behaviours if name not in BEHAVIOURS]
    if strange or not behaviours:
        raise ValueError(f"behaviours={tuple(behaviours)}: name some of {', '.join(BEHAVIOURS)}")
    if outside not in ("error", "drop") or inconsistent not in ("error", "first"):
        raise ValueError(
            f"outside={outside!r}, inconsistent={inconsistent!r}: must be 'error' or 'drop', and 'error' or "
            "'first'"
        )
    user, item, category, time = _read_events(
        path, behaviours=tuple(behaviours), window=window, outside=outside
    )
    users, user_ids = _number_ids(user)
    del user
    items, item_ids = _number_ids(item)
    del item
    column = item_column(
        items, values=category, item_ids=item_ids, where=f"{path}: category", several=inconsistent
    )
    del category
    events = Interactions(
        Path(path).name, user=users, item=items, time=time, value=None, user_ids=user_ids, item_ids=item_ids
    )
    return events.to_sequences(), SideInfo({"category": column}, {})


def _read_events(
    path: str | Path, behaviours: Sequence[str], window: tuple[int, int] | None, outside: str
) -> list[np.ndarray]:
    """User, item and category, int32 [N], and time, int64 [N], of the wanted events."""
    pa = import_pyarrow(str(path))
    types = dict.fromkeys(_COLUMNS, pa.int64()) | {"behaviour": pa.dictionary(pa.int32(), pa.string())}
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in (*_IDS, "time")}
    line = 1
    for block in read_blocks(path, types, names=_COLUMNS):
        kept = _has_behaviour(path, column=block.column("behaviour"), behaviours=behaviours, line=line)
        time = integer_cells(path, name="time", cells=block.column("time"), line=line)
        if window is not None:
            late = (time < window[0]) | (time >= window[1])
            if (late & kept).any() and outside == "error":
                at = int((late & kept).argmax())
                raise ValueError(
                    f"{path}, line {line + at}: time {time[at]} is not in {window[0]}..{window[1] - 1}; "
                    "outside='drop' leaves such events out, window= sets another range"
                )
            kept &= ~late
        for name in _IDS:
            blocks[name].append(
                integer_cells(path, name=name, cells=block.column(name), line=line, bits=32)[kept]
            )
        blocks["time"].append(time[kept])
        line += block.num_rows
    if not any(part.size for part in blocks["time"]):
        raise ValueError(
            f"{path}: none of {line - 1:,} events is a {' or '.join(behaviours)} in the window; "
            "name other behaviours or times"
        )
    return [np.concatenate(blocks.pop(name)) for name in list(blocks)]


def _has_behaviour(path: str | Path, column: object, behaviours: Sequence[str], line: int) -> np.ndarray:
    """Where a block's behaviour is a wanted one, bool [n]."""
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    values = [*column.dictionary.to_pylist(), ""]  # type: ignore[attr-defined]
    known = np.array([value in BEHAVIOURS for value in values])[codes]
    if not known.all():
        at = int(known.argmin())
        raise ValueError(
            f"{path}, line {line + at}: behaviour {values[codes[at]]!r}: expected one of "
            f"{', '.join(BEHAVIOURS)}; repair the line"
        )
    return np.array([value in behaviours for value in values])[codes]


def _number_ids(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers raw ids 1..n in ascending order: the ids, int32 [N], and the distinct raw ids, [n]."""
    values = np.unique(raw)
    ids = np.empty(len(raw), np.int32)
    for first in range(0, len(raw), _CHUNK):
        part = slice(first, first + _CHUNK)
        ids[part] = np.searchsorted(values, raw[part]) + 1
    return ids, values
