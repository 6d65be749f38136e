"""Meta learning over users: each user's few ratings adapt part of a model, and others of theirs judge it.

A user's ratings are a support set and a query set. In the inner loop the parameters of the decision layers
make a few steps of gradient descent on the mean squared error of the support set; in the outer loop all
parameters learn from the query's error after it (Lee et al., KDD 2019, arXiv:1908.00413, algorithm 1; MAML:
Finn et al., ICML 2017, arXiv:1703.03400). The vectors of the content are made once, for all users together,
since the inner loop leaves them as they are; the loop runs under `vmap` over users and scans over its steps.

Context: `UserTasks.columns()` (`data.tables.rating_tasks`) [T, …], and under SHARED the content columns of
items {name: [I + 1(, A)]} and users {name: [U + 1(, A)]}. Examples number the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables

Params = Mapping[str, Any]
Decide = Callable[[Params, Array], Array]  # (parameters, vectors [N, F]) -> ratings [N]


class RatingModel(Protocol):
    """What the task needs of a Linen module, such as `nn.retrieval.melu.MeLU`.

    Its methods, called through `apply`: embed(items, users) -> [..., N, F] and decide([..., F]) -> [...].
    """

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def decision_layers(self) -> tuple[str, ...]: ...


class Adaptation(NamedTuple):
    """The inner loop.

    steps: of gradient descent on a user's support; 0: none. learning_rate: of these steps.
    first_order: take the inner gradients as constants in the outer gradient, which needs no second
      derivatives; MeLU's code trains about so. False: differentiate through the steps, as the paper.
    local: which parameters are adapted, names of decision layers; None: all of the model's.

    Raises (`checked`):
      ValueError: a negative number of steps, a learning rate that is negative or not finite, a local
        parameter that is no decision layer.
    """

    steps: int = 1
    learning_rate: float = 5e-6
    first_order: bool = False
    local: tuple[str, ...] | None = None

    def checked(self, model: RatingModel) -> tuple[str, ...]:
        """The names of the local parameters."""
        if self.steps < 0:
            raise ValueError(f"steps={self.steps}: must be 0 or more")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate}: must be 0 or more, and finite")
        known = tuple(model.decision_layers)
        local = known if self.local is None else tuple(self.local)
        unknown = [name for name in local if name not in known]
        if unknown or not local:
            raise ValueError(
                f"local={local}: must be some of the decision layers {', '.join(known)}; embeddings are not "
                "adapted, and steps=0 adapts nothing"
            )
        return local


def adapt(
    decide: Decide,
    params: Params,
    x: Array,
    rating: Array,
    where: Array,
    adaptation: Adaptation,
    *,
    local: tuple[str, ...],
) -> tuple[Params, Array]:
    """One user's parameters after the inner loop, and the loss of the support before each step, [steps].

    decide: of all parameters. params: shared by all users. x: vectors of the support [N, F]; rating [N];
    where: True for real ones [N]; without any the parameters stay.
    """

    def loss(part: Params) -> Array:
        return squared_error(decide({**params, **part}, x), rating, where)

    def step(part: Params, _: None) -> tuple[Params, Array]:
        value, gradient = jax.value_and_grad(loss)(part)
        if adaptation.first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return jax.tree.map(lambda p, g: p - adaptation.learning_rate * g, part, gradient), value

    start: Params = {name: params[name] for name in local}
    part, values = jax.lax.scan(step, start, None, length=adaptation.steps)
    return {**params, **part}, values


def squared_error(predictions: Array, rating: Array, where: Array) -> Array:
    """Mean of (prediction - rating)² over real ratings of one user, 0 without any: [N] → []."""
    return masked_mean(jnp.where(where, predictions - rating, 0.0) ** 2, where)


def meta(
    model: RatingModel,
    adaptation: Adaptation,
    *,
    loss_of: Literal["query", "all"] = "query",
) -> Task:
    """The task of predicting query ratings after adaptation to the support; predict gives ratings [B, Q].

    loss_of: "query" is the outer loss of meta learning, a mean over users of the mean squared error of
      their query. "all" counts the support's ratings too, as a model is trained that does not adapt.

    Raises:
      ValueError: an adaptation that is out of range (`Adaptation`), another loss_of, or "all" with an
        adaptation, which would be judged by what it was fitted to.
    """
    local = adaptation.checked(model)
    if loss_of not in ("query", "all"):
        raise ValueError(f"loss_of={loss_of!r}: must be 'query' or 'all'")
    if loss_of == "all" and adaptation.steps:
        raise ValueError(f"loss_of='all', steps={adaptation.steps}: goes with steps=0")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        number = examples["example"]
        tasks = {name: column[number] for name, column in context.items() if name != SHARED}
        return {**gather(tasks, context[SHARED]), "mask": examples["mask"]}

    def init(key: Key, batch: Batch) -> Variables:
        one = jax.tree.map(lambda leaf: leaf[:1], (batch["items"], batch["users"]))
        return model.init(key, *one)

    def decide(variables: Variables) -> Decide:
        return lambda params, x: model.apply({**variables, "params": params}, x, method="decide")

    def predict(variables: Variables, batch: Batch) -> Array:
        vectors = model.apply(variables, batch["items"], batch["users"], method="embed")
        size = batch["support"].shape[1]
        of_support, of_query = vectors[:, :size], vectors[:, size:]
        if not adaptation.steps:
            return decide(variables)(variables["params"], of_query)

        def one_user(x: Array, rating: Array, where: Array, query: Array) -> Array:
            decided, params = decide(variables), variables["params"]
            own, _ = adapt(decided, params, x, rating, where, adaptation, local=local)
            return decided(own, query)

        return jax.vmap(one_user)(of_support, batch["support_rating"], batch["support"], of_query)

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        if loss_of == "query":
            predicted, rating, judged = predict(variables, batch), batch["query_rating"], batch["query"]
        else:
            predicted = model.apply(variables, batch["items"], batch["users"])
            rating, judged = (
                jnp.concatenate([batch[f"support{end}"], batch[f"query{end}"]], axis=1)
                for end in ("_rating", "")
            )
        by_user = jax.vmap(squared_error)(predicted, rating, judged)
        real = batch["mask"] & jnp.any(judged, axis=-1)
        return {"squared_error": masked_mean(by_user, real, axis_name)}, {}

    return Task(prepare, init, losses, predict)


def gather(tasks: Mapping[str, Any], content: Mapping[str, Mapping[str, Any]]) -> Batch:
    """The batch of some tasks.

    Args:
      tasks: user int32 [B]; support and query, ids of items, 0 where there is none, [B, S] and [B, Q];
        support_rating and query_rating, float32 of the same shapes.
      content: {"items": {name: [I + 1(, A)]}, "users": {name: [U + 1(, A)]}}.

    Returns:
      items {name: [B, S + Q(, A)]}, support before query; users {name: [B(, A)]}, with `support_count` and
      `support_mean` float32 [B], the number and mean of the support's ratings (0 without any);
      support_rating and query_rating; support and query, True where there is a rating, [B, S] and [B, Q].
    """
    support, query = tasks["support"] != 0, tasks["query"] != 0
    count = jnp.sum(support, axis=1).astype(jnp.float32)
    total = jnp.sum(jnp.where(support, tasks["support_rating"], 0.0), axis=1)
    ids = jnp.concatenate([tasks["support"], tasks["query"]], axis=1)
    users = {name: read(column, tasks["user"]) for name, column in content["users"].items()}
    return {
        "items": {name: read(column, ids) for name, column in content["items"].items()},
        "users": {**users, "support_count": count, "support_mean": total / jnp.maximum(count, 1.0)},
        "support_rating": tasks["support_rating"],
        "query_rating": tasks["query_rating"],
        "support": support,
        "query": query,
    }


def read(column: Array, ids: Array) -> Array:
    """Entries of a content column by id; -1, which no table has, where the id is not in the column."""
    return jnp.asarray(column).at[ids].get(mode="fill", fill_value=-1, wrap_negative_indices=False)
