"""Sessions side by side against sessions alone, against ordinary batches, on devices, and in the loop."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.data.events.parallel_sessions import LANE_COLUMNS, lane_columns
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import next_item as ordinary
from jaxrec.tasks.objectives import TABLES, Negatives, negatives, shared_negatives, with_tables
from jaxrec.tasks.parallel_sessions import LANES, own_lanes, parallel_sessions
from jaxrec.train import parallel
from jaxrec.train.epoch import Plan, listed, make_epoch
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import SHARED, Array, Batch, Task, Variables

NUM_ITEMS, DIM, NUM_LANES = 12, 4, 4
SESSIONS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3], [7], [8, 9], [7, 9, 3, 2], [3, 8, 4, 6, 2, 6], [4, 3]]
MODEL = GRU4Rec(NUM_ITEMS, dim=DIM, hidden_dim=DIM, dropout=0.0, projection=False, item_bias=True, max_len=6)
COUNTS = np.bincount(np.concatenate(SESSIONS), minlength=NUM_ITEMS + 1)
DRAWN = negatives(COUNTS, num_samples=3, alpha=0.5, logq=1.0)
CE = shared_negatives(losses.sampled_softmax, DRAWN)
TASK = parallel_sessions(MODEL, CE)
KEY = jax.random.key(0)


def columns(sessions: list[list[int]], num_lanes: int = NUM_LANES) -> dict[str, Any]:
    """Resident columns of sessions, with the plan of their lanes."""
    lengths = np.array([len(s) for s in sessions], np.int32)
    lanes = lane_columns(lengths, num_lanes)
    found = {
        "items": jnp.asarray(np.concatenate(sessions), jnp.int32),
        "start": jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32),
        "length": jnp.asarray(lengths),
        **{f"lane_{name}": jnp.asarray(column) for name, column in lanes.items()},
    }
    return dict(with_tables(found, CE))


def tables(drawn: Negatives) -> dict[str, Any]:
    """What a batch shares of negatives."""
    return {SHARED: {TABLES: (drawn.table, drawn.log_q)}}


CONTEXT = columns(SESSIONS)
NUM_STEPS = CONTEXT["lane_mask"].shape[0]


def plan(num_steps: int = NUM_STEPS) -> Plan:
    return listed({name: f"lane_{name}" for name in LANE_COLUMNS}, num_steps)


def lane_rows(step: int | Array, context: Mapping[str, Any] = CONTEXT) -> dict[str, Array]:
    return {name: context[f"lane_{name}"][step] for name in LANE_COLUMNS}


@functools.cache
def variables() -> Variables:
    """Parameters with weights larger than the initial ones, and lanes that stand at some state."""
    shapes = jax.eval_shape(lambda: TASK.init(KEY, TASK.prepare(KEY, lane_rows(0), CONTEXT)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.7 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


PREPARED = jax.jit(jax.vmap(lambda r: TASK.prepare(KEY, r, CONTEXT)))(
    {name: CONTEXT[f"lane_{name}"] for name in LANE_COLUMNS}
)
PREPARED = {name: column for name, column in PREPARED.items() if name != SHARED}
RUN = jax.jit(lambda v, batch: TASK.losses(v, batch, KEY))


def batch_of(step: int) -> Batch:
    return {**jax.tree.map(lambda x: x[step], PREPARED), **tables(DRAWN)}


def test_an_epoch_reads_every_pair_of_the_sessions_once() -> None:
    items, targets = np.asarray(PREPARED["items"]), np.asarray(PREPARED["targets"])[..., 0]
    real = np.asarray(CONTEXT["lane_mask"])
    read = Counter(zip(items[real].tolist(), targets[real].tolist(), strict=True))
    assert read == Counter(pair for s in SESSIONS for pair in itertools.pairwise(s))
    assert (items[~real] == 0).all() and (targets[~real] == 0).all() and (~real).any()


def test_lanes_start_from_zero() -> None:
    shapes = jax.jit(lambda: TASK.init(KEY, TASK.prepare(KEY, lane_rows(0), CONTEXT)))()
    state = shapes[LANES]["state"]
    assert state.shape == (NUM_LANES, 1, DIM) and (state == 0).all()


def test_a_session_in_its_lane_has_the_states_it_has_alone() -> None:
    """Through an epoch that starts with lanes full of the last epoch's states."""

    def step(lanes: Array, batch: Batch) -> tuple[Any, Array]:
        live, batch = {**variables(), LANES: lanes}, {**batch, **tables(DRAWN)}
        return TASK.losses(live, batch, KEY)[1][LANES], TASK.predict(live, batch)

    _, hidden = jax.jit(lambda: jax.lax.scan(step, variables()[LANES], PREPARED))()
    whole = jax.jit(lambda items: MODEL.apply({"params": variables()["params"]}, items, train=False))
    padded = np.array([[0] * (6 - len(s)) + s for s in SESSIONS], np.int32)
    alone = np.asarray(whole(padded))
    for place in np.argwhere(CONTEXT["lane_mask"]):
        session, event = (int(CONTEXT[f"lane_{name}"][tuple(place)]) for name in ("session", "event"))
        expected = alone[session, 6 - len(SESSIONS[session]) + event]
        np.testing.assert_allclose(hidden[tuple(place)], expected, rtol=1e-5, atol=1e-6)


