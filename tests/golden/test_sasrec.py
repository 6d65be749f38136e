"""TiCoSeRec's encoder, losses and gradients against its PyTorch code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import s3rec
from jaxrec.nn.layers.attention import causal_mask
from jaxrec.nn.sequential.sasrec import SASRec, gelu
from jaxrec.types import Array, Variables
from tests.golden.fixtures import golden_files
from tests.nn.drawn import applied

ACTIVATIONS = {
    "gelu": gelu,
    "relu": jax.nn.relu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
REAL: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
PADDED: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-3}  # float32 rounds scores near -10000 to steps of 1e-3


class Reference(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, object]
    model: Any  # a SASRec
    variables: Variables

    def ids(self, name: str) -> Array:
        return jnp.asarray(self.arrays[f"in/{name}"], jnp.int32)


@pytest.fixture(params=golden_files("ticoserec_sasrec"), scope="module")
def reference(request: pytest.FixtureRequest) -> Reference:
    path: Path = request.param
    with np.load(path) as file:
        arrays = dict(file)
    config = json.loads(str(arrays["meta"]))["config"]
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    model, variables = s3rec.from_state_dict(
        state,
        num_heads=config["n_heads"],
        activation=ACTIVATIONS[config.get("hidden_act", "gelu")],
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
        mask_value=-10000.0,
    )
    assert isinstance(model, SASRec)
    return Reference(arrays, config, model, variables)


def test_sizes_are_read_off_the_shapes(reference: Reference) -> None:
    model, config = reference.model, reference.config
    found = (model.num_items + 2, model.dim, model.num_layers, model.inner_dim, model.max_len)
    names = ("item_size", "hidden_size", "n_layers", "inner_size", "max_seq_length")
    assert found == tuple(config[name] for name in names)


def test_every_layer_and_the_encoder(reference: Reference) -> None:
    items = reference.ids("input_ids")
    hidden, state = applied(
        reference.model, reference.variables, items, train=False, capture_intermediates=True
    )
    ours = {
        f"layer{i}": state["intermediates"][f"layer_{i}"]["__call__"][0]
        for i in range(reference.model.num_layers)
    }
    real = np.asarray(items) > 0
    for name, value in jax.device_get(ours | {"encoder": hidden}).items():
        theirs = reference.arrays[f"out/{name}"]
        np.testing.assert_allclose(value[real], theirs[real], err_msg=name, **REAL)
        np.testing.assert_allclose(value[~real], theirs[~real], err_msg=name, **PADDED)


def test_an_exact_mask_gives_the_same_real_rows(reference: Reference) -> None:
    items = reference.ids("input_ids")
    model = reference.model.clone(mask_value=-math.inf)
    real = np.asarray(items) > 0
    hidden = jax.jit(lambda v: model.apply(v, items, train=False))(reference.variables)
    np.testing.assert_allclose(np.asarray(hidden)[real], reference.arrays["out/encoder"][real], **REAL)


def test_scores_of_the_last_slot_over_all_rows(reference: Reference) -> None:
    run = jax.jit(lambda v: reference.model.apply(v, reference.ids("input_ids"), train=False))
    hidden = run(reference.variables)
    table = np.asarray(applied(reference.model, reference.variables, method="item_table"))
    np.testing.assert_allclose(
        np.asarray(hidden)[:, -1] @ table.T, reference.arrays["out/scores_last"], rtol=1e-5, atol=2e-5
    )


def test_the_rule_of_the_attention_mask(reference: Reference) -> None:
    visible = causal_mask(reference.ids("input_ids"))
    np.testing.assert_array_equal(
        np.where(visible, 0.0, -10000.0)[:, None], reference.arrays["out/attention_mask"]
    )


@pytest.fixture(scope="module")
def computed(reference: Reference) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """Our losses under the names of the outputs, and the gradient of `out/loss` under PyTorch's names."""
    model, batch = reference.model, ("input_ids", "view1", "view2")
    items = jnp.concatenate([reference.ids(name) for name in batch])
    temperature = float(str(reference.config["temperature"]))
    cosine = [name for name in reference.arrays if name.startswith("out/ntxent_tau")]
    assert cosine

    def total(variables: Variables) -> tuple[Array, dict[str, Array]]:
        hidden, *views = jnp.split(model.apply(variables, items, train=False), len(batch))
        first, second = (view.reshape(len(view), -1) for view in views)
        table = model.apply(variables, method="item_table")
        pos, neg = (jnp.sum(hidden * table[reference.ids(f"target_{n}")], axis=-1) for n in ("pos", "neg"))
        found = {
            name: losses.nt_xent(first, second, temperature=float(name[14:].replace("p", ".")))
            for name in cosine
        }
        found["out/rec_loss"] = losses.bce(pos, neg, where=reference.ids("target_pos") > 0)
        found["out/nce_loss"] = losses.nt_xent(first, second, temperature=temperature, normalise=False)
        found["out/loss"] = found["out/rec_loss"] + 0.1 * found["out/nce_loss"]
        return found["out/loss"], found

    grads, values = jax.jit(jax.grad(total, has_aux=True))(reference.variables)
    return values, s3rec.to_state_dict(model, grads, names=s3rec.RECBOLE)


def test_losses(reference: Reference, computed: tuple[dict[str, Array], dict[str, np.ndarray]]) -> None:
    for name, value in computed[0].items():
        tolerance = REAL if name == "out/rec_loss" else PADDED
        np.testing.assert_allclose(value, reference.arrays[name], err_msg=name, **tolerance)


def test_all_gradients(
    reference: Reference, computed: tuple[dict[str, Array], dict[str, np.ndarray]]
) -> None:
    """Of rec + 0.1 · nce, which reads padded rows: absolute tolerance in units of the largest entry."""
    theirs = {key[5:]: value for key, value in reference.arrays.items() if key.startswith("grad/")}
    assert set(theirs) == set(computed[1])
    for name, value in computed[1].items():
        atol = 2e-4 * max(1.0, float(abs(theirs[name]).max()))
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=atol, err_msg=name)


def test_the_padding_row_is_read_but_gets_no_gradient(
    reference: Reference, computed: tuple[dict[str, Array], dict[str, np.ndarray]]
) -> None:
    assert (np.asarray(reference.variables["params"]["item_embedding"])[0] != 0.0).any()
    assert (computed[1]["item_embedding.weight"][0] == 0.0).all()
    assert (reference.arrays["grad/item_embedding.weight"][0] == 0.0).all()
