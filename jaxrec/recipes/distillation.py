"""Students and teachers of labelled rows: knowledge distillation, and privileged features (PFD).

Hinton et al., 2015; Xu et al., KDD 2020, which states no λ and no sizes; settings are ours.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import optax

from jaxrec import losses
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.pfd import PrivilegedTeacher
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.tasks.distillation import (
    TEACHER,
    after_warm_up,
    between_outputs,
    distillation,
    from_teacher,
)
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.types import Array, Task

Fields = tuple[Categorical | Numeric, ...]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How students and teachers are trained."""

    dims: tuple[int, ...] = (64, 32)  # hidden layers of students, and of teachers of their size
    large_dims: tuple[int, ...] = (256, 128)  # of larger teachers
    dim: int = 8  # width of each embedding
    weight: float = 0.5  # λ, of what a student learns from its teacher, beside 1 - λ of labels
    temperature: float = 1.0  # divides the logits of both
    warm_up: int = 100  # steps in which the student learns from labels alone
    smoothing: float = 0.1  # of the labels of student-smoothed, towards their base rate
    epochs: int = 20  # at most; the best one is used
    patience: int = 3  # epochs without better validation AUC before a seed stops
    batch_size: int = 512  # examples per step
    learning_rate: float = 1e-3  # of Adam


class Columns(NamedTuple):
    """What models read. fields: at serving; privileged: known of training examples alone; rate: of label 1.

    label: the name of the task, whose column is "label/<name>".
    """

    fields: Fields
    privileged: Fields
    label: str
    rate: float


class Trained(NamedTuple):
    """What a row is trained and tested by. loss: names of its losses, for the protocol."""

    task: Task
    target: Target
    weighting: Weighting
    loss: str = "bce"


def logistic(columns: Columns, recipe: Recipe) -> Trained:
    """A linear model of the values of all columns."""
    return _alone(columns, columns.fields, (), recipe)


def student(columns: Columns, recipe: Recipe) -> Trained:
    """An MLP of what is known at serving."""
    return _alone(columns, columns.fields, recipe.dims, recipe)


def smoothed(columns: Columns, recipe: Recipe) -> Trained:
    """The student on labels smoothed towards their base rate."""
    found = student(columns, recipe)
    soft = functools.partial(losses.binary_cross_entropy, smoothing=recipe.smoothing, towards=columns.rate)
    task = multitask(_model(columns.fields, recipe.dims, recipe), [found.target._replace(loss=soft)])
    return found._replace(task=task, loss="bce of smoothed labels")


def teacher(columns: Columns, recipe: Recipe) -> Trained:
    """An MLP that also reads privileged columns, in training and in its test."""
    return _alone(columns, (*columns.fields, *columns.privileged), recipe.dims, recipe)


def large(columns: Columns, recipe: Recipe) -> Trained:
    """A larger student."""
    return _alone(columns, columns.fields, recipe.large_dims, recipe)


def distilled(columns: Columns, recipe: Recipe) -> Trained:
    """The student and a larger teacher of the same columns, trained at once (KD)."""
    return _taught(columns, _model(columns.fields, recipe.large_dims, recipe), recipe)


def pfd(columns: Columns, recipe: Recipe) -> Trained:
    """The student and a teacher of its size that reads privileged columns, trained at once (PFD)."""
    return _taught(columns, _privileged(columns, recipe.dims, recipe), recipe)


def pfd_large(columns: Columns, recipe: Recipe) -> Trained:
    """The same with a larger teacher (PFD + MD)."""
    return _taught(columns, _privileged(columns, recipe.large_dims, recipe), recipe)


def pfd_frozen(columns: Columns, recipe: Recipe) -> Trained:
    """The same with the model of `teacher`, which is trained before; see `jaxrec.tasks.distillation`."""
    return _taught(columns, _privileged(columns, recipe.dims, recipe), recipe, frozen=True)


def pfd_shared(columns: Columns, recipe: Recipe) -> Trained:
    """The same with one table of vectors for both, as in the paper."""
    module = PrivilegedTeacher(
        FeatureEmbedding(_sized(columns.fields, recipe)),
        FeatureEmbedding(_sized(columns.privileged, recipe)),
        Tower(recipe.dims),
        Tower(recipe.dims),
    )
    label = f"label/{columns.label}"
    own = Target(columns.label, "student", label)
    task = multitask(
        module,
        [own, Target(f"{TEACHER}_{columns.label}", TEACHER, label)],
        terms={"distillation": between_outputs(loss=_soft(recipe))},
    )
    return Trained(task, own, _weighting(columns, recipe), "bce + distillation")


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


def _alone(columns: Columns, fields: Fields, dims: Sequence[int], recipe: Recipe) -> Trained:
    target = Target(columns.label, None, f"label/{columns.label}")
    return Trained(multitask(_model(fields, dims, recipe), [target]), target, static())


def _taught(columns: Columns, other: nn.Module, recipe: Recipe, *, frozen: bool = False) -> Trained:
    target = Target(columns.label, None, f"label/{columns.label}")
    own = multitask(
        _model(columns.fields, recipe.dims, recipe),
        [target],
        terms={"distillation": from_teacher(loss=_soft(recipe))},
    )
    hidden = [field.name for field in columns.privileged]
    task = distillation(own, multitask(other, [target]), privileged=hidden, frozen=frozen)
    return Trained(task, target, _weighting(columns, recipe, frozen=frozen), "bce + distillation")


def _weighting(columns: Columns, recipe: Recipe, *, frozen: bool = False) -> Weighting:
    return after_warm_up(
        recipe.weight,
        steps=0 if frozen else recipe.warm_up,
        student=[columns.label],
        teacher=[] if frozen else [f"{TEACHER}_{columns.label}"],
    )


def _soft(recipe: Recipe) -> Callable[..., Array]:
    return functools.partial(losses.soft_sigmoid_cross_entropy, temperature=recipe.temperature)


def _privileged(columns: Columns, dims: Sequence[int], recipe: Recipe) -> nn.Module:
    return _model((*columns.fields, *columns.privileged), dims, recipe)


def _model(fields: Fields, dims: Sequence[int], recipe: Recipe) -> nn.Module:
    return Featured(FeatureEmbedding(_sized(fields, recipe)), Tower(tuple(dims)))


def _sized(fields: Fields, recipe: Recipe) -> Fields:
    return tuple(
        field._replace(dim=recipe.dim) if isinstance(field, Categorical) else field for field in fields
    )


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "pfd": "privileged features that are not there at serving: see experiments/ranking/distillation.py",
}
