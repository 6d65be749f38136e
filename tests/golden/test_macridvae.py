"""RecBole's MacridVAE: outputs, loss with penalty and all gradients, evaluating and with given noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import recbole_autoencoder
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_multivae import annealed, update


def penalty(params: Any, first: float, second: float) -> Array:
    """RecBole's: norms, not squares, of the two tables and of the encoder's weights."""
    tables = jnp.linalg.norm(params["items"]) + jnp.linalg.norm(params["concepts"])
    kernels = [jnp.linalg.norm(layer["kernel"]) for layer in params["encoder"].values()]
    return first * tables + second * sum(kernels)


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


@pytest.fixture(params=golden_files("macridvae"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    converted = recbole_autoencoder.macridvae(
        golden.params,
        dropout=0.0,
        temperature=config["tau"],
        prior_std=config["std"],
        gumbel=not config["nogb"],
    )
    model: Any = converted.module
    noise: Any = golden.inputs.get("noise")
    noise = None if noise is None else jnp.moveaxis(noise, 0, 1)
    x = jnp.asarray(golden.inputs["interaction_matrix"][golden.inputs["user_id"]], jnp.float32)

    def total(variables: Any) -> tuple[Array, dict[str, Array]]:
        assignment = model.apply(variables, train=False, method="assignment")
        mean, log_variance = model.apply(variables, x, assignment, train=False, method="encode")
        scores, kl = model.apply(variables, x, train=noise is not None, noise=noise)
        parts = {
            "reconstruction": losses.multinomial(scores, x, include_padding=True),
            "kl": losses.masked_mean(kl),
        }
        bound, *_ = annealed(config).combine({}, {"step": jnp.int32(update(golden.meta))}, parts)
        outputs = {"rating": x, "scores": scores, "cates": jnp.exp(assignment)}
        outputs |= {"mu": jnp.moveaxis(mean, 1, 0), "logvar": jnp.moveaxis(log_variance, 1, 0)}
        outputs["reg_loss"] = penalty(variables["params"], *config["reg_weights"])
        outputs["loss"] = bound + outputs["reg_loss"]
        if noise is None:
            outputs["predict"] = scores[jnp.arange(len(x)), golden.inputs["item_id"]]
        return outputs["loss"], outputs

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(converted.variables)
    return Computed(golden, converted, outputs, to_state(gradients, converted.locations))


def test_outputs_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    model, config = computed.converted.module, computed.golden.meta["config"]
    assert list(model.hidden_dims) == config["encoder_hidden_size"]
    assert (model.dim, model.num_concepts) == (config["embedding_size"], config["kfac"])
    assert model.num_items + 1 == config["n_items"]


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    state = to_state(computed.converted.variables, computed.converted.locations)
    assert set(state) == set(computed.golden.params)
    for name, value in state.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("macridvae")[:1])
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    state = read(path).params
    with pytest.raises(ValueError, match=r"k_embedding\.weight: missing"):
        recbole_autoencoder.macridvae({k: v for k, v in state.items() if k != "k_embedding.weight"})
    with pytest.raises(ValueError, match="but the other parameters imply"):
        recbole_autoencoder.macridvae({**state, "k_embedding.weight": state["k_embedding.weight"][:, :-1]})
