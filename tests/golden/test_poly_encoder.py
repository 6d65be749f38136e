"""The head of chijames/Poly-Encoder over a table of token vectors: outputs, loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import poly_encoder
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.segments import rows_by_id
from jaxrec.tasks.interests import in_batch_softmax
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


@pytest.fixture(params=golden_files("poly_encoder"), scope="module")
def each(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    found = poly_encoder.from_state_dict(golden.params, max_len=golden.meta["config"]["context_len"])
    model = found.module
    ids = {name: jnp.asarray(golden.inputs[name], jnp.int32) + 1 for name in ("context", "responses")}
    first = ids["responses"][..., 0]  # a response is read by its first token

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        codes = model.apply(variables, ids["context"], train=False)
        vectors = rows_by_id(model.apply(variables, method="item_table"), first)
        own = model.apply(variables, codes, vectors, method="scores")
        every = model.apply(variables, codes, vectors[:, 0], method="scores")
        value = in_batch_softmax(every, jnp.arange(1, len(every) + 1))
        return value, {"code_vectors": codes.vectors, "scores": own, "loss": value}

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(found.variables)
    return Computed(golden, found, outputs, to_state(gradients, found.locations))


def test_outputs_and_loss(each: Computed) -> None:
    close_outputs(each.outputs, each.golden.outputs)


def test_all_gradients(each: Computed) -> None:
    close_gradients(each.gradients, each.golden.gradients)


def test_weights_come_back_as_they_were(each: Computed) -> None:
    back = to_state(each.converted.variables, each.converted.locations)
    assert set(back) == set(each.golden.params)
    for name, value in back.items():
        np.testing.assert_array_equal(value, each.golden.params[name])


def test_sizes_are_those_of_the_configuration(each: Computed) -> None:
    config, model = each.golden.meta["config"], each.converted.module
    assert (model.dim, model.num_interests) == (config["hidden"], config["poly_m"])
