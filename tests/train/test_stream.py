"""Streamed epochs against resident ones: the same batches, the same bits, from any step on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses, packing
from jaxrec.data.events.batching import gather_users
from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import sampled
from jaxrec.train import parallel
from jaxrec.train.epoch import Plan, make_epoch, shuffled
from jaxrec.train.state import TrainState, create
from jaxrec.train.step import make_step
from jaxrec.train.stream import Batches, StreamedEpoch
from jaxrec.types import Array, Context, Task
from tests.tasks import small
from tests.train import toy

TX = optax.adam(0.05)
EPOCHS = 3


def gather(rows: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], dict[str, np.ndarray]]:
    """For the toy task, whose columns stay on the device: users keep their numbers."""
    return rows, {}


def state_of(task: Task, plan: Plan, context: Any) -> TrainState:
    rows, _ = jax.jit(plan.draw)(jax.random.key(0), context)
    some = jax.tree.map(lambda x: x[0], rows)
    return jax.jit(lambda key: create(task, TX, static(), key, some, context))(jax.random.key(5))


def resident(task: Task, plan: Plan, context: Any, epochs: int) -> tuple[TrainState, list[dict[str, float]]]:
    run, state, logs = (
        jax.jit(make_epoch(make_step(task, TX, static()), plan)),
        state_of(task, plan, context),
        [],
    )
    for epoch in range(epochs):
        state, means = run(state, context, jnp.int32(epoch), jnp.int32(0))
        losses = {name: value for name, value in means.items() if not name.startswith(("fits", "finite"))}
        logs.append({name: float(value) for name, value in losses.items()})
    return state, logs


def toy_stream(calls: list[str] | None = None, num_devices: int = 1, **kwargs: Any) -> StreamedEpoch:
    axis = parallel.axis_name(num_devices)
    batches = Batches(toy.plan(), jax.random.key(5), gather, epochs=EPOCHS)
    return StreamedEpoch(
        make_step(toy.factors(calls), TX, static(), axis),
        batches,
        toy.context(),
        num_devices=num_devices,
        **kwargs,
    )


def toy_context() -> dict[str, Array]:
    return jax.tree.map(jnp.asarray, toy.context())


@functools.cache
def initial() -> TrainState:
    return state_of(toy.factors(), toy.plan(), toy_context())


def start(num_devices: int = 1) -> TrainState:
    """A copy, since a step takes its state's buffers."""
    return parallel.replicate(jax.tree.map(jnp.copy, initial()), num_devices)


@pytest.fixture(scope="module")
def expected() -> tuple[TrainState, list[dict[str, float]]]:
    """The toy task after all epochs, resident."""
    return resident(toy.factors(), toy.plan(), toy_context(), EPOCHS)


@pytest.mark.parametrize("threads", [1, 3])
def test_streamed_and_resident_epochs_give_the_same_bits(expected: Any, threads: int) -> None:
    run, state = toy_stream(threads=threads, prefetch=2), start()
    for epoch in range(EPOCHS):
        state, means = run(state)
        assert means == pytest.approx(expected[1][epoch], rel=1e-6)
    toy.same_bits(state, expected[0])


@pytest.mark.parametrize("done", [1, 2, 4, 8], ids="after step {}".format)
def test_a_run_resumed_in_the_middle_gives_the_same_bits(expected: Any, done: int) -> None:
    run, state = toy_stream(), start()
    while int(state.step) < done:
        state, _ = run(state, done - int(state.step))
    assert int(state.step) == done
    resumed = toy_stream()  # another process would start like this, from the state alone
    while int(state.step) < EPOCHS * 3:
        state, _ = resumed(state)
    toy.same_bits(state, expected[0])


def test_one_stream_goes_back_to_where_an_older_state_stands() -> None:
    run = toy_stream()
    first, _ = run(start())
    again, _ = run(start())
    toy.same_bits(first, again)


