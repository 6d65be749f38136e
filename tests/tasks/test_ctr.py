"""Click prediction after a history: the window before each row, the events drawn beside it, the losses."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import SHARED, Clicks, SideInfo, next_clicks
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
from jaxrec.tasks.ctr import (
    LABEL,
    Regularised,
    behaviours,
    ctr,
    memory_utilisation,
    next_behaviour,
    other_events,
)
from jaxrec.tasks.multitask import Target
from jaxrec.types import Task
from tests.nn.drawn import applied, drawn
from tests.tasks.small import compiled

KEY = jax.random.key(0)
LENGTH, ITEMS = 5, 12
OUTPUTS = ("click", "search")
SEARCH = Target("search", "search", LABEL)
DIEN_TERM = {"next_behaviour": next_behaviour}
KIND = np.append(0, np.arange(ITEMS) % 3 + 1).astype(np.int32)


@functools.cache
def clicks() -> Clicks:
    made = markov_chain(20, ITEMS, min_length=4, max_length=9).sequences
    ages = np.append(0, np.arange(20) % 4 + 1).astype(np.int32)
    return next_clicks(made, side_info=SideInfo({"kind": KIND}, {"age": ages}))


def context() -> dict[str, Any]:
    return jax.tree.map(jnp.asarray, clicks().columns())  # type: ignore[no-any-return]


def step(*ids: int, size: int = 8) -> dict[str, Any]:
    mask = np.arange(size) < len(ids)
    return {"example": np.array([*ids, *[0] * (size - len(ids))], np.int32), "mask": mask}


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


def click_task(*arguments: Any, **options: Any) -> Task:
    return compiled(ctr(*arguments, **options))


@functools.partial(jax.jit, static_argnames="length")
def read_behaviours(examples: Any, shared: Any, length: int) -> Any:
    return behaviours(examples, shared, length)


def table(variables: Any) -> Any:
    return variables["params"]["embedding"]["item_embedding"]


@functools.cache
def regularised() -> Task:
    counts = jnp.asarray(clicks().count_examples_with(LENGTH), jnp.int32)
    each = Regularised(table, ("item", "history_item"), counts)
    return click_task(module(negatives=False), length=LENGTH, regularised=[each])


@pytest.mark.parametrize("length", [1, 3, 20])
def test_a_history_is_the_last_events_before_the_row(length: int) -> None:
    made, shared = clicks(), context()[SHARED]
    read = {name: jnp.asarray(getattr(made, name)) for name in ("user", "item", "start", "end")}
    batch = read_behaviours(read, shared, length)
    for m in range(0, len(made.user), 7):
        before = made.events[made.start[m] : made.end[m]][-length:]
        expected = np.append(np.zeros(length - len(before), int), before)
        np.testing.assert_array_equal(batch["history_item"][m], expected)
        np.testing.assert_array_equal(batch["history_kind"][m], KIND[expected])
        assert batch["kind"][m] == KIND[made.item[m]]
        assert batch["age"][m] == made.side_info.users["age"][made.user[m]]
    assert set(batch) == {"user", "item", "kind", "age", "history_item", "history_kind"}


@pytest.mark.parametrize("length", [1, 3, 20])
def test_an_age_is_the_time_from_the_event_to_the_row(length: int) -> None:
    """a_j = t_row - t_j where there is an event, at least 1 second, and 0 on padding."""
    made, shared = clicks(), context()[SHARED]
    assert made.times is not None and made.time is not None
    names = ("user", "item", "start", "end", "time")
    batch = read_behaviours({name: jnp.asarray(getattr(made, name)) for name in names}, shared, length)
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
    batch = read_behaviours(read, shared, LENGTH)
    np.testing.assert_array_equal(batch["tags"], tags[made.item[:9]])
    np.testing.assert_array_equal(batch["history_tags"], tags[np.asarray(batch["history_item"])])
    assert batch["history_tags"].shape == (9, LENGTH, 2)
    drawn = jax.jit(other_events(ITEMS))(KEY, batch, shared)
    np.testing.assert_array_equal(drawn["negative_tags"], tags[np.asarray(drawn["negative_item"])])


def test_a_row_without_events_has_an_empty_history() -> None:
    columns = {"user": 1, "item": 2, "start": 4, "end": 4}
    read = {name: np.array([value]) for name, value in columns.items()}
    batch = read_behaviours(read, context()[SHARED], 3)
    assert batch["history_item"].tolist() == batch["history_kind"].tolist() == [[0, 0, 0]]


def test_later_events_change_nothing() -> None:
    """Everything from the row's event on is replaced: the batch and the score stay the same."""
    task, columns = regularised(), context()
    batch = task.prepare(KEY, step(5), columns)
    variables = jax.jit(task.init)(KEY, batch)
    end = int(columns["end"][5])
    shared = columns[SHARED] | {
        name: jnp.asarray(np.where(np.arange(len(values)) < end, values, filler).astype(np.int32))
        for name, filler in (("events", ITEMS), ("times", -7))
        for values in [np.asarray(columns[SHARED][name])]
    }
    other = task.prepare(KEY, step(5), columns | {SHARED: shared})
    for name in ("history_item", "history_kind", "history_age"):
        np.testing.assert_array_equal(batch[name][0], other[name][0])
    assert float(task.predict(variables, batch)[0]) == float(task.predict(variables, other)[0])


