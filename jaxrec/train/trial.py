"""What a study of settings (`jaxrec.tuning`) gives a run: numbers, shared programs, and a look at each
epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.optim.adjustable import with_numbers
from jaxrec.train.state import TrainState

# (entry of the history, seconds of training, evaluation and compilation so far, whether the run is complete)
# -> False to end the run here
Watch = Callable[[Mapping[str, Any], float, bool], bool]


@dataclasses.dataclass(frozen=True)
class Trial:
    """Members of the seeds axis that differ in their seeds or in numbers that their optimiser reads.

    seeds: of each member; one seed may stand there several times. numbers: {setting: value of each member},
    see `optim.adjustable`. programs: compiled programs by name, which the first run fills and later ones
    use: give it to runs alone whose other settings and data are the same. begin: called before anything is
    built, with the metric of selection, whether lower is better, and the number of epochs. watch: called
    after each epoch, also for those of a checkpoint that is continued. reads: where given, is filled with
    the names of the settings that the optimiser reads.
    """

    seeds: Sequence[int]
    numbers: Mapping[str, Sequence[float]]
    programs: dict[str, Any]
    begin: Callable[[str, bool, int], None]
    watch: Watch
    reads: set[str] | None = None


def check_validation(trial: Trial | None, part: str) -> None:
    """Raises ValueError for a search of settings by metrics of another part than validation."""
    if trial is not None and part != "validation":
        raise ValueError(
            f"trial: this run would be measured on its {part} part, and settings are never chosen there; "
            "hold out a validation part and select by it"
        )


def replay(
    trial: Trial, history: Sequence[Mapping[str, Any]], compile_seconds: float, complete: bool
) -> bool:
    """Shows the epochs of a continued run to its trial; False if one of them ends the run."""
    seconds = compile_seconds
    for number, entry in enumerate(history):
        seconds += entry["seconds"]
        if not trial.watch(entry, seconds, complete and number == len(history) - 1):
            return False
    return True


def put_numbers(state: TrainState, trial: Trial) -> TrainState:
    """The state of all members with the numbers of the trial in that of the optimiser."""
    return state.replace(opt_state=with_numbers(state.opt_state, trial.numbers))


def zero_diverged(state: TrainState, entry: dict[str, Any], num_devices: int) -> TrainState:
    """The state with zeros in place of the floats of diverged members, so that the others can go on.

    A member has diverged if a loss or a parameter is not finite; the entry then says so as `diverged`.

    state: of all members, [S, …], behind an axis of devices if there are several. entry: of the history.
    """
    params = state.params if num_devices == 1 else jax.tree.map(lambda x: x[0], state.params)
    finite = np.all([np.isfinite(value) for value in entry.values() if isinstance(value, list)], axis=0)
    for leaf in jax.tree.leaves(params):
        finite &= np.asarray(jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1))
    entry["diverged"] = [not one for one in finite.tolist()]
    if finite.all():
        return state
    lead = () if num_devices == 1 else (1,)

    def zero(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        keep = finite.reshape(*lead, -1, *[1] * (x.ndim - len(lead) - 1))
        return jnp.where(keep, x, jnp.zeros((), x.dtype))

    parts = {name: getattr(state, name) for name in ("params", "collections", "opt_state", "weighting")}
    return state.replace(**jax.tree.map(zero, parts))


def mark_undefined(entry: dict[str, Any], metric: str) -> None:
    """Notes as `diverged` the members whose validation metric, "valid/…" in the entry, is NaN or infinite."""
    pairs = zip(entry["diverged"], entry[metric], strict=True)
    entry["diverged"] = [gone or not np.isfinite(value) for gone, value in pairs]
