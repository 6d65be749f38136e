"""Frozen vectors of items beside the ids of an encoder: e + W v wherever the encoder has e."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.item_vectors import WithItemVectors, table_path
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.packing import Packing
from jaxrec.tasks.encoder import can_be_packed, check_encoder

ITEMS = 7
ENCODERS: dict[str, Any] = {
    "sasrec": SASRec(ITEMS, dim=4, inner_dim=4, num_layers=1, num_heads=1, max_len=4),
    "gru4rec": GRU4Rec(ITEMS, dim=4, hidden_dim=4, use_bias=True, max_len=4),
    "cosine": Cosine(GRU4Rec(ITEMS, dim=4, hidden_dim=4, max_len=4)),
}
ROWS = jnp.array([[0, 0, 3, 1], [2, 5, 7, 6]])


def drawn(encoder: Any) -> tuple[WithItemVectors, dict[str, Any]]:
    """A wrapped encoder and variables in which W and the vectors of all items are not zero."""
    module = WithItemVectors(encoder, width=3)
    variables = module.init(jax.random.key(0), ROWS, train=False)
    vectors = np.random.default_rng(0).standard_normal((ITEMS + 1, 3)).astype(np.float32)
    vectors[0] = 0
    projection = jax.random.normal(jax.random.key(1), variables["params"]["projection"].shape)
    params = {**variables["params"], "projection": projection}
    return module, {"params": params, "constants": {"item_vectors": jnp.asarray(vectors)}}


def summed(variables: dict[str, Any], encoder: Any) -> dict[str, Any]:
    """The variables of the encoder alone, with e + W v written into its item table."""
    params = jax.tree.map(lambda leaf: leaf, variables["params"]["encoder"])
    path = table_path(params, type(encoder).__name__)
    place = params
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] += variables["constants"]["item_vectors"] @ variables["params"]["projection"]
    return {"params": params}


@pytest.mark.parametrize("name", ENCODERS)
def test_outputs_are_those_of_the_encoder_with_the_sum_as_its_table(name: str) -> None:
    encoder = ENCODERS[name]
    module, variables = drawn(encoder)
    plain = summed(variables, encoder)
    np.testing.assert_allclose(
        module.apply(variables, ROWS, train=False), encoder.apply(plain, ROWS, train=False), rtol=1e-6
    )
    np.testing.assert_allclose(
        module.apply(variables, method="item_table"), encoder.apply(plain, method="item_table"), rtol=1e-6
    )


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_start_as_zeros_and_are_no_parameters(name: str) -> None:
    module = WithItemVectors(ENCODERS[name], width=3)
    variables = module.init(jax.random.key(0), ROWS, train=False)
    assert set(variables) == {"params", "constants"}
    assert set(variables["params"]) == {"encoder", "projection"}
    np.testing.assert_array_equal(variables["constants"]["item_vectors"], np.zeros((ITEMS + 1, 3)))


def test_gradients_reach_the_projection_and_the_embeddings() -> None:
    module, variables = drawn(ENCODERS["sasrec"])

    def loss(params: Any) -> Any:
        outputs: Any = module.apply({**variables, "params": params}, ROWS, train=False)
        return jnp.sum(outputs[..., 0] ** 2)  # every event reads vectors, none is a score

    found = jax.grad(loss)(variables["params"])
    assert np.abs(found["projection"]).max() > 0
    assert np.abs(found["encoder"]["item_embedding"]).max() > 0


def test_dropout_is_that_of_the_encoder() -> None:
    module, variables = drawn(ENCODERS["sasrec"])
    rngs = {"dropout": jax.random.key(2)}
    rows = jnp.arange(2)
    first: Any = module.apply(variables, ROWS, rows=rows, train=True, rngs=rngs)
    again = module.apply(variables, ROWS, rows=rows, train=True, rngs=rngs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - module.apply(variables, ROWS, train=False)).max() > 1e-3


def test_it_can_be_packed_if_the_encoder_can() -> None:
    module = WithItemVectors(ENCODERS["sasrec"], width=3)
    assert can_be_packed(module)
    check_encoder(module, Packing(2, 4))
    assert not can_be_packed(WithItemVectors(NoSegments(), width=3))


class NoSegments:
    """An encoder without segments, of which only the signature is read."""

    max_len = 4

    def __call__(self, items: Any, *, train: bool) -> Any:
        raise NotImplementedError


def test_an_encoder_without_a_table_of_items_is_refused() -> None:
    with pytest.raises(ValueError, match="Toy: has no parameter 'item_embedding'"):
        table_path({"dense": {"kernel": np.zeros((2, 2))}}, "Toy")


def test_the_table_of_the_input_is_chosen_where_there_is_another_for_the_output() -> None:
    network = NextItNet(ITEMS, dim=4, dilations=(1,), max_len=4)
    params = network.init(jax.random.key(0), ROWS, train=False)["params"]
    assert table_path(params, "NextItNet") == ("item_embedding",)
