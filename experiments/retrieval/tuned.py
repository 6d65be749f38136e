"""Methods without gradient descent on interaction matrices, with settings that validation chooses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxrec.protocols import retrieval
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Baseline, Protocol


class Grid(NamedTuple):
    """A method and the values of its settings that are tried, each with each; none: it has no settings.

    drawn: whether seeds differ.
    """

    make: Callable[..., Baseline]
    values: Mapping[str, Sequence[Any]] = {}
    drawn: bool = False


class Tuned(NamedTuple):
    """A fitted method, and the settings that were chosen for it."""

    baseline: Baseline
    chosen: Mapping[str, Any]


def tune(name: str, grid: Grid, data: retrieval.Data, protocol: Protocol) -> Tuned:
    """The method with the settings of the best `protocol.selection` on the validation part.

    Of one setting alone nothing is chosen, and the validation part is not read.
    """
    settings = [
        dict(zip(grid.values, each, strict=True)) for each in itertools.product(*grid.values.values())
    ]
    if len(settings) == 1:
        return Tuned(grid.make(data, **settings[0]), settings[0])
    best: tuple[float, Tuned] | None = None
    for chosen in settings:
        made = grid.make(data, **chosen)
        asked = retrieval.evaluation(made, data, protocol, "validation")
        value = evaluate(asked, made.for_seeds((0,)), data.columns)[0][protocol.selection]
        print(f"{name} {chosen}: validation {protocol.selection} {value:.4f}", flush=True)
        if best is None or value > best[0]:
            best = value, Tuned(made, chosen)
    assert best is not None  # a grid without values has one setting, the empty one
    return best[1]
