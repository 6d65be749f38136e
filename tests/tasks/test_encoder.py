"""Modules of one's own as encoders: what keeps to the contract trains, and what doesn't is told before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import packing
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as protocols
from jaxrec.tasks import contrastive
from jaxrec.tasks.encoder import can_be_packed, check_encoder, reads_padding, synthetic_probe, takes
from jaxrec.tasks.generative import generative
from jaxrec.tasks.next_click import next_click
from jaxrec.tasks.next_item import encode, next_item, retriever
from jaxrec.tasks.objectives import full_softmax
from jaxrec.tasks.parallel_sessions import parallel_sessions
from jaxrec.tasks.profile import profile
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Array, Protocol
from tests.tasks import small

NUM_ITEMS, MAX_LEN, DIM = small.NUM_ITEMS, small.MAX_LEN, 4
PACKED = Packing(5, 8)


place = jax.jit(packing.place, static_argnames=("rows", "width"))


class Own(nn.Module):
    """The mean of a user's events so far, with positions, as the contract wants it, without `rows`."""

    dtype: Any = None
    max_len: int = MAX_LEN
    widths: Sequence[int] = ()

    def setup(self) -> None:
        self.table = self.param("table", nn.initializers.normal(0.1), (NUM_ITEMS + 1, DIM))
        self.places = self.param("places", nn.initializers.zeros, (self.max_len, DIM))
        self.norm = nn.BatchNorm()

    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        train: bool = False,
    ) -> Array:
        positions = jnp.arange(items.shape[1]) if positions is None else positions
        segments = jnp.ones_like(items) if segments is None else segments
        return self.mixed(items, self.table[items] + self.places[positions], segments)

    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        visible = jnp.tri(items.shape[1], dtype=bool) & (items != 0)[:, None]
        visible = visible & (segments[:, None] == segments[..., None])
        total = (visible.astype(self.dtype or x.dtype) @ x.astype(self.dtype or x.dtype)).astype(x.dtype)
        return total / jnp.maximum(visible.sum(axis=-1, keepdims=True), 1)

    def item_table(self) -> Array:
        return self.table


class IgnoresSegments(Own):
    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        return super().mixed(items, x, jnp.ones_like(segments))


class LeaksALittle(Own):
    """A hundredth of the row's mean, whoever stands in it."""

    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        return super().mixed(items, x, segments) + 0.01 * super().mixed(items, x, jnp.ones_like(segments))


class IgnoresPositions(Own):
    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        train: bool = False,
    ) -> Array:
        slot = jnp.broadcast_to(jnp.arange(items.shape[1]) % self.max_len, items.shape)
        return super().__call__(items, positions=slot, segments=segments, train=train)


class SeesTheNext(Own):
    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        after = jnp.pad(items[:, 1:], ((0, 0), (0, 1)))
        same = jnp.pad(segments[:, 1:], ((0, 0), (0, 1))) == segments
        return super().mixed(items, x, segments) + jnp.where(same[..., None], self.table[after], 0.0)


class SeesTheWholeUser(Own):
    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        visible = (segments[:, None] == segments[..., None]) & (items != 0)[:, None]
        return (visible / jnp.maximum(visible.sum(axis=-1, keepdims=True), 1)) @ x


class KeepsStatistics(Own):
    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        return self.norm(super().mixed(items, x, segments), use_running_average=True)

    def start(self, lanes: int) -> Array:
        return jnp.zeros((lanes, DIM))


class TakesItemsOnly(Own):
    def __call__(self, items: Array, *, train: bool = False) -> Array:  # type: ignore[override]
        return self.table[items]


class TakesNoTrain(Own):
    def __call__(self, items: Array) -> Array:  # type: ignore[override]
        return self.table[items]


class GivesTheLastAlone(Own):
    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        return super().mixed(items, x, segments)[:, -1]


