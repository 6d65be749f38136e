"""DropoutNet's regression of a factor model's scores, with factors that are hidden at random.

Volkovs, Yu and Poutanen, NeurIPS 2017, section 4.2. An example is a user; a step draws items for each. Of
the pairs of a step a share has the user's factors hidden and, drawn apart, a share the item's, so that a pair
may lack both; another share has them replaced by the mean of the factors of the other side, which is what
serving has after a few interactions and before the factor model is trained again.

Context columns (`columns`): those of `data.events.factor_columns`, top_items [U, T] and score_scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.data.events.factor_columns import best_items
from jaxrec.tasks.multitask import FIXED
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

KEPT, HIDDEN, REPLACED = 0, 1, 2
_CONTENT = ("user_content", "item_content")


def columns(factors: Mapping[str, np.ndarray], *, top: int = 2500) -> dict[str, np.ndarray]:
    """What the task and the module read: `factor_columns`, the `top` best items of each user by factors, and
    score_scale: 1 over the root mean square of the users' scores of these, 1 where all are 0.

    Raises:
      ValueError: top is below 1.
    """
    best = best_items(dict(factors), top)
    users, items = factors["user_teacher"], factors["item_teacher"]
    squares = [np.mean((items[rows] @ user) ** 2) for user, rows in zip(users[1:], best, strict=True)]
    mean = float(np.mean(squares))
    return {
        **factors,
        "top_items": best,
        "score_scale": np.asarray(mean**-0.5 if mean > 0 else 1.0, np.float32),
    }


def dropoutnet(
    model: Any,
    *,
    pairs_per_user: int = 64,
    dropout: float = 0.5,
    transform: float = 0.0,
    random_share: float = 0.5,
) -> Task:
    """The loss "scores", the mean of (f_u · f_v - c U_u · V_v)²; predict gives scores of pairs [N].

    c is `score_scale` of the columns, which changes no ranking: scores of a factor model of 0 and 1 are small
    beside products of two vectors that are drawn, whose noise would hide them for most of the training. The
    paper has c = 1.

    Args:
      model: `nn.retrieval.dropoutnet.DropoutNet`, or another module that is called as it is.
      pairs_per_user: items that a step draws for each of its users, with replacement.
      dropout: share of a step's pairs whose user factors are hidden, rounded down, and of those whose item
        factors are.
      transform: share of those whose user factors are the mean of its items' factors, and the like for items.
      random_share: of a user's items that are drawn from all items of training, rounded to the nearest
        number; the others are drawn from its best ones by the factor model (`columns`), so that high scores
        are well represented.

    Raises:
      ValueError: a number or share is out of range, or dropout and transform are above 1 together.
    """
    if pairs_per_user < 1:
        raise ValueError(f"pairs_per_user={pairs_per_user}: must be at least 1")
    shares = {"dropout": dropout, "transform": transform, "random_share": random_share}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: a share, must be in 0..1")
    if dropout + transform > 1:
        raise ValueError(f"dropout={dropout}, transform={transform}: must be at most 1 together")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        user = examples["example"]
        item_key, user_mode, item_mode = jax.random.split(key, 3)
        item = drawn_items(
            item_key, user, context, number=pairs_per_user, random=round(random_share * pairs_per_user)
        )
        row, item = jnp.repeat(user + 1, pairs_per_user), item.reshape(-1)
        batch = {
            "target": context["score_scale"]
            * jnp.sum(context["user_teacher"][row] * context["item_teacher"][item], axis=-1),
            "mask": jnp.repeat(examples["mask"], pairs_per_user),
        }
        for side, ids, mode_key in (("user", row, user_mode), ("item", item, item_mode)):
            mode = modes(mode_key, ids.shape[0], dropout=dropout, transform=transform)[:, None]
            kept = jnp.where(mode == REPLACED, context[f"{side}_means"][ids], context[f"{side}_factors"][ids])
            batch[f"{side}_factors"] = jnp.where(mode == HIDDEN, 0.0, kept)
            if f"{side}_content" in context:
                batch[f"{side}_content"] = context[f"{side}_content"][ids]
        return batch

    def scored(variables: Variables, batch: Batch, **options: Any) -> Any:
        inputs = (batch["user_factors"], batch["item_factors"], *(batch.get(name) for name in _CONTENT))
        return model.apply(variables, *inputs, **options)

    def init(key: Key, batch: Batch) -> Variables:
        inputs = (batch["user_factors"], batch["item_factors"], *(batch.get(name) for name in _CONTENT))
        return model.init(key, *inputs, train=False)

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        updated = [name for name in variables if name not in FIXED]
        scores, updates = scored(variables, batch, train=True, mutable=updated)
        loss = losses.squared_error(scores, batch["target"], where=batch["mask"], axis_name=axis_name)
        return {"scores": loss}, updates if axis_name is None else jax.lax.pmean(updates, axis_name)

    def predict(variables: Variables, batch: Batch) -> Array:
        return scored(variables, batch, train=False)

    return Task(prepare, init, value, predict)


def drawn_items(key: Key, user: Array, context: Context, *, number: int, random: int) -> Array:
    """Items of each user [B], with replacement, `random` of them uniform over items of training: int32
    [B, number]."""
    top, warm = jnp.asarray(context["top_items"]), jnp.asarray(context["warm_items"])
    of_top, of_all = jax.random.split(key)
    shape = user.shape[0], number - random
    place = jax.random.randint(of_top, shape, 0, top.shape[1])
    anywhere = jax.random.randint(of_all, (user.shape[0], random), 0, warm.shape[0])
    return jnp.concatenate([top[user[:, None], place], warm[anywhere]], axis=1)


def modes(key: Key, size: int, *, dropout: float, transform: float) -> Array:
    """Which of a step's rows are KEPT, HIDDEN or REPLACED, int32 [size]: exactly floor(dropout · size) are
    hidden and floor(transform · size) replaced."""
    hidden, replaced = (int(share * size + 1e-6) for share in (dropout, transform))  # 0.29 · 100 is 29
    place = jax.random.permutation(key, size)
    return jnp.where(place < hidden, HIDDEN, jnp.where(place < hidden + replaced, REPLACED, KEPT))
