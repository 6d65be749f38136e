"""Programs that are compiled once, for the shapes of their first call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Compiled:
    """A function compiled for the shapes of its first call; other shapes are an error, not a new trace."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.seconds = fn, 0.0
        self._program: Callable[..., Any] | None = None
        self._returned: Any = None

    def compile(self, *args: Any) -> Any:
        """Compiles for these arguments, once, and returns the shapes of what a call returns."""
        if self._program is None:
            start = time.perf_counter()
            lowered = self.fn.lower(*args)  # type: ignore[attr-defined]
            self._returned = lowered.out_info
            self._program = lowered.compile()
            self.seconds = time.perf_counter() - start
        return self._returned

    def __call__(self, *args: Any) -> Any:
        self.compile(*args)
        assert self._program is not None
        return self._program(*args)
