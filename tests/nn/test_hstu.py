"""HSTU, its attention and its loss."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from jaxrec import losses
from jaxrec.nn.layers.pointwise_attention import (
    following,
    pointwise_attention,
    relative_bias,
    time_bucket,
)
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.hstu import HSTU, event_number, identity, standard, unit
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.types import Array, Variables
from tests.lowering import repeated_float_adds

LENGTH = 7
SIZES: dict[str, Any] = {
    "num_items": 20, "dim": 6, "num_layers": 1, "num_heads": 2, "key_dim": 3, "value_dim": 4,
    "max_len": LENGTH, "spare_slots": 2,
}  # fmt: skip
MODEL: Any = HSTU(**SIZES, block=3)  # the last block is not full
ITEMS = np.array(
    [
        [1, 2, 3, 4, 5, 6, 7],
        [0, 0, 0, 4, 9, 2, 9],
        [4, 9, 2, 9, 0, 0, 0],  # the same events, padded on the right
        [0, 0, 0, 0, 0, 0, 20],
        [0, 0, 7, 0, 7, 3, 1],  # a masked event inside
        [0, 0, 0, 0, 0, 0, 0],
    ],
    np.int32,
)
TIMES = np.random.default_rng(1).integers(1_000_000_000, 1_000_900_000, ITEMS.shape).astype(np.int32)
TIMES.sort(axis=1)
TIMES[2] = np.roll(TIMES[1], -3)
TARGET_TIMES = np.asarray(following(TIMES)) + 60
TARGET_TIMES[2] = np.roll(TARGET_TIMES[1], -3)


def drawn(model: Any) -> Variables:
    """Weights larger than the initial ones, so that differences show."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32), shapes)


VARIABLES = drawn(MODEL)


COMPILED = jax.jit(MODEL.apply)


def run(variables: Variables = VARIABLES, items: np.ndarray = ITEMS, **parts: np.ndarray) -> np.ndarray:
    parts = {"times": TIMES, "target_times": TARGET_TIMES, **parts}
    return np.asarray(COMPILED(variables, items, **parts))


def close(a: np.ndarray, b: np.ndarray, atol: float = 3e-6) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


