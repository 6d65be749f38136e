"""A method without gradient descent as a training run: fitted, and measured on validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxrec import provenance
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted
from jaxrec.tuning.reads import Measured
from jaxrec.types import Context, Evaluation, Retriever, Scorer, Variables

Fit = Callable[[Sequence[int]], tuple[Retriever | Scorer, Variables]]


def count_once(name: str, seeds: Sequence[int]) -> None:
    """Raises ValueError for several seeds of a method that draws no random numbers."""
    if len(seeds) > 1:
        raise ValueError(
            f"seeds={tuple(seeds)}: {name} draws no random numbers, so all seeds would be equal; give one"
        )


def fitted(
    fit: Fit,
    measure: Callable[[Retriever | Scorer], Evaluation],
    context: Context,
    metric: str,
    made: list[Retriever | Scorer],
    **given: Any,
) -> Fitted | Measured:
    """Fits a method for each seed and measures it on the validation part; `made` receives what was fitted.

    given: the arguments of `train.fit.fit`, of which seeds are read, and a trial of a search, which asks for
    the measure alone.
    """
    seeds, start = given["seeds"], time.perf_counter()
    model, variables = fit(seeds)
    made.append(model)
    seconds = time.perf_counter() - start
    found = evaluate(measure(model), variables, context)
    row: dict[str, Any] = {"epoch": 0, "phase": "fit", "seconds": seconds, "train_seconds": seconds}
    row |= {f"valid/{name}": [of[name] for of in found] for name in found[0]}
    done = Fitted(
        variables,
        [row],
        best_epoch=[0] * len(seeds),
        best_value=[of[metric] for of in found],
        steps=0,
        seconds=seconds,
        compile_seconds=0.0,
        made_by=({**provenance.manifest(), "first_epoch": 0},),
    )
    return done if given.get("trial") is None else Measured(metric, done.best_value)