@pytest.mark.parametrize("num_devices", [2, 4])
@pytest.mark.long
def test_devices_share_a_streamed_batch(expected: Any, num_devices: int) -> None:
    run, state = toy_stream(num_devices=num_devices), start(num_devices)
    for epoch in range(EPOCHS):
        state, means = run(state)
        assert means == pytest.approx(expected[1][epoch], rel=1e-5)
    for a, b in zip(
        jax.tree.leaves(parallel.unreplicate(state.params, num_devices)),
        jax.tree.leaves(expected[0].params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_step_is_traced_once_and_its_state_donated() -> None:
    calls: list[str] = []
    run, state = toy_stream(calls), start()
    users = state.params["model"]["users"]
    state, _ = run(state, 1)
    assert users.is_deleted()
    once = len(calls)
    for _ in range(EPOCHS):
        state, _ = run(state)
    assert len(calls) == once > 0


def test_no_batch_is_lost_and_the_tail_is_masked() -> None:
    seen: list[tuple[int, list[int], list[bool]]] = []
    batches = Batches(toy.plan(), jax.random.key(5), gather, epochs=EPOCHS)
    assert len(batches) == EPOCHS * 3
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)
    for number, (rows, _) in enumerate(grain.MapDataset.source(batches).to_iter_dataset(options)):
        assert rows["example"].shape == (toy.BATCH,)
        seen.append((number // 3, rows["example"].tolist(), rows["mask"].tolist()))
    assert len(seen) == EPOCHS * 3
    orders = []
    for epoch in range(EPOCHS):
        real = [u for e, users, mask in seen if e == epoch for u, m in zip(users, mask, strict=True) if m]
        assert sorted(real) == list(range(toy.NUM_USERS))
        orders.append(real)
    assert orders[0] != orders[1]


def test_a_source_that_is_over_says_so() -> None:
    state = start().replace(step=jnp.int32(EPOCHS * 3))
    with pytest.raises(ValueError, match=f"step {EPOCHS * 3}: the source ends after {EPOCHS * 3} steps"):
        toy_stream()(state)


@pytest.mark.parametrize("changes", [{"prefetch": 0}, {"threads": 0}])
def test_reading_ahead_is_checked(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must both be at least 1"):
        toy_stream(**changes)


def test_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_steps=0: must be at least 1"):
        toy_stream()(start(), 0)


def test_an_order_that_never_fits_is_an_error() -> None:
    crowded = toy.plan(lengths=lambda context, user: jnp.full(user.shape, 3), packing=Packing(1, 4))
    with pytest.raises(ValueError, match="epoch 1: no order of the examples fits"):
        Batches(crowded, jax.random.key(0), gather, epochs=2)[3]


# --- next-item prediction from columns on the host ----------------------------------------------------


def sequence_plan(rows: Packing) -> Plan:
    def lengths(context: Context, user: Array) -> Array:
        return jnp.clip(context["length"][user] - 1, 0, small.MAX_LEN)

    return shuffled(len(small.LENGTHS), 4, lengths=lengths, packing=rows)


def test_next_item_streams_to_the_bits_of_the_resident_epoch() -> None:
    columns = small.columns()
    lengths = np.clip(columns["length"] - 1, 0, small.MAX_LEN)
    rows = Packing(packing.rows_needed(lengths, 4, 8), 8)
    plan = sequence_plan(rows)
    objective = sampled(losses.bce, small.NUM_ITEMS, int(columns["excluded_length"].max()))
    task = next_item(small.Averager(dropout=0.3), objective, packed=rows)
    context = jax.tree.map(jnp.asarray, columns)
    expected, logs = resident(task, plan, context, 2)
    batches = Batches(
        plan,
        jax.random.key(5),
        lambda r: gather_users(columns, r, max_events=small.MAX_LEN + 1),
        epochs=2,
        columns={"length": columns["length"]},
    )
    run, state = StreamedEpoch(make_step(task, TX, static()), batches, {}), state_of(task, plan, context)
    for epoch in range(2):
        state, means = run(state)
        assert means == pytest.approx(logs[epoch], rel=1e-6)
    toy.same_bits(state, expected)


def test_gathered_users_hold_their_last_events_and_exclusions() -> None:
    columns = small.columns()
    rows = {"example": np.array([4, 3, 0, 7], np.int32), "mask": np.ones(4, bool)}
    local, found = gather_users(columns, rows, max_events=4)
    assert local["example"].tolist() == [0, 1, 2, 3]
    assert local["mask"] is rows["mask"]
    for number, user in enumerate(rows["example"]):
        events = small.training_events(user)[-4:]
        begin, count = found["start"][number], found["length"][number]
        assert found["items"][begin : begin + count].tolist() == events
        begin, count = found["excluded_start"][number], found["excluded_length"][number]
        whole = columns["excluded_start"][user]
        expected = columns["excluded"][whole : whole + columns["excluded_length"][user]]
        assert found["excluded"][begin : begin + count].tolist() == expected.tolist()
    assert {name: column.dtype.name for name, column in found.items()} == dict.fromkeys(found, "int32")
