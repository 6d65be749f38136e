"""Where a training stopped being finite: at which step, by which loss, or in its parameters.

An epoch is one compiled call, so the counts are made inside it and read behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array

LOSS, PARAMETERS = "finite steps of ", "finite parameters"  # names beside those of losses


class Diverged(ValueError):
    """A loss or a parameter is NaN or infinite."""


def finite_counts(logs: Mapping[str, Array], live: Array, params: Any) -> dict[str, Array]:
    """For each loss, how many steps were finite before the first that was not, of a scan's logs [steps].

    Steps that were not run count as finite. Also whether all parameters are finite behind the last step.
    """
    counts = {
        LOSS + name: jnp.cumprod(jnp.where(live, jnp.isfinite(values), True).astype(jnp.int32)).sum()
        for name, values in logs.items()
    }
    return {**counts, PARAMETERS: all_finite(params)}


@jax.jit
def all_finite(params: Any) -> Array:
    """Whether all values of a tree's floats are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite = [jnp.isfinite(jnp.max(jnp.abs(leaf), initial=0)) for leaf in leaves]  # no array of bools
    return jnp.stack(finite).all() if finite else jnp.array(True)


def taken(means: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Takes what `finite_counts` gave out of the means of each call of an epoch."""
    return [
        {name: of_call.pop(name) for name in list(of_call) if name.startswith(LOSS) or name == PARAMETERS}
        for of_call in means
    ]


def check_finite(
    epoch: int, values: Mapping[str, Any], counts: Sequence[Mapping[str, Any]], steps: Sequence[int]
) -> None:
    """Raises Diverged for an epoch in which a loss was not finite, or behind which a parameter is not.

    values: means of the losses, a list over seeds each. counts: as of `taken`, by call; steps: of each call.
    """
    first: dict[str, int] = {}
    for name in [name for name in counts[0] if name.startswith(LOSS)]:
        for call, of_call in enumerate(counts):
            count = int(np.min(of_call[name]))
            if count < steps[call]:
                first.setdefault(name.removeprefix(LOSS), sum(steps[:call]) + count)
    if first:
        step = min(first.values())
        names = [name for name in first if first[name] == step]
        name = next((name for name in names if name != "loss"), names[0])  # the total, if no part is
        raise Diverged(
            f"epoch {epoch}: loss {name!r} is {values[name]} from step {step} of {sum(steps)} on: training "
            "diverged; lower the learning rate, or look at the last checkpoint. Where it is so from the "
            "first step, an id lies outside its table, or shortened sequences never fit their packed rows"
        )
    if not all(np.all(of_call[PARAMETERS]) for of_call in counts):
        raise Diverged(
            f"epoch {epoch}: some parameters are NaN or infinite behind its last step, though its losses are "
            "finite: training diverged; lower the learning rate, or look at the last checkpoint"
        )


def check_metric(epoch: int, metric: str, values: Sequence[float]) -> None:
    """Raises ValueError where a validation metric, by which an epoch is chosen, is NaN or infinite.

    values: of each seed. Such a value would be compared with others as if it were the worst.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            f"epoch {epoch}: valid/{metric} is {[float(value) for value in values]}: no epoch can be chosen "
            "by a number that is NaN or infinite; choose by another metric, or mend its `summarise` or data"
        )
