"""A student and its teacher as one task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.features import FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.pfd import PrivilegedTeacher
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.optim.loss_weighting import LossWeighting, static
from jaxrec.tasks import pairs
from jaxrec.tasks.distillation import (
    TEACHER,
    after_warm_up,
    between_outputs,
    distillation,
    distilled_pairs,
    from_teacher,
    list_scores,
    split_variables,
)
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Task
from tests.nn.drawn import applied
from tests.tasks import labelled, small_towers
from tests.tasks.small_pairs import NUM_ITEMS, examples

KEY = jax.random.key(0)
CLICK = Target("click", None, "label/click")
HIDDEN = "dwell"  # the privileged column


class Model(nn.Module):
    """A logit of some columns, with dropout and batch statistics."""

    columns: tuple[str, ...] = ("x",)
    dim: int = 4
    dropout: float = 0.3
    batch_norm: bool = True

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        x = jnp.concatenate([batch[c].reshape(len(batch[c]), -1) for c in self.columns], axis=-1)
        x = nn.Dense(self.dim)(x)
        if self.batch_norm:
            x = nn.BatchNorm(not train, momentum=0.9)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(x))
        return nn.Dense(1)(x)[:, 0]


def columns() -> dict[str, Any]:
    return labelled.columns(**{HIDDEN: np.linspace(-1, 1, labelled.NUM_ROWS).astype(np.float32)})


ROWS = labelled.rows(7, 3, 10, 1, 2)
STUDENT = multitask(Model(), [CLICK], terms={"distillation": from_teacher()})
PLAIN = multitask(Model(), [CLICK])
OF_TEACHER = multitask(Model(("x", HIDDEN), 6), [CLICK])
BOTH = distillation(STUDENT, OF_TEACHER, privileged=[HIDDEN])


def trained(task: Task, weighting: LossWeighting, steps: int = 5, rows: Any = ROWS) -> Any:
    """Variables after a few steps, and the last step's logs."""
    tx = optax.adam(0.05)
    step = jax.jit(make_step(task, tx, weighting))
    state = create(task, tx, weighting, KEY, rows, columns())
    logs: Any = {}
    for _ in range(steps):
        state, logs = step(state, rows, columns())
    return state.variables, logs


def equal(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@functools.cache
def without_weight() -> Any:
    return trained(BOTH, after_warm_up(0.0, teacher=["teacher_click"]))


@functools.cache
def prepared() -> tuple[Any, Any]:
    batch = BOTH.prepare(KEY, ROWS, columns())
    return BOTH.init(KEY, batch), batch


def test_a_student_without_weight_is_trained_as_alone_to_the_bit() -> None:
    variables, logs = without_weight()
    alone, _ = trained(PLAIN, static({"click": 1.0}))
    own, _ = split_variables(variables)
    equal(own, alone)
    assert logs["weight/distillation"] == 0.0 and logs["weight/click"] == 1.0


def test_the_teacher_is_trained_as_alone_whatever_the_student_learns_from_it() -> None:
    variables, logs = trained(BOTH, after_warm_up(0.7, teacher=["teacher_click"]))
    assert float(logs["weight/distillation"]) == pytest.approx(0.7)
    equal(split_variables(variables)[1], split_variables(without_weight()[0])[1])
    moved = jax.tree.map(
        lambda a, b: np.any(a != b), *(split_variables(v)[0] for v in (variables, without_weight()[0]))
    )
    assert any(jax.tree.leaves(moved))


def test_the_loss_of_the_student_sends_no_gradient_to_the_teacher() -> None:
    variables, batch = prepared()

    def distilled(params: Any) -> Any:
        return BOTH.losses({**variables, "params": params}, batch, KEY)[0]["distillation"]

    own, other = split_variables({"params": jax.jit(jax.grad(distilled))(variables["params"])})
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(other))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(own))


