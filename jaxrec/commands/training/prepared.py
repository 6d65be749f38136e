"""What a kind of data and a model give, before anything is trained or written."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.protocols.gates import Shares
from jaxrec.serve.content import Tower
from jaxrec.types import Protocol, Tested, Variables

Metrics = list[dict[str, float]] | Tested  # of each seed
# {vocabulary: number of further ids} -> shapes of the variables of the same model with a larger vocabulary
Shapes = Callable[[Mapping[str, int]], Variables]


class BaselineRow(NamedTuple):
    """A method that is not trained, and its test metrics. dataset: of its result; "": that of the run."""

    name: str
    metrics: Metrics
    protocol: Protocol
    dataset: str = ""


class Prepared(NamedTuple):
    """A run that can begin: its data are read and checked, its model is built.

    name: of its row, such as "sasrec-ce"; dataset: of its result files. train: (options of `train.fit.fit`)
    -> the run; test: (variables) -> metrics of each seed; baselines: () -> their rows. kept: the other
    fields of `serve.run_folder.Kept`. vocabularies: raw ids by name, such as {"item": [V]}, in the order of
    their numbers. shapes: see `Shapes`; None: no run of the model starts from another one. constants:
    variables of the model that are given instead of learned. begin: what makes a run's first variables of
    drawn ones, as `initial` of `train.fit.fit`, where they are those of a run of another model; None: not so.
    calibrate: (variables) -> the same with calibrators, which are tested and kept; None: without.
    also: (variables) -> further tests of the model, which have protocols and data sets of their own.
    shares: (variables) -> how much each task uses each expert; of: the examples of that, in words.
    finished: (variables) -> the module and the variables that are kept in their place, such as final vectors;
    None: these are kept. module: None where it is known only then.
    tower: (variables) -> what makes vectors of new items, which is kept too; None: nothing does.
    notes: lines that a user should read before training. next_command: what to type after training, RUN
    standing for the folder.
    """

    name: str
    dataset: str
    module: Any
    protocol: Protocol
    train: Callable[..., Any]
    test: Callable[[Variables], Tested]
    baselines: Callable[[], Sequence[BaselineRow]]
    kept: Mapping[str, Any]
    vocabularies: Mapping[str, np.ndarray]
    shapes: Shapes | None
    constants: Mapping[str, Any] = {}
    begin: Callable[[Variables, Sequence[int]], Variables] | None = None
    calibrate: Callable[[Variables], Variables] | None = None
    also: Callable[[Variables], Sequence[BaselineRow]] | None = None
    shares: Callable[[Variables], Shares] | None = None
    of: str = ""
    finished: Callable[[Variables], tuple[Any, Variables]] | None = None
    tower: Callable[[Variables], Tower] | None = None
    notes: Sequence[str] = ()
    next_command: str = ""


def recommend_command(first: Any, option: str = "--user") -> str:
    """What asks for lists of a user or a history, to be typed into a shell, RUN standing for the folder."""
    return f"jaxrec recommend RUN {option} {shlex.quote(str(first))} --k 10"
