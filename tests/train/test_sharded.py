"""A model whose item table is sharded trains as one that every device holds whole: on 1, 2 and 4 devices."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.optim.loss_weighting import static
from jaxrec.train import parallel, sharded
from jaxrec.train.communication import collectives
from jaxrec.train.epoch import make_epoch, shuffled
from jaxrec.train.exchange import bucketed
from jaxrec.train.lock import locked
from jaxrec.train.sharded import Table
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Task
from tests.train.interest import (
    CAPACITY,
    DENSE,
    DIM,
    EXAMPLES,
    EXCHANGES,
    NUM_ITEMS,
    clicks,
    context,
    plan,
    table,
)
from tests.train.other_code import OTHER_CODE, with_code

DEVICES = (1, 2, 4)
EPOCHS = 3


@functools.cache
def trained(name: str, num_devices: int) -> sharded.Trained:
    return sharded.train(
        clicks(CAPACITY),
        DENSE,
        table(EXCHANGES[name]),
        plan(),
        context(),
        epochs=EPOCHS,
        num_devices=num_devices,
    )


@functools.cache
def replicated() -> tuple[Any, list[dict[str, float]]]:
    """The same training of the whole model on one device, by the step of every other task."""
    task, key = clicks(NUM_ITEMS), jax.random.key(0)
    tx = optax.partition(
        {"table": optax.adagrad(0.1), "rest": DENSE},
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "table" if "item_embedding" in jax.tree_util.keystr(path) else "rest", params
        ),
    )
    columns = jax.tree.map(jnp.asarray, context())
    examples = jax.tree.map(lambda x: x[0], plan().draw(key, columns)[0])
    state = create(task, tx, static(), key, examples, columns)
    tables = table()
    first = sharded.create(clicks(CAPACITY), DENSE, tables, key, examples, columns)
    whole = jax.tree.map(jnp.asarray, sharded.collect(first, tables)["params"])
    params = {"model": whole, "weighting": state.params["weighting"]}
    state = state.replace(params=params, opt_state=tx.init(params))
    run, history = jax.jit(make_epoch(make_step(task, tx, static()), plan())), []
    for epoch in range(EPOCHS):
        state, means = run(state, columns, jnp.int32(epoch), jnp.int32(0))
        history.append({name: float(value) for name, value in means.items() if name in ("bpr", "loss")})
    return state.params["model"], history


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [
        *[("gathered", count) for count in DEVICES],
        ("bucketed", 4),
        *[pytest.param("bucketed", count, marks=pytest.mark.long) for count in (1, 2)],
    ],
)
def test_training_equals_that_of_the_whole_table(name: str, num_devices: int) -> None:
    params, history = replicated()
    found = trained(name, num_devices)
    for ours, expected in zip(found.history, history, strict=True):
        assert ours == pytest.approx(expected, rel=1e-5)  # losses and nothing else
    ours = sharded.collect(found.state, table())["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, params)
    assert found.history[-1]["loss"] < found.history[0]["loss"] - 0.005
    assert not ours["item_embedding"][0].any()


def test_a_table_its_gradient_and_its_optimiser_are_never_whole_on_a_device() -> None:
    rows = trained("gathered", 4).state.tables["item_embedding"]
    memory = [leaf for leaf in jax.tree.leaves(rows.memory) if leaf.ndim]
    assert rows.values.shape == (52, DIM) and len(memory) == 1
    for array in (rows.values, *memory):
        assert [shard.data.shape for shard in array.addressable_shards] == [(13, DIM)] * 4


def step_text(name: str, num_devices: int, num_items: int = NUM_ITEMS) -> str:
    """The compiled program of one step."""
    tables = table(EXCHANGES[name])
    tables = {path: t._replace(num_rows=num_items + 1) for path, t in tables.items()}
    task, columns = clicks(CAPACITY), jax.tree.map(jnp.asarray, context())
    examples = jax.tree.map(lambda x: x[0], plan().draw(jax.random.key(0), columns)[0])
    state = jax.eval_shape(
        lambda: sharded.create(
            task, DENSE, tables, jax.random.key(0), examples, columns, num_devices=num_devices
        )
    )
    step = sharded.make_step(task, DENSE, tables)
    program: Any = sharded.over_devices(step, state, tables, num_devices)
    return str(program.lower(state, examples, columns).compile().as_text())


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_compiled_step_has_the_stated_collectives_and_moves_no_table(name: str) -> None:
    found = collectives(step_text(name, 4))
    ids, row = CAPACITY + 1, 4 * DIM
    expected = {
        "gathered": [
            ("all-gather", 4 * 4 * ids),
            ("all-gather", 4 * ids * row),
            ("reduce-scatter", ids * row),
        ],
        "bucketed": [("all-to-all", 4 * CAPACITY * size) for size in (4, row, row)],
    }
    assert sorted((c.kind, c.bytes) for c in found if c.kind != "all-reduce") == expected[name]
    sums = sum(c.bytes for c in found if c.kind == "all-reduce")
    dense = 4 * sum(x.size for x in jax.tree.leaves(trained(name, 4).state.params))
    assert dense <= sums <= dense + 64  # gradients of layers, losses and counts


def test_a_step_moves_the_same_bytes_whatever_the_size_of_the_table() -> None:
    sizes = [[(c.kind, c.bytes) for c in collectives(step_text("gathered", 2, n))] for n in (50, 5000)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("first", "then"), [(4, 1), (1, 2), pytest.param(2, 4, marks=pytest.mark.long)])
def test_a_checkpoint_goes_on_with_another_number_of_devices(first: int, then: int, tmp_path: Path) -> None:
    def run(num_devices: int, epochs: int) -> sharded.Trained:
        return sharded.train(
            *(clicks(CAPACITY), DENSE, table(), plan(), context()),
            epochs=epochs, num_devices=num_devices, workdir=tmp_path, description={"model": "interest"},
        )  # fmt: skip

    before = run(first, EPOCHS - 1)
    found, expected = run(then, EPOCHS), trained("gathered", 1)
    assert found.history[: EPOCHS - 1] == before.history
    assert found.history[-1] == pytest.approx(expected.history[-1], rel=1e-5)
    ours, theirs = (sharded.collect(state, table()) for state in (found.state, expected.state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)
    values = found.state.tables["item_embedding"].values
    assert len(values.addressable_shards) == then


def test_predictions_are_those_of_the_whole_model() -> None:
    state, tables = trained("bucketed", 4).state, table()
    batch = {"item": context()["item"][:8], "history": context()["history"][:8]}
    looked = {name: t._replace(columns=("item", "history")) for name, t in tables.items()}
    predict = sharded.make_predict(clicks(CAPACITY), looked, state, 4)
    expected = clicks(NUM_ITEMS).predict(sharded.collect(state, tables), batch)
    np.testing.assert_allclose(predict(state, batch), expected, rtol=1e-5, atol=1e-6)
    batch["item"] = np.array([NUM_ITEMS + 1, -1, *batch["item"][2:]], np.int32)
    assert np.isnan(predict(state, batch)).tolist() == [True] * 2 + [False] * 6


@pytest.mark.parametrize("case", ["capacity=3", "the capacity of its exchange"])
def test_ids_without_room_stop_the_run_and_change_nothing(case: str) -> None:
    tables, capacity = (table(capacity=3), 3) if case == "capacity=3" else (table(bucketed(2)), CAPACITY)
    state, step, examples, columns = one_step(tables, clicks(capacity))
    before = sharded.collect(state, tables)
    for _ in range(2):
        state, means = step(state, examples, columns)
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, sharded.collect(state, tables), before)
    with pytest.raises(ValueError, match=rf"'item_embedding': \d+ ids of a step found no room, {case}"):
        sharded._checked(state, means, tables, 0)


def one_step(tables: dict[str, Table], task: Task, num_devices: int = 2, seed: int = 0) -> tuple[Any, ...]:
    """A state, the compiled step, and its arguments."""
    columns = jax.tree.map(jnp.asarray, context())
    examples = jax.tree.map(lambda x: x[0], plan().draw(jax.random.key(0), columns)[0])
    key = jax.random.key(seed)
    state = sharded.create(task, DENSE, tables, key, examples, columns, num_devices=num_devices)
    step = sharded.over_devices(sharded.make_step(task, DENSE, tables), state, tables, num_devices)
    return state, step, examples, columns


def test_lazy_adam_changes_the_rows_a_batch_read_and_no_other() -> None:
    tables, task = table(tx=optax.adam(0.1)), clicks(CAPACITY)
    state, step, examples, columns = one_step(tables, task, seed=3)
    before = sharded.collect(state, tables)["params"]["item_embedding"]
    after = sharded.collect(step(state, examples, columns)[0], tables)["params"]["item_embedding"]
    key = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 2), 0))[0]
    batch = task.prepare(key, examples, columns)
    read = {int(i) for name in ("item", "negative", "history") for i in np.ravel(batch[name])} - {0}
    changed = set(np.flatnonzero((before != after).any(axis=1)).tolist())
    assert changed and changed <= read and len(changed) > len(read) - 5


@pytest.mark.parametrize(
    ("tables", "task", "num_devices", "message"),
    [
        (table(blocks=3), clicks(CAPACITY), 2, "num_devices=2: does not divide blocks=3"),
        (table(), clicks(NUM_ITEMS), 1, r"parameter is \(51, 4\), expected \(41, 4\): build the model"),
        ({"other": table()["item_embedding"]}, clicks(CAPACITY), 1, "missing among .*'item_embedding'"),
        ({"item_embedding": table()["item_embedding"]._replace(columns=("items",))}, clicks(CAPACITY), 1,
         r"columns \['items'\] are none of the batch's"),
        (table(tx=optax.scale_by_factored_rms(min_dim_size_to_factor=1)), clicks(CAPACITY), 1,
         "its optimiser remembers an array"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tables: Any, task: Task, num_devices: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharded.train(task, DENSE, tables, plan(), context(), epochs=1, num_devices=num_devices)


def test_an_id_outside_the_table_stops_the_run() -> None:
    wrong = {**context(), "item": context()["item"] + NUM_ITEMS}
    with pytest.raises(ValueError, match="an id lies outside its table"):
        sharded.train(clicks(CAPACITY), DENSE, table(), plan(), wrong, epochs=1)


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="num_devices=99"):
        sharded.train(clicks(CAPACITY), DENSE, table(), plan(), context(), epochs=1, num_devices=99)
    assert parallel.axis_name(1) is None


def once(workdir: Path | None = None, **changes: Any) -> sharded.Trained:
    """A short run with some arguments changed."""
    settings: dict[str, Any] = {
        "task": clicks(CAPACITY), "tx": DENSE, "tables": table(), "plan": plan(), "context": context(),
        "epochs": 1, "workdir": workdir, **changes,
    }  # fmt: skip
    return sharded.train(**settings)


@pytest.mark.parametrize("where", ["tx", "tables"])
def test_parameters_that_are_not_finite_behind_the_last_step_stop_the_run(where: str) -> None:
    late = optax.sgd(lambda step: jnp.where(step == plan().num_steps - 1, jnp.inf, 0.01))
    change = {"tx": late, "tables": table(tx=late)}[where]
    with pytest.raises(ValueError, match="epoch 0: a table or another parameter is NaN or infinite behind"):
        once(**{where: change})


def test_a_run_of_other_code_is_refused_unless_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = once(tmp_path)
    (trained,) = first.made_by
    with_code(monkeypatch)
    with pytest.raises(ValueError, match=OTHER_CODE):
        once(tmp_path)
    again = once(tmp_path, accept_changed_code=True)
    assert again.history == first.history
    assert [(e["first_epoch"], e["commit"]) for e in again.made_by] == [(0, trained["commit"]), (1, "b" * 40)]


def test_a_run_does_not_go_on_as_another_one(tmp_path: Path) -> None:
    once(tmp_path, epochs=2)
    other = {**context(), "item": np.roll(context()["item"], 1)}
    for change, message in (
        ({"context": other}, r"fit\.context\.item="),
        ({"plan": shuffled(EXAMPLES - 3, 4)}, r"fit\.steps\..*num_steps=5, this run has 10"),
        ({"task": renamed(clicks(CAPACITY))}, r"fit\.losses=\['bpr'\], this run has \['other'\]"),
        ({"seed": 1}, "seed=0, this run has 1"),
        ({"epochs": 1}, "holds a run of 2 epochs, and this one has 1; ask for as many"),
    ):
        with pytest.raises(ValueError, match=message):
            once(tmp_path, **{"epochs": 2, **change})
    with locked(tmp_path), pytest.raises(ValueError, match="in use by process"):
        once(tmp_path, epochs=2)


def renamed(task: Task) -> Task:
    def losses(*args: Any) -> Any:
        found, rest = task.losses(*args)
        return {"other": found["bpr"]}, rest

    return task._replace(losses=losses)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_epochs_are_a_whole_number(epochs: Any) -> None:
    with pytest.raises(ValueError, match=f"epochs={epochs}: must be a whole number, at least 1"):
        once(epochs=epochs)


def test_an_optimiser_that_evaluates_other_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ScheduleFreeState: such an optimiser has other parameters"):
        once(tmp_path / "run", tx=optax.contrib.schedule_free_adamw(0.1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, True, 1.5])
def test_a_seed_that_would_be_another_one_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="is no whole number within 0..4294967295"):
        once(seed=seed)
