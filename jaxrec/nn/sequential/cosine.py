"""Cosines for any sequence encoder, as the research code of HSTU scores SASRec too (arXiv:2402.17152)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jaxrec.nn.sequential.hstu import unit
from jaxrec.types import Array


class Cosine(nn.Module):
    """An encoder whose outputs and item vectors are divided by their length, so that a score is a cosine.

    encoder: a module with `__call__(items, ...) -> [B, L, D]`, `item_table() -> [V, D]` and `max_len`.
    epsilon: vectors shorter than this are divided by it; zero stays zero.
    """

    encoder: Any
    epsilon: float = 1e-6

    @property
    def max_len(self) -> int:
        return int(self.encoder.max_len)

    def __call__(self, items: Array, **columns: Any) -> Array:
        """Maps item ids [B, L] and what else the encoder reads to vectors of length 1, [B, L, D]."""
        return unit(self.encoder(items, **columns), self.epsilon)

    def item_table(self) -> Array:
        """Vectors of all ids, each of length 1 (padding: 0): [V, D]."""
        return unit(self.encoder.item_table(), self.epsilon)
