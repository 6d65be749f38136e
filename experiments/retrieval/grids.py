"""Settings of methods without gradient descent, chosen on the validation part of an interaction matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrec.protocols import retrieval
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Baseline, Protocol


def choose(
    name: str,
    make: Callable[[Mapping[str, Any]], Baseline],
    grid: Mapping[str, Sequence[Any]],
    data: retrieval.Data,
    protocol: Protocol,
) -> dict[str, Any]:
    """The settings with the best `protocol.selection`, each value of the grid tried with each; the first of
    equal ones. make: settings -> the fitted method."""
    tried: list[tuple[float, dict[str, Any]]] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        made = make(settings)
        asked = retrieval.evaluation(made, data, protocol, "validation")
        value = evaluate(asked, made.for_seeds((0,)), data.columns)[0][protocol.selection]
        print(f"{name} {settings}: validation {protocol.selection} {value:.4f}", flush=True)
        tried.append((value, settings))
    return max(tried, key=lambda one: one[0])[1]
