"""Every program that an experiment's test trains or measures with is lowered for accelerators too."""

from __future__ import annotations

from typing import Any

import pytest

from jaxrec.train.compiled import Compiled
from tests.lowering import repeated_float_adds


@pytest.fixture(autouse=True)
def accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs lower for CUDA, without a float scatter-add that may meet an id twice, and for TPU."""
    compile_here = Compiled.compile

    def compile_everywhere(self: Compiled, *args: Any) -> Any:
        if self._program is None and hasattr(self.fn, "trace"):
            traced = self.fn.trace(*args)
            assert repeated_float_adds(traced, "cuda") == []
            traced.lower(lowering_platforms=("tpu",))
        return compile_here(self, *args)

    monkeypatch.setattr(Compiled, "compile", compile_everywhere)
