"""Sizes of modules are checked when they are made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxrec.nn.layers.sizes import check_sizes


def test_a_size_that_is_too_small_is_named() -> None:
    module = SimpleNamespace(dim=1, max_len=0, num_layers=0, spare_slots=-1)
    check_sizes(module, "dim")
    check_sizes(module, "num_layers", at_least=0)
    with pytest.raises(ValueError, match="^max_len=0: must be at least 1$"):
        check_sizes(module, "dim", "max_len")
    with pytest.raises(ValueError, match="^spare_slots=-1: must be at least 0$"):
        check_sizes(module, "num_layers", "spare_slots", at_least=0)
