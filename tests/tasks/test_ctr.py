"""Click prediction after a history: the window before each row, the events drawn beside it, the losses."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import SHARED, Clicks, Sides, next_clicks
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.id_columns import Sequenced
from jaxrec.nn.layers.long_short import Windows
from jaxrec.nn.layers.memory import InterestMemory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.mimn import MIMN
from jaxrec.nn.ranking.sim import SIM
from jaxrec.tasks.ctr import Regularised, behaviours, ctr, other_events
from jaxrec.types import Task
from tests.nn.drawn import drawn

KEY = jax.random.key(0)
LENGTH, ITEMS = 5, 12
OUTPUTS = ("click", "search")
KIND = np.append(0, np.arange(ITEMS) % 3 + 1).astype(np.int32)


@functools.cache
def clicks() -> Clicks:
    made = markov_chain(20, ITEMS, min_length=4, max_length=9).sequences
    ages = np.append(0, np.arange(20) % 4 + 1).astype(np.int32)
    return next_clicks(made, sides=Sides({"kind": KIND}, {"age": ages}))


def context() -> dict[str, Any]:
    return jax.tree.map(jnp.asarray, clicks().columns())  # type: ignore[no-any-return]


def step(*ids: int, size: int = 8) -> dict[str, Any]:
    mask = jnp.arange(size) < len(ids)
    return {"user": jnp.array([*ids, *[0] * (size - len(ids))], jnp.int32), "mask": mask}


def module(*, negatives: bool) -> WithHistory:
    lists = ("history_", "negative_") if negatives else ("history_",)
    fields = [Categorical(f"{p}item", ITEMS + 1, 4, "item") for p in ("", *lists)]
    return WithHistory(
        FeatureEmbedding((*fields, Categorical("age", 5, 4))),
        DIEN(dims=(6,), mlp=Factory(MLP, activation=jax.nn.relu)) if negatives else DINBase(dims=(6,)),
        targets=("item",),
        histories=("history_item",),
        negatives=("negative_item",) if negatives else (),
    )


def table(variables: Any) -> Any:
    return variables["params"]["embedding"]["item_embedding"]


@functools.cache
def regularised() -> Task:
    counts = jnp.asarray(clicks().examples_with(LENGTH), jnp.int32)
    each = Regularised(table, ("item", "history_item"), counts)
    return ctr(module(negatives=False), length=LENGTH, num_items=ITEMS, regularised=[each])


@pytest.mark.parametrize("length", [1, 3, 20])
def test_a_history_is_the_last_events_before_the_row(length: int) -> None:
    made, shared = clicks(), context()[SHARED]
    read = {name: jnp.asarray(getattr(made, name)) for name in ("user", "item", "start", "end")}
    batch = behaviours(read, shared, length)
    for m in range(0, len(made.user), 7):
        before = made.events[made.start[m] : made.end[m]][-length:]
        expected = np.append(np.zeros(length - len(before), int), before)
        np.testing.assert_array_equal(batch["history_item"][m], expected)
        np.testing.assert_array_equal(batch["history_kind"][m], KIND[expected])
        assert batch["kind"][m] == KIND[made.item[m]]
        assert batch["age"][m] == made.sides.users["age"][made.user[m]]
    assert set(batch) == {"user", "item", "kind", "age", "history_item", "history_kind"}


@pytest.mark.parametrize("length", [1, 3, 20])
def test_an_age_is_the_time_from_the_event_to_the_row(length: int) -> None:
    """a_j = t_row - t_j where there is an event, at least 1 second, and 0 on padding."""
    made, shared = clicks(), context()[SHARED]
    assert made.times is not None and made.time is not None
    names = ("user", "item", "start", "end", "time")
    batch = behaviours({name: jnp.asarray(getattr(made, name)) for name in names}, shared, length)
    assert batch["history_age"].dtype == jnp.int32
    for m in range(len(made.user)):
        before = made.time[m] - made.times[made.start[m] : made.end[m]][-length:]
        np.testing.assert_array_equal(
            batch["history_age"][m], np.append(np.zeros(length - len(before), int), before)
        )
    real = np.asarray(batch["history_item"]) > 0
    ages = np.asarray(batch["history_age"])
    assert (ages[real] >= 1).all() and (ages[~real] == 0).all()
    assert (~real).any() == (length > 1)  # the first events have fewer before them


def test_without_times_a_batch_is_the_same_but_for_ages() -> None:
    made, columns = clicks(), context()
    plain = dataclasses.replace(made, times=None, time=None)
    bare: Any = jax.tree.map(jnp.asarray, plain.columns())
    task = regularised()
    with_ages, without = (task.prepare(KEY, step(2, 9, 4), c) for c in (columns, bare))
    assert set(with_ages) - set(without) == {"history_age"} and not set(without) - set(with_ages)
    for name, column in without.items():
        np.testing.assert_array_equal(column, with_ages[name], err_msg=name)


def test_items_of_several_ids_keep_them_in_the_history() -> None:
    made, shared = clicks(), context()[SHARED]
    tags = np.stack([KIND, np.where(KIND == 1, 4, 0)], axis=1).astype(np.int32)  # [V + 1, 2]
    shared = {**shared, "items": {"tags": jnp.asarray(tags)}}
    read = {name: jnp.asarray(getattr(made, name)[:9]) for name in ("user", "item", "start", "end")}
    batch = behaviours(read, shared, LENGTH)
    np.testing.assert_array_equal(batch["tags"], tags[made.item[:9]])
    np.testing.assert_array_equal(batch["history_tags"], tags[np.asarray(batch["history_item"])])
    assert batch["history_tags"].shape == (9, LENGTH, 2)
    drawn = other_events(KEY, batch, shared, ITEMS)
    np.testing.assert_array_equal(drawn["negative_tags"], tags[np.asarray(drawn["negative_item"])])


def test_a_row_without_events_has_an_empty_history() -> None:
    read = {"user": jnp.array([1]), "item": jnp.array([2]), "start": jnp.array([4]), "end": jnp.array([4])}
    batch = behaviours(read, context()[SHARED], 3)
    assert batch["history_item"].tolist() == batch["history_kind"].tolist() == [[0, 0, 0]]


def test_later_events_change_nothing() -> None:
    """Everything from the row's event on is replaced: the batch and the score stay the same."""
    task, columns = regularised(), context()
    batch = task.prepare(KEY, step(5), columns)
    variables = task.init(KEY, batch)
    end = int(columns["end"][5])
    shared = columns[SHARED] | {
        "events": columns[SHARED]["events"].at[end:].set(ITEMS),
        "times": columns[SHARED]["times"].at[end:].set(-7),
    }
    other = task.prepare(KEY, step(5), columns | {SHARED: shared})
    for name in ("history_item", "history_kind", "history_age"):
        np.testing.assert_array_equal(batch[name][0], other[name][0])
    assert float(task.predict(variables, batch)[0]) == float(task.predict(variables, other)[0])


