"""LightGCN of RecBole and of its authors' PyTorch code: graph, vectors, scores, losses and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import lightgcn_pytorch, recbole_graphs
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


def norms(rows: tuple[Array, ...], weight: float) -> Array:
    """RecBole's regulariser without `require_pow`: norms over the batch, not squares."""
    return weight * sum(jnp.linalg.norm(part) for part in rows) / len(rows[0])


@pytest.fixture(params=golden_files("lightgcn"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config, inputs = golden.meta["config"], golden.inputs
    official = "embedding_user.weight" in golden.params
    shift = int(official)  # its ids start at 0
    names = ("user", "pos", "neg") if official else ("user_id", "item_id", "neg_item_id")
    user, item, negative = (inputs[name] + shift for name in names)
    context = {"graph": graph_of(inputs["interaction_matrix"], padded=not official)}
    convert = lightgcn_pytorch.from_state_dict if official else recbole_graphs.lightgcn
    ours = convert(golden.params, num_layers=config["layers" if official else "n_layers"])
    l2 = config["weight_decay" if official else "reg_weight"]
    squares = official or config["require_pow"]

    def task_of(l2: float) -> Any:
        return pairs.pairwise(ours.module, sampler=pairs.uniform(1), l2=l2)

    task = task_of(l2 if squares else 0.0)
    batch = batch_of(user, item, negative, context)

    def total(variables: Variables) -> tuple[Array, dict[str, Any]]:
        named, _ = task.losses(variables, batch, jax.random.key(0))
        loss = jnp.sum(jnp.stack(list(named.values())))
        if not squares:
            found = ours.module.apply(
                variables, batch["user"], jnp.stack([item, negative]).T, method="penalised"
            )
            loss = loss + norms((found[0], found[1][:, 0], found[1][:, 1]), l2)
        users, items = ours.module.apply(variables, context, method="vectors")
        outputs = {"user_all": users[shift:], "item_all": items[shift:], "loss": loss}
        scores = task.predict(variables, batch)
        if official:
            rating = jax.nn.sigmoid(users[batch["user"]] @ items[1:].T)
            outputs |= {"rating": rating, "score": scores}
            squared = task_of(1.0).losses(variables, batch, jax.random.key(0))[0]["l2"]
            outputs |= {"bpr_loss": named["pairs"], "reg_loss": squared}
        else:
            outputs |= {"predict": scores, "norm_adj": dense(context["graph"], padded=True)}
        return loss, outputs

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(ours.variables)
    return Computed(golden, ours, outputs, to_state(gradients, ours.locations))


def test_vectors_scores_and_losses(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    for name, value in to_state(computed.ours.variables, computed.ours.locations).items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("lightgcn_official"))
def test_the_graph_is_the_given_matrix(path: Path) -> None:
    inputs = read(path).inputs
    graph = graph_of(inputs["interaction_matrix"], padded=False)
    np.testing.assert_allclose(dense(graph, padded=False), inputs["norm_adj"], rtol=1e-6)
