"""Probabilities of labels or classes, from the logits of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import calibration
from jaxrec.tasks import generative
from jaxrec.tasks.multitask import Target, select_output
from jaxrec.tasks.profile import profile
from jaxrec.types import Array, Batch, Variables

POSITIVE = "positive"  # the label of models of actions


def probabilities(
    module: Any, outputs: Mapping[str, int | str | None], variables: Variables, batch: Batch, *, mean: bool
) -> dict[str, Array]:
    """{label: probabilities, float32 [B]}; where `mean`, their means over the seeds of the variables.

    outputs: {label: which output of the module is its logit}, as of `tasks.multitask.Target`. Where the
    variables hold calibrators, the logits are corrected by them.
    """

    def of_seed(variables: Variables) -> dict[str, Array]:
        variables, maps = calibration.split(variables)
        found = module.apply(variables, batch, train=False)
        logits = {label: select_output(found, Target(label, out, label)) for label, out in outputs.items()}
        logits |= {of: calibration.from_tree(tree).apply(logits[of]) for of, tree in maps.items()}
        return {label: jax.nn.sigmoid(logit.astype(jnp.float32)) for label, logit in logits.items()}

    if not mean:
        return of_seed(variables)
    return {label: of_seeds.mean(axis=0) for label, of_seeds in jax.vmap(of_seed)(variables).items()}


def of_positive(
    module: Any, outputs: Mapping[str, int | str | None], variables: Variables, batch: Batch, *, mean: bool
) -> dict[str, Array]:
    """{POSITIVE: how probable a positive action on a candidate is, float32 [B]}; mean: as of `probabilities`.

    outputs: as of `run_folder.Kept` for actions. batch: of `tasks.generative.after_history`.
    """
    score = generative.action_score(module, [int(action) for action in outputs])

    def of_seed(variables: Variables) -> Array:
        return jax.nn.sigmoid(score(variables, batch)[:, -1].astype(jnp.float32))

    return {POSITIVE: jax.vmap(of_seed)(variables).mean(axis=0) if mean else of_seed(variables)}


def class_probabilities(
    module: Any, outputs: Mapping[str, Any], variables: Variables, batch: Batch, *, mean: bool
) -> dict[str, Array]:
    """{class: probabilities, float32 [B]}, which sum to 1; where `mean`, of the seeds of the variables.

    module: of `tasks.profile`. outputs: {class: its number, from 0}. batch: items [B, L], the token last.
    """
    predict = profile(module, token=module.num_items + 1).predict

    def of_seed(variables: Variables) -> Array:
        return jax.nn.softmax(predict(variables, batch).astype(jnp.float32), axis=-1)

    found = jax.vmap(of_seed)(variables).mean(axis=0) if mean else of_seed(variables)
    return {name: found[:, number] for name, number in outputs.items()}
