"""Settings of how a model is computed: named where they are given, read by every row or refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.multitask import census
from experiments.sequential import hstu as hstu_experiment
from experiments.sequential import sasrec as experiment
from jaxrec import losses
from jaxrec.commands.training.models import chosen, options_type
from jaxrec.commands.training.options import described
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.recipes import hstu, multitask, nextitnet, sasrec
from jaxrec.recipes.compute import later, without_defaults


@dataclasses.dataclass(frozen=True)
class Settings:
    dim: int = 4
    new: int = later(1)


def test_a_later_field_is_named_where_it_is_given() -> None:
    for settings, named in ((Settings(), {"dim": 4}), (Settings(new=2), {"dim": 4, "new": 2})):
        assert without_defaults(settings, dataclasses.asdict(settings)) == named


@pytest.mark.parametrize("given", [{"remat": True}, {"dtype": "bfloat16"}])
def test_runs_and_results_of_before_keep_their_settings(given: dict[str, Any]) -> None:
    _, entry = chosen("sasrec", labelled=False)
    assert not given.keys() & described(options_type(entry)()).keys()
    assert described(options_type(entry)(**given)).items() >= given.items()
    assert not given.keys() & common.describe_settings(experiment.Config()).keys()
    assert common.describe_settings(experiment.Config(**given)).items() >= given.items()


def test_the_data_type_of_hstu_was_always_named() -> None:
    assert common.describe_settings(hstu_experiment.Config())["dtype"] == "float32"
    assert "remat" not in common.describe_settings(hstu_experiment.Config())


def test_a_row_in_bfloat16_has_a_name_of_its_own_and_no_published_numbers() -> None:
    half = experiment.Config(dtype="bfloat16")
    assert experiment.model_name("sasrec-bce", half) == "sasrec-bce+bf16"
    assert experiment.model_name("popularity", half) == "popularity"
    assert experiment.published_numbers("sasrec-bce", half) == common.NONE
    assert experiment.published_numbers("sasrec-bce", experiment.Config(remat=True)) != common.NONE


def test_a_gru_has_no_blocks() -> None:
    with pytest.raises(ValueError, match="remat=True: a GRU has no blocks"):
        sasrec.gru4rec(10, sasrec.Recipe(remat=True))


@pytest.mark.parametrize("made", [sasrec.original, sasrec.post_norm, hstu.hstu, hstu.sasrec_original])
def test_modules_get_both(made: Any) -> None:
    kind = hstu.Recipe if made.__module__ == hstu.__name__ else sasrec.Recipe
    plain, other = made(10, kind()), made(10, kind(dtype="bfloat16", remat=True))
    assert (plain.dtype, plain.remat) == (None, False)
    assert (other.dtype, other.remat) == (jnp.bfloat16, True)
    assert plain.clone(dtype=jnp.bfloat16, remat=True) == other


def test_nextitnet_gets_remat() -> None:
    assert nextitnet.nextitnet(10, nextitnet.Recipe(remat=True)).remat


ITEMS = np.array([[0, 0, 0, 4, 9, 2], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]], np.int32)
SMALL: dict[str, Any] = {"dim": 8, "num_layers": 1, "max_len": 6, "dropout": 0.0}


@pytest.mark.parametrize("made", [sasrec.original, sasrec.post_norm, sasrec.gru4rec])
def test_bfloat16_is_of_products_alone(made: Any) -> None:
    """Parameters, the loss and gradients are float32; a checkpoint is the same whatever the type."""

    def run(dtype: Any) -> Any:
        model = made(12, sasrec.Recipe(**SMALL, dtype=dtype))
        variables = model.init(jax.random.key(0), ITEMS, train=False)

        def loss(variables: Any) -> Any:
            hidden = model.apply(variables, ITEMS, train=False)
            table = model.apply(variables, method="item_table")
            pos = losses.dot_products(hidden[:, :-1], table)[..., 1]
            return losses.bce(pos, pos - 1.0, where=ITEMS[:, 1:] != 0), hidden

        (value, hidden), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
        return variables, value, hidden, gradient

    (drawn, value, hidden, gradient), (ours, half_value, half_hidden, half_gradient) = (
        jax.jit(lambda dtype=dtype: run(dtype))() for dtype in ("float32", "bfloat16")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, drawn)
    assert {leaf.dtype for leaf in jax.tree.leaves((drawn, gradient, half_gradient))} == {np.dtype("float32")}
    assert (value.dtype, half_value.dtype) == (np.dtype("float32"), np.dtype("float32"))
    assert hidden.dtype == np.dtype("float32")
    np.testing.assert_allclose(half_hidden.astype(np.float32), hidden, rtol=0.1, atol=0.05)
    np.testing.assert_allclose(half_value, value, rtol=0.02)
    assert np.abs(half_hidden.astype(np.float32) - hidden).max() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(half_gradient))
    if made is sasrec.original:
        assert (np.asarray(half_hidden)[ITEMS == 0] == 0).all()


BODIES = (
    multitask.shared_bottom, multitask.omoe, multitask.mmoe, multitask.attention_gated_mmoe, multitask.cgc,
    multitask.ple, multitask.snr_trans, multitask.snr_aver,
)  # fmt: skip
SIZES: dict[str, Any] = {
    "bottom_dims": (8,), "tower_dims": (4,), "expert_dims": (8,), "subnet_dims": (8,), "num_experts": 3,
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_multi_task_models_compute_hidden_layers_in_bfloat16(body: Any) -> None:
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)

    def run(dtype: Any) -> Any:
        model = body(2, multitask.Recipe(**SIZES, dtype=dtype))
        variables = model.init(jax.random.key(0), x)

        def loss(params: Any) -> Any:
            logits, sown = model.apply(
                {**variables, "params": params}, x, mutable="intermediates", capture_intermediates=True
            )
            return jnp.mean(losses.sigmoid_cross_entropy(logits, jnp.zeros_like(logits))), (logits, sown)

        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, rest[0], gradient, rest[1]["intermediates"]

    (_, full, _, _), (value, half, gradient, sown) = (
        jax.jit(lambda dtype=dtype: run(dtype))() for dtype in ("float32", "bfloat16")
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((value, half, gradient))} == {np.dtype("float32")}
    found = jax.tree_util.tree_flatten_with_path(sown)[0]
    hidden = [leaf for path, leaf in found if "layer_0" in jax.tree_util.keystr(path)]
    assert hidden and {leaf.dtype for leaf in hidden} == {jnp.dtype(jnp.bfloat16)}
    gates = [leaf for path, leaf in found if "gate" in jax.tree_util.keystr(path)]
    assert {leaf.dtype for leaf in gates} <= {np.dtype("float32")}
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.02)
    assert np.abs(half - full).max() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("sizes", [multitask.Recipe(), multitask.SyntheticStudy()])
def test_the_default_is_the_model_of_before(sizes: Any) -> None:
    made = multitask.mmoe(2, sizes)
    expected = MMoE(2, sizes.num_experts, expert_dims=sizes.expert_dims, tower_dims=sizes.tower_dims)
    assert made == expected


def test_census_names_rows_in_bfloat16() -> None:
    half = census.Config(dtype="bfloat16")
    assert [census.model_name(row, half) for row in ("mmoe", "logistic-regression")] == [
        "mmoe+bf16", "logistic-regression",
    ]  # fmt: skip
    assert "dtype" not in common.describe_settings(census.Config())
    assert census.published_numbers("mmoe", half) == common.NONE


def test_an_mlp_normalises_in_float32() -> None:
    x = np.random.default_rng(0).normal(100.0, 1.0, size=(64, 3)).astype(np.float32)
    model = MLP((4,), batch_norm=True, dtype=jnp.bfloat16)

    @jax.jit
    def run() -> Any:
        return model.init_with_output(jax.random.key(0), x, train=True)

    y, variables = run()
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
