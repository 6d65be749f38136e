"""Modules that a model builds itself, with fields that whoever builds the model has chosen."""

from __future__ import annotations

import functools
from typing import Any


class Factory(functools.partial[Any]):
    """A module class and values of some of its fields: what a model builds its MLPs or gates with.

        MMoE(2, mlp=Factory(MLP, dropout=0.1), gate=Factory(Gate, dims=(16,)))

    A class alone, or `functools.partial` of one, will do as well. But two partials are never equal, and a
    model is as equal as its fields: of two models with equal factories, programs compiled for one (as a
    static argument of `jax.jit`) also run the other.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Factory):
            return NotImplemented
        return (self.func, self.args, self.keywords) == (other.func, other.args, other.keywords)

    def __hash__(self) -> int:
        return hash((self.func, self.args, frozenset(self.keywords.items())))