def test_other_events_are_never_the_event_and_reach_every_other() -> None:
    history = np.broadcast_to(np.array([0, 3, ITEMS]), (4000, 3))
    drawn = jax.jit(other_events(ITEMS))(KEY, {"history_item": history}, context()[SHARED])
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
    variables = jax.jit(task.init)(KEY, batch)
    found, _ = task.losses(variables, batch, KEY)
    real = np.asarray(batch["mask"])
    ids = {
        *np.asarray(batch["item"])[real].tolist(),
        *np.asarray(batch["history_item"])[real].ravel().tolist(),
    }
    weights, counts = np.asarray(table(variables), np.float64), clicks().count_examples_with(LENGTH)
    expected = sum(0.5 * (weights[j] ** 2).sum() / max(counts[j], 1) for j in ids - {0})
    assert float(found["mini_batch_aware"]) == pytest.approx(expected, rel=1e-5)
    gradient = jax.jit(jax.grad(lambda v: task.losses(v, batch, KEY)[0]["mini_batch_aware"]))(dict(variables))
    for j in range(ITEMS + 1):
        scale = 1 / max(counts[j], 1) if j in ids - {0} else 0.0
        np.testing.assert_allclose(table(gradient)[j], scale * weights[j], rtol=1e-5, atol=1e-9)


def test_the_auxiliary_loss_is_trained_and_not_served() -> None:
    task = click_task(module(negatives=True), length=LENGTH, columns=other_events(ITEMS), terms=DIEN_TERM)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = jax.jit(task.init)(KEY, batch)
    found, _ = task.losses(variables, batch, KEY)
    assert set(found) == {"click", "next_behaviour"}
    assert all(np.isfinite(float(loss)) for loss in found.values())
    served = {name: column for name, column in batch.items() if not name.startswith("negative_")}
    assert task.predict(variables, served).shape == (8,)
    masked = task.prepare(KEY, step(2, 9, 4), context())
    filled = np.where(np.arange(8)[:, None] < 3, masked["history_item"], 1)
    masked = {**masked, "history_item": filled.astype(np.int32)}
    np.testing.assert_allclose(
        float(task.losses(variables, masked, KEY)[0]["next_behaviour"]),
        float(found["next_behaviour"]),
        rtol=1e-6,
    )


def test_the_memory_regulariser_is_a_loss_of_its_own() -> None:
    memory = module(negatives=False).clone(
        model=MIMN(dims=(), memory=InterestMemory(3, shares=True), attention=ActivationUnit((), softmax=True))
    )
    task = click_task(memory, length=LENGTH, terms={"memory_utilisation": memory_utilisation})
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
    task = click_task(Windows(model, 2), length=LENGTH, targets=[SEARCH] if category is None else ())
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
    task = click_task(module, length=LENGTH, targets=[SEARCH] if kind is SIM else ())
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
        ages_of = np.array(batch["history_age"])
        ages_of[:, slots] *= 1000
        older = {**batch, "history_age": ages_of}
        assert not np.allclose(predict(variables, older)[:3], expected[:3], atol=1e-4)
    with pytest.raises(ValueError, match="column history_age: not there"):
        task.predict(variables, {name: c for name, c in batch.items() if name != "history_age"})


def test_a_transformer_reads_ages_by_the_names_of_a_batch() -> None:
    """BST's only history is called "history": its ages are the column that `behaviours` gives."""
    model = BST(item_fields(), age_dim=8, num_heads=2, inner_dim=5, dims=(), block_dropout=0.0)
    module = Sequenced(model)
    task = click_task(module, length=LENGTH)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(module, batch)
    predict = jax.jit(task.predict)
    logits = predict(variables, batch)
    assert logits.shape == (8,) and np.isfinite(logits).all()
    older = {**batch, "history_age": np.asarray(batch["history_age"]) * 1000}
    assert not np.allclose(predict(variables, older)[:3], logits[:3], atol=1e-4)


