"""Exact comparison of the variances of windows without 64-bit numbers.

All windows of a sequence have the same number `count` of gaps, so the window of least variance is the one of
least count * sum(d^2) - sum(d)^2, an integer below 2^96. Numbers are lists of 16-bit limbs, least significant
first, each limb a uint32 array: the limbs of a whole sequence can be added, and two limbs multiplied, before
carries are propagated.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from jaxrec.types import Array

MAX_WIDTH = 1 << 15  # longest sequence for which no limb and no sum overflows, gaps being below 2^31
_MASK = 0xFFFF


def _normalise(limbs: Sequence[Array], size: int) -> list[Array]:
    """Propagates carries: uint32 limbs below 2^32 - 2^16 become `size` limbs below 2^16."""
    out: list[Array] = []
    carry = jnp.zeros((), jnp.uint32)
    for i in range(size):
        limb = limbs[i] + carry if i < len(limbs) else carry
        out.append(limb & _MASK)
        carry = limb >> 16
    return out


def _multiply(a: Sequence[Array], b: Sequence[Array], size: int) -> list[Array]:
    """The product of two normalised numbers, as `size` limbs."""
    columns = [jnp.zeros((), jnp.uint32)] * (size + 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if i + j < size:
                product = x * y
                columns[i + j] += product & _MASK
                columns[i + j + 1] += product >> 16
    return _normalise(columns[:size], size)


def _subtract(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """a - b for normalised numbers with a >= b."""
    out: list[Array] = []
    borrow = jnp.zeros((), jnp.uint32)
    for x, y in zip(a, b, strict=True):
        limb = x - y - borrow
        out.append(limb & _MASK)
        borrow = limb >> 31
    return out


def scaled_variance(gaps: Array, first: int, end: Array, count: Array) -> tuple[Array, Array, Array]:
    """Exactly count^2 times the variance of every window of gaps, k + first .. k + end - 1 for window k.

    Args:
      gaps: integers below 2^31, uint32 [B, W].
      first: offset of a window's first gap.
      end: offset after its last gap, int32 [B].
      count: end - first, int32 [B].

    Returns: the 96-bit results as three uint32 words, most significant first, each [B, W]; meaningless for
      windows that extend beyond W.
    """
    low, high = gaps & _MASK, gaps >> 16
    cross = low * high
    squares = [low * low, (cross & _MASK) << 1, (cross >> 16) << 1, high * high]
    columns = [
        squares[0] & _MASK,
        (squares[0] >> 16) + squares[1],
        squares[2] + (squares[3] & _MASK),
        squares[3] >> 16,
    ]
    limbs = jnp.stack([low, high, *_normalise(columns, 4)])  # [6, B, W], 16 bits each
    before = jnp.pad(jnp.cumsum(limbs, axis=2), ((0, 0), (0, 0), (1, 0)))  # prefix sums
    width = gaps.shape[1]
    at = jnp.minimum(jnp.arange(width) + end[:, None], width)
    begin = jnp.pad(before[..., first:], ((0, 0), (0, 0), (0, first)))[..., :width]
    sums = jnp.take_along_axis(before, at[None], axis=2) - begin
    total = _normalise([sums[0], sums[1]], 3)
    squared = _normalise([sums[2], sums[3], sums[4], sums[5]], 5)
    scale = count.astype(jnp.uint32)[:, None]
    spread = _subtract(_multiply(squared, [scale], 6), _multiply(total, total, 6))
    return tuple(spread[i] | (spread[i + 1] << 16) for i in (4, 2, 0))  # type: ignore[return-value]


def first_extreme(words: Sequence[Array], valid: Array, *, largest: bool) -> Array:
    """The first column with the least (or largest) valid number in each row, int32 [B].

    Args:
      words: the numbers, most significant word first, each uint32 [B, W].
      valid: bool [B, W]; the result is W where none is valid.
    """
    candidates = valid
    for word in words:
        if largest:
            best = jnp.max(jnp.where(candidates, word, jnp.uint32(0)), axis=1, keepdims=True)
        else:
            best = jnp.min(jnp.where(candidates, word, jnp.uint32(0xFFFFFFFF)), axis=1, keepdims=True)
        candidates &= word == best
    width = valid.shape[1]
    return jnp.min(jnp.where(candidates, jnp.arange(width), width), axis=1).astype(jnp.int32)
