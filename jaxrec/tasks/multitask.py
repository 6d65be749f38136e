"""Several labels of one impression, by one model: a named loss a label, each over its own sample space.

Context columns are [N, …], an entry for each impression. A step's examples number impressions under "example"
and say under "mask" which are real; the batch is the columns of these impressions, and "mask".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.types import Array, Batch, Context, Key, Outputs, Task, Variables

Term = Callable[[Outputs, Batch, str | None], Array]  # (outputs, batch, axis name) -> this device's share
FIXED = ("params", "perturbations", "constants")  # collections that a step of training does not update


class Model(Protocol):
    """What the task needs of a Linen module, which draws from the "dropout" stream if at all."""

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


class Target(NamedTuple):
    """One supervised output.

    name: of the loss. output: column of outputs [B, T], name in a dict of [B], None for outputs [B], or a
    function of the outputs that gives it, [B].
    label: column of the batch.
    loss: such as `losses.focal`, called as loss(output, label, where=…, axis_name=…), with weight=… if there
    is one; gives this device's share.
    space: bool column of the examples that have this label, None for all. weight: column of their weights.
    """

    name: str
    output: int | str | Callable[[Outputs], Array] | None
    label: str
    loss: Callable[..., Array] = losses.binary_cross_entropy
    space: str | None = None
    weight: str | None = None


def multitask(
    module: Model,
    targets: Sequence[Target],
    *,
    inputs: Callable[[Batch], Any] = lambda batch: batch,
    terms: Mapping[str, Term] | None = None,
    penalties: Mapping[str, Callable[[Any], Array]] | None = None,
) -> Task:
    """The task of predicting all targets at once. predict returns the module's outputs, which are logits.

    All devices use the same key, so that what a module draws for the whole batch, such as SNR's gates, is the
    same on each; noise of single examples has to come from `bits` that know the device. What the module
    updates while it trains, such as batch statistics, is averaged over devices.

    Args:
      module: called as module(inputs(batch), train=…); it may mark a representation by `self.perturb`.
      inputs: what of the batch the module reads; by default all columns, as `nn.layers.features.Featured`
        takes them.
      terms: further losses of (outputs, batch, axis_name), such as AITM's calibrator, each giving this
        device's share.
      penalties: further losses of the parameters alone, functions of the bound module:
        {"l0": lambda model: model.open_edges()}.

    Raises:
      ValueError: neither target nor term, or a name twice; while tracing: a column or an output is missing.
    """
    terms, penalties = dict(terms or {}), dict(penalties or {})
    names = [*(target.name for target in targets), *terms, *penalties]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if not (targets or terms) or twice:
        raise ValueError(
            f"losses {names}: at least one target or term is needed, and no name twice ({twice})"
        )

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        if "mask" in context:
            raise ValueError("context column 'mask': the name of a batch's real examples; rename the column")
        number = examples["example"]
        return {**jax.tree.map(lambda column: column[number], dict(context)), "mask": examples["mask"]}

    def init(key: Key, batch: Batch) -> Variables:
        return module.init(key, inputs(batch), train=False)

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        outputs, updates = module.apply(
            variables,
            inputs(batch),
            train=True,
            rngs={"dropout": key},
            mutable=[name for name in variables if name not in FIXED],
        )
        found = {target.name: _loss(target, outputs, batch, axis_name) for target in targets}
        found |= {name: term(outputs, batch, axis_name) for name, term in terms.items()}
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        for name, penalty in penalties.items():
            found[name] = module.apply(variables, method=penalty) / devices
        return found, updates if axis_name is None else jax.lax.pmean(updates, axis_name)

    def predict(variables: Variables, batch: Batch) -> Outputs:
        return module.apply(variables, inputs(batch), train=False)

    return Task(prepare, init, loss, predict)


def _loss(target: Target, outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
    where = column(batch, "mask", target.name)
    if target.space is not None:
        where = where & column(batch, target.space, target.name)
    extra = {} if target.weight is None else {"weight": column(batch, target.weight, target.name)}
    label = column(batch, target.label, target.name)
    return target.loss(select_output(outputs, target), label, where=where, axis_name=axis_name, **extra)


def column(batch: Batch, name: str, target: str) -> Array:
    """A column that a target reads. Raises ValueError if the batch has none of this name."""
    if name not in batch:
        raise ValueError(f"target {target!r}: column {name!r} is not in the batch, which has {sorted(batch)}")
    return batch[name]


def select_output(outputs: Outputs, target: Target) -> Array:
    """The output [B] that belongs to a target.

    Raises:
      ValueError: the outputs have no such column or name.
    """
    if callable(target.output):
        return target.output(outputs)
    if target.output is None and not isinstance(outputs, Mapping) and outputs.ndim == 1:
        return outputs
    if isinstance(outputs, Mapping) != isinstance(target.output, str) or target.output is None:
        kind = f"a dict of {sorted(outputs)}" if isinstance(outputs, Mapping) else f"an array {outputs.shape}"
        raise ValueError(
            f"target {target.name!r}: output={target.output!r}, but the model gives {kind}; name an output "
            "of a dict, number a column of an array [B, T], give None for an array [B]"
        )
    if isinstance(target.output, str):
        if target.output not in outputs:
            raise ValueError(
                f"target {target.name!r}: no output {target.output!r}; the model gives {sorted(outputs)}"
            )
        return outputs[target.output]
    if outputs.ndim != 2 or not 0 <= target.output < outputs.shape[-1]:
        raise ValueError(f"target {target.name!r}: no output {target.output} in an array {outputs.shape}")
    return outputs[..., target.output]


def stacked(outputs: Outputs, targets: Sequence[Target]) -> Array:
    """The outputs of some targets, in their order: [B, targets]."""
    return jnp.stack([select_output(outputs, target) for target in targets], axis=-1)