class HasNoTable(nn.Module):
    max_len: int = MAX_LEN

    @nn.compact
    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        train: bool = False,
    ) -> Array:
        return nn.Embed(NUM_ITEMS + 1, DIM)(items)


class NeedsPositive(Own):
    """A parameter that has to be positive, which starts at 1."""

    def setup(self) -> None:
        super().setup()
        self.scale = self.param("scale", nn.initializers.constant(1.0), (1, DIM))

    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        return super().mixed(items, x, segments) * jnp.log1p(self.scale * 9.0) * jnp.sqrt(self.scale)


def test_an_encoder_that_takes_no_rows_trains_as_one_that_does() -> None:
    for model in (Own(), Cosine(Own())):
        task = next_item(model, full_softmax(), packed=PACKED)
        columns = small.columns()
        length = np.clip(columns["length"] - 1, 0, MAX_LEN)
        placed = place(length, rows=PACKED.rows, width=PACKED.width)
        users = np.arange(len(small.LENGTHS))
        rows = {"example": jnp.asarray(users), "mask": users >= 0, "row": placed.row, "slot": placed.slot}

        def step(columns: Any, task: Any = task, rows: Any = rows) -> Any:
            batch = task.prepare(jax.random.key(0), rows, columns)
            variables = task.init(jax.random.key(0), batch)
            return jax.grad(lambda v: task.losses(v, batch, jax.random.key(1))[0]["next_item"])(variables)

        grads = jax.jit(step)(columns)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) > 0


@pytest.mark.parametrize("rows", [{}, {"rows": np.arange(2)}])
def test_a_wrapper_takes_what_the_encoder_inside_takes(rows: dict[str, Any]) -> None:
    inside: Any = GRU4Rec(NUM_ITEMS, dim=DIM) if rows else Own()
    assert takes(Cosine(inside), "rows") == takes(inside, "rows") == bool(rows)
    assert takes(Cosine(inside), "segments") and not takes(Cosine(inside), "clusters")


@pytest.mark.parametrize("wrong", [IgnoresSegments, LeaksALittle, IgnoresPositions])
def test_an_encoder_that_mixes_users_of_a_row_is_refused_for_packed_rows(wrong: Callable[..., Any]) -> None:
    message = rf"{wrong.__name__}: where users share a row.*segments.*positions.*packed=None"
    for task in (
        lambda: next_item(wrong(), full_softmax(), packed=PACKED),
        lambda: retriever(wrong(), PACKED),
        lambda: contrastive.pooled(wrong(), small.views(12), packed=PACKED),
        lambda: check_encoder(wrong(), PACKED),
    ):
        with pytest.raises(ValueError, match=message):
            task()
    next_item(wrong(), full_softmax())  # each user has a row
    retriever(wrong())


@pytest.mark.parametrize("packed", [PACKED, Packing(3, MAX_LEN), None])
@pytest.mark.parametrize("wrong", [SeesTheNext, SeesTheWholeUser])
def test_an_encoder_that_sees_the_future_is_refused(
    wrong: Callable[..., Any], packed: Packing | None
) -> None:
    with pytest.raises(ValueError, match=rf"{wrong.__name__}: its output at an event changes with later"):
        next_item(wrong(), full_softmax(), packed=packed)
    retriever(wrong(), packed)  # the last event has no future
    check_encoder(wrong(), packed, causal=False)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("width", [2, 3, MAX_LEN, 11])
def test_a_good_encoder_passes_in_rows_of_any_width_and_in_half_precision(width: int, dtype: Any) -> None:
    check_encoder(Own(dtype), Packing(2, width))
    with pytest.raises(ValueError, match="where users share a row"):
        check_encoder(IgnoresSegments(dtype), Packing(2, width))


def test_rows_of_one_slot_and_encoders_of_one_event_pass() -> None:
    check_encoder(Own(max_len=1), Packing(3, 1))
    check_encoder(Own(max_len=1), Packing(3, 4))
    check_encoder(Own(max_len=1))


