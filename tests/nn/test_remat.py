"""Blocks that are computed again in the backward pass: the same numbers, and fewer of them in memory."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.ligr import LiGR
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal

SIZES: dict[str, Any] = {"num_items": 20, "dim": 8, "max_len": 6}
NOISY: dict[str, Any] = {**SIZES, "num_layers": 1, "num_heads": 2, "dropout": 0.3, "bits": counter_bits}
MODELS: dict[str, Any] = {
    "sasrec": SASRec(**NOISY, inner_dim=12),
    "sasrec_original": SASRecOriginal(**NOISY),
    "sasrec_hstu": SASRecHSTU(**NOISY),
    "hstu": HSTU(**NOISY, key_dim=4, value_dim=4),
    "ligr": LiGR(**NOISY, inner_dim=12),
    "nextitnet": NextItNet(**SIZES, dilations=(2,)),
    "nextitnet_bottleneck": NextItNet(**SIZES, dilations=(2,), bottleneck=True, tied=True),
}
ITEMS = np.array([[0, 0, 0, 4, 9, 2], [1, 2, 3, 4, 5, 6], [0, 0, 7, 0, 7, 3]], np.int32)
KEY = jax.random.key(0)


@functools.cache
def computed(name: str, remat: bool) -> tuple[Any, Any]:
    """Variables as the model draws them; loss and gradient with dropout."""
    model = MODELS[name].clone(remat=remat)

    def loss(variables: Any) -> Any:
        noise = {"dropout": jax.random.key(1)}
        z = model.apply(variables, ITEMS, rows=jnp.arange(3), train=True, rngs=noise)
        return jnp.sum(jnp.sin(z))

    @jax.jit
    def run() -> Any:
        variables = model.init(KEY, ITEMS, train=False)
        return variables, jax.value_and_grad(loss)(variables)

    found: tuple[Any, Any] = jax.device_get(run())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_parameters_noise_and_gradients_are_the_same(name: str) -> None:
    (kept, ours), (without, expected) = computed(name, True), computed(name, False)
    structures: list[Any] = [jax.tree.structure(kept), jax.tree.structure(without)]
    assert structures[0] == structures[1]
    jax.tree.map(np.testing.assert_array_equal, kept, without)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(ours[1]["params"]["layer_0"]))


# XLA's CPU compiler takes out the barriers that keep the second computation apart, and merges it with the
# first; the compilers of GPUs and TPUs keep them until the end.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def temporary_bytes(model: Any) -> int:
    """Memory that the gradient of a long and deep model takes besides its arguments and results."""
    items = jax.ShapeDtypeStruct((8, 64), jnp.int32)
    variables = jax.eval_shape(lambda: model.init(KEY, jnp.ones((1, 64), jnp.int32), train=False))

    def loss(variables: Any, items: Any) -> Any:
        return jnp.sum(jnp.sin(model.apply(variables, items, train=False)))

    program = jax.jit(jax.grad(loss)).lower(variables, items).compile(compiler_options=KEEP_BARRIERS)
    analysis = program.memory_analysis()
    assert analysis is not None
    return int(analysis.temp_size_in_bytes)


DEEP: dict[str, Any] = {
    "sasrec": SASRec(num_items=20, dim=16, num_layers=6, inner_dim=64, max_len=64),
    "nextitnet": NextItNet(num_items=20, dim=16, dilations=(1, 2, 4) * 3, max_len=64, tied=True),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_model_needs_less_memory(name: str) -> None:
    model = DEEP[name]
    assert temporary_bytes(model.clone(remat=True)) < 0.6 * temporary_bytes(model)


@pytest.mark.parametrize("name", MODELS)
def test_every_block_is_computed_again(name: str) -> None:
    for remat in (False, True):
        model = MODELS[name].clone(remat=remat)
        variables = jax.eval_shape(lambda model=model: model.init(KEY, ITEMS, train=False))
        program = jax.make_jaxpr(lambda v, model=model: model.apply(v, ITEMS, train=False))(variables)
        again = [eqn for eqn in program.eqns if eqn.primitive.name in ("checkpoint", "remat2", "remat")]
        assert len(again) == (len([n for n in variables["params"] if n.startswith("layer_")]) if remat else 0)