def test_a_search_may_be_what_is_served() -> None:
    model = SIM(item_fields(), k=2, search_dim=2, dims=())
    click, search = (click_task(Windows(model, 2, s), length=LENGTH, targets=[SEARCH]) for s in OUTPUTS)
    batch = click.prepare(KEY, step(2, 9, 4), context())
    variables = drawn(Windows(model, 2), batch)
    outputs: Any = applied(Windows(model, 2), variables, batch, train=True)
    for task, name in zip((click, search), OUTPUTS, strict=True):
        np.testing.assert_allclose(task.predict(variables, batch), outputs[name], rtol=1e-5)
    found, same = (task.losses(variables, batch, KEY)[0] for task in (click, search))
    assert {name: float(loss) for name, loss in found.items()} == {n: float(loss) for n, loss in same.items()}
    with pytest.raises(ValueError, match="served='other': must be"):
        Windows(model, 2, "other")
    hard = Windows(model.clone(category="kind"), 2, "search")
    with pytest.raises(ValueError, match="the model has no search to train"):
        drawn(hard, batch)


# --- losses that are given ---------------------------------------------------------------------------


def plain() -> WithHistory:
    return module(negatives=False)


def test_the_loss_of_a_click_is_an_argument() -> None:
    focal = functools.partial(losses.focal, gamma=1.5, alpha=0.4)
    task, usual = click_task(plain(), length=LENGTH, loss=focal), click_task(plain(), length=LENGTH)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    variables = jax.jit(task.init)(KEY, batch)
    (found, _), (expected, _) = (t.losses(variables, batch, KEY) for t in (task, usual))
    logit, label = (np.asarray(x, np.float64)[:3] for x in (usual.predict(variables, batch), batch[LABEL]))
    right = 1 / (1 + np.exp(np.where(label > 0.5, -logit, logit)))
    by_hand = -np.where(label > 0.5, 0.4, 0.6) * (1 - right) ** 1.5 * np.log(right)
    assert {*found} == {*expected} == {"click"}
    assert float(found["click"]) == pytest.approx(by_hand.mean(), rel=1e-5)
    assert float(expected["click"]) == pytest.approx(-np.log(right).mean(), rel=1e-5)


class TwoHeads(nn.Module):
    """A click, and in training also a guess of a drawn column."""

    @nn.compact
    def __call__(self, batch: Any, *, train: bool = False) -> Any:
        x = nn.Embed(ITEMS + 1, 4)(batch["item"])
        click, guess = (nn.Dense(1, name=name)(x)[..., 0] for name in ("click", "guess"))
        return {"click": click, "guess": guess} if train else click


def test_a_new_model_brings_its_draws_and_losses_along() -> None:
    """A column drawn with the step's key, a term of it, and a target with a label of its own."""

    def noise(key: Any, batch: Any, shared: Any) -> Any:
        assert {"item", "history_item"} <= set(batch) and "events" in shared
        return {"noise": jax.random.normal(key, batch["item"].shape), "label/odd": batch["item"] % 2 * 1.0}

    def far(outputs: Any, batch: Any, axis_name: str | None) -> Any:
        return losses.masked_mean((outputs["guess"] - batch["noise"]) ** 2, batch["mask"], axis_name)

    odd = Target("odd", "guess", "label/odd", losses.squared_error)
    task = click_task(TwoHeads(), length=LENGTH, targets=[odd], terms={"far": far}, columns=noise)
    batch = task.prepare(KEY, step(2, 9, 4), context())
    np.testing.assert_array_equal(batch["noise"], jax.random.normal(KEY, (8,)))
    variables = jax.jit(task.init)(KEY, batch)
    found, _ = task.losses(variables, batch, KEY)
    outputs: Any = applied(TwoHeads(), variables, batch, train=True)
    guess, real = np.asarray(outputs["guess"])[:3], {n: np.asarray(c)[:3] for n, c in batch.items()}
    assert {*found} == {"click", "odd", "far"}
    assert float(found["odd"]) == pytest.approx(((guess - real["label/odd"]) ** 2).mean(), rel=1e-5)
    assert float(found["far"]) == pytest.approx(((guess - real["noise"]) ** 2).mean(), rel=1e-5)
    np.testing.assert_array_equal(task.predict(variables, batch), outputs["click"])


def test_two_losses_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no name twice \(\['search'\]\)"):
        ctr(plain(), length=LENGTH, targets=[SEARCH], terms={"search": memory_utilisation})
    each = Regularised(table, ("item",), jnp.ones(ITEMS + 1))
    with pytest.raises(ValueError, match="'mini_batch_aware': stands for the regularised tables"):
        ctr(plain(), length=LENGTH, terms={"mini_batch_aware": next_behaviour}, regularised=[each])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="length=0"):
        ctr(module(negatives=False), length=0)
    with pytest.raises(ValueError, match="num_items=1"):
        other_events(1)