def test_an_encoder_with_a_field_that_is_no_key_is_tried_too() -> None:
    check_encoder(Own(widths=np.array([1, 2])), PACKED)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="where users share a row"):
        check_encoder(IgnoresSegments(widths=np.array([1, 2])), PACKED)  # type: ignore[arg-type]


def test_parameters_that_have_to_be_positive_are_tried_as_they_start() -> None:
    check_encoder(NeedsPositive(), PACKED)


@pytest.mark.parametrize(
    "task", [lambda model: next_click(model, full_softmax()), lambda model: profile(model, token=NUM_ITEMS)]
)
def test_an_encoder_that_takes_no_train_is_refused_where_it_gets_nothing_else(task: Any) -> None:
    task(TakesItemsOnly())
    with pytest.raises(ValueError, match="TakesNoTrain: its __call__ has no train: .* by keyword train; add"):
        task(TakesNoTrain())


@pytest.mark.parametrize(
    "task",
    [
        lambda model: next_item(model, full_softmax()),
        lambda model: next_click(model, full_softmax()),
        lambda model: profile(model, token=NUM_ITEMS),
    ],
)
def test_an_encoder_without_an_item_table_is_refused(task: Any) -> None:
    with pytest.raises(ValueError, match="HasNoTable: has no item_table: "):
        task(HasNoTable())


def test_an_encoder_without_the_method_that_is_tried_is_refused() -> None:
    with pytest.raises(ValueError, match="Own: has no intent: "):
        check_encoder(Own(), method="intent")


def test_an_encoder_without_a_vector_for_each_event_is_refused() -> None:
    with pytest.raises(ValueError, match=r"its __call__ gives \[\d+, 4\] for items .* vector for each event"):
        next_item(GivesTheLastAlone(), full_softmax())


def test_what_an_encoder_does_not_take_is_named() -> None:
    for packed in (PACKED, None):
        with pytest.raises(ValueError, match="TakesNoTrain: its __call__ has no train: .* by keyword train"):
            next_item(TakesNoTrain(), full_softmax(), packed=packed)


# --- encoders that can't be packed ---------------------------------------------------------------------


class Causal(Own):
    """`Own` of one user a row, which takes neither segments nor positions."""

    def __call__(self, items: Array, *, train: bool = False) -> Array:  # type: ignore[override]
        return super().__call__(items, train=train)


class CausalByPosition(Own):
    def __call__(  # type: ignore[override]
        self, items: Array, *, positions: Array | None = None, train: bool = False
    ) -> Array:
        return super().__call__(items, positions=positions, train=train)


class BySegment(Own):
    """Needs no positions: it has none, and reads segments."""

    def __call__(  # type: ignore[override]
        self, items: Array, *, segments: Array | None = None, train: bool = False
    ) -> Array:
        segments = jnp.ones_like(items) if segments is None else segments
        return self.mixed(items, self.table[items], segments)


class BySegmentAndSlot(BySegment):
    """Reads its slot in the row, wherever a user starts in it."""

    def mixed(self, items: Array, x: Array, segments: Array) -> Array:
        slot = jnp.arange(items.shape[1])[:, None]
        return super().mixed(items, x * (1.0 + slot / 3), segments)


