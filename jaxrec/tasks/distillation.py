"""A student that also learns from a teacher's predictions: knowledge and privileged-features distillation.

Hinton et al., 2015, arXiv:1503.02531; PFD: Xu et al., KDD 2020, arXiv:1907.05171, whose teacher also reads
what is known of training examples alone, such as what happened after the click. Both models are tasks, the
student with a loss that reads the teacher's predictions:

    student = multitask(model, [Target("click", None, "label/click")], terms={"distillation": from_teacher()})
    teacher = multitask(larger, [Target("click", None, "label/click")])
    task = distillation(student, teacher, privileged=["dwell"])
    weighting = after_warm_up(0.5, steps=1000, student=["click"], teacher=["teacher_click"])

They train at once, the teacher by its own losses alone. A teacher that is trained already is `frozen`, or, if
its predictions do not depend on what is drawn, a column "teacher" of the examples, without this task. A
student that shares the teacher's vectors is one module of two outputs, `nn.ranking.pfd`, with the term
`between_outputs`.

The teacher of a retriever is a ranker that scores the same lists of candidates: `distilled_pairs`.

Departs from the paper: the teacher's predictions are those of evaluation, without dropout and with running
statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.optim.loss_weighting import LossWeighting, by_schedule
from jaxrec.tasks.encoder import numbered, only_params
from jaxrec.tasks.multitask import Target, Term, column, select_output
from jaxrec.tasks.pairs import PairModel, Sampler, drawn_pairs
from jaxrec.types import SHARED, Array, Batch, Context, Key, Outputs, Task, Variables

# The teacher's predictions in a batch, its part of each collection of variables, and the collection of a
# frozen one.
TEACHER = "teacher"
NAME = "distillation"  # of the student's loss
Soft = Callable[..., Array]  # (scores of the student, of the teacher, where=…, axis_name=…) -> scalar
Scores = Callable[[Variables, Batch], Any]  # the predictions that the student learns from


def distillation(
    student: Task,
    teacher: Task,
    *,
    scores: Scores | None = None,
    privileged: Sequence[str] = (),
    frozen: bool = False,
) -> Task:
    """A student and its teacher as one task, which predicts as the student does.

    Losses: the student's, and "teacher_<name>" for each of the teacher's. The student's find the teacher's
    predictions under TEACHER in their batch; no gradient passes through them. The student's keys and initial
    variables are those it has without a teacher.

    The variables are the student's, with the teacher's under TEACHER in each collection, or, of a frozen
    teacher, in a collection of that name, which no step changes: the student's module reads them as its own.
    A trained teacher goes into a run by `fit(initial={TEACHER: variables}, newly_initialised=["params"])`.

    Args:
      student, teacher: read batches of the same examples; columns of one name must be the same for both,
        such as negatives drawn by one sampler.
      scores: what the student learns from; None: the teacher's predict.
      privileged: columns of the context that the teacher alone reads. The student is never given them.
      frozen: the teacher is not trained.

    Raises (while tracing):
      ValueError: a privileged column is missing; both prepare a column of one name and different shapes, or
        one named TEACHER; the student has a part of that name.
    """
    predicted = teacher.predict if scores is None else scores

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        missing = sorted(set(privileged) - set(context))
        if missing:
            raise ValueError(f"privileged={missing}: not among the columns {sorted(context)}")
        own = student.prepare(key, examples, _without(context, privileged))
        return _joined(own, teacher.prepare(key, examples, context))

    def init(key: Key, batch: Batch) -> Variables:
        own = student.init(key, _without(batch, privileged))
        return _put(own, teacher.init(jax.random.fold_in(key, 1), batch), frozen)

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        own, other = split_variables(variables)
        soft = jax.lax.stop_gradient(predicted(other, batch))
        read = {**_without(batch, privileged), TEACHER: soft}
        found, updates = student.losses(own, read, key, axis_name)
        if frozen:
            return found, updates
        taught, changed = teacher.losses(other, batch, jax.random.fold_in(key, 1), axis_name)
        found = {**found, **{f"{TEACHER}_{name}": loss for name, loss in taught.items()}}
        return found, _put(updates, changed, frozen=False)

    def predict(variables: Variables, batch: Batch) -> Outputs:
        return student.predict(split_variables(variables)[0], _without(batch, privileged))

    return Task(prepare, init, value, predict)


def split_variables(variables: Variables) -> tuple[Variables, Variables]:
    """The student's variables and the teacher's, of those of `distillation`."""
    own: dict[str, Any] = {}
    other: dict[str, Any] = dict(variables.get(TEACHER, {}))
    for name, tree in variables.items():
        if name == TEACHER:
            continue
        rest = {key: leaf for key, leaf in tree.items() if key != TEACHER}
        if rest or TEACHER not in tree:
            own[name] = rest
        if TEACHER in tree:
            other[name] = tree[TEACHER]
    return own, other


def _put(own: Variables, other: Variables, frozen: bool) -> Variables:
    """The student's variables with the teacher's beside them."""
    taken = sorted(name for name, tree in own.items() if name == TEACHER or TEACHER in tree)
    if taken:
        raise ValueError(
            f"{TEACHER!r} is a part of the student's {', '.join(taken)}: give the module another name"
        )
    if frozen:
        return {**own, TEACHER: {name: tree for name, tree in other.items() if name != "perturbations"}}
    parts = {name: {**own.get(name, {}), TEACHER: tree} for name, tree in other.items()}
    return {**own, **parts}


def _joined(own: Batch, other: Batch) -> Batch:
    """The columns of two batches of the same examples."""
    for name in sorted((own.keys() & other.keys()) - {SHARED}):
        shapes = [jax.tree.map(jnp.shape, batch[name]) for batch in (own, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"column {name!r}: {shapes[0]} for the student, {shapes[1]} for the teacher; both must read "
                "the same, such as histories of one length and as many negatives"
            )
    if TEACHER in own or TEACHER in other:
        raise ValueError(f"column {TEACHER!r}: is the name of the teacher's predictions; rename the column")
    return {**own, **other}


def _without(columns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The columns but those named, also in what a batch shares."""
    kept = {name: column for name, column in columns.items() if name not in names}
    if names and isinstance(kept.get(SHARED), Mapping):
        kept[SHARED] = {name: column for name, column in kept[SHARED].items() if name not in names}
    return kept


