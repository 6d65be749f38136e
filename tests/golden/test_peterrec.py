"""PeterRec of its authors and of Tenrec: blocks, logits, losses and all gradients.

The authors read their id 0 and train its vector, so it is an item here and our ids are theirs plus 1. That of
Tenrec is padding, as ours is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import peterrec, tenrec
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]
FILES = [*golden_files("peterrec_official"), *golden_files("peterrec_tenrec")]


def is_official(golden: Golden) -> bool:
    return "allitem_embeddings" in golden.params


def is_parallel(golden: Golden) -> bool:
    """Whether the source's block is parallel: `peter_2mp_parallel, …` or `…, parallel patches`."""
    told = f"{golden.meta['config'].get('block', '')} {golden.meta['source']['path']} {golden.meta['model']}"
    forms = {form for form in ("parallel", "serial") if form in told}
    assert len(forms) == 1, told
    return forms == {"parallel"}


def converted(golden: Golden) -> Converted:
    config = golden.meta["config"]
    if is_official(golden):
        causal = config.get("causal", True)
        return peterrec.from_variables(golden.params, parallel=is_parallel(golden), causal=causal)
    dilations = config["dilations"] * config.get("block_num", 1)
    options = {"block": config["block"]} if "block" in config else {}
    return tenrec.peterrec(golden.params, dilations=dilations, **options)


@pytest.fixture(params=FILES, scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under the source's names."""
    path: Path = request.param
    golden = read(path)
    model, variables, locations = converted(golden)
    inputs = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items()}

    def official(variables: Variables) -> tuple[Array, dict[str, Array]]:
        hidden, state = model.apply(variables, inputs["items"] + 1, capture_intermediates=True)
        layers = state["intermediates"]
        outputs = {f"layer{i}": layers[f"layer_{i}"]["__call__"][0] for i in range(len(model.dilations))}
        table = model.apply(variables, method="item_table")
        loss = losses.softmax_cross_entropy(hidden[:, -1], table, inputs["target"] + 1)
        return loss, outputs | {"logits": hidden[:, -1] @ table[1:].T, "loss": loss}

    def port(variables: Variables) -> tuple[Array, dict[str, Array]]:
        hidden, table = model.apply(variables, inputs["items"]), model.apply(variables, method="item_table")
        targets = inputs["targets"]
        loss = losses.softmax_cross_entropy(hidden, table, targets, where=targets > 0, include_padding=True)
        return loss, {"hidden": hidden[..., : model.dim], "logits": hidden @ table.T, "loss": loss}

    total = official if is_official(golden) else port
    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    return golden, outputs, to_state(gradients, locations)