def test_gradients_reach_back_one_event() -> None:
    """The gradient is that of one step from a constant state, which the parameters also shaped."""
    params, before, batch = variables()["params"], batch_of(1), batch_of(2)
    carried = RUN(variables(), before)[1]
    assert (np.asarray(batch["items"]) > 0).all() and not np.asarray(batch["reset"]).all()

    def two_steps(params: Any, stop: bool) -> Array:
        state = TASK.losses({**variables(), "params": params}, before, KEY)[1][LANES]["state"]
        state = jnp.where(batch["reset"][:, None, None], 0.0, state)
        state = jax.lax.stop_gradient(state) if stop else state
        hidden, _ = MODEL.apply({"params": params}, batch["items"], state, train=False, method="step")
        table = MODEL.apply({"params": params}, method="item_table")
        return CE.loss(hidden[:, None], table, batch, None)

    def one_step(params: Any) -> Array:
        return TASK.losses({"params": params, **carried}, batch, KEY)[0]["next_item"]

    ours, expected, through = jax.jit(
        lambda p: (jax.grad(one_step)(p), jax.grad(two_steps)(p, True), jax.grad(two_steps)(p, False))
    )(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, expected)
    assert not np.allclose(ours["layer_0"]["hidden_kernel"], through["layer_0"]["hidden_kernel"], atol=1e-4)


def test_an_empty_lane_adds_nothing_and_the_sum_is_divided_by_all_lanes() -> None:
    last = batch_of(NUM_STEPS - 1)
    live = int((np.asarray(last["targets"]) > 0).sum())
    assert 0 < live < NUM_LANES

    @jax.jit
    def both(v: Variables) -> Any:
        mean = CE.loss(
            TASK.predict(v, last)[:, None], ordinary.item_table(MODEL, v), last, None
        )  # of live lanes
        return jax.value_and_grad(lambda v: TASK.losses(v, last, KEY)[0]["next_item"])(v), mean

    (value, gradient), mean = both(variables())
    np.testing.assert_allclose(value, mean * live / NUM_LANES, rtol=1e-5)
    nothing = {
        **last,
        "items": jnp.zeros(NUM_LANES, jnp.int32),
        "targets": jnp.zeros((NUM_LANES, 1), jnp.int32),
    }
    assert RUN(variables(), nothing)[0]["next_item"] == 0.0
    assert (gradient["params"]["item_embedding"][0] == 0.0).all()


PAIRS = [[3, 1], [4, 1], [5, 9], [2, 6], [5, 3], [7, 8], [9, 7], [9, 3]]


