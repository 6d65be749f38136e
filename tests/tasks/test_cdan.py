"""CDAN: a plain two-tower model where its losses are left out, and what each loss may move."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.retrieval.cdan import CDAN, STATISTICS
from jaxrec.tasks import cdan as tasks
from jaxrec.tasks.pairs import pairwise, uniform

U, V = 6, 9
ITEMS = np.array([1, 2, 3, 4, 1, 5, 2, 6, 1, 7, 3, 8], np.int32)
CONTEXT: Any = {
    "items": ITEMS,
    "start": np.arange(0, 12, 2, dtype=np.int32),
    "length": np.full(U, 2, np.int32),
    "pair_user": np.repeat(np.arange(U), 2).astype(np.int32),
    "pair_item": ITEMS,
    "head": np.arange(V + 1) % 4 == 1,
    "unexposed": np.array([2, 3, 4, 6, 7, 8], np.int32),
    "item_weight": np.linspace(0.0, 2.0, V + 1, dtype=np.float32),
    STATISTICS: np.linspace(-1.0, 1.0, V + 1, dtype=np.float32)[:, None],
}
EXAMPLES = {"example": jnp.array([0, 3, 5, 8, 11, 2]), "mask": jnp.arange(6) < 5}
SAMPLER, KEY = uniform(V), jax.random.key(0)


def model(**fields: Any) -> Any:
    return CDAN(U, V, 4, (3,), init_std=0.5, **fields)


@pytest.fixture(scope="module")
def made() -> Any:
    task = tasks.cdan(model(), sampler=SAMPLER, negatives=5, unexposed=8)
    batch = task.prepare(KEY, EXAMPLES, CONTEXT)
    return task, batch, jax.jit(task.init)(KEY, batch)


def gradient_of(made: Any, name: str) -> Any:
    task, batch, variables = made
    of = jax.jit(jax.grad(lambda v: task.losses(v, batch, KEY)[0][name]))(variables)
    return jax.tree.map(np.asarray, of["params"])


def test_without_its_losses_it_is_a_two_tower_model() -> None:
    ours = tasks.weighted_pairs(model(), sampler=SAMPLER, negatives=5, weighted=False)
    plain = pairwise(model(), losses.sampled_softmax, sampler=SAMPLER, negatives=5)
    batch = ours.prepare(KEY, EXAMPLES, CONTEXT)
    other = jnp.where(batch["negatives"] == batch["item"][:, None], 9, batch["negatives"])
    batch = {**batch, "negatives": other}
    variables = jax.jit(ours.init)(KEY, batch)
    found = ours.losses(variables, batch, KEY)[0]["pairs"]
    np.testing.assert_allclose(found, plain.losses(variables, batch, KEY)[0]["pairs"], rtol=1e-6)


def test_its_unbiased_loss_is_that_of_the_two_tower_model(made: Any) -> None:
    task, batch, variables = made
    plain = tasks.weighted_pairs(model(), sampler=SAMPLER, negatives=5, weighted=False)
    np.testing.assert_allclose(
        task.losses(variables, batch, KEY)[0]["unbiased"],
        plain.losses(variables, batch, KEY)[0]["pairs"],
        rtol=1e-6,
    )


def test_weights_of_items_multiply_the_terms_of_their_pairs(made: Any) -> None:
    _, batch, variables = made
    weighted = tasks.weighted_pairs(model(), sampler=SAMPLER, negatives=5)
    scores = model().apply(
        variables, batch["user"], jnp.concatenate([batch["item"][:, None], batch["negatives"]], 1), CONTEXT,
        train=False,
    )  # fmt: skip
    scores = np.array(scores, np.float64)
    scores[:, 1:][np.asarray(batch["negatives"] == batch["item"][:, None])] = -np.inf
    terms = np.log(np.exp(scores).sum(axis=1)) - scores[:, 0]
    want = (CONTEXT["item_weight"][np.asarray(batch["item"])] * terms)[:5].mean()
    np.testing.assert_allclose(weighted.losses(variables, batch, KEY)[0]["pairs"], want, rtol=1e-5)


def test_a_partner_is_an_item_of_the_user_and_unexposed_ones_are_outside_the_head(made: Any) -> None:
    _, batch, _ = made
    for user, partner in zip(np.asarray(batch["user"]) - 1, np.asarray(batch["partner"]), strict=True):
        assert partner in ITEMS[2 * user : 2 * user + 2]
    assert set(np.asarray(batch["drawn"]).tolist()) <= set(CONTEXT["unexposed"].tolist())


def test_the_alignment_moves_other_items_and_leaves_the_head_alone(made: Any) -> None:
    """The table's rows of head items get no gradient unless it is asked for."""
    rows = gradient_of(made, "alignment")["item_embedding"]
    assert not rows[CONTEXT["head"]].any()
    assert rows[np.unique(np.asarray(made[1]["drawn"]))].any()
    moving = tasks.cdan(model(), sampler=SAMPLER, negatives=5, unexposed=8, head_gradient=True)
    assert gradient_of((moving, *made[1:]), "alignment")["item_embedding"][CONTEXT["head"]].any()


