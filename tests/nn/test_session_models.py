"""STAMP, NextItNet and PeterRec."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.dilated import CausalConv
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec, trainable, transfer
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.types import Array, Variables

NUM_ITEMS, DIM, LENGTH = 20, 8, 7
SESSIONS = [[1, 2, 3, 4, 5, 6, 7], [4, 9, 2, 9], [20], [7, 0, 7, 3], []]  # one has a masked item inside
PACKED = [2, 1, 0, 3]  # sessions that share a row wider than LENGTH
CONVOLUTIONS: dict[str, Any] = {"dim": DIM, "dilations": (1, 2)}
MODELS: dict[str, Any] = {
    "stamp": STAMP(NUM_ITEMS, DIM, block=3, max_norm=0.8),
    "stmp": STAMP(NUM_ITEMS, DIM, attention=False, use_bias=False),
    "stmo": STAMP(NUM_ITEMS, DIM, memory=False),
    "stamp_without_click": STAMP(NUM_ITEMS, DIM, last_click=False, normalised=True, tanh_first=True),
    "nextitnet": NextItNet(NUM_ITEMS, **CONVOLUTIONS),
    "nextitnet_bottleneck": NextItNet(NUM_ITEMS, **CONVOLUTIONS, bottleneck=True, tied=True),
    "nextitnet_small": NextItNet(NUM_ITEMS, DIM, (1,), 2),
    "peterrec": PeterRec(NUM_ITEMS, 5, **CONVOLUTIONS),
    "peterrec_parallel": PeterRec(NUM_ITEMS, 5, **CONVOLUTIONS, parallel=True),
    "peterrec_second": PeterRec(NUM_ITEMS, 5, DIM, (1,), 2, both=False),
}
every_model = pytest.mark.parametrize("name", MODELS)


def padded(sessions: list[list[int]], *, left: bool = True) -> np.ndarray:
    rows = [[0] * (LENGTH - len(s)) + s if left else s + [0] * (LENGTH - len(s)) for s in sessions]
    return np.array(rows, np.int32)


LEFT = padded(SESSIONS)


class Drawn:
    """A model with weights larger than the initial ones, compiled once."""

    def __init__(self, name: str) -> None:
        self.model = MODELS[name]
        shapes = jax.eval_shape(lambda: self.model.init(jax.random.key(0), LEFT))
        rng = np.random.default_rng(0)
        self.variables = jax.tree.map(lambda x: 0.6 * rng.normal(size=x.shape).astype(np.float32), shapes)
        self.variables["params"]["item_embedding"][0] = 0.0
        self.run = jax.jit(self.model.apply)

    def __call__(self, items: np.ndarray = LEFT, variables: Variables | None = None) -> np.ndarray:
        return np.asarray(self.run(self.variables if variables is None else variables, items))

    def changed(self, new: Callable[[str, np.ndarray], np.ndarray | None]) -> Variables:
        """The weights, those at `a/b/c` replaced by what `new` makes of path and value, unless None."""

        def change(path: Any, leaf: np.ndarray) -> np.ndarray:
            made = new("/".join(part.key for part in path[1:]), leaf)
            return leaf if made is None else made

        return jax.tree_util.tree_map_with_path(change, self.variables)


@functools.cache
def drawn(name: str) -> Drawn:
    return Drawn(name)


def close(a: np.ndarray, b: np.ndarray, atol: float = 5e-6) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol)


# --- slow twins: outputs [n, D] for one session without padding, in float64 and loops ---


def affine(params: Any, x: np.ndarray) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def slow_stamp(model: STAMP, params: Any, session: list[int]) -> np.ndarray:
    outputs = []
    for end in range(1, len(session) + 1):
        x = params["item_embedding"][[item for item in session[:end] if item]]
        if model.max_norm:
            x = x * np.minimum(1.0, model.max_norm / np.linalg.norm(x, axis=1, keepdims=True))
        memory = mean = x.mean(axis=0)
        if model.attention and model.memory:
            inner = affine(params["from_item"], x) + affine(params["from_last"], x[-1])
            alpha = affine(params["weight"], 1 / (1 + np.exp(-inner - affine(params["from_mean"], mean))))
            alpha = np.exp(alpha) / np.exp(alpha).sum() if model.normalised else alpha
            memory = mean + (alpha * x).sum(axis=0)
        state = np.ones(model.dim)
        for used, layer, vector in (
            (model.memory, "session", memory), (model.last_click, "click", x[-1])
        ):  # fmt: skip
            if used and model.tanh_first:
                state = state * affine(params[layer], np.tanh(vector))
            elif used:
                state = state * np.tanh(affine(params[layer], vector))
        outputs.append(state)
    return np.array(outputs)


def slow_conv(params: Any, x: np.ndarray, session: list[int], dilation: int) -> np.ndarray:
    y = np.tile(params["bias"], (len(x), 1))
    taps = len(params["kernel"])
    for t, k in np.ndindex(len(x), taps):
        source = t - (taps - 1 - k) * dilation
        if source >= 0 and session[source]:
            y[t] += x[source] @ params["kernel"][k]
    return y


def active(params: Any, x: np.ndarray) -> np.ndarray:
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-8)
    return np.maximum(normed * params["scale"] + params["bias"], 0.0)


def slow_patch(params: Any, z: np.ndarray) -> np.ndarray:
    down = affine(params["down"], z)
    gelu = down * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (down + 0.044715 * down**3)))
    return z + affine(params["up"], gelu)


def slow_blocks(model: Any, params: Any, session: list[int]) -> np.ndarray:
    x = params["item_embedding"][session]
    for i, dilation in enumerate(model.dilations):
        layer = params[f"layer_{i}"]
        if getattr(model, "bottleneck", False):
            y = affine(layer["down"], active(layer["norm_1"], x))
            y = slow_conv(layer["conv"], active(layer["norm_2"], y), session, dilation)
            y = affine(layer["up"], active(layer["norm_3"], y))
        else:
            y = x
            for number in (1, 2):
                z = slow_conv(layer[f"conv_{number}"], y, session, number * dilation)
                if isinstance(model, PeterRec) and (model.both or number == 2):
                    patch = layer[f"patch_{number}"]
                    z = z + slow_patch(patch, y) if model.parallel else slow_patch(patch, z)
                y = active(layer[f"norm_{number}"], z)
        x = x + y
    if isinstance(model, NextItNet):
        if model.tied:
            return affine(params["output"], x)
        return np.concatenate([np.maximum(x, 0.0), np.ones((len(x), 1))], axis=1)
    return x


def slow(ours: Drawn, session: list[int]) -> np.ndarray:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), ours.variables["params"])
    twin = slow_stamp if isinstance(ours.model, STAMP) else slow_blocks
    return twin(ours.model, params, session)


# --- what holds for all ---


@every_model
def test_outputs_equal_slow_numpy_whatever_the_padding(name: str) -> None:
    ours = drawn(name)()
    for row, session in zip(ours, SESSIONS[:-1], strict=False):
        close(row[-len(session) :], slow(drawn(name), session))
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("name", ["stamp", "nextitnet", "nextitnet_bottleneck"])
def test_packed_rows_give_the_outputs_of_padded_ones(name: str) -> None:
    items = np.concatenate([*(SESSIONS[i] for i in PACKED), [0, 0]])[None].astype(np.int32)
    segments = np.concatenate([*([n] * len(SESSIONS[i]) for n, i in enumerate(PACKED, 1)), [0, 0]])[None]
    packed = drawn(name).run(drawn(name).variables, items, segments=segments.astype(np.int32))[0]
    close(np.asarray(packed)[:-2], np.concatenate([slow(drawn(name), SESSIONS[i]) for i in PACKED]))


@pytest.mark.parametrize("name", ["peterrec", "peterrec_parallel", "peterrec_second"])
def test_later_items_and_other_examples_change_nothing(name: str) -> None:
    items = LEFT.copy()
    items[0, 4:], items[1] = 17, 3
    before, after = drawn(name)(), drawn(name)(items)
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    np.testing.assert_array_equal(after[2:], before[2:])
    assert not np.allclose(after[0, 4], before[0, 4], atol=1e-4)


def test_the_table_of_peterrec_has_a_row_for_padding_and_one_for_the_task() -> None:
    model = MODELS["peterrec_second"]
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), LEFT))["params"]
    assert shapes["item_embedding"].shape == (NUM_ITEMS + 2, DIM)
    with pytest.raises(ValueError, match="dim=0"):
        jax.eval_shape(lambda: model.clone(dim=0).init(jax.random.key(0), LEFT))


@pytest.mark.parametrize("name", ["stmp", "nextitnet_small"])
def test_steps_lower_the_loss_and_never_train_padding(name: str) -> None:
    """With a session of padding alone among the rows."""
    model, variables = drawn(name).model, drawn(name).variables
    targets = np.roll(LEFT, -1, 1) * (LEFT != 0) * (np.arange(LENGTH) < LENGTH - 1)

    @jax.jit
    @jax.value_and_grad
    def loss(variables: Variables) -> Array:
        table = model.apply(variables, method="item_table")
        scores = jax.nn.log_softmax(model.apply(variables, LEFT) @ table[1:].T)
        chosen = jnp.take_along_axis(scores, jnp.maximum(targets - 1, 0)[..., None], axis=-1)[..., 0]
        return losses.masked_mean(-chosen, targets != 0)

    values = []
    for _ in range(20):
        value, grads = loss(variables)
        values.append(float(value))
        variables = jax.tree.map(lambda p, g: p - 0.3 * np.asarray(g), variables, grads)
    assert values[-1] < 0.8 * values[0]
    assert (variables["params"]["item_embedding"][0] == 0.0).all()


@pytest.mark.parametrize("name", ["stamp", "stamp_without_click", "nextitnet", "nextitnet_bottleneck"])
def test_half_precision_is_near_and_its_gradients_are_float32(name: str) -> None:
    """bfloat16 has 8 bits: outputs are off by a hundredth or so, parameters and gradients keep 24."""
    full, half = drawn(name).model, drawn(name).model.clone(dtype=jnp.bfloat16)

    def total(model: Any, variables: Variables) -> tuple[Array, Array]:
        out = model.apply(variables, LEFT)
        return (out.astype(jnp.float32) * jnp.cos(jnp.arange(out.shape[-1]))).sum(), out

    results = []
    for model in (full, half):
        grad = jax.jit(jax.grad(functools.partial(total, model), has_aux=True))
        gradients, out = grad(drawn(name).variables)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype(np.float32)}
        results.append((np.asarray(out, np.float32)[LEFT != 0], gradients))
    (expected, right), (found, near) = results
    assert 1e-5 < np.abs(found - expected).mean() < 0.03 * np.abs(expected).mean()
    for a, b in zip(jax.tree.leaves(near), jax.tree.leaves(right), strict=True):
        assert np.linalg.norm(a - b) <= 0.1 * np.linalg.norm(b)
    shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), LEFT))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}


# --- STAMP ---


def test_stamp_reads_padding_on_the_right_as_its_last_item() -> None:
    right = drawn("stamp")(padded(SESSIONS, left=False))
    close(right[:4, -1], drawn("stamp")()[:4, -1], atol=1e-6)


def test_order_matters_for_the_last_item_alone() -> None:
    items = np.repeat(LEFT[:1], 5, axis=0)
    items[1, :-1] = items[0, -2::-1]
    items[2, [0, -1]] = items[0, [-1, 0]]
    ours = drawn("stamp")(items)[:, -1]
    close(ours[1], ours[0], atol=1e-6)
    assert not np.allclose(ours[2], ours[0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes"), [("stamp", True), ("stmp", False), ("stamp_without_click", False)]
)
def test_items_read_twice_change_the_sum_and_no_mean(name: str, changes: bool) -> None:
    """a, b, c against a, b, c, a, b, c: every mean is the same, and the same item is last.

    m_a = m_s + Σ α_i x_i has a second Σ α_i x_i to add, where m_s alone, or with α a softmax, stays.
    """
    once, twice = (drawn(name)(padded([session]))[0, -1] for session in ([4, 9, 2], [4, 9, 2] * 2))
    assert np.allclose(twice, once, atol=1e-5) is not changes


def test_items_read_twice_count_twice_in_the_memory() -> None:
    """The state after a, b, c, a, b, c is tanh(W_s (m_s + 2 Σ α_i x_i) + b_s) ⊙ h_t of a, b, c."""
    ours = drawn("stamp")
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), ours.variables["params"])
    x = params["item_embedding"][[4, 9, 2]]
    x = x * np.minimum(1.0, ours.model.max_norm / np.linalg.norm(x, axis=1, keepdims=True))
    mean = x.mean(axis=0)
    inner = affine(params["from_item"], x) + affine(params["from_last"], x[-1])
    alpha = affine(params["weight"], 1 / (1 + np.exp(-inner - affine(params["from_mean"], mean))))
    for times, session in ((1, [4, 9, 2]), (2, [4, 9, 2] * 2)):
        memory = mean + times * (alpha * x).sum(axis=0)
        state = np.tanh(affine(params["session"], memory)) * np.tanh(affine(params["click"], x[-1]))
        close(ours(padded([session]))[0, -1], state)


def test_attention_of_zero_makes_stamp_stmp() -> None:
    without = drawn("stamp").changed(lambda path, leaf: 0 * leaf if path == "weight/kernel" else None)
    stmp = Drawn("stamp")
    stmp.model = stmp.model.clone(attention=False)
    close(drawn("stamp")(variables=without)[0], slow(stmp, SESSIONS[0]))
    assert not np.allclose(drawn("stamp")()[0], slow(stmp, SESSIONS[0]), atol=1e-2)


def test_a_click_of_zero_scores_every_item_alike() -> None:
    """h_t = tanh(0) = 0, so all scores are 0."""
    none = drawn("stamp").changed(lambda path, leaf: 0 * leaf if path.startswith("click") else None)
    assert (drawn("stamp")(variables=none) == 0.0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": False, "last_click": False}, "nothing is left"),
        ({"max_norm": 0.0}, "max_norm=0"),
        ({"block": 0}, "block=0"),
    ],
)
def test_what_stamp_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: STAMP(NUM_ITEMS, DIM, **fields).init(jax.random.key(0), LEFT))


# --- NextItNet ---


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"kernel_size": 2, "dilations": (1, 1)}, 1 + 3 * 2),
        ({"dilations": (1, 2), "bottleneck": True}, 1 + 2 * 3),
    ],
)
def test_nothing_beyond_the_receptive_field_is_seen(fields: dict[str, Any], seen: int) -> None:
    """1 + 3 (K - 1) Σ dilations, or a third of that sum in bottleneck blocks. Each row changes one item."""
    model = NextItNet(NUM_ITEMS, DIM, tied=True, **fields)
    items = np.tile(np.arange(1, 11, dtype=np.int32), (11, 1))
    np.fill_diagonal(items[:10], 17)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), items))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    last = np.asarray(jax.jit(model.apply)(variables, items))[:, -1]
    np.testing.assert_array_equal((last[:10] != last[10]).any(axis=1), np.arange(10) >= 10 - seen)


def test_blocks_with_convolutions_of_zero_are_the_identity() -> None:
    """x + ReLU(LN(0) + β) = x for β = 0; the output is ReLU(x) and a 1."""
    none = drawn("nextitnet").changed(
        lambda path, leaf: 0 * leaf if "conv" in path or path.endswith("norm_2/bias") else None
    )
    x = none["params"]["item_embedding"][LEFT[0]]
    close(drawn("nextitnet")(variables=none)[0], np.concatenate([np.maximum(x, 0), np.ones((7, 1))], axis=1))


def test_the_untied_table_has_the_bias_as_its_last_column() -> None:
    model, variables = drawn("nextitnet").model, drawn("nextitnet").variables
    table = np.asarray(model.apply(variables, method="item_table"))
    np.testing.assert_array_equal(table[:, -1], variables["params"]["output_bias"])
    np.testing.assert_array_equal(table[:, :-1], variables["params"]["output_embedding"])


def test_padding_is_read_only_if_asked_to() -> None:
    """With `skip_padding=False` more of it than the receptive field of 4 slots changes nothing further."""
    fields: dict[str, Any] = {"dim": DIM, "dilations": (1,), "kernel_size": 2, "tied": True}
    reads = NextItNet(NUM_ITEMS, **fields, skip_padding=False)
    shapes = jax.eval_shape(lambda: reads.init(jax.random.key(0), LEFT))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    run = jax.jit(
        lambda items: (reads.apply(variables, items), NextItNet(NUM_ITEMS, **fields).apply(variables, items))
    )
    rows = np.concatenate([np.zeros((1, 8), np.int32), np.array([[0] * 7 + [5], [5] * 8], np.int32)])
    shorter = np.concatenate([rows[:, 1:], np.full((3, 1), 5, np.int32)], axis=1)
    with_padding, without = (np.asarray(part) for part in run(rows))
    close(with_padding[1, -1], np.asarray(run(shorter)[0])[0, -1], atol=1e-6)
    close(with_padding[2, 3:], without[2, 3:], atol=1e-6)  # no padding in reach
    assert not np.allclose(with_padding[1, -1], without[1, -1], atol=1e-3)


@pytest.mark.parametrize("field", ["features", "kernel_size", "dilation"])
def test_what_a_convolution_refuses(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0"):
        CausalConv(**{"features": 3, field: 0})


def test_bottlenecks_need_even_channels() -> None:
    with pytest.raises(ValueError, match="dim=7"):
        jax.eval_shape(lambda: NextItNet(5, 7, bottleneck=True).init(jax.random.key(0), LEFT))


# --- PeterRec ---


def test_serial_patches_of_zero_leave_the_pretrained_model() -> None:
    without = drawn("peterrec").changed(lambda path, leaf: 0 * leaf if "/up/" in path else None)
    twin = Drawn("nextitnet")
    output = {"output": {"kernel": np.eye(DIM)}}
    twin.model, twin.variables = twin.model.clone(tied=True), {"params": without["params"] | output}
    close(drawn("peterrec")(variables=without)[0], slow(twin, SESSIONS[0]))
    assert not np.allclose(drawn("peterrec")()[0], slow(twin, SESSIONS[0]), atol=1e-2)


def test_a_task_trains_its_patches_and_head_alone() -> None:
    """The optimiser of the module's docstring, and a NextItNet's parameters."""
    model, params = drawn("peterrec_second").model, drawn("peterrec_second").variables["params"]
    pretrained = jax.tree.map(lambda leaf: leaf + 1, drawn("nextitnet_small").variables["params"])
    pretrained["item_embedding"] = np.ones((NUM_ITEMS + 2, DIM), np.float32)
    start = transfer(params, pretrained)
    own = trainable(start)
    labels = jax.tree.map(lambda mine: "own" if mine else "shared", own)
    tx = optax.partition({"own": optax.sgd(0.1), "shared": optax.set_to_zero()}, labels)

    @jax.jit
    def step(params: Variables) -> Variables:
        def loss(params: Variables) -> Array:
            scores = model.apply({"params": params}, LEFT)[:4, -1] @ params["head"].T
            return losses.bce(scores[:, 1], scores[:, 2])

        updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
        return optax.apply_updates(params, updates)

    after = step(start)
    flags, first, second = (jax.tree_util.tree_leaves_with_path(tree) for tree in (own, start, after))
    for (path, mine), (_, a), (_, b) in zip(flags, first, second, strict=True):
        names = [part.key for part in path]
        assert mine == any(name.startswith("patch") or name == "head" for name in names), names
        assert np.array_equal(a, b) != mine, names
    np.testing.assert_array_equal(
        start["layer_0"]["conv_2"]["kernel"], pretrained["layer_0"]["conv_2"]["kernel"]
    )
    np.testing.assert_array_equal(start["head"], params["head"])


def test_trainable_parameters_of_a_block() -> None:
    """2 patches of 2 C · C/4 weights, and the second norm where it is asked for."""
    shapes = jax.eval_shape(lambda: PeterRec(9, 3, 16, (1,)).init(jax.random.key(0), LEFT))
    for norms, extra in ((False, 0), (True, 2 * 16)):
        own = jax.tree.leaves(trainable(shapes, norms=norms))
        count = sum(
            math.prod(leaf.shape) for leaf, mine in zip(jax.tree.leaves(shapes), own, strict=True) if mine
        )
        assert count == 2 * (2 * 16 * 4 + 4 + 16) + 4 * 16 + extra


def test_a_pretrained_model_of_another_shape_is_refused() -> None:
    params, other = drawn("peterrec").variables["params"], drawn("nextitnet").variables["params"]
    with pytest.raises(ValueError, match="item_embedding"):  # without a row for the task's own id
        transfer(params, other)
    with pytest.raises(ValueError, match="layer_1.*missing"):
        transfer(params, {k: v for k, v in params.items() if k != "layer_1"})


def test_channels_without_a_quarter_are_refused() -> None:
    with pytest.raises(ValueError, match="dim=6"):
        jax.eval_shape(lambda: PeterRec(9, 3, 6, (1,)).init(jax.random.key(0), LEFT))
