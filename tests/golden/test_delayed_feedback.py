"""The loss of the delayed feedback model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxrec.losses.delayed_feedback import delayed_feedback, delayed_feedback_of_each
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("delayed_feedback"))
def test_loss_of_each_example_and_gradients(path: Any) -> None:
    golden = read(path)
    seen = {name: jnp.asarray(golden.inputs[name]) for name in ("converted", "delay", "elapsed")}
    given = golden.params["logit"], golden.params["log_rate"]
    loss, gradients = jax.jit(jax.value_and_grad(lambda *p: delayed_feedback(*p, **seen), (0, 1)))(*given)
    rate = golden.outputs["rate"]
    found = {
        "p": jax.nn.sigmoid(given[0]),
        "rate": jnp.exp(given[1]).reshape(rate.shape),
        "per_example": jax.jit(delayed_feedback_of_each)(*given, **seen),
        "loss": loss,
    }
    close_outputs(found, golden.outputs)
    close_gradients(dict(zip(("logit", "log_rate"), gradients, strict=True)), golden.gradients)
