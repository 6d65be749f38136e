"""Files of interaction matrices: a line per user, `user item item …`, ids from 0."""

from __future__ import annotations

import numpy as np

from jaxrec.data.events.held_out import HeldOut
from jaxrec.data.sources.dataset import Expected


def parse_user_lines(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of each interaction, [N] twice, as in the file; a user alone on a line has none.

    Raises:
      ValueError: the file has no line, or something that is not a number; names the file and the line.
    """
    lines = [line for line in enumerate(content.splitlines(), start=1) if line[1].strip()]
    for number, line in lines:
        if line.translate(None, b"0123456789 \t"):
            raise ValueError(f"{where}, line {number}: {line[:60]!r}: expected numbers, `user item item …`")
    if not lines:
        raise ValueError(f"{where}: has no line; expected `user item item …`")
    numbers = np.array(content.split(), np.int64)
    count = np.array([len(line.split()) for _, line in lines])
    first = np.cumsum(count) - count
    return np.repeat(numbers[first], count - 1), np.delete(numbers, first)


def check_counts(split: HeldOut, expected: Expected, *, test: int) -> None:
    """Raises ValueError unless a matrix has the published numbers of users, items and interactions."""
    sequences = split.sequences
    found = {
        "users": (sequences.num_users, expected.users),
        "items": (sequences.num_items, expected.items),
        "interactions": (len(sequences.items), expected.interactions),
        "test interactions": (int((sequences.lengths - split.train_length).sum()), test),
    }
    for what, (is_, should) in found.items():
        if is_ != should:
            raise ValueError(
                f"{sequences.name}: {is_:,} {what}, expected {should:,}; the parser or file is wrong"
            )