def bucket(gap: float) -> int:
    return min(int(math.log(max(abs(gap), 1)) / 0.301), 128)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def slow_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def slow(variables: Variables, items: np.ndarray, times: np.ndarray, target_times: np.ndarray) -> np.ndarray:
    """Outputs [n, D] for the events of one user, without padding, in float64 and loops."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    heads, total = SIZES["num_heads"], SIZES["max_len"] + SIZES["spare_slots"]
    n = len(items)
    real = (items != 0)[:, None]
    x = params["item_embedding"][items] * math.sqrt(SIZES["dim"]) + params["position_embedding"][:n]
    x = np.where(real, x, 0.0)
    for number in range(SIZES["num_layers"]):
        layer = params[f"layer_{number}"]
        wide, narrow = heads * SIZES["value_dim"], heads * SIZES["key_dim"]
        parts = silu(slow_norm(x) @ layer["uvqk"]["kernel"])
        u, v, q, k = np.split(parts, (wide, 2 * wide, 2 * wide + narrow), axis=1)
        v, q, k = (part.reshape(n, heads, -1) for part in (v, q, k))
        mixed = np.zeros_like(v)
        for i, h in np.ndindex(n, heads):
            for j in range(i + 1):
                by_place = layer["position_bias"][total - 1 + j - i]
                score = q[i, h] @ k[j, h] + by_place + layer["time_bias"][bucket(target_times[i] - times[j])]
                mixed[i, h] += silu(score) / total * v[j, h]
        gated = u * slow_norm(mixed.reshape(n, wide))
        x = np.where(real, x + gated @ layer["output"]["kernel"] + layer["output"]["bias"], 0.0)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


EVENTS = {0: (0, 7), 1: (3, 7), 2: (0, 4), 3: (6, 7), 4: (2, 7)}  # where each row's events stand


def test_outputs_equal_slow_numpy_wherever_padding_stands() -> None:
    ours = run()
    for row, (begin, end) in EVENTS.items():
        part = (row, slice(begin, end))
        close(ours[part], slow(VARIABLES, ITEMS[part], TIMES[part], TARGET_TIMES[part]))
    assert (ours[ITEMS == 0] == 0.0).all()


def test_packed_rows_give_the_outputs_of_padded_ones() -> None:
    """Rows 3, 1 and 4 share a row longer than N, the last with a masked event inside."""
    parts = [(row, slice(*EVENTS[row])) for row in (3, 1, 4)]
    items, times, target_times = (
        np.concatenate([*(column[part] for part in parts), np.zeros(3, np.int32)])[None]
        for column in (ITEMS, TIMES, TARGET_TIMES)
    )
    segments = np.array([[1, *[2] * 4, *[3] * 5, 0, 0, 0]], np.int32)
    packed = COMPILED(VARIABLES, items, times=times, target_times=target_times, segments=segments)[0]
    close(np.asarray(packed)[:10], np.concatenate([run()[part] for part in parts]))
    assert (np.asarray(packed)[10:] == 0.0).all()


@pytest.mark.parametrize("slot", [1, 4, 6])
def test_later_items_and_times_change_nothing_before_them(slot: int) -> None:
    items, times, target_times = ITEMS.copy(), TIMES.copy(), TARGET_TIMES.copy()
    items[:, slot:], times[:, slot:], target_times[:, slot:] = 17, TIMES[0, 0] - 5, 2**30
    before, after = run(), run(items=items, times=times, target_times=target_times)
    close(after[:, :slot], before[:, :slot], atol=1e-6)
    assert not np.allclose(after[0, slot], before[0, slot], atol=1e-4)


def test_the_time_of_the_prediction_and_no_other_changes_it() -> None:
    target_times = TARGET_TIMES.copy()
    target_times[0, 3] += 10**6
    before, after = run(), run(target_times=target_times)
    changed = np.abs(after - before).max(axis=-1) > 1e-4
    assert changed[0, 3]
    assert not changed[0, :3].any()
    assert not changed[1:].any()


def test_rows_do_not_see_each_other() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    close(
        run(items=ITEMS[order], times=TIMES[order], target_times=TARGET_TIMES[order]), run()[order], atol=1e-6
    )


def test_outputs_and_table_have_unit_length() -> None:
    hidden, table = run(), np.asarray(MODEL.apply(VARIABLES, method="item_table"))
    close(np.linalg.norm(hidden[ITEMS != 0], axis=-1), np.ones((ITEMS != 0).sum()))
    close(np.linalg.norm(table, axis=-1), np.ones(21))


def changed_layers(**new: Callable[[np.ndarray], np.ndarray]) -> Variables:
    """The weights with every leaf whose path ends like `output_bias` or `time_bias` replaced."""

    def change(path: Any, leaf: np.ndarray) -> np.ndarray:
        name = "_".join(part.key for part in path)
        return next((make(leaf) for ending, make in new.items() if name.endswith(ending)), leaf)

    return jax.tree_util.tree_map_with_path(change, VARIABLES)


def inputs() -> np.ndarray:
    """What enters the first layer, before the output's normalisation, in row 0."""
    params = VARIABLES["params"]
    return params["item_embedding"][ITEMS[0]] * math.sqrt(6) + params["position_embedding"][:LENGTH]


def test_layers_with_output_zero_are_the_identity() -> None:
    ours = run(changed_layers(output_kernel=np.zeros_like, output_bias=np.zeros_like))[0]
    close(ours, inputs() / np.linalg.norm(inputs(), axis=-1, keepdims=True))


