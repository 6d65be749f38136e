"""Hours that users of Steam played games, without times or lengths (Kaggle, tamber/steam-video-games).

Read from the archive in which A. Fortes numbered users and games, from a data folder: it has no public
address here.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np

from jaxrec.data.cells import parse_integer, parse_number
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.sources.dataset import Dataset, Expected, check_statistics, find_by_name
from jaxrec.data.store import File, Source, read_file, show_terms

SOURCE = Source(
    "steam",
    title="Steam video games, 200,000 behaviours (Kaggle, tamber/steam-video-games)",
    homepage="https://www.kaggle.com/tamber/steam-video-games",
    licence="public data of Steam, see Kaggle",
    terms="Gathered from public Steam data; name the source.",
)
_FILE = File(
    "steam-caserec/steam.zip",
    sha256="befdc608cb06f83b97f9d7a34437ca3d76a8ad648dd9304d837ebe3fdf92a77e",
    size=823340,
)
_HEADER = b"User_ID\tGame_ID\tHours"
DATASETS = (Dataset("hours", ((_FILE,),), Expected(users=11_350, items=3_600, interactions=70_477)),)


def load_interactions(name: str = "hours") -> Interactions:
    """A user, a game and the hours played, value, float32, at least 0.1; in file order.

    Twelve pairs stand twice in the file; the longer one stays.
    """
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    with zipfile.ZipFile(io.BytesIO(read_file(_FILE))) as archive:
        found = parse(archive.read("steam/game_play.dat"), _FILE.path)
    check_statistics(found.name, found.to_sequences().statistics(), dataset.expected)
    return found


def load(name: str = "hours") -> Sequences:
    """Every game that was played is an event, in file order, as there are no times."""
    return load_interactions(name).to_sequences()


def parse(content: bytes, where: str) -> Interactions:
    """Lines `user game hours` with a header, of which the longest hours of each pair stay.

    Raises:
      ValueError: another header, or a line that is not two positive numbers and positive hours; names it.
    """
    header, _, body = content.partition(b"\n")
    if header.strip() != _HEADER:
        raise ValueError(f"{where}: starts with {header[:60]!r}, expected the header {_HEADER!r}")
    rows = [line.decode(errors="replace").split("\t") for line in body.splitlines()]
    try:
        user, item = (np.array([parse_integer(row[k]) for row in rows], np.int64) for k in (0, 1))
        hours = np.array([parse_number("hours", row[2]) for row in rows])
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{where}: expected lines `user game hours` of numbers: {error}") from error
    bad = np.flatnonzero(~((user > 0) & (item > 0) & (hours > 0) & np.isfinite(hours)))
    if bad.size or not len(rows):
        line = bad[0] + 2 if bad.size else 2
        raise ValueError(f"{where}, line {line}: expected positive ids and hours")
    order = np.lexsort((np.arange(len(rows)), -hours, item, user))
    first = np.append(True, (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0))
    kept = np.sort(order[first])
    return Interactions.from_raw(
        "steam/hours",
        user=user[kept],
        item=item[kept],
        time=None,
        value=hours[kept].astype(np.float32),
        order="sorted",
    )
