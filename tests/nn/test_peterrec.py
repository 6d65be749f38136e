"""PeterRec: what its patches add, and which pre-trained models it takes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec, trainable, transfer
from tests.nn.drawn import drawn

ITEMS = np.array([[3, 1, 4, 1, 5, 9], [0, 0, 2, 6, 5, 3]], np.int32)
SIZES: dict[str, Any] = {"dim": 8, "extra_rows": 1}


def pair(ours: tuple[int, ...] = (1, 2), theirs: tuple[int, ...] = (1, 2), **fields: Any) -> tuple[Any, Any]:
    """A PeterRec and a NextItNet with these dilations."""
    return (
        PeterRec(9, 3, dilations=ours, **SIZES),
        NextItNet(9, dilations=theirs, **{**SIZES, **fields}),
    )


def params_of(model: Any) -> Any:
    return drawn(model, ITEMS)["params"]


def test_parallel_patches_of_zero_add_their_input_to_the_serial_form() -> None:
    """With U = 0 a patch is z + c: serial conv(y) + c, parallel conv(y) + y + c.

    So the parallel model is the serial one whose kernels read I more at the slot itself.
    """
    serial, parallel = (PeterRec(9, 3, dilations=(1, 2), parallel=form, **SIZES) for form in (False, True))
    params = params_of(parallel)
    more = jax.tree.map(np.array, params)
    for layer in ("layer_0", "layer_1"):
        for number in (1, 2):
            for tree in (params, more):
                tree[layer][f"patch_{number}"]["up"]["kernel"][:] = 0.0
            more[layer][f"conv_{number}"]["kernel"][-1] += np.eye(8, dtype=np.float32)
    run = jax.jit(lambda model, p: model.apply({"params": p}, ITEMS), static_argnums=0)
    left, right = run(parallel, params), run(serial, more)
    real = ITEMS != 0
    np.testing.assert_allclose(np.asarray(left)[real], np.asarray(right)[real], rtol=2e-5, atol=2e-5)
    without = np.asarray(run(serial, params))
    assert np.abs(np.asarray(left) - without)[real].max() > 0.1


def test_parallel_patches_without_a_residual_leave_their_input_out() -> None:
    """conv(y) + U a(D y): with it, the kernels read I more at the slot itself."""
    plain = PeterRec(9, 3, dilations=(1, 2), parallel=True, patch_residual=False,
                     patch_activation=jax.nn.leaky_relu, **SIZES)  # fmt: skip
    whole = plain.clone(patch_residual=True)
    params = params_of(plain)
    more = jax.tree.map(np.array, params)
    for layer in ("layer_0", "layer_1"):
        for number in (1, 2):
            more[layer][f"conv_{number}"]["kernel"][-1] += np.eye(8, dtype=np.float32)
    run = jax.jit(lambda model, p: model.apply({"params": p}, ITEMS), static_argnums=0)
    real = ITEMS != 0
    left, right = (np.asarray(out)[real] for out in (run(whole, params), run(plain, more)))
    np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-5)
    assert np.abs(left - np.asarray(run(plain, params))[real]).max() > 0.1
    other = np.asarray(run(plain.clone(patch_activation=jax.nn.relu), more))[real]
    assert np.abs(right - other).max() > 1e-4


def test_a_patch_is_as_wide_as_it_is_told() -> None:
    model = PeterRec(9, 3, dim=6, dilations=(1,), patch_dim=5)
    patch = jax.tree.map(np.shape, params_of(model))["layer_0"]["patch_2"]
    assert patch["down"] == {"kernel": (6, 5), "bias": (5,)}
    assert patch["up"] == {"kernel": (5, 6), "bias": (6,)}


def test_a_bias_of_targets_is_the_tasks_own() -> None:
    """Logits are h w + b; the bias is trained with the head and is no part of the backbone."""
    model, backbone = pair()
    model = model.clone(head_bias=True)
    params = params_of(model)
    assert params["head_bias"].shape == (4,)
    hidden, table = jax.jit(
        lambda p: (model.apply({"params": p}, ITEMS), model.apply({"params": p}, method="item_table"))
    )(params)
    bare = model.clone(head_bias=False)
    without = jax.jit(lambda p: bare.apply({"params": p}, ITEMS))(params)
    np.testing.assert_allclose(
        hidden @ table.T, without @ params["head"].T + params["head_bias"], rtol=1e-5, atol=1e-5
    )
    own: Any = trainable(params)
    assert own["head_bias"] and own["head"] and not own["item_embedding"]
    found = transfer(params, params_of(backbone), models=(model, backbone))
    np.testing.assert_array_equal(found["head_bias"], params["head_bias"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_dim": 0}, "patch_dim=0: must be at least 1"),
        ({"patch_residual": False}, "patch_residual=False: a serial patch without it"),
    ],
)
def test_patches_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        params_of(PeterRec(9, 3, dilations=(1,), **SIZES, **fields))


def test_what_is_carried_over_is_all_but_patches_and_head() -> None:
    model, backbone = pair()
    start, pretrained = params_of(model), params_of(backbone)
    pretrained = jax.tree.map(lambda leaf: leaf + 1, pretrained)
    found = transfer(start, pretrained, models=(model, backbone))
    jax.tree.map(lambda ours, theirs: None, found, start)  # of one structure
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        names = [part.key for part in path]
        origin: Any = start if any(n == "head" or n.startswith("patch_") for n in names) else pretrained
        for name in names:
            origin = origin[name]
        np.testing.assert_array_equal(leaf, origin)


def test_another_tasks_patches_are_left_behind() -> None:
    """Two tasks on one backbone: the second starts from the first one's, without what that had of its own."""
    model, _ = pair()
    start, other = params_of(model), jax.tree.map(lambda leaf: leaf + 1, params_of(model))
    bare = PeterRec(9, 3, dilations=(1, 2), patched=False, **SIZES)
    found = transfer(params_of(bare), other)
    assert set(found["layer_0"]) == {"conv_1", "conv_2", "norm_1", "norm_2"}
    found = transfer(start, other)
    np.testing.assert_array_equal(
        found["layer_0"]["patch_1"]["up"]["bias"], start["layer_0"]["patch_1"]["up"]["bias"]
    )


