"""Programs that are compiled once, for the shapes of their first call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.train import parallel
from jaxrec.train.evaluate import Measure, check_finite
from jaxrec.types import Variables


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


class CompiledMeasure:
    """A measure over seeds and devices, compiled once: (variables, queries, context) -> [S, batches, B, …].

    variables have a leading seeds axis; queries are split over devices (`parallel.split_leading`).

    Raises:
      ValueError: a score was NaN or infinite.
    """

    def __init__(self, measure: Measure, num_devices: int) -> None:
        self.num_devices = num_devices
        fn = parallel.over_devices(parallel.over_seeds(measure), num_devices, (0, 0, 0), donate=False)
        self._program = Compiled(fn)

    @property
    def seconds(self) -> float:
        return self._program.seconds

    def compile(self, variables: Variables, queries: Any, context: Any) -> Any:
        """Compiles for these arguments and returns the shape of the values."""
        values, _ = self._program.compile(variables, queries, context)
        return jax.eval_shape(self._gather, values)

    def _gather(self, values: Any) -> Any:
        if self.num_devices == 1:
            return values
        return jnp.moveaxis(values, 0, 1).reshape(values.shape[1], -1, *values.shape[3:])

    def __call__(self, variables: Variables, queries: Any, context: Any) -> np.ndarray:
        values, bad = jax.device_get(self._program(variables, queries, context))
        check_finite(bad, "evaluation")
        if self.num_devices == 1:
            return values
        return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1, *values.shape[3:])