def test_other_events_are_never_the_event_and_reach_every_other() -> None:
    history = jnp.broadcast_to(jnp.array([0, 3, ITEMS]), (4000, 3))
    drawn = other_events(KEY, {"history_item": history}, context()[SHARED], ITEMS)
    negative = np.asarray(drawn["negative_item"])
    assert (negative[:, 0] == 0).all()
    for slot, event in ((1, 3), (2, ITEMS)):
        counts = np.bincount(negative[:, slot], minlength=ITEMS + 1)
        assert counts[0] == counts[event] == 0
        expected = 4000 / (ITEMS - 1)
        others = np.delete(counts, [0, event])
        assert (np.abs(others - expected) < 5 * np.sqrt(expected)).all()
    np.testing.assert_array_equal(drawn["negative_kind"], KIND[negative])


def test_mini_batch_aware_is_its_formula_over_real_rows() -> None:
    task = regularised()
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = task.init(KEY, batch)
    found, _ = task.losses(variables, batch, KEY)
    real = np.asarray(batch["mask"])
    ids = {
        *np.asarray(batch["item"])[real].tolist(),
        *np.asarray(batch["history_item"])[real].ravel().tolist(),
    }
    weights, counts = np.asarray(table(variables), np.float64), clicks().examples_with(LENGTH)
    expected = sum(0.5 * (weights[j] ** 2).sum() / max(counts[j], 1) for j in ids - {0})
    assert float(found["mini_batch_aware"]) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(lambda v: task.losses(v, batch, KEY)[0]["mini_batch_aware"])(dict(variables))
    for j in range(ITEMS + 1):
        scale = 1 / max(counts[j], 1) if j in ids - {0} else 0.0
        np.testing.assert_allclose(table(gradient)[j], scale * weights[j], rtol=1e-5, atol=1e-9)


