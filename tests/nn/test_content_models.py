"""What holds for every model that makes a rating from content (`jaxrec.tasks.meta.RatingModel`)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.content import Column, Content
from jaxrec.nn.ranking.poso_rating import BUCKETS, PersonalRating
from jaxrec.nn.ranking.wide_deep import WideDeep
from jaxrec.nn.retrieval.melu import MeLU
from jaxrec.types import Array

COLUMNS = ((Column("kind", 3), Column("tags", 5, several=True)), (Column("place", 4),))
MODELS: dict[str, Any] = {
    "melu": MeLU(*COLUMNS, 3, (8, 7)),
    "wide_deep": WideDeep(*COLUMNS, 3, (4,)),
    "poso": PersonalRating(*COLUMNS, 3, (4,), 2),
    "poso_mean": PersonalRating(*COLUMNS, 3, (4,), 2, mean_rating=True),
}
ITEMS = {
    "kind": jnp.array([[1, 2, 3], [3, 1, 0]]),
    "tags": jnp.array([[[0, 1], [2, 3], [0, 5]], [[4, 5], [0, 2], [0, 0]]]),
}
USERS = {
    "place": jnp.array([1, 4]),
    "support_count": jnp.array([3.0, 20.0]),
    "support_mean": jnp.array([3.5, 4.0]),
}


@functools.cache
def variables(name: str) -> Any:
    return MODELS[name].init(jax.random.key(0), ITEMS, USERS)


@functools.cache
def ratings(name: str) -> Array:
    return jax.jit(MODELS[name].apply)(variables(name), ITEMS, USERS)


@pytest.mark.parametrize("name", MODELS)
def test_ratings_are_of_each_item_and_user_alone(name: str) -> None:
    assert ratings(name).shape == (2, 3)
    one = MODELS[name].apply(
        variables(name), {n: c[1, :1] for n, c in ITEMS.items()}, {n: c[1] for n, c in USERS.items()}
    )
    np.testing.assert_allclose(one, ratings(name)[1, :1], rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_decision_layers_are_all_that_decide_reads(name: str) -> None:
    model = MODELS[name]
    params = variables(name)["params"]
    x = model.apply(variables(name), ITEMS, USERS, method="embed")
    part = {layer: params[layer] for layer in model.decision_layers}
    np.testing.assert_allclose(model.apply({"params": part}, x, method="decide"), ratings(name), rtol=1e-6)
    assert set(params) > set(part)


@pytest.mark.parametrize("name", MODELS)
def test_padding_of_a_set_and_the_order_of_its_values_change_nothing(name: str) -> None:
    wider = jnp.pad(ITEMS["tags"], [(0, 0), (0, 0), (2, 0)])
    for tags in (wider, wider[..., ::-1]):
        found = MODELS[name].apply(variables(name), {**ITEMS, "tags": tags}, USERS)
        np.testing.assert_allclose(found, ratings(name), rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_table_learns_but_for_its_padding(name: str) -> None:
    gradient = jax.grad(lambda v: jnp.sum(MODELS[name].apply(v, ITEMS, USERS) ** 2))(variables(name))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        text = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), text
        if "_embedding" in text:
            assert (np.asarray(leaf)[0] == 0).all() and np.abs(leaf).sum() > 0, text


def test_a_set_is_the_mean_of_its_values() -> None:
    layer = Content((Column("tags", 5, several=True),), dim=2)
    made = layer.init(jax.random.key(1), {"tags": ITEMS["tags"]})
    table = np.asarray(made["params"]["tags_embedding"])
    found = np.asarray(layer.apply(made, {"tags": ITEMS["tags"]}))
    np.testing.assert_allclose(found[0, 1], (table[2] + table[3]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[0, 0], table[1], rtol=1e-6)
    assert (found[1, 2] == 0).all()
    assert np.abs(table).max() <= 1 / np.sqrt(5)


def test_an_id_outside_its_table_is_nan() -> None:
    found = MODELS["melu"].apply(variables("melu"), {**ITEMS, "kind": ITEMS["kind"].at[0, 0].set(4)}, USERS)
    assert np.isnan(found[0, 0]) and np.isfinite(found[0, 1:]).all()


def test_the_gates_of_poso_see_the_buckets_of_counts() -> None:
    counts = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 31.0, 64.0, 1e6])
    users = {"place": jnp.ones(8, jnp.int32), "support_count": counts, "support_mean": jnp.zeros(8)}
    code = MODELS["poso"].apply(variables("poso"), users, method="code")
    assert code.argmax(-1).tolist() == [0, 1, 2, 2, 3, 5, 7, 7] and code.shape == (8, BUCKETS)
    same = MODELS["poso"].apply(
        variables("poso"), ITEMS, {**USERS, "support_mean": USERS["support_mean"] + 1}
    )
    np.testing.assert_array_equal(same, MODELS["poso"].apply(variables("poso"), ITEMS, USERS))
    moved = {**USERS, "support_mean": USERS["support_mean"] + 1}
    assert not np.allclose(
        MODELS["poso_mean"].apply(variables("poso_mean"), ITEMS, moved), ratings("poso_mean")
    )


def test_wide_and_deep_parts_add_up() -> None:
    params = variables("wide_deep")["params"]
    silent = {**params, "out": jax.tree.map(jnp.zeros_like, params["out"])}
    found = MODELS["wide_deep"].apply({"params": silent}, ITEMS, USERS)
    tables = {**params["item_weights"], **params["user_weights"]}
    kind, tags, place = (np.asarray(tables[f"{name}_embedding"])[:, 0] for name in ("kind", "tags", "place"))
    assert found[0, 1] == pytest.approx(kind[2] + (tags[2] + tags[3]) / 2 + place[1], rel=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Content(()), "name at least one column"),
        (lambda: Content((Column("a", 2), Column("a", 3))), "'a': stands 2 times"),
        (lambda: Content((Column("a", 0),)), "num_values=0: must be at least 1"),
        (lambda: Content((Column("a", 2),), dim=0), "dim=0"),
        (lambda: MeLU(*COLUMNS, 3, (4, 0)), r"dims=\(4, 0\): each layer"),
        (lambda: MODELS["melu"].apply(variables("melu"), {}, USERS), "'kind': not in the batch"),
    ],
)
def test_wrong_fields_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
