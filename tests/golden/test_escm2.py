"""A PyTorch port of PaddleRec's ESCM²: outputs, errors, risks, losses and all gradients.

The port's inverse propensities are those of ours with a scale and a floor that depend on the batch, and its
error of imputation trains the conversion tower too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import escm2
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

LARGEST = 15.0  # weight


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def risk_of(mode: str, logits: dict[str, Array], errors: Array, clicked: Array) -> Array:
    """The port's risk of conversion."""
    if mode == "DR":
        propensity = losses.clipped_propensity(logits["ctr"], minimum=1 / LARGEST)
        found = (errors, logits["imputed_error"], clicked, propensity)
        return losses.doubly_robust_risk(*found) + losses.imputation_risk(*found, train_errors=True)
    if mode != "IPW":
        raise ValueError(f"counterfact_mode={mode}: must be IPW or DR")
    floor = 1 / (LARGEST * len(clicked))
    propensity = losses.clipped_propensity(logits["ctr"], minimum=floor, scale=jnp.mean(clicked))
    return losses.inverse_propensity_risk(errors, clicked, propensity)


@pytest.fixture(params=golden_files("escm2"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    converted = escm2.from_state_dict(golden.params)
    batch = {f"field_{i}": jnp.asarray(ids, jnp.int32) for i, ids in enumerate(golden.inputs["ids"])}
    click, buy = (jnp.asarray(golden.inputs[name], jnp.float32) for name in ("click", "buy"))

    def total(params: Any) -> tuple[Array, dict[str, Array]]:
        logits = converted.module.apply({"params": params}, batch)
        errors = losses.sigmoid_cross_entropy(logits["cvr"], buy)
        scalars = {
            "loss_ctr": losses.binary_cross_entropy(logits["ctr"], click),
            "loss_ctcvr": losses.binary_cross_entropy(logits["ctcvr"], buy),
            "risk": risk_of(config["counterfact_mode"], logits, errors, click > 0),
        }
        weights = {"loss_ctr": 1.0, "risk": config["counterfactual_w"], "loss_ctcvr": config["global_w"]}
        scalars["loss"] = sum((weights[name] * value for name, value in scalars.items()), jnp.zeros(()))
        columns = {name: nn.sigmoid(logits[name]) for name in ("ctr", "cvr", "ctcvr")} | {"cvr_error": errors}
        if "imputed_error" in logits:
            columns["imputed"] = logits["imputed_error"]
        return scalars["loss"], scalars | {name: value[:, None] for name, value in columns.items()}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(converted.variables["params"])
    state = escm2.two_classes(to_state({"params": gradients}, converted.locations))
    return Computed(golden, converted, outputs, state)


def test_outputs_risk_and_losses(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_weights_come_back_with_one_logit_for_two_classes(computed: Computed) -> None:
    state = to_state(computed.converted.variables, computed.converted.locations)
    theirs = {k: v for k, v in computed.golden.params.items() if not k.startswith("bn.")}
    assert set(state) == set(theirs)
    for name, value in state.items():
        expected = theirs[name][1:] - theirs[name][:1] if name.startswith("tower_outs.") else theirs[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    config, module = computed.golden.meta["config"], computed.converted.module
    model, columns = module.model, module.embedding.fields
    assert model.impute == (config["counterfact_mode"] == "DR")
    assert model.num_experts == config["expert_num"]
    assert (*model.expert_dims, *model.tower_dims) == (config["expert_size"], config["tower_size"])
    assert [column.dim for column in columns] == [config["embed_dim"]] * config["fields"]


@pytest.mark.parametrize("path", golden_files("escm2"))
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    state = read(path).params
    one_tower = {k: v for k, v in state.items() if not k.startswith(("towers.1", "towers.2"))}
    with pytest.raises(ValueError, match="1 towers: must be 2"):
        escm2.from_state_dict(one_tower)
    with pytest.raises(ValueError, match="row 0 is not zero"):
        escm2.from_state_dict({**state, "embedding.weight": state["embedding.weight"] + 1.0})
    with pytest.raises(ValueError, match="not understood: experts.0.scale"):
        escm2.from_state_dict({**state, "experts.0.scale": np.ones(1, np.float32)})
