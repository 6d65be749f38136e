"""How much each task of a trained multi-gate model uses each expert, over labelled examples.

A module sows the weights of its gates as `gates` or `shared_gates`, [B, T, E] or [B, E], into the collection
"intermediates" (`nn.layers.experts.Gate`). What is sown under these names and does not add up to 1 over its
last axis, such as the gates of SNR, POSO or PEPNet, has no shares and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.nn.layers.experts import utilisation
from jaxrec.report.results import write_atomically
from jaxrec.report.run_parts import GATES
from jaxrec.tasks.multitask import Model
from jaxrec.types import Array, Batch, Variables

NAMES = ("gates", "shared_gates")
Shares = dict[str, dict[str, list[list[float]]]]


def expert_shares(
    module: Model, variables: Variables, batches: Mapping[str, np.ndarray], tasks: Sequence[str]
) -> Shares:
    """Mean weight of each expert over the real examples: {gate: {task: one list of shares per seed}}.

    Args:
      module: called as module(batch, train=False).
      variables: with a leading axis of seeds.
      batches: columns [batches, B, …] with a `mask`, such as the validation part of `impressions.Data`.
      tasks: names of the T gates of a layer; a layer of one gate has the row "all tasks".

    Returns:
      Shares that add up to 1, [E] for each task and seed; {} of a module without gates.
    """

    def of_batch(variables: Variables, batch: Batch) -> dict[str, Array]:
        sown = module.apply(variables, batch, train=False, mutable=["intermediates"])[1]
        size = batch["mask"].shape[0]
        found = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(sown.get("intermediates", {}))[0]:
            names = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
            if names[-1] in NAMES and leaf.ndim in (2, 3) and leaf.shape[0] == size:
                found["/".join(names)] = utilisation(leaf, batch["mask"]) * batch["mask"].sum()
        return found

    @jax.jit
    def of_all(variables: Variables, batches: Batch) -> dict[str, Array]:
        sums = jax.lax.map(lambda batch: jax.vmap(of_batch, in_axes=(0, None))(variables, batch), batches)
        return {name: leaf.sum(axis=0) / batches["mask"].sum() for name, leaf in sums.items()}

    found = jax.device_get(of_all(variables, {name: jnp.asarray(column) for name, column in batches.items()}))
    means = {name: mean for name, mean in found.items() if np.allclose(mean.sum(axis=-1), 1.0, atol=1e-3)}
    return {_short(name, means): _by_row(mean, tasks) for name, mean in means.items()}


def write_shares(folder: str | Path, shares: Shares, of: str) -> Path:
    """Keeps shares in a run's folder, where the page of the run finds them. of: the examples, in words."""
    path = Path(folder) / GATES
    write_atomically(path, json.dumps({"format": 1, "of": of, "shares": shares}, indent=1) + "\n")
    return path


def _short(name: str, names: Mapping[str, Any]) -> str:
    """The name without the module that all of them lie in."""
    outer = name.partition("/")[0]
    return name.partition("/")[2] if all(other.startswith(f"{outer}/") for other in names) else name


def _by_row(mean: np.ndarray, tasks: Sequence[str]) -> dict[str, list[list[float]]]:
    """Shares [S, E] or [S, T, E] by the name of their gate."""
    if mean.ndim == 2:
        return {"all tasks": mean.tolist()}
    names = tasks if mean.shape[1] == len(tasks) else [f"gate {i}" for i in range(mean.shape[1])]
    return {name: mean[:, i].tolist() for i, name in enumerate(names)}
