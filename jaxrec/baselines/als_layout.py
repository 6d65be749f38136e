"""How the two tables of alternating least squares lie on the devices: rows of similar length side by side.

A table is stored in the order in which its rows are solved: by buckets of the length of their histories,
dealt out evenly to the devices. The solved rows of all buckets one after the other are then the table itself,
and no row is ever written by its id.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # of buckets; then 1.5 and 2 times a power of two
CHUNK = 2048  # pairs that are solved at a time on a device; at width 128 their rows take 1 MiB of a cache


class Pairs(NamedTuple):
    """Observed pairs, each once, [N]. user, item: rows from 0. response, weight: float32 [N], or None: 1."""

    user: np.ndarray
    item: np.ndarray
    response: np.ndarray | None = None
    weight: np.ndarray | None = None


class Bucket(NamedTuple):
    """Rows with at most L pairs. R rows are solved at a time, C times on each of n devices.

    place: where the other row of each pair is stored, -1 where there is none, int32 [n C, R, L]. number: of
    the row's pairs, float32 [n C, R]. response, weight: [n C, R, L] or None for 1.
    """

    place: Any
    number: Any
    response: Any | None
    weight: Any | None


class Side(NamedTuple):
    """One table of V rows, stored at P places. row: stored at each place, -1 for none, int32 [P].
    place: of each row, int32 [V]. number: of each row's pairs, [V]."""

    row: np.ndarray
    place: np.ndarray
    number: np.ndarray
    buckets: list[Bucket]

    def stored(self, table: np.ndarray) -> np.ndarray:
        """A table [V, D] as it is stored, [P, D]: rows without pairs, and places without a row, are 0."""
        used = (self.row >= 0) & (self.number[self.row] > 0)
        return np.where(used[:, None], table[self.row], 0).astype(np.float32)


def lay_out(pairs: Pairs, num_users: int, num_items: int, num_devices: int) -> tuple[Side, Side]:
    """The tables of users and of items, by the pairs."""
    ids = (pairs.user, pairs.item)
    numbers = [np.bincount(own, minlength=n) for own, n in zip(ids, (num_users, num_items), strict=True)]
    shapes = [_shapes(number, num_devices) for number in numbers]
    rows = [_stored(number, shape, num_devices) for number, shape in zip(numbers, shapes, strict=True)]
    places = [_places(row, len(number)) for row, number in zip(rows, numbers, strict=True)]
    users, items = (
        Side(
            rows[side],
            places[side],
            numbers[side],
            _buckets(
                pairs, ids[side], places[1 - side][ids[1 - side]], rows[side], shapes[side], num_devices
            ),
        )
        for side in (0, 1)
    )
    return users, items


def _shapes(length: np.ndarray, num_devices: int) -> list[tuple[int, int, int]]:
    """(C, R, L) of each bucket, from short to long histories."""
    longest = int(length.max(initial=1))
    edges = [*LENGTHS]
    while edges[-1] < longest:
        edges.append(edges[-2] * 2)
    found, before = [], -1
    for edge in [*(edge for edge in edges if edge < longest), longest]:
        rows = -(-int(((length > before) & (length <= edge)).sum()) // num_devices)
        before = edge
        if rows:
            chunks = -(-rows // max(CHUNK // edge, 1))
            found.append((chunks, -(-rows // chunks), edge))
    return found


def _stored(length: np.ndarray, shapes: list[tuple[int, int, int]], num_devices: int) -> np.ndarray:
    """Which row is stored where, device after device and bucket after bucket."""
    order = np.argsort(length, kind="stable").astype(np.int32)
    ends = np.searchsorted(length[order], [edge for _, _, edge in shapes], side="right")
    blocks = []
    for (chunks, size, _), start, end in zip(shapes, [0, *ends], ends, strict=False):
        dealt = np.full((chunks * size, num_devices), -1, np.int32)
        dealt.reshape(-1)[: end - start] = order[start:end]
        blocks.append(dealt.T)
    return np.concatenate(blocks, axis=1).reshape(-1)


def _places(row: np.ndarray, num_rows: int) -> np.ndarray:
    place = np.zeros(num_rows, np.int32)
    place[row[row >= 0]] = np.flatnonzero(row >= 0)
    return place


def _buckets(
    pairs: Pairs,
    own: np.ndarray,
    other: np.ndarray,
    row: np.ndarray,
    shapes: list[tuple[int, int, int]],
    num_devices: int,
) -> list[Bucket]:
    """The histories of the stored rows. own: row of each pair; other: place of the other one."""
    order = np.argsort(own, kind="stable")
    first, end = np.searchsorted(own[order], [row, row + 1])
    number = np.where(row < 0, 0, end - first)
    by_device = np.arange(len(row)).reshape(num_devices, -1)
    found, start = [], 0
    for chunks, size, edge in shapes:
        here = by_device[:, start : start + chunks * size].reshape(num_devices * chunks, size)
        start += chunks * size
        real = np.arange(edge) < number[here][..., None]
        entry = order[np.where(real, first[here][..., None] + np.arange(edge), 0)]
        found.append(
            Bucket(
                place=np.where(real, other[entry], -1).astype(np.int32),
                number=number[here].astype(np.float32),
                response=None if pairs.response is None else np.where(real, pairs.response[entry], 0),
                weight=None if pairs.weight is None else np.where(real, pairs.weight[entry], 0),
            )
        )
    return found
