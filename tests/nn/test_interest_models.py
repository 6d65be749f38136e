"""What holds for every model of several vectors a user (`jaxrec.tasks.interests`)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.comirec import ComiRecDR, ComiRecSA
from jaxrec.nn.retrieval.mean_of_events import MeanOfEvents
from jaxrec.nn.retrieval.mind import MIND
from jaxrec.nn.retrieval.octopus import Octopus
from jaxrec.nn.retrieval.poly_encoder import PolyEncoder
from jaxrec.nn.retrieval.sdm import SDM
from jaxrec.nn.retrieval.sine import SINE
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import objectives
from jaxrec.tasks.interests import interests
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context, Interests
from tests.lowering import repeated_float_adds
from tests.nn.drawn import applied, drawn
from tests.tasks import small

NUM_ITEMS, DIM, LENGTH = small.NUM_ITEMS, 6, small.MAX_LEN
SMALL: dict[str, Any] = {"num_items": NUM_ITEMS, "dim": DIM, "max_len": LENGTH}
MODELS: dict[str, Any] = {
    "comirec_sa": ComiRecSA(**SMALL, num_interests=3),
    "comirec_sa_cosine": ComiRecSA(**SMALL, num_interests=2, hidden_dims=(5,), normalised=True),
    "comirec_dr": ComiRecDR(**SMALL, num_interests=3),
    "mind": MIND(**SMALL, num_interests=3, power=2.0),
    "mind_sides": MIND(**SMALL, num_interests=2, side_sizes=(3, 2), adaptive=False),
    "sine": SINE(**SMALL, num_interests=2, num_prototypes=5),
    "sine_several": SINE(**SMALL, num_interests=2, num_prototypes=5, aggregated=False, tied=True),
    "sdm": SDM(**SMALL, short_len=3, num_heads=2, side_sizes=(3,), bits=counter_bits),
    "octopus": Octopus(**SMALL, num_interests=4),
    "poly_encoder": PolyEncoder(**SMALL, num_interests=3),
    "mean_of_events": MeanOfEvents(**SMALL, hidden_dims=(5,), shared=False),
}
ITEMS = np.array(
    [
        [0, 0, 0, 4, 9, 2],
        [1, 2, 3, 4, 5, 6],
        [0, 0, 0, 0, 0, 20],
        [0, 7, 7, 3, 7, 3],
        [0, 0, 0, 0, 0, 0],
    ],
    np.int32,
)
TARGET = np.array([3, 9, 20, 1, 5], np.int32)
every_model = pytest.mark.parametrize("name", MODELS)
# Another of the kind shows what a step of theirs does.
ALIKE = {"comirec_sa_cosine", "mind_sides", "sine_several"}


@functools.cache
def variables(name: str) -> Any:
    """Drawn variables; rows of padding are 0, fields of items are ids, and padding has none."""

    def leaf(path: Any, value: np.ndarray) -> np.ndarray:
        if path[-1].key == "side":
            sizes = np.array(MODELS[name].side_sizes)
            value = np.arange(value.size).reshape(value.shape) % (sizes + 1)
            value = value.astype(np.int32)
        if path[-1].key == "side" or path[-1].key.startswith(
            ("item_embedding", "side_", "output_embedding", "class_")
        ):
            value[0] = 0
        return value

    return jax.tree_util.tree_map_with_path(leaf, drawn(MODELS[name], ITEMS, train=False))


def found(name: str, items: np.ndarray = ITEMS) -> Interests:
    return jax.tree.map(np.asarray, applied(MODELS[name], variables(name), items, train=False))


def close(a: Any, b: Any, atol: float = 2e-5) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("name", ["comirec_dr", "octopus"])
def test_compiled_outputs_are_those_of_single_operations(name: str) -> None:
    with jax.disable_jit():
        close(MODELS[name].apply(variables(name), ITEMS, train=False), found(name))


@every_model
def test_a_row_has_an_active_interest_and_inactive_ones_are_zero(name: str) -> None:
    vectors, active = found(name)
    assert vectors.shape[:2] == active.shape and vectors.shape[2] == DIM
    assert active.any(axis=1).all()
    assert np.isfinite(vectors).all() and (vectors[~active] == 0).all()
    real = active & (ITEMS != 0).any(axis=1)[:, None]
    assert (np.abs(vectors[real]).sum(axis=-1) > 0).all()


@every_model
def test_an_empty_history_has_one_vector_of_zeros(name: str) -> None:
    vectors, active = found(name)
    assert (vectors[-1] == 0).all()
    assert active[-1].tolist() == [True] + [False] * (active.shape[1] - 1)


@every_model
def test_the_length_of_padding_changes_nothing(name: str) -> None:
    short = found(name, ITEMS[[0, 2, 4], 3:])
    close(short, jax.tree.map(lambda leaf: leaf[[0, 2, 4]], found(name)))


@every_model
def test_a_row_is_read_for_itself(name: str) -> None:
    order = np.array([3, 1, 4, 0, 2])
    close(found(name, ITEMS[order]), jax.tree.map(lambda leaf: leaf[order], found(name)))

    def one(items: Array) -> Any:
        read = MODELS[name].apply(variables(name), items[None], train=False)
        return jax.tree.map(lambda leaf: leaf[0], read)

    close(jax.jit(jax.vmap(one))(ITEMS), found(name))


@every_model
def test_gradients_are_finite_and_padding_has_none(name: str) -> None:
    """Of interests, of the readout and of the table of items; all rows, the empty one too."""
    model = MODELS[name]

    def total(params: Any) -> Array:
        given = {**variables(name), "params": params}
        read = model.apply(given, ITEMS, train=False)
        table = model.apply(given, method="item_table")
        state = model.apply(given, read, table[TARGET], method="readout")
        return jnp.sum(jnp.sin(read.vectors)) + jnp.sum(jnp.sin(state @ table[1:].T))

    gradients = jax.jit(jax.grad(total))(variables(name)["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all(), where
        assert np.any(leaf) or where.endswith("key/bias"), where  # which no softmax sees
        if path[-1].key.startswith(
            ("item_embedding", "side_embedding", "output_embedding", "class_embedding")
        ):
            assert not np.asarray(leaf)[0].any(), where


@every_model
def test_the_readout_is_a_mean_of_active_interests(name: str) -> None:
    """Its product with the target lies between those of the active interests."""
    model, read = MODELS[name], found(name)
    table = np.asarray(applied(model, variables(name), method="item_table"))
    assert table.shape == (NUM_ITEMS + 1, DIM) and not table[0].any()
    state = applied(model, variables(name), read, table[TARGET], method="readout")
    each = np.where(read.active, np.einsum("bkd,bd->bk", read.vectors, table[TARGET]), np.nan)
    product = np.einsum("bd,bd->b", state, table[TARGET])
    assert (product <= np.nanmax(each, axis=1) + 1e-5).all()
    assert (product >= np.nanmin(each, axis=1) - 1e-5).all()


@every_model
def test_bfloat16_is_near_float32(name: str) -> None:
    half = applied(MODELS[name].clone(dtype=jnp.bfloat16), variables(name), ITEMS, train=False)
    whole = found(name)
    both = np.asarray(half.active) & whole.active
    difference = np.abs(np.asarray(half.vectors, np.float32) - whole.vectors)[both]
    # A prototype or channel may be another where two are near, so a few vectors may differ.
    assert np.median(difference) < 0.05 * np.abs(whole.vectors[both]).mean()


SIZES = ("num_items", "dim", "max_len", "num_interests", "num_prototypes", "short_len", "num_heads")


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in MODELS for field in SIZES if field in MODELS[name].__dataclass_fields__],
)
def test_sizes_below_one_are_refused(name: str, field: str) -> None:
    model = MODELS[name]
    with pytest.raises(ValueError, match=f"{field}=0"):
        jax.eval_shape(lambda: model.clone(**{field: 0}).init(jax.random.key(0), ITEMS, train=False))


@pytest.mark.parametrize("name", ["comirec_sa", "comirec_dr", "mind", "sine", "poly_encoder"])
def test_rows_longer_than_positions_are_refused(name: str) -> None:
    longer = np.ones((1, LENGTH + 1), np.int32)
    with pytest.raises(ValueError, match=f"max_len={LENGTH}"):
        jax.eval_shape(lambda: MODELS[name].init(jax.random.key(0), longer, train=False))


# --- in a step of training -----------------------------------------------------------------------------


@functools.cache
def context() -> Context:
    return {name: jnp.asarray(column) for name, column in small.columns().items()}


def examples() -> dict[str, Array]:
    """Eight targets, of which the last is masked."""
    start = np.asarray(context()["start"])
    events = [start[0] + 1, start[1] + 1, start[4] + 8, start[4] + 2, start[6] + 1, start[7] + 5]
    events += [start[8] + 3, start[9] + 1]
    return {"example": jnp.array(events, jnp.int32), "mask": jnp.arange(8) < 7}


@functools.cache
def task(name: str) -> Any:
    objective = None if name == "poly_encoder" else objectives.full_softmax(8)
    return interests(MODELS[name], objective)


TX = optax.flatten(optax.adam(0.03))


def step_of(name: str, axis: str | None, steps: int) -> Any:
    step = make_step(task(name), TX, static(), axis)
    some = examples()

    def run(state: Any, context: Context) -> Any:
        def body(state: Any, _: None) -> Any:
            state, logs = step(state, some, context)
            return state, logs["loss"]

        return jax.lax.scan(body, state, None, length=steps)

    return run


@functools.cache
def start(name: str) -> Any:
    return jax.jit(lambda c: create(task(name), TX, static(), jax.random.key(1), examples(), c))(context())


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ALIKE])
def test_twenty_steps_lower_the_loss_and_devices_change_nothing(name: str) -> None:
    """Noise, of routing logits and dropout, derives from the number of a row."""
    _, values = jax.jit(step_of(name, None, 20))(start(name), context())
    values = np.asarray(values)
    assert values[-3:].mean() < 0.95 * values[:3].mean()
    spread = jax.vmap(step_of(name, "devices", 3), (None, None), axis_name="devices", axis_size=2)
    states, shared = jax.jit(spread)(start(name), context())
    np.testing.assert_allclose(shared[0], values[:3], rtol=1e-4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(states.params):
        if path[-1].key.startswith(("item_embedding", "output_embedding", "class_embedding")):
            assert not np.asarray(leaf)[:, 0].any()


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ALIKE])
def test_no_step_adds_floats_by_repeated_ids_on_cuda(name: str) -> None:
    traced = jax.jit(step_of(name, None, 1)).trace(start(name), context())
    assert repeated_float_adds(traced, "cuda") == []