def test_sessions_of_two_events_have_the_losses_of_ordinary_batches() -> None:
    context, params = columns(PAIRS), variables()["params"]
    objectives = CE, shared_negatives(losses.bpr_max, DRAWN)
    side_by_side = [parallel_sessions(MODEL, objective) for objective in objectives]
    padded = [ordinary.next_item(MODEL, objective, packed=None) for objective in objectives]

    def found(params: Any, tasks: list[Task], rows: Mapping[str, Array]) -> tuple[Array, list[Array]]:
        batch = tasks[0].prepare(KEY, rows, context)
        live = {**variables(), "params": params}
        values = [task.losses(live, batch, KEY)[0]["next_item"] for task in tasks]
        return values[0] + values[1], values

    @jax.jit
    def both(step: Array) -> Any:
        users = {"example": NUM_LANES * step + jnp.arange(NUM_LANES), "mask": jnp.ones(NUM_LANES, bool)}
        grad = jax.value_and_grad(found, has_aux=True)
        found_by_lanes = grad(params, side_by_side, lane_rows(step, context))
        return found_by_lanes, grad(params, padded, users)

    for step in (0, 1):
        ours, theirs = both(step)
        assert (np.asarray(ours[0][1]) > 0).all()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def test_own_lanes_without_devices_are_all() -> None:
    state = jnp.arange(6.0).reshape(3, 2)
    assert own_lanes(state, None) is state


# --- negatives ---


def slow_scores(
    hidden: np.ndarray, table: np.ndarray, targets: list[int], samples: list[int], alpha: float, logq: float
) -> tuple[list[float], list[list[float]], list[list[int]]]:
    """Scores of each real target, of its negatives, and the ids of these, in loops."""
    pos, neg, ids = [], [], []
    for i, target in enumerate(targets):
        if target == 0:
            continue
        pos.append(hidden[i] @ table[target] - logq * np.log(COUNTS[target]))
        candidates = [(t, 1.0) for j, t in enumerate(targets) if j != i and t != 0]
        candidates += [(s, alpha) for s in samples]
        neg.append([hidden[i] @ table[c] - logq * a * np.log(COUNTS[c]) for c, a in candidates])
        ids.append([c for c, _ in candidates])
    return pos, neg, ids


@pytest.mark.parametrize("leave_out_hits", [False, True])
@pytest.mark.parametrize(("alpha", "logq"), [(0.5, 1.0), (1.0, 0.4), (0.75, 0.0)])
def test_shared_negatives_equal_slow_numpy(alpha: float, logq: float, leave_out_hits: bool) -> None:
    rng = np.random.default_rng(1)
    targets, samples = [3, 0, 5, 3, 9, 0], [3, 6, 6, 9]
    hidden, table = rng.normal(size=(6, DIM)), rng.normal(size=(NUM_ITEMS + 1, DIM))
    drawn = negatives(COUNTS, num_samples=4, alpha=alpha, logq=logq)
    objective = shared_negatives(losses.sampled_softmax, drawn, leave_out_hits=leave_out_hits)
    batch = {"targets": np.array(targets, np.int32).reshape(3, 2), "samples": np.tile(samples, (3, 1))}
    batch |= tables(drawn)
    found = jax.jit(lambda h, t: objective.loss(h, t, batch, None))(
        hidden.reshape(3, 2, DIM).astype(np.float32), table.astype(np.float32)
    )
    terms = []
    own = [t for t in targets if t]
    for target, r, others, ids in zip(
        own, *slow_scores(hidden, table, targets, samples, alpha, logq), strict=True
    ):
        kept = [x for x, c in zip(others, ids, strict=True) if not (leave_out_hits and c == target)]
        terms.append(np.log(np.exp([r, *kept]).sum()) - r)
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)


def test_an_activation_is_of_all_scores() -> None:
    rng = np.random.default_rng(2)
    hidden, table = rng.normal(size=(2, 1, DIM)), rng.normal(size=(NUM_ITEMS + 1, DIM))
    drawn = negatives(COUNTS, num_samples=2, alpha=0.0)
    batch = {"targets": np.array([[3], [5]], np.int32), "samples": np.tile([6, 9], (2, 1)), **tables(drawn)}
    elu = shared_negatives(losses.bpr_max, drawn, activation=jax.nn.elu)
    found = jax.jit(lambda: elu.loss(jnp.asarray(hidden), jnp.asarray(table), batch, None))()
    pos, neg, _ = slow_scores(hidden[:, 0], table, [3, 5], [6, 9], 0.0, 0.0)
    bent = [np.where(np.array(x) > 0, x, np.expm1(x)) for x in (pos, neg)]
    np.testing.assert_allclose(
        found, jax.jit(losses.bpr_max)(*(x.astype(np.float32) for x in bent)), rtol=1e-5
    )


