"""Retrieval by several vectors a user: a cut of a user's training events, the next event is the target.

The model is a module with `max_len` and

    __call__(items [B, L], *, train: bool) -> Interests
        items: right-aligned, 0 is padding. Of the keywords `rows` (number of each row in the whole batch, in
        training: noise derives from it) and `users` (ids [B], where its `num_users` is not 0) it gets those
        that it takes.
    item_table() -> [V, D]
    readout(interests, target vectors [B, D]) -> [B, D]: the vector that the target's loss is computed with
    scores(interests, item vectors [C, D]) -> [B, C], where a score is no product with one vector
    merge: how ranking scores an item by several vectors, where not by the best one, see `types.Retriever`
    penalties() -> {name: scalar}, where it has some: losses of the parameters alone

Context columns (`protocols.next_item.resident`): items [N], start [U], length [U]. Examples: example [B], the
index of the target among the N events, and mask [B], False in a padded tail. A target has at least one
earlier training event of its user. Which ones an epoch reads is the plan's choice (`protocols.interests`):
every such event, or one random cut a user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrec import losses, packing
from jaxrec.segments import rows_by_id
from jaxrec.tasks.encoder import check_keywords, numbered, only_params
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Interests, Key, Retriever, Task, Variables


def _refused(*args: Any) -> Any:
    raise ValueError(
        "in-batch: scores the targets of a batch by the model's own `scores`, which only tasks.interests "
        "does; take another objective"
    )


# Every target of the batch by the model's own `scores`, each row against the others' (`in_batch_softmax`).
IN_BATCH = Objective(_refused, _refused, "in-batch", "softmax over the targets of the batch")


class InterestModel(Protocol):
    """What the task calls; see the head of this file."""

    @property
    def max_len(self) -> int: ...
    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def item_table(self) -> Callable[..., Any]: ...
    @property
    def readout(self) -> Callable[..., Any]: ...


def interests(model: InterestModel, objective: Objective | None) -> Task:
    """The task of finding the next item by the vector that the model reads out for it. predict: `Interests`.

    Losses: "interests", by the objective, and those of the model's `penalties` by their names.

    objective: how the vector [B, D] is scored against the target and negatives: `objectives.sampled_softmax`
      and `uniform_softmax` (samples of the whole batch, or of each example), `full_softmax`, `sampled` and
      others. Negatives are scored with the vector read out for the target. `IN_BATCH` or None: every target
      of the batch by the model's own `scores`, each row against the others' (`in_batch_softmax`), as a
      poly-encoder is trained.

    Raises:
      ValueError: the model lacks one of the methods, or does not give `Interests`; when variables are made:
        it has some that training would have to update other than by gradients.
    """
    check_model(model)
    objective = None if objective is IN_BATCH else objective
    if objective is None and not hasattr(model, "scores"):
        raise ValueError(
            f"objective=None: {type(model).__name__} has no scores(interests, vectors); give an objective"
        )

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        event, mask = examples["example"], examples["mask"]
        user = users_of(event, context)
        position = jnp.where(mask, event - context["start"][user], 0)
        return {
            "items": packing.window(context["items"], event, position, model.max_len),
            "targets": jnp.where(mask, context["items"][event], 0),
            "row": jnp.arange(event.shape[0], dtype=jnp.int32),
            **({"users": user + 1} if reads_users(model) else {}),
            **({} if objective is None else objective.draw(key, user, context)),
        }

    def init(key: Key, batch: Batch) -> Variables:
        one = {name: batch[name][:1] for name in ("users",) if name in batch}
        return only_params(model.init(key, batch["items"][:1], train=False, **one), "interests")

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found = encode(model, variables, batch, key)
        table = model.apply(variables, method="item_table")
        target = rows_by_id(table, batch["targets"], clip=True)
        if objective is None:
            every, ids, first = _of_all_devices(target, batch["targets"], axis_name)
            scores = model.apply(variables, found, every, method="scores")
            value = in_batch_softmax(scores, batch["targets"], ids, first=first, axis_name=axis_name)
        else:
            state = model.apply(variables, found, target, method="readout")
            value = objective.loss(state, table, batch, axis_name)
        named = {"interests": value}
        return named | _penalties(model, variables, axis_name), {}

    def predict(variables: Variables, batch: Batch) -> Interests:
        return encode(model, variables, batch, None)

    return Task(prepare, init, loss, predict)


def in_batch_softmax(
    scores: Array,
    targets: Array,
    candidates: Array | None = None,
    *,
    first: Array | int = 0,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy of each row's own target against the others of the batch, scores [B, C] → [].

    targets: ids [B], 0 = none. candidates: ids of the columns [C], of which those from `first` on are the
    targets; None: the targets themselves. A column whose item is the row's target, or none, is left out.
    """
    ids = targets if candidates is None else candidates
    own = jnp.arange(ids.shape[0]) == first + jnp.arange(targets.shape[0])[:, None]
    left_out = own | (ids == 0) | (ids == targets[:, None])
    pos = jnp.sum(jnp.where(own, scores, 0.0), axis=-1)
    return losses.sampled_softmax(pos, scores, accidental=left_out, where=targets != 0, axis_name=axis_name)