@pytest.mark.parametrize(
    ("model", "packable"),
    [
        (Own(), True),
        (BySegment(), True),
        (Cosine(Own()), True),
        (Cosine(Causal()), False),
        (Causal(), False),
        (CausalByPosition(), False),
        (GRU4Rec(NUM_ITEMS, dim=DIM), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_encoder_tells_by_its_keywords_whether_users_may_share_rows(model: Any, packable: bool) -> None:
    assert can_be_packed(model) == packable
    makers = [
        lambda: next_item(model, full_softmax(), packed=PACKED),
        lambda: retriever(model, PACKED),
        lambda: contrastive.pooled(model, small.views(12), packed=PACKED),
    ]
    for make in makers:
        if packable:
            make()
            continue
        with pytest.raises(ValueError, match="has no segments, so it can't separate .*packed=None"):
            make()


@pytest.mark.parametrize("kind", [GRU4Rec, SASRecOriginal])
def test_an_encoder_that_reads_padding_cannot_share_rows(kind: Any) -> None:
    """Packed rows have none before each user, so what it would read there is not there."""
    model = kind(NUM_ITEMS, dim=DIM, skip_padding=False)
    for encoder in (model, Cosine(model)):
        assert reads_padding(encoder) and not can_be_packed(encoder)
        with pytest.raises(ValueError, match="skip_padding=False reads padding, .*packed=None"):
            next_item(encoder, full_softmax(), packed=PACKED)
    skips = model.clone(skip_padding=True)
    assert can_be_packed(skips) and can_be_packed(Cosine(skips))


def test_an_encoder_that_takes_segments_and_reads_its_slot_is_still_refused() -> None:
    assert can_be_packed(BySegmentAndSlot())
    with pytest.raises(ValueError, match="BySegmentAndSlot: where users share a row"):
        next_item(BySegmentAndSlot(), full_softmax(), packed=PACKED)


@pytest.mark.parametrize("model", [Causal(), CausalByPosition(), Cosine(Causal())])
def test_an_encoder_without_segments_is_padded(model: Any) -> None:
    """Its losses, gradients and vectors are those of the same encoder with all keywords."""
    full: Any = Cosine(Own()) if isinstance(model, Cosine) else Own()
    columns, users = jax.tree.map(jnp.asarray, small.columns()), np.arange(len(small.LENGTHS))
    rows = {"example": jnp.asarray(users), "mask": users >= 0}
    queries = {"user": users, "length": np.minimum(small.split().sequences.lengths, 4), "mask": users >= 0}

    def found(model: Any) -> Any:
        task = next_item(model, full_softmax())
        batch = task.prepare(jax.random.key(0), rows, columns)
        variables = task.init(jax.random.key(0), batch)

        def loss(variables: Any) -> Any:
            return task.losses(variables, batch, jax.random.key(1))[0]["next_item"]

        vectors = retriever(model).query(variables, queries, columns)
        return *jax.value_and_grad(loss)(variables), vectors

    ours, expected = (jax.jit(found, static_argnums=0)(module) for module in (model, full))
    assert float(ours[0]) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)


def test_a_protocol_pads_an_encoder_without_segments() -> None:
    """Ranks are those of the packed encoder, whose rows the padded one could not read."""
    data = protocols.resident(small.split())
    ranks = []
    for model in (Causal(), Own()):
        variables = jax.jit(model.init)(jax.random.key(2), jnp.ones((1, MAX_LEN), jnp.int32))
        each = jax.tree.map(lambda leaf: leaf[None], variables)
        evaluation = protocols.evaluation(model, data, Protocol(), "test")
        ranks.append(evaluate(evaluation, each, data.columns))
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("name", ["next_item", "next_click", "profile", "flat", "parallel_sessions"])
def test_variables_that_no_step_would_update_are_refused(name: str) -> None:
    model: Any = KeepsStatistics()
    batch = {"items": np.ones((2, 2, MAX_LEN) if name == "flat" else (2, MAX_LEN), np.int32)}
    one = {"items": batch["items"][:, 0]}
    key, made = (
        jax.random.key(0),
        {
            "next_item": lambda: next_item(model, full_softmax()),
            "next_click": lambda: next_click(model, full_softmax()).init(key, batch),
            "profile": lambda: profile(model, token=3).init(key, batch),
            "flat": lambda: contrastive.flat(model, small.views(12)).init(key, batch),
            "parallel_sessions": lambda: parallel_sessions(model, full_softmax()).init(key, one),
        },
    )
    with pytest.raises(ValueError, match=r"keeps batch_stats in addition to its parameters.*LayerNorm"):
        made[name]()


@functools.partial(jax.jit, static_argnames=("max_len", "width"))
def laid_out(lengths: Array, *, max_len: int, width: int) -> tuple[packing.Slots, packing.Slots]:
    """The padded and the packed form."""
    place = packing.place(lengths, rows=1, width=width)
    packed = packing.spread(place, lengths, rows=1, width=width, max_len=max_len)
    return packing.padded(lengths, max_len=max_len), packed


def test_the_made_up_rows_are_laid_out_as_packing_does() -> None:
    for max_len, width in ((6, 8), (6, 6), (50, 50), (3, 3), (2, 2), (1, 4)):
        probe = synthetic_probe(max_len, width, NUM_ITEMS)
        lengths = np.bincount(np.asarray(probe.at[0][0])).astype(np.int32)
        padded, packed = laid_out(lengths, max_len=max_len, width=width)
        assert probe.packed is not None
        for slots, columns in ((padded, probe.padded), (packed, probe.packed)):
            np.testing.assert_array_equal(columns["segments"], slots.segments)
            np.testing.assert_array_equal(columns["positions"], slots.positions)
        np.testing.assert_array_equal(probe.padded["items"][probe.at[0]], probe.packed["items"][probe.at[1]])


def test_an_encoder_is_tried_while_another_program_is_traced() -> None:
    @jax.jit
    def traced(items: Array) -> Array:
        check_encoder(Own(widths=(3,)), PACKED)
        with pytest.raises(ValueError, match="where users share a row"):
            check_encoder(IgnoresSegments(widths=(3,)), PACKED)
        return items + 1

    assert traced(jnp.zeros(1))[0] == 1.0


def test_dropout_keys_reach_an_encoder_without_rows() -> None:
    model = Own()
    batch = {"items": jnp.ones((1, MAX_LEN), jnp.int32), "row": jnp.zeros(1, jnp.int32)}
    variables = model.init(jax.random.key(0), batch["items"])
    run = jax.jit(lambda key: encode(model, variables, batch, key))
    hidden = [run(key) for key in (None, jax.random.key(0))]
    np.testing.assert_array_equal(*hidden)


# --- items and actions --------------------------------------------------------------------------------


class ReadsItsAction(GenerativeHSTU):
    def __call__(self, items: Array, actions: Array, **columns: Any) -> dict[str, Array]:
        found = super().__call__(items, actions, **columns)
        return {**found, "action": found["action"] + jax.nn.one_hot(actions - 1, self.num_actions)}


class ReadsLaterActions(GenerativeHSTU):
    def __call__(self, items: Array, actions: Array, **columns: Any) -> dict[str, Array]:
        found = super().__call__(items, actions, **columns)
        return {**found, "hidden": found["hidden"] + actions[:, -1:, None]}


class MixesUsers(GenerativeHSTU):
    def __call__(self, items: Array, actions: Array, **columns: Any) -> dict[str, Array]:
        columns["segments"] = jnp.ones_like(items)
        return super().__call__(items, actions, **columns)


@pytest.mark.parametrize(
    ("wrong", "packed", "message"),
    [
        (ReadsItsAction, PACKED, "its logits of an event's action change with that action"),
        (ReadsLaterActions, None, "its output at an event changes with later events"),
        (MixesUsers, PACKED, "where users share a row"),
    ],
)
def test_a_model_of_actions_that_sees_too_much_is_refused(
    wrong: Any, packed: Packing | None, message: str
) -> None:
    sizes = {"dim": DIM, "num_layers": 1, "key_dim": 2, "value_dim": 2, "max_len": 8}
    with pytest.raises(ValueError, match=f"{wrong.__name__}: {message}"):
        generative(wrong(NUM_ITEMS, 3, **sizes), full_softmax(), positive=(2,), packed=packed)
