"""A run as an ONNX model, by jax2onnx; `docs/export.md` says which models it takes.

What it makes is run once by ONNX Runtime and compared with the model, since a converter of so many operations
may be wrong about one of them.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxrec.index.chunked import merged
from jaxrec.serve import queries
from jaxrec.serve.programs import BATCH, Program, Weights, make_program, variables_of
from jaxrec.tasks import interests, next_click, next_item
from jaxrec.types import Array, Retriever, Variables

if TYPE_CHECKING:
    from jaxrec.serve.run_folder import Kept

LIBRARIES = ("jax2onnx", "onnxruntime")
TOLERANCE = 1e-4  # relative and absolute, of float32 through other kernels


def to_onnx(kept: Kept, weights: Weights, *, mean: bool = False) -> bytes:
    """An ONNX model with the weights in it, for any number of examples.

    Of labelled rows and of clicks it has the inputs and outputs of the program (`programs.make_program`). Of
    encoders its inputs are those of `window_program`.

    mean: of weights with an axis of seeds.

    Raises:
      ImportError: jax2onnx or onnxruntime is not installed.
      ValueError: a baseline, a model of actions or of classes, or a model that jax2onnx can't convert or
        converts to something else.
    """
    if kept.kind in ("baseline", "actions", "profile"):
        raise ValueError(f"{kept.name}: a run of kind {kept.kind} has no ONNX form; leave out --onnx")
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {' and '.join(missing)}: pip install 'jaxrec[onnx]'")
    if kept.kind in ("sequence", "session", "multi-interest"):
        program = window_program(kept, mean=mean)
    else:
        program = make_program(kept, weights, k=1, mean=mean)
    return convert(program, weights, name=kept.name)


def window_program(kept: Kept, *, mean: bool = False) -> Program:
    """Scores of all items after windows: {"scores": float32 [b, num_items]}, column i - 1 for the number i.

    Its inputs: `items`, the numbers of the last `max_len` items, [b, max_len], the most recent last, with
    zeros before; of a model that reads times, `times` and `target_times`, seconds of each event and of the
    next one, the last being the question's, [b, max_len].
    """
    module, count = kept.module, len(kept.vocabulary["item"])

    merge = model.merge if isinstance(model := queries.model_of(kept), Retriever) else "best"

    def of_seed(variables: Variables, inputs: Mapping[str, Any]) -> Array:
        if kept.kind == "multi-interest":
            state = interests.filled(interests.encode(module, variables, inputs, None))
        elif kept.kind == "session":
            state = next_click.encode(module, variables, inputs["items"], queries.last_only(module))
        else:
            state = next_item.encode(module, variables, inputs, None)[:, -1]
        table = next_item.item_table(module, variables)[1 : count + 1]
        return merged(state, lambda one: one @ table.T, merge)

    def function(weights: Weights, inputs: Mapping[str, Any]) -> dict[str, Array]:
        variables = variables_of(weights)
        if mean:
            scores = jax.vmap(of_seed, in_axes=(0, None))(variables, inputs).mean(axis=0)
        else:
            scores = of_seed(variables, inputs)
        return {"scores": scores.astype(jnp.float32)}

    names = ["items", *(["times", "target_times"] if queries.reads_times(kept) else [])]
    spec = jax.ShapeDtypeStruct((BATCH, int(module.max_len)), jnp.int32)
    return Program(function, dict.fromkeys(names, spec))


def convert(program: Program, weights: Weights, *, name: str) -> bytes:
    """A program as ONNX, with its inputs and outputs under their names.

    Raises:
      ValueError: jax2onnx can't convert it, or its outputs for some inputs are others.
    """
    inputs, names = example(program), list(program.inputs)
    outputs = jax.device_get(jax.jit(program.function)(dict(weights), inputs))
    labels = list(outputs)

    def positional(*arrays: Array) -> tuple[Array, ...]:
        constants = {key: jnp.asarray(array) for key, array in weights.items()}
        found = program.function(constants, dict(zip(names, arrays, strict=True)))
        return tuple(found[label] for label in labels)

    reasons = []
    for function in (_traced(positional, program), positional):
        try:
            model = _converted(function, program, labels)
            _check(model, inputs, outputs)
            return model
        except Exception as error:  # of any kind: the libraries have no error of their own
            reasons.append(f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}")
    raise ValueError(
        f"{name}: jax2onnx can't convert this model ({'; '.join(dict.fromkeys(reasons))}); leave out --onnx"
    )


def example(program: Program) -> dict[str, np.ndarray]:
    """Two examples of a program's inputs; ids are small, as any vocabulary has them."""
    sizes = {"b": 2, "n": 4, "m": 2}
    found = {}
    for number, (name, spec) in enumerate(program.inputs.items()):
        shape = tuple(sizes[str(size)] if not isinstance(size, int) else size for size in spec.shape)
        values = 1 + (np.arange(np.prod(shape)) + number) % 2
        found[name] = np.sort(values.reshape(shape), axis=-1).astype(spec.dtype)
    return found


def _traced(function: Callable[..., Any], program: Program) -> Callable[..., Any]:
    """A function as the operations that JAX makes of it.

    jax2onnx replaces layers of Flax by functions of its own, which can't be mapped over experts.
    """
    jaxpr = jax.make_jaxpr(function)(*program.inputs.values())
    return jax.extend.core.jaxpr_as_fun(jaxpr)


def _converted(function: Callable[..., Any], program: Program, labels: list[str]) -> bytes:
    import jax2onnx

    with _quiet():
        model = jax2onnx.to_onnx(
            function,
            inputs=list(program.inputs.values()),
            input_names=list(program.inputs),
            output_names=labels,
        )
    content: bytes = model.SerializeToString()
    return content


def _check(model: bytes, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, Any]) -> None:
    """Raises ValueError where ONNX Runtime's outputs are not those of the program."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    read = {node.name for node in session.get_inputs()}
    found = session.run(list(outputs), {name: array for name, array in inputs.items() if name in read})
    for (label, expected), values in zip(outputs.items(), found, strict=True):
        if not np.allclose(values, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError(f"ONNX Runtime's {label} differ from the model's")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's warnings about types that it does not write down."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