def test_the_auxiliary_loss_is_trained_and_not_served() -> None:
    task = ctr(module(negatives=True), length=LENGTH, num_items=ITEMS, auxiliary=True)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = task.init(KEY, batch)
    found, _ = task.losses(variables, batch, KEY)
    assert set(found) == {"click", "next_behaviour"}
    assert all(np.isfinite(float(loss)) for loss in found.values())
    served = {name: column for name, column in batch.items() if not name.startswith("negative_")}
    assert task.predict(variables, served).shape == (8,)
    masked = task.prepare(KEY, step(2, 9, 4), context())
    masked = {**masked, "history_item": masked["history_item"].at[3:].set(1)}
    np.testing.assert_allclose(
        float(task.losses(variables, masked, KEY)[0]["next_behaviour"]),
        float(found["next_behaviour"]),
        rtol=1e-6,
    )


def test_the_memory_regulariser_is_a_loss_of_its_own() -> None:
    memory = module(negatives=False).clone(
        model=MIMN(dims=(), memory=InterestMemory(3, shares=True), attention=ActivationUnit((), softmax=True))
    )
    task = ctr(memory, length=LENGTH, num_items=ITEMS, memory=True)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(memory, batch)

    def regulariser(variables: Any) -> Any:
        found, _ = task.losses(variables, batch, KEY)
        return found["memory_utilisation"], found

    gradient, found = jax.jit(jax.grad(regulariser, has_aux=True))(variables)
    assert set(found) == {"click", "memory_utilisation"}
    assert 0 < float(found["memory_utilisation"]) < 1
    assert np.abs(gradient["params"]["model"]["memory"]["utilisation_kernel"]).sum() > 0
    assert jax.eval_shape(task.predict, variables, batch).shape == (8,)


@pytest.mark.parametrize("category", [None, "kind"])
def test_a_search_reads_what_comes_before_the_short_history(category: str | None) -> None:
    items = (Categorical("item", ITEMS + 1, 4), Categorical("kind", 4, 4))
    model = SIM(items, k=2, category=category, search_dim=2, dims=())
    task = ctr(Windows(model, 2), length=LENGTH, num_items=ITEMS, search=category is None)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(Windows(model, 2), batch)
    found, _ = jax.jit(task.losses)(variables, batch, KEY)
    assert set(found) == ({"click", "search"} if category is None else {"click"})
    assert all(np.isfinite(float(loss)) for loss in found.values())
    names = ("item", "kind")
    expected: Any = jax.jit(model.apply)(
        {"params": variables["params"]["model"]},
        {n: batch[n] for n in names},
        {n: batch[f"history_{n}"][:, : LENGTH - 2] for n in names},
        {n: batch[f"history_{n}"][:, LENGTH - 2 :] for n in names},
    )
    np.testing.assert_allclose(jax.jit(task.predict)(variables, batch), expected["ctr"], rtol=1e-5)
    short = {n: c[:, -2:] if n.startswith("history_") else c for n, c in batch.items()}
    with pytest.raises(ValueError, match="short=2: of histories of 2 events nothing is left"):
        task.predict(variables, short)
    with pytest.raises(ValueError, match="short=0"):
        Windows(model, 0)


