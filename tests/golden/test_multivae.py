"""RecBole's MultiVAE: outputs, the loss and all gradients, evaluating and with given noise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import recbole_autoencoder
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.optim.loss_weighting import by_schedule
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


def update(meta: dict[str, Any]) -> int:
    """Number of the step, from 1 on, which the notes tell."""
    found = re.search(r"update = (\d+)", " ".join(meta.get("notes", [])))
    return int(found[1]) if found else 3


def annealed(config: dict[str, Any]) -> Any:
    """The weighting of RecBole's configuration: min(cap, step / steps), the cap where there are no steps."""
    cap, steps = config["anneal_cap"], config["total_anneal_steps"]
    weight: Any = (lambda step: jnp.minimum(cap, step / steps)) if steps else cap
    return by_schedule({"reconstruction": 1.0, "kl": weight})


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


@pytest.fixture(params=golden_files("multivae"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    converted = recbole_autoencoder.multivae(golden.params, dropout=0.0)
    model: Any = converted.module
    noise = golden.inputs.get("noise")
    x = jnp.asarray(golden.inputs["interaction_matrix"][golden.inputs["user_id"]], jnp.float32)
    rows = jnp.arange(len(x))

    def total(variables: Any) -> tuple[Array, dict[str, Array]]:
        mean, log_variance = model.apply(variables, x, train=False, method="encode")
        scores, kl = model.apply(variables, x, train=noise is not None, noise=noise)
        parts = {
            "reconstruction": losses.multinomial(scores, x, include_padding=True),
            "kl": losses.masked_mean(kl),
        }
        step = {"step": jnp.int32(update(golden.meta))}
        loss, *_ = annealed(golden.meta["config"]).combine({}, step, parts)
        outputs = {"rating": x, "scores": scores, "mu": mean, "logvar": log_variance, "loss": loss}
        outputs["kl_without_anneal"] = parts["kl"]
        if noise is None:
            outputs["predict"] = scores[rows, golden.inputs["item_id"]]
        return loss, outputs

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(converted.variables)
    return Computed(golden, converted, outputs, to_state(gradients, converted.locations))


def test_outputs_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    model, config = computed.converted.module, computed.golden.meta["config"]
    assert list(model.hidden_dims) == config["mlp_hidden_size"]
    assert 2 * model.latent_dim == config["latent_dimension"]
    assert model.num_items + 1 == config["n_items"]


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    state = to_state(computed.converted.variables, computed.converted.locations)
    assert set(state) == set(computed.golden.params)
    for name, value in state.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("multivae")[:1])
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    state = read(path).params
    with pytest.raises(ValueError, match=r"decoder\.0\.weight: missing"):
        recbole_autoencoder.multivae({k: v for k, v in state.items() if not k.startswith("decoder")})
    with pytest.raises(ValueError, match="in reverse order"):
        recbole_autoencoder.multivae({**state, "encoder.0.weight": state["encoder.0.weight"][:-1]})