def test_a_very_negative_bias_leaves_the_bias_of_the_output() -> None:
    """SiLU(-1e4) = 0, so nothing is attended to, and the norm of zero is zero."""
    ours = run(changed_layers(time_bias=lambda leaf: np.full_like(leaf, -1e4)))[0]
    params = VARIABLES["params"]
    sums = inputs() + params["layer_0"]["output"]["bias"]
    close(ours, sums / np.linalg.norm(sums, axis=-1, keepdims=True))


def test_blocks_have_the_values_and_gradients_of_all_at_once() -> None:
    """A block of 3 queries of 7, so that the last is not full; one row holds padding alone."""
    rng = np.random.default_rng(3)
    shapes = ((6, 7, 2, 3), (6, 7, 2, 3), (6, 7, 2, 4), (9,), (129,))
    parts = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def mixed(block: int | None, query: Array, key: Array, value: Array, *bias: Array) -> tuple[Array, Array]:
        out = pointwise_attention(
            query, key, value, items=ITEMS, segments=None, divisor=9, bias=bias, times=TIMES,
            target_times=TARGET_TIMES,
            block=block,
        )  # fmt: skip
        return (out * jnp.cos(out)).sum(), out

    @jax.jit
    def both(*parts: Array) -> list[Any]:
        return [
            jax.grad(functools.partial(mixed, block), range(5), has_aux=True)(*parts) for block in (3, None)
        ]

    blocked, plain = both(*parts)
    for a, b in zip(jax.tree.leaves(blocked), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
        assert np.abs(b).max() > 1e-3


def test_gradients_are_finite_where_all_is_padding() -> None:
    """A row of zeros passes both norms; by its length a vector of 1e-30 is divided by 1e-6, not by itself.

    Zeros have no direction, and no gradient.
    """
    grads = jax.jit(jax.grad(lambda x: (unit(x) + standard(x)).sum()))(np.zeros((2, 3), np.float32))
    close(grads, np.zeros((2, 3)))
    close(jax.jit(unit)(np.array([[3e-30, 0.0], [3.0, 4.0]], np.float32)), [[3e-24, 0.0], [0.6, 0.8]])


def test_half_precision_and_no_times() -> None:
    """Products in bfloat16 are near; without times the result is that of equal ones, in bucket 0."""
    same = np.full_like(TIMES, 77)
    full = run(times=same, target_times=same)
    half = np.asarray(jax.jit(MODEL.clone(dtype=jnp.bfloat16).apply)(VARIABLES, ITEMS))
    assert half.dtype == np.float32
    assert 1e-5 < np.abs(half - full).mean() < 0.02 * np.abs(full).mean()


def test_half_precision_leaves_parameters_and_gradients_in_full() -> None:
    """Products are bfloat16 in the program, and nothing else is stored so."""
    half = MODEL.clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(lambda: half.init(jax.random.key(0), ITEMS))
    step = jax.make_jaxpr(jax.grad(lambda v: half.apply(v, ITEMS, times=TIMES).sum()))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert {aval.dtype for aval in step.out_avals} == {np.dtype(np.float32)}
    assert "bf16" in str(step)


def test_without_the_bias_by_time_the_distance_remains() -> None:
    """The weights without the time tables, and the outputs of tables that are zero."""
    model = MODEL.clone(time_bias=False)
    zeroed = changed_layers(time_bias=np.zeros_like)
    layer = {name: leaf for name, leaf in VARIABLES["params"]["layer_0"].items() if name != "time_bias"}
    variables = {"params": {**VARIABLES["params"], "layer_0": layer}}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS))
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, variables)
    close(np.asarray(jax.jit(model.apply)(variables, ITEMS)), run(zeroed))