def item_fields() -> tuple[Categorical, Categorical]:
    return Categorical("item", ITEMS + 1, 4), Categorical("kind", 4, 4)


@pytest.mark.parametrize("kind", [SIM, ETA])
def test_a_search_reads_the_ages_of_both_windows(kind: Any) -> None:
    """The long history's are those of the first L - S slots, the short one's those of the last S."""
    model = kind(item_fields(), k=2, age_dim=3, short_ages=True, dims=())
    module = Windows(model, 2)
    task = ctr(module, length=LENGTH, num_items=ITEMS, search=kind is SIM)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(module, batch)
    names, cuts = ("item", "kind"), {"long": slice(LENGTH - 2), "short": slice(LENGTH - 2, None)}
    roles = {role: {n: batch[f"history_{n}"][:, cut] for n in names} for role, cut in cuts.items()}
    ages = {f"{role}_age": batch["history_age"][:, cut] for role, cut in cuts.items()}
    of_model = {name: collection["model"] for name, collection in variables.items()}
    target = {n: batch[n] for n in names}
    expected: Any = jax.jit(model.apply)(of_model, target, **roles, **ages)
    expected = expected["ctr"] if kind is SIM else expected
    predict = jax.jit(task.predict)
    np.testing.assert_allclose(predict(variables, batch), expected, rtol=1e-5, atol=1e-6)
    for slots in (slice(LENGTH - 2), slice(LENGTH - 2, None)):  # each window's ages matter
        older = {**batch, "history_age": batch["history_age"].at[:, slots].multiply(1000)}
        assert not np.allclose(predict(variables, older)[:3], expected[:3], atol=1e-4)
    with pytest.raises(ValueError, match="column history_age: not there"):
        task.predict(variables, {name: c for name, c in batch.items() if name != "history_age"})


def test_a_transformer_reads_ages_by_the_names_of_a_batch() -> None:
    """BST's only history is called "history": its ages are the column that `behaviours` gives."""
    model = BST(item_fields(), age_dim=8, num_heads=2, inner_dim=5, dims=(), block_dropout=0.0)
    module = Sequenced(model)
    task = ctr(module, length=LENGTH, num_items=ITEMS)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(module, batch)
    predict = jax.jit(task.predict)
    logits = predict(variables, batch)
    assert logits.shape == (8,) and np.isfinite(logits).all()
    older = {**batch, "history_age": batch["history_age"] * 1000}
    assert not np.allclose(predict(variables, older)[:3], logits[:3], atol=1e-4)


def test_a_search_may_be_what_is_served() -> None:
    model = SIM(item_fields(), k=2, search_dim=2, dims=())
    click, search = (ctr(Windows(model, 2, s), length=LENGTH, num_items=ITEMS, search=True) for s in OUTPUTS)
    batch = click.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(Windows(model, 2), batch)
    outputs: Any = Windows(model, 2).apply(variables, batch, train=True)
    for task, name in zip((click, search), OUTPUTS, strict=True):
        np.testing.assert_allclose(task.predict(variables, batch), outputs[name], rtol=1e-5)
    found, same = (task.losses(variables, batch, KEY)[0] for task in (click, search))
    assert {name: float(loss) for name, loss in found.items()} == {n: float(loss) for n, loss in same.items()}
    with pytest.raises(ValueError, match="served='other': must be"):
        Windows(model, 2, "other")
    hard = Windows(model.clone(category="kind"), 2, "search")
    with pytest.raises(ValueError, match="the model has no search to train"):
        drawn(hard, batch)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="length=0"):
        ctr(module(negatives=False), length=0, num_items=ITEMS)
    with pytest.raises(ValueError, match="num_items=1"):
        ctr(module(negatives=True), length=3, num_items=1, auxiliary=True)