def test_all_items_as_negatives_give_the_full_softmax() -> None:
    """One row, every item once as a sample, hits left out."""
    rng = np.random.default_rng(3)
    hidden, table = (rng.normal(size=s).astype(np.float32) for s in ((1, 1, DIM), (NUM_ITEMS + 1, DIM)))
    none = jnp.zeros(NUM_ITEMS + 1)
    every = Negatives(NUM_ITEMS, DRAWN.table, (none, none), alpha=0.0, logq=0.0)
    objective = shared_negatives(losses.sampled_softmax, every, leave_out_hits=True)
    batch = {"targets": np.array([[4]]), "samples": np.arange(1, NUM_ITEMS + 1)[None], **tables(every)}
    ours, full = jax.jit(
        lambda: (
            objective.loss(jnp.asarray(hidden), jnp.asarray(table), batch, None),
            losses.softmax_cross_entropy(jnp.asarray(hidden), jnp.asarray(table), batch["targets"]),
        )
    )()
    np.testing.assert_allclose(ours, full, rtol=1e-5)


def test_without_samples_a_lane_alone_has_nothing_to_learn_from() -> None:
    task = parallel_sessions(MODEL, shared_negatives(losses.bpr_max, DRAWN._replace(num_samples=0)))
    batch = {**batch_of(NUM_STEPS - 1), "samples": jnp.zeros((NUM_LANES, 0), jnp.int32)}
    alone = (jnp.arange(NUM_LANES) == 2)[:, None]
    batch["targets"] = jnp.where(alone, 5, 0)
    assert jax.jit(lambda b: task.losses(variables(), b, KEY)[0]["next_item"])(batch) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_samples": -1}, "num_samples=-1"), ({"logq": 1.5}, "logq=1.5"), ({"alpha": -1.0}, "alpha=-1.0")],
)
def test_negatives_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        negatives(COUNTS, **{"num_samples": 3, "alpha": 0.5, "logq": 0.0, **change})


# --- in the loop ---

LOOP = parallel_sessions(MODEL.clone(hidden_dropout=0.2), CE)
TX, EQUAL = optax.sgd(0.5), static()


@functools.cache
def beginning() -> Any:
    return jax.jit(lambda: create(LOOP, TX, EQUAL, KEY, lane_rows(0), CONTEXT))()


def trained(calls: int) -> tuple[Any, list[Any]]:
    """The state after two epochs of the compiled loop, and their losses."""
    run = jax.jit(make_epoch(make_step(LOOP, TX, EQUAL), plan(), calls=calls))
    state, logs = beginning(), []
    for epoch, call in np.ndindex(2, calls):
        state, means = run(state, CONTEXT, jnp.int32(epoch), jnp.int32(call))
        logs.append(float(means["next_item"]))
    return state, logs


@functools.cache
def straight() -> tuple[Any, list[Any]]:
    return trained(1)


def test_the_compiled_epoch_carries_the_lanes_from_call_to_call() -> None:
    """An epoch cut into calls ends with the bits of one in a single call, lanes included."""
    cut, _ = trained(2)
    state, _ = straight()
    assert state.step == 2 * NUM_STEPS
    assert (np.asarray(state.collections[LANES]["state"]) != 0).any()
    jax.tree.map(np.testing.assert_array_equal, cut.variables, state.variables)


def test_two_devices_train_as_one() -> None:
    """Two steps: the same parameters, and on each device the states of all lanes."""
    found = []
    for devices in (1, 2):
        step = make_step(LOOP, TX, EQUAL, parallel.axis_name(devices))
        run = parallel.over_devices(step, devices, (0, 0, 0), donate=False)
        state, context = (parallel.replicate(tree, devices) for tree in (beginning(), CONTEXT))
        for number in (0, 1):
            state, _ = run(state, parallel.replicate(lane_rows(number), devices), context)
        found.append(state.variables)
    alone, shared = found
    for device in (0, 1):
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(b[d], a, rtol=1e-4, atol=1e-6), alone, shared
        )


def test_an_epoch_lowers_the_loss() -> None:
    _, logs = straight()
    assert logs[1] < logs[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: listed({}, 3), "num_steps=3: at least one"),
        (lambda: listed({"session": "lane_session"}, 0), "num_steps=0"),
        (lambda: plan(NUM_STEPS + 1).draw(KEY, CONTEXT), f"'lane_session' has {NUM_STEPS} steps"),
    ],
)
def test_a_list_of_rows_that_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
