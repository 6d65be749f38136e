"""Rows of the funnel and what they are trained on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multitask import funnel
from jaxrec import losses


def test_without_its_risk_escm2_has_the_losses_of_esmm() -> None:
    config = funnel.Config(counterfactual=0.0)
    for row in ("escm2-ips", "escm2-dr"):
        assert funnel.terms_of(row, config) == {} == funnel.terms_of("esmm", config)
        assert funnel.outputs_of(row, funnel.TASKS) == funnel.outputs_of("esmm", funnel.TASKS)
        assert funnel.name_of(row, config) == f"{row}+no-risk"
        assert funnel.name_of(row, funnel.Config()) == row


@pytest.mark.parametrize("unknown", [0.0, np.nan])
def test_the_risk_reads_purchases_among_views_only(unknown: float) -> None:
    view = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
    buy = np.array([1.0, unknown, 0.0, unknown], np.float32)
    outputs = {"ctr": jnp.array([0.0, 1.0, 2.0, 3.0]), "cvr": jnp.array([0.5, -1.0, 1.5, 2.0])}
    batch = {"label/view": view, "label/buy": buy, "mask": np.ones(4, bool)}
    (term,) = funnel.terms_of("escm2-ips", funnel.Config()).values()
    errors = losses.sigmoid_cross_entropy(outputs["cvr"], np.array([1.0, 0, 0, 0]))
    share = 1 / (1 + np.exp(-np.asarray(outputs["ctr"])))
    expected = np.sum(view * np.asarray(errors) / np.maximum(share, 0.1)) / 4
    np.testing.assert_allclose(term(outputs, batch, None), expected, rtol=1e-6)
    of_cvr = jax.grad(lambda cvr: term({**outputs, "cvr": cvr}, batch, None))(outputs["cvr"])
    wrong = 1 / (1 + np.exp(-np.asarray(outputs["cvr"]))) - np.array([1.0, 0, 0, 0])
    np.testing.assert_allclose(of_cvr, view * wrong / np.maximum(share, 0.1) / 4, rtol=1e-5)