def test_statistics_are_read_by_the_loss_of_popularity_alone(made: Any) -> None:
    task, batch, variables = made
    moved = {**batch, "shared": {**batch["shared"], STATISTICS: CONTEXT[STATISTICS][::-1]}}
    before, after = (task.losses(variables, of, KEY)[0] for of in (batch, moved))
    changed = {name for name in before if float(before[name]) != float(after[name])}
    assert changed == {"popularity"}
    for name, value in before.items():
        read = gradient_of(made, name)["statistics_part"]
        assert any(leaf.any() for leaf in jax.tree.leaves(read)) == (name == "popularity")
        assert np.isfinite(value)


def test_popularity_is_told_from_that_of_other_items_of_the_batch(made: Any) -> None:
    """InfoNCE of cosines, without pairs of one item; the other form is 2 - 2 cos, 0 for a constant."""
    task, batch, variables = made
    parts = model().apply(
        variables, batch["user"], jnp.concatenate([batch["item"][:, None], batch["negatives"]], 1),
        batch["partner"], batch["drawn"], CONTEXT, method="learn",
    )  # fmt: skip
    real, item = np.asarray(batch["mask"]), np.asarray(batch["item"])
    both = (np.asarray(x, np.float64)[real] for x in (parts.popularity, parts.statistics))
    p, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in both)
    cosines = p @ g.T
    rivals = (item[real][:, None] != item[real]) | np.eye(len(p), dtype=bool)
    terms = np.log(np.where(rivals, np.exp(cosines / 0.1), 0.0).sum(axis=1)) - cosines.diagonal() / 0.1
    np.testing.assert_allclose(task.losses(variables, batch, KEY)[0]["popularity"], terms.mean(), rtol=1e-4)
    other = tasks.cdan(model(), sampler=SAMPLER, negatives=5, unexposed=8, contrast=False)
    found = other.losses(variables, batch, KEY)[0]["popularity"]
    np.testing.assert_allclose(found, (2 - 2 * cosines.diagonal()).mean(), rtol=1e-4)


@pytest.mark.parametrize("serve", ["unbiased", "biased", "merged"])
def test_served_vectors_give_the_scores(serve: str, made: Any) -> None:
    variables = made[2]
    served = model(serve=serve)
    users, items = served.apply(variables, CONTEXT, method="vectors")
    user, item = jnp.array([1, 6]), jnp.array([[1, 9, 3], [4, 2, 8]])
    scores = served.apply(variables, user, item, CONTEXT, train=False)
    want = np.einsum("bd,bnd->bn", np.asarray(users)[user], np.asarray(items)[item])
    np.testing.assert_allclose(scores, want, rtol=1e-4, atol=1e-5)


def test_the_merged_score_is_the_mean(made: Any) -> None:
    found = {
        serve: np.asarray(
            model(serve=serve).apply(made[2], jnp.array([2]), jnp.array([[1, 5]]), CONTEXT, train=False)
        )
        for serve in ("unbiased", "biased", "merged")
    }
    np.testing.assert_allclose(found["merged"], (found["unbiased"] + found["biased"]) / 2, rtol=1e-4)
    assert not np.allclose(found["unbiased"], found["biased"])


def test_shares_of_two_devices_add_up(made: Any) -> None:
    """Those that are means over examples; the alignment is the mean of what each device compares."""
    task, batch, variables = made
    names = ("user", "item", "negatives", "partner", "mask", "row")
    halves = {name: batch[name].reshape(2, 3, *batch[name].shape[1:]) for name in names}

    def share(half: Any) -> Any:
        return task.losses(variables, {**batch, **half}, KEY, "devices")[0]

    found = jax.jit(jax.vmap(share, axis_name="devices"))(halves)
    whole = jax.jit(lambda of: task.losses(variables, of, KEY)[0])(batch)
    for name in ("unbiased", "biased", "orthogonal", "popularity", "instance"):
        np.testing.assert_allclose(found[name].sum(), whole[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.cdan(model(), sampler=SAMPLER, negatives=0), "negatives=0: must be at least 1"),
        (lambda: tasks.cdan(model(), sampler=SAMPLER, unexposed=0), "unexposed=0: must be at least 1"),
        (lambda: tasks.cdan(model(), sampler=SAMPLER, temperature=0.0), "temperature=0.0: must be positive"),
        (lambda: tasks.weighted_pairs(model(), sampler=SAMPLER, negatives=-1), "negatives=-1"),
        (lambda: model(serve="both").init(KEY, jnp.ones(1, int), jnp.ones((1, 1), int), {}, train=False),
         "serve='both'"),
        (lambda: CDAN(U, V, 4, ()).init(KEY, jnp.ones(1, int), jnp.ones((1, 1), int), {}, train=False),
         r"part_dims=\(\)"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
