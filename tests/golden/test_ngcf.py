"""NGCF of RecBole: graph, vectors, scores, loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import recbole_graphs
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.tasks import pairs
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.graphs import batch_of, dense, graph_of


class Computed(NamedTuple):
    golden: Golden
    ours: Converted
    outputs: dict[str, Any]
    gradients: dict[str, np.ndarray]


@pytest.fixture(params=golden_files("ngcf"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config, inputs = golden.meta["config"], golden.inputs
    context = {"graph": graph_of(inputs["interaction_matrix"], padded=True)}
    dropout = {name: config[name] for name in ("node_dropout", "message_dropout")}
    ours = recbole_graphs.ngcf(golden.params, **dropout)
    batch = batch_of(inputs["user_id"], inputs["item_id"], inputs["neg_item_id"], context)
    batch["scores"] = jnp.stack([batch["item"], batch["negatives"][:, 0]], axis=1)

    def total(variables: Variables) -> tuple[Array, dict[str, Any]]:
        """The reference's fixture is in evaluation: nothing is dropped."""
        users, items = ours.module.apply(variables, context, method="vectors")
        scores = ours.module.apply(variables, batch["user"], batch["scores"], context, train=False)
        rows = users[batch["user"]], items[batch["item"]], items[batch["negatives"][:, 0]]
        norms = jnp.sum(jnp.stack([jnp.linalg.norm(part) for part in rows])) / len(scores)
        loss = jnp.mean(jax.nn.softplus(scores[:, 1] - scores[:, 0])) + config["reg_weight"] * norms
        adjacency = dense(context["graph"], padded=True)
        outputs = {"user_all": users, "item_all": items, "norm_adj": adjacency, "loss": loss}
        task = pairs.pairwise(ours.module, sampler=pairs.uniform(1))
        return loss, {**outputs, "predict": task.predict(variables, batch)}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(ours.variables)
    return Computed(golden, ours, outputs, to_state(gradients, ours.locations))


def test_vectors_scores_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    found = to_state(computed.ours.variables, computed.ours.locations)
    assert set(found) == set(computed.golden.params)
    for name, value in found.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


def test_widths_are_those_of_the_configuration(computed: Computed) -> None:
    module, config = computed.ours.module, computed.golden.meta["config"]
    assert (module.dim, list(module.hidden_dims)) == (config["embedding_size"], config["hidden_size_list"])