def test_a_block_too_many_is_refused() -> None:
    model, backbone = pair(ours=(1,), theirs=(1, 2))
    with pytest.raises(ValueError, match=r"layer_1/conv_1/bias: \(8,\).*missing here"):
        transfer(params_of(model), params_of(backbone))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    model, backbone = pair()
    pretrained = params_of(backbone)
    pretrained["layer_1"]["conv_2"]["kernel"][0, 1, 2] = value
    with pytest.raises(ValueError, match="layer_1/conv_2/kernel: 1 of 192 values"):
        transfer(params_of(model), pretrained)


@pytest.mark.parametrize(
    ("theirs", "fields", "message"),
    [
        ((1, 4), {}, r"dilations=\(1, 2\) here, \(1, 4\)"),
        ((1, 2), {"skip_padding": False}, "skip_padding=True here, False"),
        ((1, 2), {"norm_epsilon": 1e-3}, "norm_epsilon=1e-08 here, 0.001"),
        ((1, 2), {"bottleneck": True}, "bottleneck=True"),
    ],
)
def test_models_of_other_functions_are_refused(
    theirs: tuple[int, ...], fields: dict[str, Any], message: str
) -> None:
    """Equal shapes of parameters are not enough."""
    model, backbone = pair(theirs=theirs, **fields)
    with pytest.raises(ValueError, match=message):
        transfer(params_of(model), params_of(backbone), models=(model, backbone))


def test_dilations_may_be_a_list() -> None:
    model, backbone = pair()
    backbone = backbone.clone(dilations=[1, 2])
    transfer(params_of(model), params_of(backbone), models=(model, backbone))


def test_trainable_reads_trees_of_every_kind() -> None:
    """As the loop has them: variables beside other states, in tuples and named tuples."""
    tree: Any = ({"patch_1": 1.0, "norm_2": (2.0, 3.0)}, [{"head": 4.0}], ())
    own: Any = trainable(tree)
    assert own == ({"patch_1": True, "norm_2": (False, False)}, [{"head": True}], ())
    own = trainable(tree, norms=True)
    assert own[0]["norm_2"] == (True, True)
