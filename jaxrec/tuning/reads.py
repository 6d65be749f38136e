"""Which settings a row reads, and which of them its optimiser alone reads: found by watching it being
built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxrec.optim.adjustable import adjustable
from jaxrec.train.fit import Fitted
from jaxrec.train.trial import Trial

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


class Measured(NamedTuple):
    """Validation values of a method that is not trained: one for each seed. metric: its name."""

    metric: str
    values: list[float]
    lower_is_better: bool = False


# (settings, trial) -> the run, selected on validation; never reads the test split
Train = Callable[[Any, Trial], Fitted | Measured]


class Row(NamedTuple):
    """What is known of a row before its first trial.

    reads: settings that it reads. numbers: those of them that its optimiser alone reads. metric,
    lower_is_better, num_epochs: of its selection on validation.
    """

    reads: set[str]
    numbers: set[str]
    metric: str
    lower_is_better: bool
    num_epochs: int


class _Begun(Exception):
    """Training is about to begin: all that is built from settings has been."""


def inspect(train: Train, config: Any, seeds: tuple[int, ...]) -> Row:
    """Builds a row without training it. A method that is not trained is evaluated once."""
    seen: set[str] = set()
    by_optimiser: set[str] = set()
    selection: list[tuple[str, bool, int]] = []

    def begin(metric: str, lower_is_better: bool, num_epochs: int) -> None:
        selection.append((metric, lower_is_better, num_epochs))
        raise _Begun

    trial = Trial(seeds, {}, {}, begin, lambda entry, seconds, complete: True, by_optimiser)
    try:
        found = train(recorded(config, seen), trial)
    except _Begun:
        pass
    else:
        if not isinstance(found, Measured):
            raise ValueError("the row trained without its trial: pass `trial` to the function that trains")
        selection.append((found.metric, found.lower_is_better, 1))
    return Row(seen | by_optimiser, by_optimiser - seen, *selection[0])


def recorded(config: C, seen: set[str]) -> C:
    """A copy of a dataclass that adds the names of the fields that are read to `seen`; see `plain`."""
    names = {field.name for field in dataclasses.fields(config)}
    kind = type(config)

    def read(self: Any, name: str) -> Any:
        if name in names:
            seen.add(name)
        return object.__getattribute__(self, name)

    copy: Any = object.__new__(type(kind.__name__, (kind,), {"__getattribute__": read}))
    copy.__dict__.update(vars(config), _plain=config, _seen=seen)
    return copy  # type: ignore[no-any-return]


def follow(part: C, config: Any) -> C:
    """A part that was made of all fields of a `recorded` configuration, such as its recipe, recorded in its
    place; the part itself where the configuration is not recorded."""
    seen = vars(config).get("_seen")
    return part if seen is None else recorded(part, seen)


def plain(config: C) -> C:
    """The configuration itself where it is a `recorded` copy: reading all of it says nothing of a row."""
    found: C = vars(config).get("_plain", config)
    return found


class _View:
    """A configuration with other values for some settings, which may be traced."""

    def __init__(self, config: Any, values: Mapping[str, Any], reads: set[str] | None = None) -> None:
        self._config, self._values, self._reads = config, values, reads

    def __getattr__(self, name: str) -> Any:
        if self._reads is not None:
            self._reads.add(name)
        return self._values[name] if name in self._values else getattr(self._config, name)


def optimiser(
    build: Callable[[Any], optax.GradientTransformation], config: Any, trial: Trial | None
) -> optax.GradientTransformation:
    """The optimiser that `build` makes of a configuration's fields; in a trial, one that reads the trial's
    numbers from its state, so that trials which differ in them share one compiled program.

    build: reads the fields that it needs, such as `recipe.learning_rate`, and does nothing else with them
    than arithmetic.
    """
    if trial is None:
        return build(config)
    config = plain(config)
    if trial.reads is not None:
        made = build(_View(config, {}, trial.reads))
        jax.eval_shape(lambda w: made.update(w, made.init(w), w), jnp.zeros((2, 2)))  # what steps alone read
        return made
    if not trial.numbers:
        return build(config)
    first = {name: values[0] for name, values in trial.numbers.items()}
    return adjustable(lambda values: build(_View(config, values)), first)
