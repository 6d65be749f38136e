"""The model of a run as a function of arrays alone, for `jax.export` and ONNX.

A program is called as function(weights, inputs). Weights are flat, {"params/table": array}; the numbers of
examples (b), of events (n) and of excluded items (m) of the inputs are symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from jaxrec import metrics
from jaxrec.data.tables.features import Encoders
from jaxrec.index import chunked
from jaxrec.index.chunked import Block
from jaxrec.serve import queries
from jaxrec.serve.probabilities import class_probabilities, probabilities
from jaxrec.tasks.ctr import behaviours
from jaxrec.tasks.deep_retrieval import was_found
from jaxrec.tasks.profile import with_token
from jaxrec.types import Array, Retriever, Scorer, Variables

if TYPE_CHECKING:
    from jaxrec.serve.run_folder import Kept

Weights = Mapping[str, Any]
PLATFORMS = ("cpu", "cuda", "tpu")
BATCH, EVENTS, EXCLUDED = export.symbolic_shape("b, n, m")


class Program(NamedTuple):
    """function(weights, inputs) -> outputs, each a dict of arrays; inputs: their shapes and types."""

    function: Callable[[Weights, Mapping[str, Any]], dict[str, Array]]
    inputs: Mapping[str, jax.ShapeDtypeStruct]


def make_program(kept: Kept, weights: Weights, *, k: int, mean: bool = False) -> Program:
    """The program of a run. k: items of a list, for runs that recommend. mean: of weights with seeds."""
    if kept.kind == "table":
        assert kept.encoders is not None
        return table_program(kept.module, kept.outputs, kept.encoders, mean=mean)
    if kept.kind == "profile":
        return class_program(kept.module, kept.outputs, mean=mean)
    if kept.kind == "clicks":
        assert kept.histories is not None
        with_times = [False] if kept.histories.times is None else [False, True]
        made = [
            click_program(kept.module, kept.outputs, length=kept.length, users=users, timed=timed, mean=mean)
            for users, timed in itertools.product([False, True], with_times)
        ]
        return next((program for program in made if _can_be_called(program, weights)), made[-1])
    return item_program(
        queries.model_of(kept, mean=mean),
        num_items=len(kept.vocabulary["item"]),
        k=k,
        timed=queries.reads_times(kept),
        users=kept.kind == "factors",
        acted=kept.kind == "actions",
    )


def trace(
    program: Program, weights: Weights, *, name: str = "the model", platforms: Sequence[str] = PLATFORMS
) -> export.Exported:
    """A program for all platforms and any number of examples.

    Raises:
      ValueError: its shapes depend on the number of examples in a way that has no symbolic form.
    """
    specs = {key: jax.ShapeDtypeStruct(np.shape(array), array.dtype) for key, array in weights.items()}
    try:
        return export.export(jax.jit(program.function), platforms=platforms)(specs, dict(program.inputs))
    except (TypeError, ValueError, NotImplementedError, jax.errors.InconclusiveDimensionOperation) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name}: can't be exported for any number of examples ({first}); in a module of your own read "
            "sizes as x.shape[0] rather than len(x), and make no decision depend on them"
        ) from error


def _can_be_called(program: Program, weights: Weights) -> bool:
    """Whether a program reads no more than its inputs."""
    try:
        jax.eval_shape(program.function, dict(weights), dict(program.inputs))
    except (KeyError, ValueError):  # a column of the batch is missing
        return False
    return True


def item_program(
    model: Retriever | Scorer,
    *,
    num_items: int,
    k: int,
    timed: bool = False,
    users: bool = False,
    acted: bool = False,
) -> Program:
    """The k best items after each history: {"scores": float [b, k], "items": int32 [b, k]}, best first.

    Its inputs: `histories` [b, n], whole histories of ids, oldest first, followed by zeros; `excluded`
    [b, m], ids that are in no list, followed by zeros; where `timed`, `times` [b, n], seconds since the
    first event of the history, and `now` [b], those of the question; where `acted`, `actions` [b, n], those
    of each event. Where `users`, in place of histories `users` [b], ids from 1.

    Where fewer than k items remain, a list ends in the score -inf and the id 0. Scores of a history for which
    the model gives NaN or infinity are NaN.
    """

    def asked(inputs: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
        if users:
            number = inputs["users"]
            return {"user": number - 1, "length": number * 0, "mask": number > 0}, {}
        histories = inputs["histories"]
        size, width = histories.shape
        row, length = jnp.arange(size, dtype=jnp.int32), (histories != 0).sum(axis=1, dtype=jnp.int32)
        columns = {"user": row, "length": length, "mask": jnp.ones(size, bool)}
        context: dict[str, Array] = {
            "items": jnp.pad(histories, ((0, 0), (0, 1))).reshape(-1),
            "start": row * (width + 1),
        }
        if acted:
            context["actions"] = jnp.pad(inputs["actions"], ((0, 0), (0, 1))).reshape(-1)
        if timed:
            slot = jnp.arange(width + 1)
            times = jnp.pad(inputs["times"], ((0, 0), (0, 1)))
            seconds = jnp.where(slot == length[:, None], inputs["now"][:, None], times)
            context |= {"seconds": seconds.reshape(-1)}
        return columns, context

    def function(weights: Weights, inputs: Mapping[str, Any]) -> dict[str, Array]:
        columns, context = asked(inputs)

        def leave_out(block: Block) -> Block:
            out = metrics.seen_mask(inputs["excluded"], len(block.ids), first=block.ids[0])
            if isinstance(model, Scorer):
                out = out | ~was_found(block.scores)
            return block._replace(scores=jnp.where(out, -jnp.inf, block.scores))

        read = chunked.reader(model, variables_of(weights), num_items=num_items)
        best = chunked.top_k(read(columns, context).every(leave_out), min(k, num_items))
        scores = jnp.where(best.finite[:, None], best.scores.astype(jnp.float32), jnp.nan)
        return {"scores": scores, "items": best.ids}

    read_of: dict[str, tuple[Any, ...]] = {"users": (BATCH,)} if users else {"histories": (BATCH, EVENTS)}
    inputs = {**read_of, "excluded": (BATCH, EXCLUDED)}
    if acted:
        inputs |= {"actions": (BATCH, EVENTS)}
    if timed:
        inputs |= {"times": (BATCH, EVENTS), "now": (BATCH,)}
    return Program(function, {name: jax.ShapeDtypeStruct(s, jnp.int32) for name, s in inputs.items()})


def table_program(
    module: Any, outputs: Mapping[str, int | str | None], encoders: Encoders, *, mean: bool = False
) -> Program:
    """Probabilities of each label, {label: float32 [b]}, of the columns of encoders."""

    def function(weights: Weights, inputs: Mapping[str, Any]) -> dict[str, Array]:
        mask = jnp.ones(next(iter(inputs.values())).shape[0], bool)
        return probabilities(module, outputs, variables_of(weights), {**inputs, "mask": mask}, mean=mean)

    inputs = {}
    for field in encoders.fields:
        shape = (BATCH, encoders.widths[field.name]) if field.kind == "multi" else (BATCH,)
        kind = jnp.float32 if field.kind == "numeric" else jnp.int32
        inputs[field.name] = jax.ShapeDtypeStruct(shape, kind)
    return Program(function, inputs)


def class_program(module: Any, outputs: Mapping[str, int | str | None], *, mean: bool = False) -> Program:
    """Probabilities of each class, {class: float32 [b]}, after `histories` as of `item_program`."""

    def function(weights: Weights, inputs: Mapping[str, Any]) -> dict[str, Array]:
        histories = inputs["histories"]
        size, width = histories.shape
        length = (histories != 0).sum(axis=1, dtype=jnp.int32)
        end = jnp.arange(size, dtype=jnp.int32) * width + length
        sizes = {"token": module.num_items + 1, "max_len": module.max_len}
        batch = {"items": with_token(histories.reshape(-1), end, length, **sizes)}
        return class_probabilities(module, outputs, variables_of(weights), batch, mean=mean)

    return Program(function, {"histories": jax.ShapeDtypeStruct((BATCH, EVENTS), jnp.int32)})


def click_program(
    module: Any,
    outputs: Mapping[str, int | str | None],
    *,
    length: int,
    users: bool = False,
    timed: bool = False,
    mean: bool = False,
) -> Program:
    """Probabilities of each label, {label: float32 [b]}, of items after histories.

    Its inputs: `items` and, where `users`, `users`, ids [b]; `histories` and, where `timed`, `times` and
    `now`, as of `item_program`. length: most recent events that the module reads.
    """

    def function(weights: Weights, inputs: Mapping[str, Any]) -> dict[str, Array]:
        histories = inputs["histories"]
        size, width = histories.shape
        start = jnp.arange(size, dtype=jnp.int32) * width
        examples = {
            "item": inputs["items"],
            "start": start,
            "end": start + (histories != 0).sum(axis=1, dtype=jnp.int32),
            "mask": jnp.ones(size, bool),
        }
        if users:
            examples["user"] = inputs["users"]
        shared = {"events": histories.reshape(-1), "items": {}, "users": {}}
        if timed:
            examples["time"], shared["times"] = inputs["now"], inputs["times"].reshape(-1)
        batch = behaviours(examples, shared, length)
        return probabilities(module, outputs, variables_of(weights), batch, mean=mean)

    inputs: dict[str, tuple[Any, ...]] = {"items": (BATCH,), "histories": (BATCH, EVENTS)}
    if users:
        inputs |= {"users": (BATCH,)}
    if timed:
        inputs |= {"times": (BATCH, EVENTS), "now": (BATCH,)}
    return Program(function, {name: jax.ShapeDtypeStruct(s, jnp.int32) for name, s in inputs.items()})


# --- weights -----------------------------------------------------------------------------------------


def weights_of(variables: Variables) -> dict[str, np.ndarray]:
    """Variables as flat arrays that a .npz file can hold: those of bfloat16 as "name:bfloat16" of uint16."""
    found = {}
    for name, leaf in flatten_dict(dict(variables), sep="/").items():
        array = np.asarray(leaf)
        if array.dtype.kind == "V":  # a type that NumPy has not
            found[f"{name}:{array.dtype.name}"] = array.view(f"u{array.dtype.itemsize}")
        else:
            found[name] = array
    return found


def variables_of(weights: Weights) -> dict[str, Any]:
    """The variables that `weights_of` made flat."""
    flat = {}
    for name, array in weights.items():
        name, _, kind = name.partition(":")
        flat[name] = jax.lax.bitcast_convert_type(array, jnp.dtype(kind)) if kind else array
    return unflatten_dict(flat, sep="/")
