"""EGES of DGL, and skip-gram over walks of PyTorch Geometric: outputs, losses and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import skip_gram
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def computed(golden: Golden, converted: Converted, loss: Any) -> Computed:
    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(converted.variables)
    return Computed(golden, converted, outputs, to_state(gradients, converted.locations))


def of_eges(golden: Golden) -> Computed:
    converted = skip_gram.dgl_eges(golden.params)
    ends = [jnp.asarray(golden.inputs[name], jnp.int32) + 1 for name in ("src", "dst")]

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        source, target = (
            converted.module.apply(variables, end[:, 0], end[:, 1:], method="combined") for end in ends
        )
        found = losses.binary_cross_entropy((source * target).sum(1), jnp.asarray(golden.inputs["label"]))
        return found, {"src_vector": source, "dst_vector": target, "loss": found}

    return computed(golden, converted, loss)


def of_walks(golden: Golden) -> Computed:
    converted = skip_gram.pyg_node2vec(golden.params)
    rows = [jnp.asarray(golden.inputs[f"{kind}_walks"], jnp.int32) + 1 for kind in ("positive", "negative")]

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        seen, drawn = (converted.module.apply(variables, x[:, 0], x[:, 1:], train=True) for x in rows)
        of_each = [
            losses.binary_cross_entropy(logits, jnp.full(logits.shape, label))
            for logits, label in ((seen, 1.0), (drawn, 0.0))
        ]
        return of_each[0] + of_each[1], {"pair_logit": seen, "loss": of_each[0] + of_each[1]}

    return computed(golden, converted, loss)


@pytest.fixture(params=[*golden_files("eges"), *golden_files("skipgram_walks")], scope="module")
def each(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    return (of_eges if path.stem.startswith("eges") else of_walks)(read(path))


def test_outputs_and_loss(each: Computed) -> None:
    close_outputs(each.outputs, each.golden.outputs)


def test_all_gradients(each: Computed) -> None:
    theirs = dict(each.golden.gradients)
    if not each.converted.module.side_sizes:  # nothing depends on the weight of the one embedding
        np.testing.assert_allclose(theirs.pop(skip_gram.WEIGHTS, 0.0), 0.0, atol=1e-7)
    close_gradients(each.gradients, theirs)


def test_weights_come_back_as_they_were(each: Computed) -> None:
    back = to_state(each.converted.variables, each.converted.locations)
    unused = set() if each.converted.module.side_sizes else {skip_gram.WEIGHTS}
    assert set(back) == set(each.golden.params) - unused
    for name, value in back.items():
        np.testing.assert_array_equal(value, each.golden.params[name])


def test_sizes_are_those_of_the_configuration(each: Computed) -> None:
    config, model = each.golden.meta["config"], each.converted.module
    assert (model.num_items, model.dim) == (config["nodes"], config["dim"])
    assert list(model.side_sizes) == config.get("side_sizes", [])
