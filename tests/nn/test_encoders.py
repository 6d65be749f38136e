"""What holds for every encoder of item sequences."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.latent_cross import LatentCross
from jaxrec.nn.sequential.ligr import LiGR
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.types import Array, Variables
from tests.nn.drawn import applied

NUM_ITEMS, DIM, LENGTH = 20, 8, 6
SMALL: dict[str, Any] = {"num_items": NUM_ITEMS, "dim": DIM}
MODELS: dict[str, Any] = {
    "sasrec": SASRec(**SMALL, num_layers=1, num_heads=2, inner_dim=12, max_len=LENGTH),
    "sasrec_additive": SASRec(
        **SMALL, num_layers=1, num_heads=2, inner_dim=12, max_len=LENGTH, mask_value=-10000.0
    ),
    "sasrec_original": SASRecOriginal(**SMALL, num_layers=1, num_heads=2, max_len=LENGTH),
    "sasrec_hstu": SASRecHSTU(**SMALL, num_layers=1, num_heads=2, max_len=LENGTH),
    "sasrec_hstu_raw": SASRecHSTU(**SMALL, num_layers=1, num_heads=2, max_len=LENGTH, raw_residual=True),
    "gru4rec": GRU4Rec(**SMALL, hidden_dim=10, num_layers=2, use_bias=True),
    "hstu": HSTU(**SMALL, num_layers=1, num_heads=2, key_dim=3, value_dim=4, max_len=LENGTH, block=4),
    "ligr": LiGR(**SMALL, num_heads=2, inner_dim=12, max_len=LENGTH),
    "latent_cross": LatentCross(**SMALL, hidden_dim=10, context_dim=3),
    "stamp": STAMP(**SMALL, block=4, max_norm=0.8),
    "stmp": STAMP(**SMALL, attention=False, use_bias=False),
    "stmo": STAMP(**SMALL, memory=False),
    "stamp_without_click": STAMP(**SMALL, last_click=False, normalised=True, tanh_first=True),
    "nextitnet": NextItNet(**SMALL, dilations=(1, 2)),
    "nextitnet_bottleneck": NextItNet(**SMALL, dilations=(1, 2), bottleneck=True, tied=True),
    "nextitnet_small": NextItNet(**SMALL, dilations=(1,), kernel_size=2),
}
WIDTHS = {"nextitnet": DIM + 1, "nextitnet_small": DIM + 1}  # of outputs and table, where there is a bias
ITEMS = np.array(
    [[0, 0, 0, 4, 9, 2], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 20], [0, 0, 7, 0, 7, 3]], np.int32
)  # the last one has a masked item inside
every_model = pytest.mark.parametrize("name", MODELS)
WITH_DROPOUT = [name for name in MODELS if not name.startswith(("st", "nextitnet"))]
every_noisy_model = pytest.mark.parametrize("name", WITH_DROPOUT)
every_attention = pytest.mark.parametrize("name", ["sasrec", "sasrec_additive", "sasrec_original"])


class Fitted:
    """A model with weights larger than the initial ones, so that differences show."""

    def __init__(self, name: str) -> None:
        self.model = MODELS[name]
        init = jax.jit(lambda key: self.model.init(key, ITEMS[:1], train=False))(jax.random.key(0))
        leaves, tree = jax.tree.flatten(init)
        rng = np.random.default_rng(0)
        moved = [leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
        self.initial, self.variables = init, jax.tree.unflatten(tree, moved)
        self.run = jax.jit(lambda v, *a, **k: self.model.apply(v, *a, train=False, **k))

    def __call__(self, items: np.ndarray, **parts: np.ndarray) -> np.ndarray:
        return np.asarray(self.run(self.variables, jnp.asarray(items), **parts))


@pytest.fixture(scope="module")
def fitted() -> dict[str, Fitted]:
    return {name: Fitted(name) for name in MODELS}


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@every_model
def test_shapes_of_output_and_table(fitted: dict[str, Fitted], name: str) -> None:
    assert fitted[name](ITEMS).shape == (4, LENGTH, WIDTHS.get(name, DIM))
    table = applied(fitted[name].model, fitted[name].variables, method="item_table")
    assert table.shape == (NUM_ITEMS + 1, WIDTHS.get(name, DIM))


@every_model
def test_the_padding_row_starts_at_zero(fitted: dict[str, Fitted], name: str) -> None:
    params = fitted[name].initial["params"]
    for table in {"item_embedding", "output_embedding"} & set(params):
        rows = np.asarray(params[table])
        assert (rows[0] == 0.0).all()
        assert (rows[1:] != 0.0).all()


def test_parameters_of_sasrec() -> None:
    model = MODELS["sasrec"].clone(num_layers=2)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))["params"]
    assert set(params) == {"item_embedding", "position_embedding", "norm", "layer_0", "layer_1"}
    shapes = jax.tree.map(np.shape, params["layer_0"])
    assert shapes["inner"] == {"kernel": (DIM, 12), "bias": (12,)}
    assert shapes["outer"] == {"kernel": (12, DIM), "bias": (DIM,)}
    assert shapes["attention"]["query_kernel"] == (DIM, DIM)
    total = (NUM_ITEMS + 1 + LENGTH) * DIM + 2 * DIM
    layer = 4 * (DIM * DIM + DIM) + (DIM * 12 + 12) + (12 * DIM + DIM) + 4 * DIM
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total + 2 * layer


def test_parameters_of_gru4rec(fitted: dict[str, Fitted]) -> None:
    shapes = jax.tree.map(np.shape, fitted["gru4rec"].initial["params"])
    biases = {"input_bias": (30,), "hidden_bias": (30,)}
    assert shapes["layer_0"] == {"input_kernel": (DIM, 30), "hidden_kernel": (10, 30), **biases}
    assert shapes["layer_1"] == {"input_kernel": (10, 30), "hidden_kernel": (10, 30), **biases}
    assert shapes["output"] == {"kernel": (10, DIM), "bias": (DIM,)}


@every_model
def test_examples_do_not_see_each_other(fitted: dict[str, Fitted], name: str) -> None:
    changed = ITEMS.copy()
    changed[1] = ITEMS[1, ::-1]
    before, after = fitted[name](ITEMS), fitted[name](changed)
    np.testing.assert_array_equal(np.delete(after, 1, 0), np.delete(before, 1, 0))
    assert not np.allclose(after[1], before[1])


@every_model
@pytest.mark.parametrize("slot", [1, 3, 5])
def test_a_later_item_changes_nothing_before_it(fitted: dict[str, Fitted], name: str, slot: int) -> None:
    changed = ITEMS.copy()
    changed[1, slot] = 17
    before, after = fitted[name](ITEMS)[1], fitted[name](changed)[1]
    close(after[:slot], before[:slot])
    assert not np.allclose(after[slot], before[slot], atol=1e-4)


@every_model
def test_more_padding_changes_no_real_slot(fitted: dict[str, Fitted], name: str) -> None:
    short = fitted[name](ITEMS[[0, 2, 3], 2:])
    real = ITEMS[[0, 2, 3], 2:] != 0
    close(short[real], fitted[name](ITEMS)[[0, 2, 3], 2:][real])


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_states_of_some_slots_are_those_among_all(layers: int) -> None:
    model = MODELS["sasrec"].clone(num_layers=layers)
    variables = jax.jit(lambda key: model.init(key, ITEMS, train=False))(jax.random.key(0))
    at = np.array([5, 11, 9, 9, 0], np.int32)
    every, some = jax.jit(
        lambda v: (model.apply(v, ITEMS, train=False), model.apply(v, ITEMS, at=at, train=False))
    )(variables)
    close(some, np.asarray(every).reshape(-1, DIM)[at])


def test_states_of_some_slots_are_not_for_training() -> None:
    model = MODELS["sasrec"]
    with pytest.raises(ValueError, match="at: states of some slots are for evaluation"):
        model.init(jax.random.key(0), ITEMS, at=np.zeros(1, np.int32), train=True)


@every_model
def test_packed_rows_give_the_outputs_of_padded_ones(fitted: dict[str, Fitted], name: str) -> None:
    """Rows 2, 0 and 3 of ITEMS, the last with a masked item inside, share one row of nine slots."""
    items = np.array([[20, 4, 9, 2, 7, 0, 7, 3, 0]], np.int32)
    segments = np.array([[1, 2, 2, 2, 3, 3, 3, 3, 0]], np.int32)
    positions = np.array([[5, 3, 4, 5, 2, 3, 4, 5, 0]], np.int32)
    packed = fitted[name](items, segments=segments, positions=positions)[0]
    padded = fitted[name](ITEMS)
    close(packed[:8], np.concatenate([padded[2, 5:], padded[0, 3:], padded[3, 2:]]))
    assert np.isfinite(packed).all()


@every_model
def test_an_empty_row_is_finite_and_so_is_its_gradient(fitted: dict[str, Fitted], name: str) -> None:
    model, empty = fitted[name].model, np.zeros((1, LENGTH), np.int32)

    def total(variables: Variables) -> Array:
        return (model.apply(variables, empty, train=False) ** 2).sum()

    value, grads = jax.jit(jax.value_and_grad(total))(fitted[name].variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert (np.asarray(grads["params"]["item_embedding"]) == 0.0).all()


@pytest.mark.parametrize("name", ["sasrec_original", "sasrec_hstu", "hstu"])
def test_padded_outputs_are_zero(fitted: dict[str, Fitted], name: str) -> None:
    hidden = fitted[name](ITEMS)
    assert (hidden[ITEMS == 0] == 0.0).all()
    assert (hidden[ITEMS != 0] != 0.0).any(axis=-1).all()


@every_attention
def test_longer_rows_than_positions_are_refused(name: str) -> None:
    longer = np.ones((1, LENGTH + 1), np.int32)
    with pytest.raises(ValueError, match=f"max_len={LENGTH}"):
        jax.eval_shape(lambda: MODELS[name].init(jax.random.key(0), longer, train=False))


@every_attention
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_heads=3"):
        jax.eval_shape(lambda: MODELS[name].clone(num_heads=3).init(jax.random.key(0), ITEMS, train=False))


@every_model
@pytest.mark.parametrize("field", ["num_items", "dim", "max_len"])
def test_sizes_below_one_are_refused(name: str, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0"):
        jax.eval_shape(lambda: MODELS[name].clone(**{field: 0}).init(jax.random.key(0), ITEMS, train=False))


@every_attention
def test_numbers_of_layers_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_layers=-1: must be at least 0"):
        jax.eval_shape(lambda: MODELS[name].clone(num_layers=-1).init(jax.random.key(0), ITEMS, train=False))


@every_noisy_model
def test_each_example_has_the_noise_of_its_key_whatever_the_batch(
    fitted: dict[str, Fitted], name: str
) -> None:
    model, variables = fitted[name].model.clone(bits=counter_bits), fitted[name].variables
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(4))

    def one(items: Array, key: Array) -> Array:
        return model.apply(variables, items[None], train=True, rngs={"dropout": key})[0]

    batch = jax.jit(jax.vmap(one))
    whole = batch(ITEMS, keys)
    close(whole[2:], batch(ITEMS[2:], keys[2:]))
    assert not np.allclose(whole, batch(ITEMS, keys[::-1]))
    assert not np.allclose(whole, fitted[name](ITEMS))


@every_noisy_model
def test_noise_of_an_example_derives_from_its_number(fitted: dict[str, Fitted], name: str) -> None:
    """In whatever order, and so on whatever device, examples are computed."""
    model, variables = fitted[name].model.clone(bits=counter_bits), fitted[name].variables
    run = jax.jit(
        lambda items, rows: model.apply(
            variables, items, rows=rows, train=True, rngs={"dropout": jax.random.key(0)}
        )
    )
    rows = np.arange(4)
    whole = np.asarray(run(ITEMS, rows))
    close(np.asarray(run(ITEMS[::-1], rows[::-1]))[::-1], whole)
    assert not np.allclose(whole, run(ITEMS, rows + 1), atol=1e-3)


@every_model
def test_a_batch_is_its_examples_under_vmap(fitted: dict[str, Fitted], name: str) -> None:
    model, variables = fitted[name].model, fitted[name].variables
    one = jax.vmap(lambda items: model.apply(variables, items[None], train=False)[0])
    close(np.asarray(jax.jit(one)(ITEMS)), fitted[name](ITEMS))


LEARNING = [
    *("sasrec", "sasrec_original", "sasrec_hstu", "ligr", "gru4rec", "hstu"),
    *("nextitnet_small", "nextitnet_bottleneck"),
]


@pytest.mark.parametrize("name", LEARNING)
def test_twenty_steps_lower_the_loss(fitted: dict[str, Fitted], name: str) -> None:
    model, tx = (
        fitted[name].model,
        optax.flatten(optax.adam(0.02)),
    )  # one update of one vector compiles faster
    inputs, targets = ITEMS[:, :-1], ITEMS[:, 1:]

    def loss(variables: Variables, key: Array) -> Array:
        hidden = model.apply(variables, inputs, train=True, rngs={"dropout": key})
        table = model.apply(variables, method="item_table")
        hidden = hidden * 10.0 if name == "hstu" else hidden  # scores are cosines
        return losses.softmax_cross_entropy(hidden, table, targets, where=targets > 0)

    def step(carry: Any, key: Array) -> tuple[Any, Array]:
        variables, state = carry
        value, grads = jax.value_and_grad(loss)(variables, key)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(variables, updates), state), value

    start = fitted[name].initial
    (variables, _), values = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(
        (start, jax.jit(tx.init)(start)), jax.random.split(jax.random.key(1), 20)
    )
    values = np.asarray(values)
    assert values[-1] < 0.9 * values[0]
    assert (np.asarray(variables["params"]["item_embedding"])[0] == 0.0).all()  # the padding row never trains


@pytest.mark.parametrize("name", [name for name in MODELS if name != "sasrec_additive"])
def test_bfloat16_is_near_float32(fitted: dict[str, Fitted], name: str) -> None:
    model = fitted[name].model.clone(dtype=jnp.bfloat16)
    real = ITEMS != 0
    run = jax.jit(lambda variables: model.apply(variables, ITEMS, train=False))
    half = np.asarray(run(fitted[name].variables), np.float32)
    full = fitted[name](ITEMS)
    assert np.abs(half - full)[real].mean() < 0.05 * np.abs(full)[real].mean()


@every_attention
def test_without_blocks_only_the_last_item_is_read(name: str) -> None:
    """The norm of its vector and place: LN(c x_t + p), where c is 1, or √dim in the original."""
    model = MODELS[name].clone(num_layers=0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    run = jax.jit(lambda items: model.apply(variables, items, train=False)[:, -1])
    others = np.where(ITEMS[:, -1:] == ITEMS, ITEMS, 1 + ITEMS[:, ::-1])
    others[:, -1] = ITEMS[:, -1]
    np.testing.assert_array_equal(run(others), run(ITEMS))
    params = variables["params"]
    factor = math.sqrt(DIM) if name == "sasrec_original" else 1.0
    x = factor * params["item_embedding"][ITEMS[:, -1]] + params["position_embedding"][-1]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.norm_epsilon)
    close(np.asarray(run(ITEMS)), x * params["norm"]["scale"] + params["norm"]["bias"])


# --- the recurrence ---


def test_gru4rec_equals_slow_numpy(fitted: dict[str, Fitted]) -> None:
    params = jax.tree.map(np.asarray, fitted["gru4rec"].variables["params"])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for row, ours in zip(ITEMS, fitted["gru4rec"](ITEMS), strict=True):
        x = params["item_embedding"][row]
        for layer in (params["layer_0"], params["layer_1"]):
            state, outputs = np.zeros(10, np.float32), []
            for item, inputs in zip(row, x, strict=True):
                i = np.split(inputs @ layer["input_kernel"] + layer["input_bias"], 3)
                h = np.split(state @ layer["hidden_kernel"] + layer["hidden_bias"], 3)
                reset, update = sigmoid(i[0] + h[0]), sigmoid(i[1] + h[1])
                new = np.tanh(i[2] + reset * h[2])
                state = (1 - update) * new + update * state if item else state
                outputs.append(state)
            x = np.stack(outputs)
        close(ours, x @ params["output"]["kernel"] + params["output"]["bias"])


def test_gru4rec_reads_padding_only_if_asked_to(fitted: dict[str, Fitted]) -> None:
    reads = MODELS["gru4rec"].clone(skip_padding=False)
    hidden = np.asarray(jax.jit(lambda v: reads.apply(v, ITEMS, train=False))(fitted["gru4rec"].variables))
    close(hidden[1], fitted["gru4rec"](ITEMS)[1])  # a full row
    assert not np.allclose(hidden[0, -1], fitted["gru4rec"](ITEMS)[0, -1], atol=1e-4)


@every_attention
@pytest.mark.parametrize("place", [-1, LENGTH, 99])
def test_a_position_that_has_no_vector_is_nan(fitted: dict[str, Fitted], name: str, place: int) -> None:
    """An event number `max_len` or later of a packed row has one below 0, which is not the last."""
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ITEMS.shape).copy()
    positions[1, -1] = place
    found = fitted[name](ITEMS, positions=positions, segments=np.ones_like(ITEMS))
    assert np.isnan(found[1, -1]).all() and np.isfinite(np.delete(found, 1, 0)).all()
