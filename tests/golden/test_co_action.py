"""The authors' co-action unit of CAN: what it gives for a history, and the gradients of both tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import can
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_din import differentiated


def load(golden: Golden) -> tuple[Converted, dict[str, np.ndarray]]:
    """Our module, and its columns: ids there start at 0, ours are theirs plus 1."""
    config, inputs = golden.meta["config"], golden.inputs
    sizes = config["weight_emb_w"], config["weight_emb_b"], config["orders"]
    outputs = config["orders"] * sum(columns for _, columns in config["weight_emb_w"])
    meant = config["order_indep"] and config["out"] == outputs  # each order has its own layers alone
    unit = can.co_action(*sizes, order_indep=config["order_indep"] and not meant)
    unit = unit.clone(order_independent=True) if meant else unit
    assert unit.num_weights == config["weight_dim"]
    ids = np.where(inputs["mask"] > 0, inputs["history"] + 1, 0)
    batch = {"ad": (inputs["ad"] + 1).astype(np.int32), "history": ids.astype(np.int32)}
    return can.can(golden.params, unit), batch


@pytest.mark.parametrize("path", golden_files("can_coaction"))
def test_co_action(path: Path) -> None:
    golden = read(path)
    (module, variables, locations), batch = load(golden)

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Array]:
        found = module.apply({"params": params}, batch)
        return jnp.sum(found * golden.inputs["w"]), found

    (total, found), gradients = differentiated(loss, variables, batch)
    assert found.shape[1] == golden.meta["config"]["out"]
    close_outputs({"coaction": found, "loss": total}, golden.outputs)
    close_gradients(to_state({"params": gradients}, locations), golden.gradients)
    for name, value in to_state(variables, locations).items():
        np.testing.assert_array_equal(value, golden.params[name])