# --- the student's loss ----------------------------------------------------------------------------


def from_teacher(
    output: int | str | Callable[[Outputs], Array] | None = None,
    teacher: int | str | Callable[[Outputs], Array] | None = None,
    *,
    loss: Soft = losses.soft_sigmoid_cross_entropy,
    space: str | None = None,
) -> Term:
    """A term of `multitask` or `ctr`: an output of the student against one of the teacher's predictions.

    Of several tasks, each has its own term.

    Args:
      output, teacher: which outputs, as of `Target`. loss: of two logits [B].
      space: bool column of the examples that count; None: all.
    """

    def term(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        own = select_output(outputs, Target(NAME, output, TEACHER))
        soft = select_output(column(batch, TEACHER, NAME), Target(NAME, teacher, TEACHER))
        return loss(own, soft, where=_where(batch, space), axis_name=axis_name)

    return term


def between_outputs(
    student: str = "student",
    teacher: str = TEACHER,
    *,
    loss: Soft = losses.soft_sigmoid_cross_entropy,
    space: str | None = None,
) -> Term:
    """As `from_teacher`, of one module that has both outputs; no gradient passes through the teacher's."""

    def term(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        own, soft = (select_output(outputs, Target(NAME, name, TEACHER)) for name in (student, teacher))
        return loss(own, jax.lax.stop_gradient(soft), where=_where(batch, space), axis_name=axis_name)

    return term


def _where(batch: Batch, space: str | None) -> Array:
    real: Array = batch["mask"]
    return real if space is None else real & column(batch, space, NAME)


def after_warm_up(
    weight: float,
    *,
    steps: int = 0,
    student: Sequence[str] = ("click",),
    teacher: Sequence[str] = (),
    distilled: Sequence[str] = (NAME,),
) -> LossWeighting:
    """(1 - λ) · (losses of labels) + λ · (losses of the teacher) + (the teacher's own losses).

    PFD, section 3.2, where λ is 0 for the first steps, as a teacher that has learned little misleads.

    Args:
      weight: λ, from 0 to 1. steps: for how many λ is 0.
      student, teacher, distilled: names of the losses.

    Raises:
      ValueError: λ is outside 0..1, or steps is negative.
    """
    if not 0.0 <= weight <= 1.0 or steps < 0:
        raise ValueError(f"weight={weight}, steps={steps}: must be in 0..1, and at least 0")

    def share(of_teacher: bool) -> Callable[[Array], Array]:
        late = weight if of_teacher else 1.0 - weight
        return lambda step: jnp.where(step < steps, 0.0 if of_teacher else 1.0, late)

    return by_schedule(
        {
            **dict.fromkeys(student, share(False)),
            **dict.fromkeys(distilled, share(True)),
            **dict.fromkeys(teacher, 1.0),
        }
    )


# --- retrievers ------------------------------------------------------------------------------------


def distilled_pairs(
    model: PairModel,
    loss: Callable[..., Array] = losses.sampled_softmax,
    soft: Soft = losses.soft_softmax_cross_entropy,
    *,
    sampler: Sampler,
    negatives: int,
) -> Task:
    """A student of `distillation` that scores lists: an observed item, and sampled ones, such as two towers.

    Losses: "pairs", of the observed item against the sampled ones, and "distillation", of all scores of a
    list against the teacher's. Sampled items that equal the observed one are left out of both. The teacher is
    a task whose batch has the same lists, `tasks.pairs.pairwise` with the same sampler and as many negatives,
    and whose `scores` are `list_scores` of its model, or any function of (variables, batch) that gives
    [B, 1 + N].

    Args:
      model: as of `tasks.pairs.pairwise`.
      loss: of scores (pos [B], neg [B, N], accidental=[B, N], where=[B], axis_name=…).
      soft: of scores (student [B, 1 + N], teacher [B, 1 + N], candidates=[B, 1 + N], where=[B],
        axis_name=…): `losses.soft_softmax_cross_entropy`, `losses.margin_error`.

    Raises:
      ValueError: negatives is below 1. When variables are made: the model has some other than parameters.
    """
    if negatives < 1:
        raise ValueError(f"negatives={negatives}: must be at least 1")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        return drawn_pairs(key, examples, context, sampler=sampler, negatives=negatives)

    def init(key: Key, batch: Batch) -> Variables:
        found = model.init(key, batch["user"][:1], batch["item"][:1, None], batch[SHARED], train=False)
        return only_params(found, "distilled_pairs")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        options = {"rngs": {"dropout": key}, **numbered(model, batch["row"])}
        own = model.apply(variables, batch["user"], _lists(batch), batch[SHARED], train=True, **options)
        other = column(batch, TEACHER, NAME)
        accidental = batch["negatives"] == batch["item"][:, None]
        listed = jnp.concatenate([jnp.ones_like(accidental[:, :1]), ~accidental], axis=1)
        real = {"where": batch["mask"], "axis_name": axis_name}
        return {
            "pairs": loss(own[:, 0], own[:, 1:], accidental=accidental, **real),
            NAME: soft(own, jax.lax.stop_gradient(other), candidates=listed, **real),
        }, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        item = batch["item"][:, None]
        return model.apply(variables, batch["user"], item, batch[SHARED], train=False)[:, 0]

    return Task(prepare, init, value, predict)


def list_scores(model: PairModel) -> Scores:
    """A teacher's scores of the observed item and of the sampled ones, [B, 1 + N], without dropout."""

    def scores(variables: Variables, batch: Batch) -> Array:
        found: Array = model.apply(variables, batch["user"], _lists(batch), batch[SHARED], train=False)
        return found

    return scores


def _lists(batch: Batch) -> Array:
    """The observed item and the sampled ones, [B, 1 + N]."""
    return jnp.concatenate([batch["item"][:, None], batch["negatives"]], axis=1)