def test_the_weight_is_zero_while_the_teacher_warms_up() -> None:
    weighting, tx = after_warm_up(0.4, steps=3, teacher=["teacher_click"]), optax.adam(0.05)
    step = jax.jit(make_step(BOTH, tx, weighting))
    state = create(BOTH, tx, weighting, KEY, ROWS, columns())
    for expected in (0.0, 0.0, 0.0, 0.4, 0.4):
        state, logs = step(state, ROWS, columns())
        assert float(logs["weight/distillation"]) == pytest.approx(expected)
        total = (1 - expected) * logs["click"] + expected * logs["distillation"] + logs["teacher_click"]
        np.testing.assert_allclose(logs["loss"], total, rtol=1e-6)
    moved, without = (split_variables(v)[0] for v in (state.variables, without_weight()[0]))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (moved, without)), strict=True))


def test_the_losses_are_those_of_both_models() -> None:
    variables, batch = prepared()
    own, other = split_variables(variables)
    found, updates = BOTH.losses(variables, batch, KEY)
    teacher_key = jax.random.fold_in(KEY, 1)
    taught, taught_updates = OF_TEACHER.losses(other, batch, teacher_key)
    alone, alone_updates = PLAIN.losses(own, batch, KEY)
    soft = OF_TEACHER.predict(other, batch)
    distilled, _ = STUDENT.losses(own, {**batch, TEACHER: soft}, KEY)
    assert found == {**alone, "distillation": distilled["distillation"], "teacher_click": taught["click"]}
    equal(split_variables(updates)[0], alone_updates)
    equal(split_variables(updates)[1], taught_updates)


def test_the_student_predicts_alone_and_without_privileged_columns() -> None:
    variables, batch = prepared()
    served = {name: column for name, column in batch.items() if name != HIDDEN}
    alone = PLAIN.predict(split_variables(variables)[0], served)
    equal(BOTH.predict(variables, served), alone)
    changed = {**batch, HIDDEN: batch[HIDDEN] + jnp.nan}
    equal(BOTH.predict(variables, changed), alone)
    equal(Model().apply(variables, served), alone)  # its module passes over the teacher's variables


def test_privileged_columns_change_the_students_loss_by_the_teacher_alone() -> None:
    variables, batch = prepared()
    other = {**batch, HIDDEN: -batch[HIDDEN]}
    before, after = (BOTH.losses(variables, b, KEY)[0] for b in (batch, other))
    assert before["click"] == after["click"]
    assert before["distillation"] != after["distillation"]


def test_a_student_that_reads_a_privileged_column_is_refused() -> None:
    reading = multitask(Model(("x", HIDDEN)), [CLICK], terms={"distillation": from_teacher()})
    task = distillation(reading, OF_TEACHER, privileged=[HIDDEN])
    batch = task.prepare(KEY, ROWS, columns())
    with pytest.raises(KeyError, match=HIDDEN):
        task.init(KEY, batch)


def test_a_privileged_column_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"privileged=\['price'\]: not among the columns"):
        distillation(STUDENT, OF_TEACHER, privileged=["price"]).prepare(KEY, ROWS, columns())


def test_equal_models_without_privileged_columns_are_at_the_least_loss() -> None:
    """A student with the teacher's weights: the cross-entropy is the teacher's entropy."""
    model = Model(dropout=0.0, batch_norm=False)
    student = multitask(model, [CLICK], terms={"distillation": from_teacher()})
    task = distillation(student, multitask(model, [CLICK]), frozen=True)
    batch = task.prepare(KEY, ROWS, columns())
    variables = task.init(KEY, batch)
    variables = {**variables, TEACHER: {"params": variables["params"]}}
    p = nn.sigmoid(task.predict(variables, batch))[:5]
    entropy = -(p * jnp.log(p) + (1 - p) * jnp.log(1 - p)).mean()
    np.testing.assert_allclose(task.losses(variables, batch, KEY)[0]["distillation"], entropy, rtol=1e-5)


# --- a frozen teacher ------------------------------------------------------------------------------


