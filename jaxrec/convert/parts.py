"""Arrays of another code base that are several of ours: cut to be converted, joined on the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import State, shape

PART = re.compile(r"(.+?)((?:\[\d+\])+)")


def cut(state: State, key: str, *sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """A state with the blocks of `key` in its place: `key[i]` of a vector, `key[i][j]` of a matrix.

    sizes: of the blocks along each axis.

    Raises:
      ValueError: the array is missing, or of another size than its blocks together.

    >>> sorted(cut({"w": np.zeros((2, 5))}, "w", (2,), (2, 3)))
    ['w[0][0]', 'w[0][1]']
    """
    whole, found = tuple(sum(axis) for axis in sizes), shape(state, key)
    if found != whole:
        raise ValueError(f"{key}: shape {found}, but the other parameters imply {whole}")
    blocks = {key: state[key]}
    for axis, lengths in enumerate(sizes):
        cuts = np.cumsum(lengths)[:-1]
        blocks = {
            f"{name}[{i}]": block
            for name, value in blocks.items()
            for i, block in enumerate(np.split(value, cuts, axis))
        }
    return {name: value for name, value in state.items() if name != key} | blocks


def joined(state: State) -> dict[str, np.ndarray]:
    """The inverse of `cut` for all of its keys: a state without blocks."""
    whole: dict[str, Any] = {}
    blocks: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    for name, value in state.items():
        if found := PART.fullmatch(name):
            numbers = tuple(int(n) for n in re.findall(r"\d+", found[2]))
            blocks.setdefault(found[1], {})[numbers] = value
        else:
            whole[name] = value
    return whole | {key: np.block(_nested(parts)) for key, parts in blocks.items()}


def _nested(parts: Mapping[tuple[int, ...], Any]) -> list[Any]:
    """Blocks by their numbers as the lists of lists that NumPy joins."""
    firsts = sorted({numbers[0] for numbers in parts})
    if len(next(iter(parts))) == 1:
        return [parts[(i,)] for i in firsts]
    return [_nested({n[1:]: value for n, value in parts.items() if n[0] == i}) for i in firsts]
