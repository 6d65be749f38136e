"""Whether the arrays of a run are the variables of its module, whose code may have changed since."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import calibration
from jaxrec.data.tables.features import Encoders
from jaxrec.serve.run_folder import Kept
from jaxrec.tasks.ctr import behaviours
from jaxrec.types import Batch, Retriever, Scorer

SHOWN = 5  # differences that a message names


def check_shapes(kept: Kept, where: str) -> None:
    """Traces the module's init and compares the shapes and types of its variables; nothing is computed.

    A baseline and final vectors have no init and pass. A click model may have more variables than its init
    without negatives.

    where: the run's folder, for messages.

    Raises:
      ValueError: a variable is missing, not the module's, or of another shape or type, or the init fails.
    """
    if isinstance(kept.module, Retriever | Scorer):
        return

    def init() -> Any:
        if kept.kind == "factors":
            one = jnp.ones(1, jnp.int32)
            return kept.module.init(jax.random.key(0), one, one[:, None], {}, train=False)
        example = _example(kept)
        more = (example,) if kept.kind == "actions" else ()  # an action of each event
        return kept.module.init(jax.random.key(0), example, *more, train=False)

    remedy = "restore the code of the run, or train again"
    try:
        expected = _shapes(jax.eval_shape(init), skip=0)
    except Exception as error:  # whatever the module's code raises
        raise ValueError(
            f"{where}: {type(kept.module).__name__} fails on inputs of this run "
            f"({type(error).__name__}: {error}); {remedy}"
        ) from error
    found = _shapes(calibration.split(kept.variables)[0], skip=1)
    differing = [
        f"{name} is {found.get(name, 'missing')}, of the module {expected.get(name, 'missing')}"
        for name in sorted({*expected, *({} if kept.kind == "clicks" else found)})
        if found.get(name) != expected.get(name)
    ]
    if differing:
        others = f" and {len(differing) - SHOWN:,} others" if len(differing) > SHOWN else ""
        raise ValueError(
            f"{where}: the arrays kept are not those of {type(kept.module).__name__} as it is now: "
            f"{'; '.join(differing[:SHOWN])}{others}; {remedy}"
        )


def _shapes(tree: Any, *, skip: int) -> dict[str, str]:
    """{a/b/c: type and shape} of arrays in nested mappings, without the first `skip` axes."""
    return {
        "/".join(str(getattr(key, "key", key)) for key in path): f"{leaf.dtype}{list(leaf.shape[skip:])}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _example(kept: Kept) -> Any:
    """What the module reads of one history, row or pair."""
    if kept.kind == "table":
        assert kept.encoders is not None
        return {**_row(kept.encoders), "mask": jnp.ones(1, bool)}
    if kept.kind == "clicks":
        ids = {name: jnp.ones(1, jnp.int32) for name in ("user", "item", "end")}
        pair = ids | {"start": jnp.zeros(1, jnp.int32), "mask": jnp.ones(1, bool)}
        shared: dict[str, Any] = {"events": jnp.ones(1, jnp.int32), "items": {}, "users": {}}
        if kept.histories is not None and kept.histories.times is not None:
            pair, shared = pair | {"time": ids["end"]}, shared | {"times": ids["end"]}
        return behaviours(pair, shared, kept.length)
    return jnp.ones((1, int(kept.module.max_len)), jnp.int32)


def _row(encoders: Encoders) -> Batch:
    """One row of encoded columns."""
    widths = {name: (1, width) for name, width in encoders.widths.items()}
    return {
        field.name: jnp.zeros(
            widths.get(field.name, (1,)), jnp.float32 if field.kind == "numeric" else jnp.int32
        )
        for field in encoders.fields
    }