def test_outputs_and_loss(computed: Computed) -> None:
    golden, outputs, _ = computed
    close_outputs(outputs, golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    close_gradients(gradients, golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, *_ = computed
    config, (model, variables, locations) = golden.meta["config"], converted(golden)
    assert model.kernel_size == config["kernel_size"]
    slices = config.get("cardinality", 1)
    if is_official(golden):
        assert (model.dim, model.num_items, model.num_targets) == tuple(
            config[name] for name in ("dim", "rows", "targets")
        )
        assert list(model.dilations) == config["dilations"]
        assert model.patch_dim == (model.dim // (4 * slices) * slices if model.patched else None)
    else:
        assert (model.dim, model.num_items) == (config["embedding_size"], config["num_items"])
        with pytest.raises(ValueError, match="each has one"):
            tenrec.peterrec(golden.params, dilations=[*model.dilations, 1])
    for name, value in to_state(variables, locations).items():  # and the way back
        if slices == 1 or not name.endswith("/bias") or "/mp_conv1_up_" not in name:
            np.testing.assert_array_equal(value, golden.params[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("peterrec_official"))
def test_ids_as_they_are_with_padding_that_is_read_give_the_same(path: Path) -> None:
    """The other way to read that code's id 0: as our padding, whose vector then gets no gradient."""
    golden = read(path)
    model, variables, _ = converted(golden)
    table = variables["params"]["item_embedding"]
    shifted = {"params": variables["params"] | {"item_embedding": table[1:]}}
    other = model.clone(num_items=model.num_items - 1, skip_padding=False)
    items = jnp.asarray(golden.inputs["items"], jnp.int32)
    left, right = jax.jit(lambda a, b: (model.apply(a, items + 1), other.apply(b, items)))(variables, shifted)
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


# --- what no fixture may have: several slices, one patch a block, none ---


def state_of(patches: tuple[str, ...], slices: int, *, dim: int = 12) -> dict[str, np.ndarray]:
    """One block of the authors' code with drawn weights."""
    layer, width = "nextitnet_residual_blockdecoder_layer_0_2", dim // (4 * slices)
    shapes: dict[str, tuple[int, ...]] = {"allitem_embeddings": (7, dim), "softmax_w": (3, dim)}
    for number in (1, 2):
        shapes |= {
            f"{layer}/dilated_conv{number}/weight": (1, 2, dim, dim),
            f"{layer}/dilated_conv{number}/bias": (dim,),
            f"{layer}/layer_norm{number}/gamma": (dim,),
            f"{layer}/layer_norm{number}/beta": (dim,),
        }
    for scope in patches:
        for j in range(slices):
            part = f"{layer}/{scope}/mp_conv1"
            shapes |= {
                f"{part}_down_{j}/weight": (1, 1, dim, width),
                f"{part}_down_{j}/bias": (width,),
                f"{part}_up_{j}/weight": (1, 1, width, dim),
                f"{part}_up_{j}/bias": (dim,),
            }
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def slow(state: dict[str, np.ndarray], items: np.ndarray, patches: tuple[str, ...], parallel: bool) -> Any:
    """That block in float64, ids [L] → [L, D]."""
    layer = "nextitnet_residual_blockdecoder_layer_0_2"
    weights = {name.removeprefix(f"{layer}/"): value.astype(np.float64) for name, value in state.items()}

    def convolution(x: np.ndarray, number: int, dilation: int) -> np.ndarray:
        kernel = weights[f"dilated_conv{number}/weight"][0]
        before = np.concatenate([np.zeros((dilation, x.shape[1])), x])[: len(x)]
        return before @ kernel[0] + x @ kernel[1] + weights[f"dilated_conv{number}/bias"]

    def patch(z: np.ndarray, scope: str) -> np.ndarray:
        out, j = z, 0
        while f"{scope}/mp_conv1_down_{j}/bias" in weights:
            part = {n: (weights[f"{scope}/mp_conv1_{n}_{j}/weight"][0, 0],
                        weights[f"{scope}/mp_conv1_{n}_{j}/bias"]) for n in ("down", "up")}  # fmt: skip
            low = z @ part["down"][0] + part["down"][1]
            low = 0.5 * low * (1 + np.tanh(np.sqrt(2 / np.pi) * (low + 0.044715 * low**3)))
            out, j = out + low @ part["up"][0] + part["up"][1], j + 1
        return out

    def norm(x: np.ndarray, number: int) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-8)
        return x * weights[f"layer_norm{number}/gamma"] + weights[f"layer_norm{number}/beta"]

    x = y = weights["allitem_embeddings"][items]
    for number in (1, 2):
        z, scope = convolution(y, number, 2 * number), "mp" if "mp" in patches else f"mp_{number}"
        if scope in patches and (scope != "mp" or number == 2):
            z = z + patch(y, scope) if parallel else patch(z, scope)
        y = np.maximum(norm(z, number), 0)
    return x + y


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("patches", "slices"), [((), 1), (("mp",), 1), (("mp_1", "mp_2"), 1), (("mp_1", "mp_2"), 2)]
)
def test_blocks_of_every_form(patches: tuple[str, ...], slices: int, parallel: bool) -> None:
    """Two slices of 12 // 8 channels are 2 channels of a patch, not 12 / 4."""
    state = state_of(patches, slices)
    model, variables, _ = peterrec.from_variables(state, parallel=parallel)
    items = np.array([0, 3, 6, 1, 1])
    hidden = jax.jit(lambda v: model.apply(v, jnp.asarray(items + 1)[None]))(variables)[0]
    np.testing.assert_allclose(hidden, slow(state, items, patches, parallel), rtol=1e-4, atol=1e-4)
    table = model.apply(variables, method="item_table")
    np.testing.assert_array_equal(table[1:], state["softmax_w"])  # no bias in the file, none here


def test_what_is_not_a_causal_peterrec_is_refused() -> None:
    state = state_of(("mp_1", "mp_2"), 1)
    with pytest.raises(ValueError, match="causal=False"):
        peterrec.from_variables(state, parallel=True, causal=False)
    with pytest.raises(ValueError, match="patches mp_1: expected"):
        peterrec.from_variables(state_of(("mp_1",), 1), parallel=False)
    later = {name.replace("layer_0_2", "layer_1_2"): value for name, value in state.items()}
    with pytest.raises(ValueError, match=r"numbers \[1\] in the names"):
        peterrec.from_variables(later, parallel=False)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("ResidualBlock_b_2mp_serial", "takes its place"),
        ("ResidualBlock_a", "must be ResidualBlock_b_2mp"),
    ],
)
def test_tenrecs_other_blocks_are_refused(block: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tenrec.peterrec({}, dilations=[1], block=block)
