"""Settings of methods without gradient descent, chosen on the validation part of a split."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrec.protocols import retrieval
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Baseline, Evaluation, Protocol


def choose(
    name: str,
    make: Callable[[Mapping[str, Any]], Baseline],
    grid: Mapping[str, Sequence[Any]],
    data: Any,
    protocol: Protocol,
    *,
    evaluation: Callable[..., Evaluation] = retrieval.evaluation,
) -> dict[str, Any]:
    """The settings with the best `protocol.selection`, each value of the grid tried with each; the first of
    equal ones. make: settings -> the fitted method. evaluation: that of the protocol, of data like these."""
    tried: list[tuple[float, dict[str, Any]]] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        made = make(settings)
        asked = evaluation(made, data, protocol, "validation")
        value = evaluate(asked, made.for_seeds((0,)), data.columns)[0][protocol.selection]
        print(f"{name} {settings}: validation {protocol.selection} {value:.4f}", flush=True)
        tried.append((value, settings))
    return max(tried, key=lambda one: one[0])[1]
