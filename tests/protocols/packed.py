"""What a protocol gives to `fit`, for tests of its shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import pytest

from jaxrec.train.fit import Phase
from jaxrec.types import Array, Key


def rows_of_step(monkeypatch: pytest.MonkeyPatch, module: Any, train: Callable[[], Any]) -> int:
    """Packed rows of a step of what `train` gives to the module's `fit_reusing`, which is not run."""
    found: list[int] = []

    def see(
        phases: Sequence[Phase], tx: Any, plan: Any, context: Mapping[str, Any], *rest: Any, **more: Any
    ) -> None:
        def items(key: Key, context: Mapping[str, Any]) -> Array:
            drawn, _ = plan.draw(key, context)
            return phases[0].task.prepare(key, jax.tree.map(lambda x: x[0], drawn), context)["items"]

        found.append(jax.eval_shape(items, jax.random.key(0), dict(context)).shape[0])

    monkeypatch.setattr(module, "fit_reusing", see)
    train()
    return found[0]
