"""Dropout of the item table: one mask a step, for all that reads the table, on every device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.protocols import next_item
from jaxrec.recipes import strong, ticoserec_views, trainable
from jaxrec.segments import TableByRows
from jaxrec.tasks.table_dropout import drop_table
from jaxrec.train.accumulate import accumulated
from jaxrec.types import Array, Batch, Context, Key, Protocol, Task, Variables

KEY = jax.random.key(5)
ITEMS, DIM, RATE = 6, 40, 0.25


def products(*names: str) -> Task:
    """The mean product of the vectors of two ids, both of the table that lies at params/`names`."""

    def read(variables: Variables) -> Array:
        found = variables["params"]
        for name in names:
            found = found[name]
        return found

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        return {"row": examples["example"], "mask": examples["mask"], **context}

    def init(key: Key, batch: Batch) -> Variables:
        leaf: Any = jax.random.normal(key, (ITEMS + 1, DIM)).at[0].set(0.0)
        for name in reversed(names):
            leaf = {name: leaf}
        return {"params": {"other": jnp.ones(3), **leaf}}

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: Any = None
    ) -> tuple[dict[str, Array], Variables]:
        table = read(variables)
        both = (table[batch["x"]] * table[batch["y"]]).sum(-1)
        return {"product": losses.masked_mean(both, batch["mask"], axis_name)}, {}

    return Task(prepare, init, loss, lambda variables, batch: read(variables)[batch["x"]])


def case(*names: str) -> tuple[Task, Variables, Batch]:
    task = products(*names)
    batch = {
        "row": jnp.arange(8),
        "mask": jnp.arange(8) < 7,
        "x": jnp.asarray([1, 2, 3, 4, 5, 6, 1, 0]),
        "y": jnp.asarray([1, 2, 2, 6, 5, 1, 4, 0]),
    }
    return task, task.init(KEY, batch), batch


def mask(key: Key = KEY) -> np.ndarray:
    """Where the table keeps its units in a step of this key."""
    words = counter_bits(jax.random.split(key)[1], (ITEMS + 1, DIM))
    return np.asarray(words, np.float64) >= RATE * 2**32


def test_inputs_and_targets_read_what_one_mask_leaves() -> None:
    task, variables, batch = case("item_embedding")
    found = drop_table(task, RATE, bits=counter_bits).losses(variables, batch, KEY)[0]["product"]
    left = np.asarray(variables["params"]["item_embedding"], np.float64) * mask() / (1 - RATE)
    x, y = np.asarray(batch["x"])[:7], np.asarray(batch["y"])[:7]
    np.testing.assert_allclose(found, (left[x] * left[y]).sum(-1).mean(), rtol=1e-5)


def test_a_dropped_unit_has_no_gradient_and_the_others_are_scaled() -> None:
    task, variables, batch = case("item_embedding")

    def gradient(of: Task, at: Variables) -> np.ndarray:
        return np.asarray(
            jax.grad(lambda v: of.losses(v, batch, KEY)[0]["product"])(at)["params"]["item_embedding"]
        )

    left = {"item_embedding": variables["params"]["item_embedding"] * mask() / (1 - RATE)}
    expected = gradient(task, {"params": left}) * mask() / (1 - RATE)
    np.testing.assert_allclose(
        gradient(drop_table(task, RATE, bits=counter_bits), variables), expected, rtol=1e-5, atol=1e-7
    )


def test_the_mean_over_steps_is_the_table_and_the_rate_is_met() -> None:
    keys = jax.random.split(KEY, 4000)
    kept = np.mean([mask(key) for key in keys[:500]])
    assert abs(kept - (1 - RATE)) < 4 * np.sqrt(RATE * (1 - RATE) / (500 * (ITEMS + 1) * DIM))

    task, variables, batch = case("item_embedding")
    one = {**batch, "x": jnp.full(8, 1), "y": jnp.full(8, 2)}  # two rows: their masks are independent
    value = jax.jit(
        jax.vmap(
            lambda key: drop_table(task, RATE, bits=counter_bits).losses(variables, one, key)[0]["product"]
        )
    )
    found = np.asarray(value(keys))
    whole = float(task.losses(variables, one, KEY)[0]["product"])
    assert abs(found.mean() - whole) < 4 * found.std() / np.sqrt(len(keys))
    assert found.std() > 0.1


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_shares_of_devices_add_up_to_the_loss_of_the_batch(devices: int) -> None:
    task, variables, batch = case("item_embedding")
    dropped = drop_table(task, RATE, bits=counter_bits)
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    shares = jax.vmap(
        lambda piece: dropped.losses(variables, piece, KEY, "data")[0]["product"], axis_name="data"
    )(split)
    expected = dropped.losses(variables, batch, KEY)[0]["product"]
    np.testing.assert_allclose(shares.sum(), expected, rtol=1e-5)


def test_parts_of_a_batch_read_one_mask() -> None:
    task, variables, batch = case("item_embedding")
    dropped = drop_table(task, RATE, bits=counter_bits)
    found = accumulated(dropped, 4).losses(variables, batch, KEY)[0]["product"]
    np.testing.assert_allclose(found, dropped.losses(variables, batch, KEY)[0]["product"], rtol=1e-5)


def test_a_table_within_modules_is_found_and_other_parameters_stay() -> None:
    task, variables, batch = case("encoder", "item_embedding")
    seen: list[Any] = []

    def losses_of(variables: Variables, *rest: Any) -> Any:
        seen.append(variables)
        return task.losses(variables, *rest)

    path = ("params", "encoder", "item_embedding")
    drop_table(task._replace(losses=losses_of), RATE, table=path, bits=counter_bits).losses(
        variables, batch, KEY
    )
    np.testing.assert_array_equal(seen[0]["params"]["other"], np.ones(3))
    assert (np.asarray(seen[0]["params"]["encoder"]["item_embedding"])[1:] == 0).mean() == pytest.approx(
        1 - mask()[1:].mean()
    )


def test_predictions_read_the_whole_table_and_without_a_rate_nothing_changes() -> None:
    task = products("item_embedding")
    assert drop_table(task, 0.0, bits=counter_bits) is task
    assert drop_table(task, RATE, bits=counter_bits).predict is task.predict


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_makes_no_sense_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="table_dropout=.*: must be at least 0 and below 1"):
        drop_table(products("item_embedding"), rate, bits=counter_bits)


def test_a_table_that_is_not_there_or_is_sparse_is_refused() -> None:
    task, variables, batch = case("encoder", "item_embedding")
    with pytest.raises(ValueError, match="no 'item_embedding', but encoder, other"):
        drop_table(task, RATE, bits=counter_bits).losses(variables, batch, KEY)
    with pytest.raises(ValueError, match="no 'item_embedding', but a leaf"):
        drop_table(task, RATE, bits=counter_bits, table=("params", "other", "item_embedding")).losses(
            variables, batch, KEY
        )
    task, variables, batch = case("item_embedding")
    table = object.__new__(TableByRows)
    with pytest.raises(ValueError, match="'item_embedding' is sparse; train it as a dense one"):
        drop_table(task, RATE, bits=counter_bits).losses({"params": {"item_embedding": table}}, batch, KEY)


def test_recipes_hand_their_rate_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(next_item, "train", lambda *args, table_dropout, **rest: given.append(table_dropout))
    data: Any = None
    for name, model in strong.MODELS.items():
        recipe = model.recipe() if isinstance(model.recipe, type) else model.recipe
        trainable.by_user(data, data, data, Protocol(), optax.sgd(0.1), recipe)
        assert given[-1] == recipe.table_dropout == {"esasrec": 0.2, "gsasrec": 0.0}[name]
    assert strong.usual("ml-100k").table_dropout == strong.usual("ml-100k").dropout == 0.1


@pytest.mark.long
@pytest.mark.parametrize("views", [False, True])
def test_a_training_loss_is_of_the_table_that_is_left(views: bool, tmp_path: Path) -> None:
    """With nearly all units gone, scores are nearly equal, whatever was learnt."""
    data = next_item.resident(
        leave_one_out(markov_chain(num_users=48, num_items=20, noise=0.0).sequences, short="train")
    )
    recipe = strong.Recipe(dim=8, max_len=12, num_negatives=4, epochs=12, batch_size=16, patience=0)
    recipe = dataclasses.replace(recipe, learning_rate=0.03, dropout=0.0)
    model, objective = strong.sasrec(data.num_items, recipe), strong.ssm(data, recipe)
    asked = Protocol(split=data.split.rule, selection="hit@10")

    def last_loss(rate: float) -> float:
        options: dict[str, Any] = {
            "seeds": (0,), "num_devices": 1, "workdir": tmp_path / str(rate), "description": {"rate": rate},
        }  # fmt: skip
        if views:
            given = strong.with_views(recipe, "")
            fitted = ticoserec_views.train(
                model, objective, data, asked, optax.adam(0.03), given, table_dropout=rate, **options
            )
        else:
            changed = dataclasses.replace(recipe, table_dropout=rate)
            fitted = trainable.by_user(model, objective, data, asked, optax.adam(0.03), changed, **options)
        return float(np.ravel(fitted.history[-1]["next_item"])[0])

    assert last_loss(0.9) > last_loss(0.0) + 0.3
