"""Blocks whose activations are computed again in the backward pass (Chen et al., 2016, arXiv:1604.06174)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxrec.types import Array


def as_function(block: Any, *, remat: bool, **constants: Any) -> Callable[..., Array]:
    """A block as a function of arrays.

    remat: its activations are not kept for the backward pass, which computes them again from the block's
    inputs. Outputs, gradients, noise and the tree of parameters are the same. constants: arguments that are
    no arrays, such as `train`.
    """
    if not remat:
        return functools.partial(block, **constants)

    def call(block: Any, *arrays: Any, **named: Any) -> Array:
        found: Array = block(*arrays, **named, **constants)
        return found

    return functools.partial(nn.remat(call), block)
