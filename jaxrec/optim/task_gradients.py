"""The gradients of single tasks, compared and combined: the common part of the `gradient_balancing` methods.

The forward pass runs once, and the backward pass once per task, for all tasks together. Gradients are
compared by their inner products, a matrix [K, K] that is summed over devices before it is used, so the result
does not depend on the number of devices.

The caller specifies the shared parameters by prefixes of their paths (`["embedding", "model/bottom"]`) or by
a predicate on the path. Besides `weight/<loss>`, `gradient_norm/<loss>` and `cosine/<a>:<b>` are logged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.optim.loss_weighting import Descent, TaskLosses, sum_over_devices, without_fixed
from jaxrec.types import Array, Key

Parameters = Sequence[str] | Callable[[str], bool]  # prefixes of paths such as "model/bottom", or a predicate
REPRESENTATION = "shared"  # name under which a model marks what tasks share: self.perturb("shared", z)


def all_parameters(path: str) -> bool:
    """All parameters."""
    return True


class GradientBalancing(NamedTuple):
    """A `Weighting` that depends on the gradients of the tasks.

    init() -> ({}, state)
    balance(state, losses, gram [K, K], key) -> (weights [K], state)
        losses, and gradients, are in alphabetical order.
    shared: parameters whose gradient is Σ wₖ gₖ; that of the others is Σ gₖ, usually of a single task.
    measured: parameters whose gradients `gram` compares; None: the representation that the model marks.
    fixed: weights of losses that the method does not balance.
    """

    init: Callable[[], tuple[Any, Any]]
    balance: Callable[[Any, dict[str, Array], Array, Key], tuple[Array, Any]]
    shared: Parameters
    measured: Parameters | None
    fixed: Mapping[str, float] = {}

    def with_fixed(self, fixed: Mapping[str, float]) -> GradientBalancing:
        """The same method, except for the losses in `fixed`, such as a penalty, which have fixed weights."""
        return self._replace(fixed=dict(fixed))

    def gradient(
        self, tasks: TaskLosses, params: Any, state: Any, key: Key, axis_name: str | None = None
    ) -> Descent:
        """Balances the gradients of the tasks.

        Raises (while tracing):
          ValueError: a prefix matches no parameter, the model marks no representation, or a loss is unknown.
        """
        model = params["model"]
        shared, measured = select_leaves(self.shared, model), select_leaves(self.measured, model)
        probes = _checked_probes(tasks) if self.measured is None else {}
        shares, pull_back, rest = jax.vjp(tasks.losses, model, probes, has_aux=True)
        losses = sum_over_devices(shares, axis_name)
        names = sorted(without_fixed(losses, self.fixed) if self.fixed else losses)

        def cotangents(balanced: Array, others: Mapping[str, float]) -> dict[str, Array]:
            """One per loss; those of the balanced losses are given along the first axis of an array."""
            constant = {name: jnp.full(balanced.shape[1:], others.get(name, 0.0)) for name in losses}
            every = constant | dict(zip(names, balanced, strict=True))
            return {name: every[name].astype(loss.dtype) for name, loss in losses.items()}

        each, probe_gradients = jax.vmap(pull_back)(cotangents(jnp.eye(len(names)), {}))  # leaves [K, …]
        pairs = zip(jax.tree.leaves(each), measured, strict=True)
        each = [sum_over_devices(g, axis_name) if is_measured else None for g, is_measured in pairs]
        if self.measured is None:  # every device has its own examples
            gram = sum_over_devices(_inner_products(_representations(probe_gradients)), axis_name)
        else:
            gram = _inner_products([g for g in each if g is not None])

        weights, remembered = self.balance(state, {name: losses[name] for name in names}, gram, key)
        balanced = cotangents(weights, self.fixed)
        scaled, plain = (
            jax.tree.leaves(pull_back(c)[0]) for c in (balanced, cotangents(jnp.ones(len(names)), self.fixed))
        )
        leaves = []  # XLA does not compute the ones that are not used
        for own, is_shared, task_gradients, total_gradient in zip(plain, shared, each, scaled, strict=True):
            if not is_shared:
                leaves.append(sum_over_devices(own, axis_name))
            elif task_gradients is None or self.fixed:
                leaves.append(sum_over_devices(total_gradient, axis_name))
            else:
                leaves.append(jnp.tensordot(weights, task_gradients, 1).astype(own.dtype))
        total = sum(balanced[name] * loss for name, loss in losses.items())
        return Descent(
            gradient={
                "model": jax.tree.unflatten(jax.tree.structure(model), leaves),
                "weighting": params["weighting"],
            },
            state=remembered,
            rest=rest,
            logs={"loss": total, **losses, **_logs(names, weights, gram)},
        )


def select_leaves(which: Parameters | None, tree: Any) -> list[bool]:
    """Whether each leaf's path is selected, in the order of leaves; ValueError for a prefix without match."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    if which is None:
        return [False] * len(paths)
    if callable(which):
        prefixes, found = ["(a predicate)"], [bool(which(path)) for path in paths]
        hits = [any(found)]
    else:
        prefixes = [which] if isinstance(which, str) else list(which)
        under = [[path == p or path.startswith(f"{p}/") for path in paths] for p in prefixes]
        found, hits = [any(leaf) for leaf in zip(*under, strict=True)], [any(leaves) for leaves in under]
    if not prefixes or not all(hits):
        missing = [prefix for prefix, hit in zip(prefixes, hits, strict=True) if not hit]
        raise ValueError(f"shared parameters {missing}: match none of {paths}; give prefixes of these paths")
    return found


def _checked_probes(tasks: TaskLosses) -> dict[str, Any]:
    probes = tasks.probes()
    if not _representations(probes):
        raise ValueError(
            "the model marks no shared representation: pass the input of all tasks through "
            f'self.perturb("{REPRESENTATION}", z), or compare gradients of parameters with mgda'
        )
    return probes


def _representations(probes: Any) -> list[Array]:
    leaves = jax.tree_util.tree_flatten_with_path(probes)[0]
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
    return [leaf for path, leaf in named if path.rpartition("/")[2] == REPRESENTATION]


def _inner_products(gradients: Sequence[Array]) -> Array:
    """Inner products of K gradients, given as leaves [K, …]: [K, K] in float32."""
    flat = [g.reshape(g.shape[0], -1).astype(jnp.float32) for g in gradients]
    return sum((jnp.matmul(g, g.T, precision=jax.lax.Precision.HIGHEST) for g in flat), start=jnp.float32(0))


def _logs(names: Sequence[str], weights: Array, gram: Array) -> dict[str, Array]:
    norms = jnp.sqrt(jnp.diagonal(gram))
    cosines = gram / safe_divisor(jnp.outer(norms, norms))
    pairs = itertools.combinations(range(len(names)), 2)
    return {
        **{f"weight/{name}": weights[i] for i, name in enumerate(names)},
        **{f"gradient_norm/{name}": norms[i] for i, name in enumerate(names)},
        **{f"cosine/{names[i]}:{names[j]}": cosines[i, j] for i, j in pairs},
    }


def safe_divisor(x: Array) -> Array:
    """x where it is positive, else 1."""
    return jnp.where(x > 0, x, 1.0)