def test_a_frozen_teacher_stays_as_it_is_and_has_no_loss() -> None:
    task = distillation(STUDENT, OF_TEACHER, privileged=[HIDDEN], frozen=True)
    weighting = after_warm_up(0.5)
    before = create(task, optax.adam(0.05), weighting, KEY, ROWS, columns()).variables
    after, logs = trained(task, weighting)
    equal(after[TEACHER], before[TEACHER])
    assert set(after[TEACHER]) == {"params", "batch_stats"} and TEACHER not in after["params"]
    assert "teacher_click" not in logs


def test_a_trained_teacher_is_put_in_by_path() -> None:
    task = distillation(STUDENT, OF_TEACHER, privileged=[HIDDEN], frozen=True)
    given = {f"{TEACHER}/params/Dense_0/bias": jnp.full(6, 3.0)}
    state = create(task, optax.adam(0.05), after_warm_up(0.5), KEY, ROWS, columns(), given)
    assert state.variables[TEACHER]["params"]["Dense_0"]["bias"].tolist() == [3.0] * 6


def test_predictions_made_before_are_a_column() -> None:
    """A teacher whose predictions are stored needs no second model."""
    soft = np.linspace(-2, 2, labelled.NUM_ROWS).astype(np.float32)
    context = {**columns(), TEACHER: jnp.asarray(soft)}
    batch = STUDENT.prepare(KEY, ROWS, context)
    variables = STUDENT.init(KEY, batch)
    found, _ = STUDENT.losses(variables, batch, KEY)
    logits, _ = Model().apply(variables, batch, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    expected = losses.soft_sigmoid_cross_entropy(logits[:5], soft[np.array([7, 3, 10, 1, 2])])
    np.testing.assert_allclose(found["distillation"], expected, rtol=1e-6)


# --- several tasks, devices ------------------------------------------------------------------------


def test_each_head_has_its_own_term_and_space() -> None:
    terms = {
        "soft_click": from_teacher(0, 0),
        "soft_buy": from_teacher(1, 1, space="space/buy", loss=losses.logit_error),
    }
    student = multitask(labelled.Bottom(), labelled.TARGETS, terms=terms)
    task = distillation(student, multitask(labelled.Bottom(6), labelled.TARGETS))
    batch = task.prepare(KEY, ROWS, columns())
    variables = task.init(KEY, batch)
    found, _ = task.losses(variables, batch, KEY)
    own, other = split_variables(variables)
    taught: Any = labelled.Bottom(6).apply(other, batch)
    s, t = student.predict(own, batch)[:5], taught[:5]
    buy = np.asarray(batch["space/buy"])[:5]
    np.testing.assert_allclose(
        found["soft_click"], losses.soft_sigmoid_cross_entropy(s[:, 0], t[:, 0]), rtol=1e-5
    )
    np.testing.assert_allclose(found["soft_buy"], (0.5 * (s - t)[:, 1] ** 2)[buy].mean(), rtol=1e-4)
    assert {"teacher_click", "teacher_buy"} < set(found)


def test_shares_of_devices_add_up() -> None:
    model = Model(dropout=0.0, batch_norm=False)
    student = multitask(model, [CLICK], terms={"distillation": from_teacher()})
    task = distillation(student, multitask(model.clone(dim=5), [CLICK]))
    batch = task.prepare(KEY, ROWS, columns())
    variables = task.init(KEY, batch)
    halves = jax.tree.map(lambda x: x.reshape(2, len(x) // 2, *x.shape[1:]), batch)
    shares = jax.vmap(lambda b: task.losses(variables, b, KEY, "d")[0], axis_name="d")(halves)
    whole, _ = task.losses(variables, batch, KEY)
    for name, value in whole.items():
        np.testing.assert_allclose(shares[name].sum(), value, rtol=1e-5)


@pytest.mark.parametrize("weight, steps", [(-0.1, 0), (1.1, 0), (np.nan, 0), (0.5, -1)])
def test_a_weight_out_of_range_is_refused(weight: float, steps: int) -> None:
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, and at least 0"):
        after_warm_up(weight, steps=steps)


def test_what_would_be_mixed_up_is_refused() -> None:
    named = multitask(Model(("x", TEACHER)), [CLICK])
    context = {**columns(), TEACHER: columns()[HIDDEN]}
    with pytest.raises(ValueError, match="'teacher': is the name of the teacher's predictions"):
        distillation(named, OF_TEACHER).prepare(KEY, ROWS, context)
    twice = distillation(BOTH, OF_TEACHER)
    batch = prepared()[1]
    with pytest.raises(ValueError, match="'teacher' is a part of the student's batch_stats, params"):
        twice.init(KEY, batch)
    longer = OF_TEACHER._replace(prepare=lambda key, rows, context: {"x": jnp.zeros((8, 9))})
    with pytest.raises(ValueError, match=r"column 'x': \(8, 3\) for the student, \(8, 9\)"):
        distillation(STUDENT, longer).prepare(KEY, ROWS, columns())


# --- one module with shared vectors ----------------------------------------------------------------

FEATURES = tuple(Numeric(f"x{i}", 3) for i in range(2))


def shared(stops: bool = False) -> PrivilegedTeacher:
    return PrivilegedTeacher(
        FeatureEmbedding(FEATURES),
        FeatureEmbedding((Numeric(HIDDEN, 3),)),
        Tower((4,)),
        Tower((5,)),
        teacher_trains_embedding=not stops,
    )


def shared_columns() -> dict[str, Array]:
    given = columns()
    return {**given, "x0": given["x"][:, 0], "x1": given["x"][:, 1]}


TARGETS = [Target("click", "student", "label/click"), Target("teacher_click", TEACHER, "label/click")]


@pytest.mark.parametrize("stops", [False, True])
def test_shared_vectors_learn_from_the_teacher_unless_stopped(stops: bool) -> None:
    task = multitask(shared(stops), TARGETS, terms={"distillation": between_outputs()})
    batch = task.prepare(KEY, ROWS, shared_columns())
    variables = task.init(KEY, batch)

    def gradient(name: str) -> Any:
        def one(params: Any) -> Any:
            return task.losses({"params": params}, batch, KEY)[0][name]

        found = jax.grad(one)(variables["params"])
        return {part: any(np.any(leaf) for leaf in jax.tree.leaves(tree)) for part, tree in found.items()}

    assert gradient("distillation") == {
        "embedding": True, "student": True, "privileged": False, "teacher": False
    }  # fmt: skip
    assert gradient("teacher_click") == {
        "embedding": not stops, "student": False, "privileged": True, "teacher": True
    }  # fmt: skip


def test_one_module_serves_the_student_without_privileged_columns() -> None:
    model = shared()
    batch = shared_columns()
    variables = model.init(KEY, batch)
    both: Any = model.apply(variables, batch)
    served = {name: column for name, column in batch.items() if name != HIDDEN}
    alone: Any = model.apply(variables, served)
    assert set(both) == {"student", TEACHER} and set(alone) == {"student"}
    np.testing.assert_array_equal(alone["student"], both["student"])
    assert not np.allclose(both["student"], both[TEACHER])


def test_a_feature_is_privileged_or_not() -> None:
    with pytest.raises(ValueError, match="privileged: x1 is read by the student"):
        PrivilegedTeacher(
            FeatureEmbedding(FEATURES), FeatureEmbedding(FEATURES[1:]), Tower((4,)), Tower((5,))
        )


# --- a ranker teaches a retriever ------------------------------------------------------------------

TOWERS = TwoTower(
    (small_towers.USER_ID, small_towers.KIND), (small_towers.ITEM_ID,), (5, 4), (5, 4), temperature=0.5
)


class Ranker(nn.Module):
    """Scores of a user's items from both vectors at once."""

    @nn.compact
    def __call__(self, user: Array, item: Array, context: Any, *, train: bool) -> Array:
        users = self.param("users", nn.initializers.normal(1.0), (7, 3))[user]
        items = self.param("items", nn.initializers.normal(1.0), (NUM_ITEMS + 1, 3))[item]
        both = jnp.broadcast_to(users[:, None], items.shape)
        x = nn.Dense(6)(jnp.concatenate([both, items, both * items], axis=-1))
        return nn.Dense(1)(nn.tanh(x))[..., 0]

    def all_scores(self, user: Array, context: Any) -> Array:
        items = jnp.broadcast_to(jnp.arange(NUM_ITEMS + 1), (user.shape[0], NUM_ITEMS + 1))
        return self(user, items, context, train=False)


SAMPLER = pairs.uniform(NUM_ITEMS)
PAIRS = distillation(
    distilled_pairs(TOWERS, sampler=SAMPLER, negatives=6),
    pairs.pairwise(Ranker(), losses.bpr, sampler=SAMPLER, negatives=6),
    scores=list_scores(Ranker()),
    privileged=["item_text"],
)


@functools.cache
def pair_batch() -> tuple[Any, Any]:
    rows = examples(0, 5, 9, 11, last=False)
    batch = PAIRS.prepare(jax.random.key(3), rows, small_towers.context())
    return PAIRS.init(KEY, batch), batch


def test_a_retriever_learns_the_rankers_scores_of_its_lists() -> None:
    variables, batch = pair_batch()
    found, updates = jax.jit(PAIRS.losses)(variables, batch, KEY)
    own, other = split_variables(variables)
    lists = np.concatenate([batch["item"][:, None], batch["negatives"]], axis=1)
    context = small_towers.context()
    s = np.asarray(applied(TOWERS, own, batch["user"], lists, context, train=False))
    t = np.asarray(applied(Ranker(), other, batch["user"], lists, context, train=False))
    terms, hard = [], []
    for i in range(3):  # the last example is padding
        there = np.append(True, lists[i, 1:] != lists[i, 0])
        e, q = np.exp(t[i][there]), s[i][there] - np.log(np.exp(s[i][there]).sum())
        terms.append(float(-(e / e.sum() * q).sum()))
        hard.append(float(-q[0]))
    assert (lists[:3, 1:] == lists[:3, :1]).any()
    np.testing.assert_allclose(found["distillation"], np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(found["pairs"], np.mean(hard), rtol=1e-5)
    bpr = np.log1p(np.exp(t[:3, 1:] - t[:3, :1])).mean()
    np.testing.assert_allclose(found["teacher_pairs"], bpr, rtol=1e-5)
    assert updates == {}


def test_a_taught_retriever_is_ranked_as_any_other() -> None:
    variables, batch = pair_batch()
    own, _ = split_variables(variables)
    for ours, theirs in zip(
        *(TOWERS.apply(v, small_towers.context(), method="vectors") for v in (variables, own)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    scores: Any = TOWERS.apply(
        own, batch["user"], batch["item"][:, None], small_towers.context(), train=False
    )
    np.testing.assert_array_equal(PAIRS.predict(variables, batch), scores[:, 0])


def test_a_retriever_never_reads_the_rankers_columns() -> None:
    reading = TOWERS.clone(item_fields=(small_towers.ITEM_ID, small_towers.TEXT))
    task = distillation(
        distilled_pairs(reading, sampler=SAMPLER, negatives=6),
        pairs.pairwise(Ranker(), sampler=SAMPLER, negatives=6),
        scores=list_scores(Ranker()),
        privileged=["item_text"],
    )
    with pytest.raises(ValueError, match="feature item_text: not in the context"):
        task.init(KEY, pair_batch()[1])


def test_lists_of_different_lengths_are_refused() -> None:
    task = distillation(
        distilled_pairs(TOWERS, sampler=SAMPLER, negatives=6),
        pairs.pairwise(Ranker(), sampler=SAMPLER, negatives=5),
    )
    with pytest.raises(ValueError, match=r"column 'negatives': \(2, 6\) for the student, \(2, 5\)"):
        task.prepare(KEY, examples(0, 1), small_towers.context())
    with pytest.raises(ValueError, match="negatives=0: must be at least 1"):
        distilled_pairs(TOWERS, sampler=SAMPLER, negatives=0)
