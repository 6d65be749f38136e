"""TDM's network against TorchEasyRec's, all gradients too; its tree and beam search against a public port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert.easyrec_tdm import SIZES, tdm
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.index import trees
from jaxrec.index.scored import Found
from jaxrec.index.trees import Tree
from jaxrec.nn.retrieval.tdm import NodeNetwork
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def fitted(history: np.ndarray, slots: int) -> np.ndarray:
    """Slots behind the last one as padding, or cut off: the reference does the same."""
    history = history[:, :slots]
    return np.pad(history, ((0, 0), (0, slots - history.shape[1]), (0, 0)))


@pytest.fixture(params=golden_files("tdm_din"), scope="module")
def network(request: pytest.FixtureRequest) -> Computed:
    return of_network(read(request.param))


def of_network(golden: Golden) -> Computed:
    found = tdm(golden.params)
    model: NodeNetwork = found.module
    inputs, label = golden.inputs, jnp.asarray(golden.inputs["label"])
    slots = sum(model.windows)
    history = fitted(inputs["history"], slots)
    mask = np.arange(slots) < inputs["length"][:, None]
    node = inputs["node"][:, None]
    other = {"other": jnp.asarray(inputs["other"])} if "other" in inputs else {}

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        def encoded(module: NodeNetwork) -> tuple[Array, Array]:
            assert module.attention is not None
            outputs = module(node, history, mask, **other)[:, 0]
            wide = jnp.pad(node, ((0, 0), (0, 0), (0, history.shape[2] - node.shape[2])))
            return outputs, jnp.concatenate([module.attention(wide, history, mask), wide], axis=-1)[:, 0]

        logits, encoder = model.apply(variables, method=encoded)
        if model.outputs == 1:
            value = losses.binary_cross_entropy(logits[:, 0], label.astype(jnp.float32))
        else:
            value = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1))
        return value, {"encoder": encoder, "logits": logits, "loss": value}

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(found.variables)
    named = {name: np.reshape(value, golden.outputs[name].shape) for name, value in outputs.items()}
    return Computed(golden, found, named, to_state(gradients, found.locations))


def test_encoder_logits_and_loss(network: Computed) -> None:
    close_outputs(network.outputs, network.golden.outputs)


def test_all_gradients(network: Computed) -> None:
    close_gradients(network.gradients, network.golden.gradients)


def test_weights_come_back_as_they_were(network: Computed) -> None:
    back = to_state(network.converted.variables, network.converted.locations)
    assert set(back) == set(network.golden.params) - set(SIZES)
    for name, value in back.items():
        np.testing.assert_array_equal(value, network.golden.params[name])


def test_sizes_are_those_of_the_configuration(network: Computed) -> None:
    config, model = network.golden.meta["config"], network.converted.module
    assert [list(model.windows), list(model.attention.dims), list(model.dims), model.outputs] == [
        config[name] for name in ("windows_len", "attn_mlp", "deep", "num_class")
    ]


class Port(NamedTuple):
    """A fixture, our tree of it, and the port's id of each of ours, int [num_ids + 1]."""

    golden: Golden
    tree: Tree
    their_id: np.ndarray


@pytest.fixture(params=golden_files("tdm_beam_search"), scope="module")
def port(request: pytest.FixtureRequest) -> Port:
    return of_port(read(request.param))


def of_port(golden: Golden) -> Port:
    left, right = golden.inputs["left"], golden.inputs["right"]
    depth = golden.meta["config"]["height"] - 1
    rows = [np.array([golden.meta["config"]["root"]])]  # ids in heap order, -1 where there is no node
    for _ in range(depth):
        above = rows[-1]
        children = np.stack([left[above], right[above]], axis=1)
        rows.append(np.where(above[:, None] >= 0, children, -1).reshape(-1))
    tree = trees.from_leaves(np.maximum(rows[-1], 0))
    their_id = np.concatenate([[0], np.arange(1, tree.capacity + 1), *rows[:-1]])
    return Port(golden, tree, their_id)


def test_leaves_and_levels(port: Port) -> None:
    inputs, tree = port.golden.inputs, port.tree
    ids = np.asarray(trees.ids_of(tree, jnp.arange(len(tree.ranks))))
    level = np.asarray(trees.level_of(jnp.arange(len(tree.ranks))))
    theirs = port.their_id[ids[ids > 0]]
    np.testing.assert_array_equal(inputs["level"][theirs], level[ids > 0])
    np.testing.assert_array_equal(inputs["is_leaf"][theirs] == 1, ids[ids > 0] <= tree.capacity)
    assert sorted(theirs) == np.flatnonzero(inputs["level"] >= 0).tolist()


def test_ancestors(port: Port) -> None:
    expected = port.golden.outputs["ancestors"]
    ids = trees.ids_of(port.tree, trees.ancestors(port.tree, jnp.arange(1, len(expected) + 1)))
    np.testing.assert_array_equal(port.their_id[np.asarray(ids)][:, ::-1], expected)


# The order of candidates of equal scores by their place and id: ours, and what another sort may leave.
ORDERS: tuple[Callable[[int, int], int], ...] = (
    lambda place, node: node,
    lambda place, node: place,
    lambda place, node: -place,
    lambda place, node: -node,
)


def walked(port: Port, scores: np.ndarray, k: int, order: Callable[[int, int], int]) -> list[int]:
    """The port's search of one user as a loop."""
    inputs, nodes = port.golden.inputs, [port.golden.meta["config"]["root"]]
    while True:
        kept = sorted(enumerate(nodes), key=lambda one: (-scores[one[1]], order(*one)))[:k]
        nodes = [int(node) for _, node in kept]
        if inputs["is_leaf"][nodes[0]]:
            return nodes
        nodes = [int(inputs[side][node]) for node in nodes for side in ("left", "right")]
        nodes = [node for node in nodes if node >= 0]


def test_beam_search(port: Port) -> None:
    close_lists(port)


def close_lists(port: Port) -> None:
    """The same lists. Of equal scores the smaller id is first here, in the port what its sort leaves."""
    scores = port.golden.inputs["node_score"]
    their_id = jnp.asarray(port.their_id)

    def scorer(query: Array, ids: Array) -> Array:
        return jnp.take_along_axis(query, jnp.maximum(their_id[ids], 0), axis=1)

    for k in port.golden.meta["config"]["beams"]:
        found: Found = jax.jit(trees.search, static_argnums=(1, 3, 4))(
            port.tree, scorer, jnp.asarray(scores), min(k, port.tree.capacity), k
        )
        expected = port.golden.outputs[f"beam{k}"][:, : port.tree.capacity]
        for own, other, of_user in zip(np.asarray(found.ids), expected, scores, strict=True):
            lists = [walked(port, of_user, k, order) for order in ORDERS]  # without ties all the same
            assert own[own > 0].tolist() == lists[0] and other[other > 0].tolist() in lists
        assert found.finite.all()
