"""RecBole's BPR: scores, loss and all gradients, and the loss of our task on the same pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import recbole_pairs
from jaxrec.convert.state_dict import to_state
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


@pytest.fixture(params=golden_files("bpr"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    model, variables, locations = recbole_pairs.bpr(golden.params)
    user, item, negative = (
        jnp.asarray(golden.inputs[name], jnp.int32) for name in ("user_id", "item_id", "neg_item_id")
    )

    def total(variables: Variables) -> tuple[Array, dict[str, Any]]:
        scores = model.apply(variables, user, jnp.stack([item, negative], axis=1), {}, train=True)
        loss = losses.bpr(scores[:, 0], scores[:, 1:])
        return loss, {"predict": scores[:, 0], "loss": loss}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    return golden, outputs, to_state(gradients, locations)


def test_outputs_and_loss(computed: Computed) -> None:
    golden, outputs, _ = computed
    close_outputs(outputs, golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    close_gradients(gradients, golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    golden, *_ = computed
    model, variables, locations = recbole_pairs.bpr(golden.params)
    config = golden.meta["config"]
    assert (model.num_users + 1, model.num_items + 1) == (config["n_users"], config["n_items"])
    for name, value in to_state(variables, locations).items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)
