"""Conversions that arrive late, as tasks over the examples of `data.tables.conversions`.

    snapshot, waited, complete    cross_entropy(module)             naive, waiting window, oracle
    snapshot                      delayed_feedback(module)          DFM; the module gives a rate too
    snapshot                      cross_entropy(module, weighted=True)      FSIW, by the column of weights
    stream                        fake_negative_weighted(module), fake_negative_calibrated(module)    FNW, FNC
    stream after a wait           cross_entropy(module, weighted=True)      ES-DFM, by the column of weights

All predict the logit of a conversion, [B]. Weights are columns that the host made of models which learned
before (`weight_models`), so they have no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.tasks.multitask import Model, Target, column, multitask
from jaxrec.types import Array, Batch, Outputs, Task, Variables

LABEL, WEIGHT = "label/conversion", "weight"
CONVERSION = Target("conversion", None, LABEL)  # of what these tasks predict


def cross_entropy(module: Model, *, weighted: bool = False) -> Task:
    """Cross-entropy of what is known. weighted: by the column `weight`.

    module: called as module(batch, train=…), gives a logit [B]; so of all tasks here but `delayed_feedback`.
    """
    return multitask(module, [CONVERSION._replace(weight=WEIGHT if weighted else None)])


def fake_negative_weighted(module: Model) -> Task:
    """FNW, see `losses.fake_negative_weighted`."""
    return multitask(module, [CONVERSION._replace(loss=losses.fake_negative_weighted)])


def fake_negative_calibrated(module: Model) -> Task:
    """FNC: cross-entropy of a stream, and what it predicts corrected by `losses.fake_negative_calibrated`."""
    base = multitask(module, [CONVERSION])

    def predict(variables: Variables, batch: Batch) -> Array:
        return losses.fake_negative_calibrated(base.predict(variables, batch))

    return base._replace(predict=predict)


def delayed_feedback(module: Model) -> Task:
    """DFM, see `losses.delayed_feedback`, of the columns `converted`, `delay` and `elapsed`.

    module: gives {"conversion": logit [B], "log_rate": [B]}, such as `DelayedFeedback` behind its features.
    """

    def likelihood(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        seen = {name: column(batch, name, "conversion") for name in ("converted", "delay", "elapsed")}
        logits, log_rate = outputs["conversion"], outputs["log_rate"]
        return losses.delayed_feedback(logits, log_rate, **seen, where=batch["mask"], axis_name=axis_name)

    base = multitask(module, [], terms={"conversion": likelihood})

    def predict(variables: Variables, batch: Batch) -> Array:
        return base.predict(variables, batch)["conversion"]

    return base._replace(predict=predict)


def weight_models(module: Model, names: Sequence[str]) -> Task:
    """What weights are made of: a logit for each label, [B, T], learned in its space.

    names: "observed" and "negative" of `observed_labels` (FSIW, whose module reads `elapsed`, too), or
    "delayed" and "negative" of `delayed_labels` (ES-DFM).
    """
    return multitask(module, weight_targets(names))


def weight_targets(names: Sequence[str]) -> list[Target]:
    """The targets of `weight_models`."""
    return [Target(name, t, f"label/{name}", space=f"space/{name}") for t, name in enumerate(names)]


def mean_logits(predicted: Array) -> Array:
    """The logit of the mean probability of several seeds: [S, ...] → [...]."""
    log_yes = jax.nn.logsumexp(jax.nn.log_sigmoid(predicted), axis=0)
    log_no = jax.nn.logsumexp(jax.nn.log_sigmoid(-predicted), axis=0)
    return jnp.asarray(log_yes - log_no)
