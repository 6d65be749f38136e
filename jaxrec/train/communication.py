"""What a step costs between devices and in memory: read from its compiled program, and predicted by formula.

Bytes are those that one device sends, with rings (Thakur et al., IJHPCA 2005, doi:10.1177/1094342005051521):
of a result of b bytes on N devices an all-gather sends (N - 1) / N · b, a reduce-scatter (N - 1) · b (its
result is a part), an all-to-all (N - 1) / N · b, an all-reduce 2 (N - 1) / N · b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_OPERATION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")  # a tuple's type has = in its comments
_SHAPE = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


class Collective(NamedTuple):
    """An exchange of a compiled program. bytes: of its result on one device."""

    kind: str
    bytes: int

    def sent(self, num_devices: int) -> float:
        """Bytes that a device sends."""
        parts = (num_devices - 1) / num_devices
        factor = {"all-reduce": 2 * parts, "reduce-scatter": num_devices - 1, "collective-permute": 1}
        return self.bytes * factor.get(self.kind, parts)


def collectives(text: str) -> list[Collective]:
    """The exchanges in the text of a compiled program, each once: those of a loop's body are of one turn.

    text: `program.lower(…).compile().as_text()`.
    """
    found = []
    for shapes, kind, started in _OPERATION.findall(text):
        sizes = [_bytes(*shape) for shape in _SHAPE.findall(shapes)]
        found.append(Collective(kind, sizes[-1] if started else sum(sizes)))
    return found


def sent_bytes(found: Sequence[Collective], num_devices: int) -> dict[str, float]:
    """Bytes that a device sends, by kind."""
    sums: dict[str, float] = {}
    for collective in found:
        sums[collective.kind] = sums.get(collective.kind, 0) + collective.sent(num_devices)
    return sums


class TableCost(NamedTuple):
    """A sharded table and how it is read, see `train.sharded.Table`.

    num_rows, dim, capacity: V, D, C. bucket: ids from a device to an owner; None: gathered to all.
    memory: numbers that the optimiser remembers for each entry: 0 for SGD, 1 for Adagrad, 2 for Adam.
    """

    num_rows: int
    dim: int
    capacity: int
    bucket: int | None = None
    memory: float = 1
    itemsize: int = 4


def predicted_bytes(tables: Sequence[TableCost], dense: int, num_devices: int) -> dict[str, float]:
    """Bytes that a device sends in a step, by kind, as `sent_bytes` of its program; losses, counts and
    statistics of batch norm aside.

    dense: parameters that every device holds.
    """
    found = [Collective("all-reduce", 4 * dense)]
    for table in tables:
        row, ids = table.dim * table.itemsize, table.capacity + 1
        if table.bucket is None:
            found += [
                Collective("all-gather", 4 * ids * num_devices),
                Collective("reduce-scatter", ids * row),
                Collective("all-gather", ids * row * num_devices),
            ]
        else:
            found += [Collective("all-to-all", b * num_devices * table.bucket) for b in (4, row, row)]
    return sent_bytes(found, num_devices)


def predicted_memory(tables: Sequence[TableCost], dense: int, num_devices: int, *, slots: int = 2) -> int:
    """Bytes on each device of all that lasts from step to step: tables, their optimisers', and layers.

    slots: numbers that the optimiser of the layers remembers for each parameter, 2 for Adam.
    """
    of_tables = sum(t.num_rows * t.dim * t.itemsize * (1 + t.memory) for t in tables)
    return int(-(-of_tables // num_devices) + 4 * dense * (1 + slots))


def _bytes(kind: str, bits: str, dimensions: str) -> int:
    size = 1
    for length in filter(None, dimensions.split(",")):
        size *= int(length)
    return size * (max(int(bits) // 8, 1) if bits else 1)  # of a type without a width: pred