def _of_all_devices(target: Array, ids: Array, axis_name: str | None) -> tuple[Array, Array, Array | int]:
    """Vectors and ids of the targets on all devices, and the number of this device's first."""
    if axis_name is None:
        return target, ids, 0
    every = jax.lax.all_gather(target, axis_name, tiled=True)
    first = jax.lax.axis_index(axis_name) * ids.shape[0]
    return every, jax.lax.all_gather(ids, axis_name, tiled=True), first


def encode(model: InterestModel, variables: Variables, batch: Batch, key: Key | None) -> Interests:
    """Interests of the rows of a batch. key: what noise derives from; None: as in evaluation."""
    users = {"users": batch["users"]} if "users" in batch else {}
    if key is None:
        return model.apply(variables, batch["items"], train=False, **users)
    columns = users | numbered(model, batch["row"])
    return model.apply(variables, batch["items"], train=True, rngs={"dropout": key}, **columns)


def retriever(model: InterestModel) -> Retriever:
    """The model as full ranking sees it: K vectors a query, [B, K, D], all of them active.

    In place of an inactive one stands the first active one again, which changes no item's best score. A model
    whose `merge` is "attention" (see `types.Retriever`) has all of them active but in rows without events.
    """
    check_model(model)

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        length = jnp.where(queries["mask"], queries["length"], 0)
        end = context["start"][queries["user"]] + length
        batch = {"items": packing.window(context["items"], end, length, model.max_len)}
        users = {"users": queries["user"] + 1} if reads_users(model) else {}
        return filled(encode(model, variables, batch | users, None))

    def table(variables: Variables) -> Array:
        return model.apply(variables, method="item_table")

    return Retriever(query, table, getattr(model, "merge", "best"))


def filled(found: Interests) -> Array:
    """The vectors, [B, K, D], with the first active one of a row in place of its inactive ones."""
    first = jax.nn.one_hot(jnp.argmax(found.active, axis=-1), found.active.shape[1])
    copied = jnp.einsum("bk,bkd->bd", first.astype(found.vectors.dtype), found.vectors)[:, None]
    return jnp.where(found.active[..., None], found.vectors, copied)


def users_of(events: Array, context: Context) -> Array:
    """The user, from 0, of each event [B]; users without events share a start and are never found."""
    place = jnp.searchsorted(context["start"], events, side="right")
    return (place - 1).astype(jnp.int32)


def reads_users(model: Any) -> bool:
    """Whether a model reads ids of users: its `num_users` is not 0."""
    return bool(getattr(model, "num_users", 0))


def _penalties(model: Any, variables: Variables, axis_name: str | None) -> dict[str, Array]:
    if not hasattr(model, "penalties"):
        return {}
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return {name: value / devices for name, value in model.apply(variables, method="penalties").items()}


def check_model(model: Any) -> None:
    """Raises ValueError for a module without the methods of an interest model, or with another output."""
    check_keywords(model, "train")
    if not hasattr(model, "readout"):
        raise ValueError(
            f"{type(model).__name__}: has no readout(interests, target vectors [B, D]) -> [B, D], the vector "
            "that the target's loss is computed with; add it, or train a sequence encoder by tasks.next_item"
        )
    ids = jax.ShapeDtypeStruct((2, model.max_len), jnp.int32)
    users = {"users": jax.ShapeDtypeStruct((2,), jnp.int32)} if reads_users(model) else {}

    def run(ids: Array, **users: Array) -> Any:
        return model.init_with_output(jax.random.key(0), ids, train=False, **users)[0]

    found = jax.eval_shape(run, ids, **users)
    if not isinstance(found, Interests) or found.vectors.shape[:2] != found.active.shape:
        raise ValueError(
            f"{type(model).__name__}: gives {type(found).__name__}; must be jaxrec.types.Interests, vectors "
            "[B, K, D] and active [B, K]"
        )