def test_cosine_gives_any_encoder_outputs_and_items_of_length_one() -> None:
    inner = SASRecOriginal(20, dim=6, num_layers=1, max_len=LENGTH, dropout=0.0)
    model: Any = Cosine(inner)
    variables = drawn(model)
    plain = {"params": variables["params"]["encoder"]}
    hidden = np.asarray(jax.jit(functools.partial(inner.apply, train=False))(plain, ITEMS))
    ours = np.asarray(jax.jit(functools.partial(model.apply, train=False))(variables, ITEMS))
    real = ITEMS != 0
    close(ours[real], hidden[real] / np.linalg.norm(hidden[real], axis=-1, keepdims=True))
    assert (ours[~real] == 0).all()
    table = variables["params"]["encoder"]["item_embedding"]
    norms = np.linalg.norm(table, axis=-1, keepdims=True)
    close(np.asarray(model.apply(variables, method="item_table")), table / norms)
    assert model.max_len == LENGTH


def arrays(jaxpr: Any) -> Iterator[int]:
    """Sizes of all values that a program computes, those of its loops and branches included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(variable.aval.shape) for variable in equation.outvars)
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: isinstance(p, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                yield from arrays(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(("block", "largest"), [(None, 96 * 96), (8, 8 * 96)])
def test_blocks_never_hold_the_square_of_the_length(block: int | None, largest: int) -> None:
    """Neither in the forward nor in the backward pass; the widest other array has 96 · 10 entries."""
    model: Any = HSTU(5, 2, 1, 1, 2, 3, max_len=96, block=block)
    items = jnp.ones((1, 96), jnp.int32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), items))

    def total(variables: Variables) -> Array:
        return model.apply(variables, items, times=items).sum()

    sizes = list(arrays(jax.make_jaxpr(jax.grad(total))(variables).jaxpr))
    assert max(size for size in sizes if size != 96 * 10) == largest


@functools.cache
def temporary_bytes(length: int, block: int | None) -> int:
    """What a compiled gradient step holds beside its inputs and outputs."""
    model: Any = HSTU(5, 2, 1, 1, 2, 3, max_len=length, block=block)
    items = jax.ShapeDtypeStruct((1, length), np.int32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), items)

    def total(variables: Variables, items: Array) -> Array:
        return model.apply(variables, items, times=items).sum()

    analysis = jax.jit(jax.grad(total)).lower(variables, items).compile().memory_analysis()
    assert analysis is not None
    return int(analysis.temp_size_in_bytes)


def test_memory_of_a_step_is_linear_in_the_length_where_blocked() -> None:
    """16 queries by L keys take 16 L, and all at once L²: at twice the length 2 and 4 times as much."""
    blocked, plain = (temporary_bytes(1024, b) / temporary_bytes(512, b) for b in (16, None))
    assert 1.5 < blocked < 2.3
    assert 3.5 < plain < 4.5


@pytest.mark.parametrize(
    ("fields", "parts", "message"),
    [
        ({"num_heads": 0}, {}, "num_heads=0"),
        ({"spare_slots": -1}, {}, "spare_slots=-1"),
        ({"block": 0}, {}, "block=0"),
        ({"max_len": 3}, {}, "max_len \\+ spare_slots = 5"),
        ({}, {"target_times": TARGET_TIMES}, "needs times"),
        ({"time_bias": False}, {"times": TIMES}, "time_bias=False or .* does not read them"),
        ({"relative_bias": False}, {"times": TIMES}, "or relative_bias=False does not read them"),
        ({}, {"times": TIMES / 1.0}, "times: float64 would lose seconds.*give int32"),
        (
            {},
            {"times": TIMES, "target_times": TARGET_TIMES.astype(np.float32)},
            "target_times: float32 would lose seconds",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, int], parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: MODEL.clone(**fields).init(jax.random.key(0), ITEMS, **parts))


def test_parameters_and_options_that_change_them() -> None:
    model = MODEL.clone(concat_ua=True, relative_bias=False, activation=identity, extra_rows=1)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS))["params"]
    assert jax.tree.map(np.shape, params) == {
        "item_embedding": (22, 6),
        "position_embedding": (9, 6),
        "layer_0": {"uvqk": {"kernel": (6, 2 * 8 + 2 * 6)}, "output": {"kernel": (24, 6), "bias": (6,)}},
    }


def test_events_are_counted_from_the_first() -> None:
    numbers = np.asarray(event_number(ITEMS, None))
    expected = [[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 0, 0, 0]]
    np.testing.assert_array_equal(numbers[:3], expected)
    np.testing.assert_array_equal(numbers[4], [0, 0, 0, 0, 2, 3, 4])  # the masked event counts


# --- the bias ---


def test_buckets_grow_with_the_gap() -> None:
    gaps = np.concatenate([np.arange(2000), 10 ** np.arange(4, 10)])
    ours = np.asarray(jax.jit(time_bucket)(np.stack([gaps, -gaps])))
    np.testing.assert_array_equal(ours[0], [bucket(gap) for gap in gaps.tolist()])
    np.testing.assert_array_equal(ours[1], ours[0])
    assert (np.diff(ours[0]) >= 0).all()
    assert int(time_bucket(np.float32(3e38))) == 128


def test_the_bias_by_place_is_the_same_along_diagonals() -> None:
    position, time = np.arange(9, dtype=np.float32), np.zeros(129, np.float32)
    zeros = np.zeros((1, 5), np.int32)
    ours = np.asarray(jax.jit(relative_bias)(position, time, np.arange(5), zeros, zeros))[0]
    np.testing.assert_array_equal(ours, [[4 + j - i for j in range(5)] for i in range(5)])


def test_the_next_time_stays_within_a_segment() -> None:
    times, segments = np.array([[10, 20, 30, 40, 0]]), np.array([[1, 1, 2, 2, 0]])
    assert following(times, segments).tolist() == [[20, 20, 40, 40, 0]]
    assert following(times).tolist() == [[20, 30, 40, 0, 0]]


# --- the loss ---


def test_loss_equals_slow_numpy() -> None:
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(4, 3)), 5 * rng.normal(size=(9, 3))
    targets, negatives = np.array([1, 2, 3, 4]), np.array([[5, 6, 5], [2, 7, 8], [3, 3, 3], [1, 1, 1]])
    where = np.array([True, True, True, False])
    terms = []
    for h, y, others in zip(hidden[:3], targets, negatives, strict=False):
        score = lambda item: h @ table[item] / np.linalg.norm(table[item]) / 0.5  # noqa: B023, E731
        terms.append(-score(y) + np.log(sum(np.exp(score(j)) for j in (y, *others[others != y]))))
    loss = jax.jit(functools.partial(losses.sampled_cosine_softmax, temperature=0.5))
    ours = loss(hidden.astype(np.float32), table.astype(np.float32), targets, negatives, where=where)
    assert float(ours) == pytest.approx(np.mean(terms), rel=1e-5)  # the third term is ln 1


def test_the_gradient_of_repeated_samples_is_sum_by_id() -> None:
    """Not a scatter-add of repeated ids, which is slow on CUDA and which a sparse table refuses."""
    samples = np.array([[2, 2, 2]])

    def loss(table: Array) -> Array:
        return losses.sampled_cosine_softmax(np.ones((1, 3)), table, np.array([1]), samples)

    assert repeated_float_adds(jax.jit(jax.grad(loss)).trace(jnp.ones((7, 3))), "cuda") == []


def test_loss_of_equal_scores_and_its_gradient_at_zero_vectors() -> None:
    """ln(1 + R), and a vector of length 0 has score 0 and a finite gradient."""
    one, others = np.array([1]), np.array([[2, 3, 4, 5, 6]])

    def loss(table: Array) -> Array:
        return losses.sampled_cosine_softmax(np.ones((1, 3), np.float32), table, one, others)

    value, grad = jax.jit(jax.value_and_grad(loss))(np.zeros((7, 3), np.float32))
    assert float(value) == pytest.approx(math.log(6))
    assert np.isfinite(grad).all()
    with pytest.raises(ValueError, match="temperature=0"):
        losses.sampled_cosine_softmax(np.ones((1, 3)), np.ones((7, 3)), one, others, temperature=0)
