"""Several labels of one example, with weights of the losses for each user.

A weighting of `jaxrec.optim` gives all users the same weights. Here each example has its own, from the
gradients of its own losses by what all tasks share: not the parameters, which would need a backward pass for
each example, but the representation that the module marks by `self.perturb("shared", z)` (the upper bound of
Sener and Koltun, NeurIPS 2018, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.optim.personal_weights import balanced_gram, personal_weights, squared_residual
from jaxrec.optim.task_gradients import safe_divisor
from jaxrec.tasks.multitask import FIXED, Model, Target, column, multitask, select_output
from jaxrec.types import Array, Batch, Key, Outputs, Task, Variables


class Chosen(NamedTuple):
    """Weights of the losses of each example [B, K], used without their gradient, and further losses [B]."""

    weights: Array
    terms: Mapping[str, Array] = {}


# (inner products of gradients [B, K, K], outputs, where=real examples [B], axis_name=…) -> weights
Choose = Callable[..., Chosen]


def closed_form(
    gram: Array, outputs: Outputs, *, where: Array | None = None, axis_name: str | None = None
) -> Chosen:
    """MGDA for each example, after `balanced_gram`, of the objectives that have a label of it.

    One without a label has the gradient 0 and would get all the weight.
    """
    balanced = balanced_gram(gram, where=where, axis_name=axis_name)
    return Chosen(personal_weights(balanced, leave_out_zeros=True))


def constant(*weights: float) -> Choose:
    """The same weights for all: a static weighting."""

    def choose(gram: Array, outputs: Outputs, **options: Any) -> Chosen:
        return Chosen(jnp.broadcast_to(jnp.array(weights, gram.dtype), gram.shape[:-1]))

    return choose


def by_actor(*, normalised: bool = True) -> Choose:
    """PAPERec's reward as a loss of the outputs "weights" [B, K] (`nn.multitask.weight_actor`).

    The actor minimises |Σ wₖ gₖ|², where the gradients are constants, and the losses take its weights as
    constants. An objective without a label of the example has the gradient 0, and all the weight would be
    best: the actor is judged by its weights of the others, divided by their sum. Departs from PAPERec, which
    learns a critic of the reward and its discounted sum along a list: the reward is a known function of the
    weights, so that of one step (a discount of 0) needs none.

    normalised: takes the scale of each objective out (`balanced_gram`). False, PAPERec's reward, prefers the
    objective of smaller gradients.
    """

    def choose(gram: Array, outputs: Outputs, **options: Any) -> Chosen:
        weights = outputs["weights"]
        there = jnp.diagonal(gram, axis1=-2, axis2=-1) > 0
        kept = jnp.where(there, weights, 0.0)
        kept = kept / safe_divisor(jnp.sum(kept, axis=-1, keepdims=True))
        judged = jnp.where(there.all(axis=-1, keepdims=True), weights, kept)
        reward = squared_residual(judged, balanced_gram(gram, **options) if normalised else gram)
        return Chosen(weights, {"actor": reward})

    return choose


def personalised(
    module: Model,
    targets: Sequence[Target],
    choose: Choose = closed_form,
    *,
    inputs: Callable[[Batch], Any] = lambda batch: batch,
    user: str | None = None,
) -> Task:
    """The task of predicting all targets, each example's losses weighted by `choose`.

    A named loss is the mean of w ℓ, so that their sum is what is trained: `loss_weighting.static`. With
    weights of sum 1 it is of the size of one loss.

    Args:
      module: as of `multitask`; it marks the shared representation, [B, D].
      targets: each loss is asked of one example at a time, so what it reads of the whole batch has no effect:
        `losses.reweighted` with by_weight, `hard_examples` or `f_beta`.
      user: a column; the gradients of its examples in the batch are added up, so that all of them have the
        weights of their user. None: each example for itself. Examples on other devices are not seen.

    Raises:
      ValueError: as `multitask`; while tracing: the module marks no representation.
    """
    plain = multitask(module, targets, inputs=inputs)

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        read = _examples(module, targets, inputs, variables, batch, key)
        gram = jax.lax.stop_gradient(_gram(read.gradients, batch, user))
        real = batch["mask"]
        chosen = choose(gram, read.outputs, where=real, axis_name=axis_name)
        weights = jax.lax.stop_gradient(chosen.weights)
        found = {
            target.name: losses.masked_mean(weights[:, k] * read.losses[:, k], real, axis_name)
            for k, target in enumerate(targets)
        }
        found |= {name: losses.masked_mean(term, real, axis_name) for name, term in chosen.terms.items()}
        updates = read.updates
        return found, updates if axis_name is None else jax.lax.pmean(updates, axis_name)

    return Task(plain.prepare, plain.init, loss, plain.predict)


def conflicts(
    module: Model,
    targets: Sequence[Target],
    *,
    inputs: Callable[[Batch], Any] = lambda batch: batch,
    user: str | None = None,
) -> Callable[[Variables, Batch], tuple[Array, Outputs]]:
    """(variables, batch) -> inner products of the gradients of each example [B, K, K], and the outputs.

    Without dropout, to look at examples that are not trained on.
    """

    def read(variables: Variables, batch: Batch) -> tuple[Array, Outputs]:
        found = _examples(module, targets, inputs, variables, batch, None)
        return _gram(found.gradients, batch, user), found.outputs

    return read


class _Read(NamedTuple):
    """losses [B, K]; gradients [K, B, D] of each by the shared representation; what the module gives."""

    losses: Array
    gradients: Array
    outputs: Outputs
    updates: Variables


def _examples(
    module: Model,
    targets: Sequence[Target],
    inputs: Callable[[Batch], Any],
    variables: Variables,
    batch: Batch,
    key: Key | None,
) -> _Read:
    kept = {name: tree for name, tree in variables.items() if name != "perturbations"}
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs(batch), train=False))
    if "perturbations" not in shapes:
        raise ValueError(
            "the model marks no shared representation: pass the input of all tasks through "
            'self.perturb("shared", z)'
        )
    probes = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes["perturbations"])
    train = key is not None
    mutable = [name for name in kept if name not in FIXED] if train else []

    def each(probes: Any) -> tuple[Array, tuple[Outputs, Variables]]:
        given = {**kept, "perturbations": probes}
        rngs = {"dropout": key} if train else {}
        outputs, updates = module.apply(given, inputs(batch), train=train, rngs=rngs, mutable=mutable)
        found = [_each_loss(target, outputs, batch) for target in targets]
        return jnp.stack(found, axis=-1), (outputs, updates)

    values, pull_back, (outputs, updates) = jax.vjp(each, probes, has_aux=True)
    count, number = values.shape
    ones = jnp.broadcast_to(jnp.eye(number, dtype=values.dtype)[:, None], (number, count, number))
    (slopes,) = jax.vmap(pull_back)(ones)
    gradients = [leaf.reshape(number, count, -1) for leaf in jax.tree.leaves(slopes)]
    return _Read(values, jnp.concatenate(gradients, axis=-1), outputs, updates)


def _each_loss(target: Target, outputs: Outputs, batch: Batch) -> Array:
    """The loss of each example, 0 where it has no label: [B]."""
    where = column(batch, "mask", target.name)
    if target.space is not None:
        where = where & column(batch, target.space, target.name)
    weight = None if target.weight is None else column(batch, target.weight, target.name)
    parts = [select_output(outputs, target), column(batch, target.label, target.name), where]

    def one(output: Array, label: Array, where: Array, *weight: Array) -> Array:
        extra = {"weight": weight[0][None]} if weight else {}
        return target.loss(output[None], label[None], where=where[None], axis_name=None, **extra)

    return jax.vmap(one)(*parts, *([] if weight is None else [weight]))


def _gram(gradients: Array, batch: Batch, user: str | None) -> Array:
    """Inner products [B, K, K] of gradients [K, B, D], those of a user's examples added up first."""
    if user is not None:
        ids = column(batch, user, "user")
        same = (ids[:, None] == ids) & batch["mask"]
        gradients = jnp.einsum("bc,kcd->kbd", same.astype(gradients.dtype), gradients)
    return jnp.einsum("kbd,jbd->bkj", gradients, gradients, precision=jax.lax.Precision.HIGHEST)
