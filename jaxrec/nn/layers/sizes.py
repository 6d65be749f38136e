"""Sizes that a module is made with."""

from __future__ import annotations

from typing import Any


def check_sizes(module: Any, *fields: str, at_least: int = 1) -> None:
    """Raises ValueError for a field of a module that is too small, such as its width or number of layers."""
    for field in fields:
        if getattr(module, field) < at_least:
            raise ValueError(f"{field}={getattr(module, field)}: must be at least {at_least}")
