"""Columns of a batch to vectors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical, Conditioned, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.ranking.ppnet import PPNet

KEY = jax.random.key(0)
FIELDS = (
    Categorical("user", 5, 3),
    Categorical("item", 6, 2, "item"),
    Numeric("age"),
    Categorical("history", 6, 2, "item"),
    Numeric("price", 4),
    Categorical("clicks", 6, 2, "item", average=False),
)
BATCH = {
    "user": np.array([3, 0, 4], np.int32),
    "item": np.array([5, 1, 2], np.int32),
    "age": np.array([0.5, -1.0, 2.0], np.float32),
    "history": np.array([[0, 1, 5], [0, 0, 0], [2, 2, 3]], np.int32),
    "price": np.array([1.0, 2.0, 0.0], np.float32),
    "clicks": np.array([[0, 1, 5], [0, 0, 0], [2, 2, 3]], np.int32),
    "label": np.zeros(3, np.float32),
}
MODULE: Any = FeatureEmbedding(FIELDS)
run = jax.jit(lambda variables, batch: MODULE.apply(variables, batch))


def moved(module: Any) -> Any:
    """Variables of a module with values in place of the initial ones."""
    shapes = jax.eval_shape(lambda: module.init(KEY, BATCH))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def vectors_of(module: Any, variables: Any) -> Any:
    return jax.jit(lambda v: module.apply(v, BATCH, method="vectors"))(variables)


@pytest.fixture(scope="module")
def variables() -> Any:
    found = moved(MODULE)
    found["params"]["item_embedding"][0] = 0.0  # that of users is not, to see where it is read
    return found


def test_tables_are_shared_by_vocabulary(variables: Any) -> None:
    shapes = jax.tree.map(np.shape, variables["params"])
    assert shapes == {"user_embedding": (5, 3), "item_embedding": (6, 2), "price_kernel": (1, 4)}


def test_row_0_starts_at_zero_and_the_others_do_not() -> None:
    table = jax.jit(FeatureEmbedding(FIELDS[1:2]).init)(KEY, BATCH)["params"]["item_embedding"]
    assert (table[0] == 0).all()
    assert (table[1:] != 0).all()


def test_vectors_of_each_kind_of_column(variables: Any) -> None:
    user, item, kernel = (
        variables["params"][name] for name in ("user_embedding", "item_embedding", "price_kernel")
    )
    vectors = vectors_of(MODULE, variables)
    expected = {
        "user": user[[3, 0, 4]],
        "item": item[[5, 1, 2]],
        "age": BATCH["age"][:, None],
        "history": np.stack([(item[1] + item[5]) / 2, np.zeros(2), (2 * item[2] + item[3]) / 3]),
        "price": BATCH["price"][:, None] * kernel,
        "clicks": np.stack([item[1] + item[5], np.zeros(2), 2 * item[2] + item[3]]),
    }
    assert set(vectors) == {field.name for field in FIELDS}
    for name, value in expected.items():
        np.testing.assert_allclose(vectors[name], value, rtol=1e-5, err_msg=name)


def test_the_output_is_the_vectors_in_the_order_of_the_fields(variables: Any) -> None:
    joined = run(variables, BATCH)
    assert joined.shape == (3, 3 + 2 + 1 + 2 + 4 + 2)
    vectors = vectors_of(MODULE, variables)
    np.testing.assert_array_equal(joined, np.concatenate([vectors[field.name] for field in FIELDS], axis=1))


def test_equal_widths_stack(variables: Any) -> None:
    module = FeatureEmbedding((FIELDS[3], FIELDS[1]))
    stacked = jax.jit(lambda v: module.apply(v, BATCH, method="stacked"))(variables)
    vectors = vectors_of(MODULE, variables)
    np.testing.assert_array_equal(stacked, np.stack([vectors["history"], vectors["item"]], axis=1))
    with pytest.raises(ValueError, match="'user': 3.*'item': 2.*must be equal"):
        jax.eval_shape(lambda v: MODULE.apply(v, BATCH, method="stacked"), variables)


def test_padding_never_trains_and_the_real_rows_do(variables: Any) -> None:
    gradient = jax.jit(jax.grad(lambda v: MODULE.apply(v, BATCH).sum()))(variables)["params"]
    np.testing.assert_array_equal(gradient["user_embedding"], [[0] * 3, [0] * 3, [0] * 3, [1] * 3, [1] * 3])
    counts = np.array([0, 1 + 0.5 + 1, 1 + 2 / 3 + 2, 1 / 3 + 1, 0, 1 + 0.5 + 1])
    np.testing.assert_allclose(gradient["item_embedding"], np.stack([counts, counts], axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", ["user", "clicks"])
@pytest.mark.parametrize("wrong", [-1, 6])
def test_an_id_out_of_range_gives_nan_in_its_row_alone(variables: Any, name: str, wrong: int) -> None:
    column = BATCH[name].copy()
    column[(1, *[2] * (column.ndim - 1))] = wrong
    outputs = np.asarray(run(variables, {**BATCH, name: column}))
    assert np.isnan(outputs).any(axis=1).tolist() == [False, True, False]


def test_numbers_may_be_integers_or_vectors() -> None:
    module: Any = FeatureEmbedding((Numeric("count"), Numeric("image")))
    batch = {"count": np.array([1, 2], np.int32), "image": np.ones((2, 3), np.float32)}
    outputs = module.apply({}, batch)
    np.testing.assert_array_equal(outputs, [[1, 1, 1, 1], [2, 1, 1, 1]])
    assert outputs.dtype == jnp.float32


WRONG = {
    "none": ((), "name at least one column"),
    "twice": ((Numeric("age"), Numeric("age")), "field age: stands 2 times"),
    "size": ((Categorical("user", 0, 3),), "field user: vocab_size=0"),
    "width": ((Categorical("user", 5, 0),), "field user: dim=0"),
    "numeric width": ((Numeric("age", 0),), "field age: dim=0"),
    "vocabulary": ((FIELDS[1], Categorical("history", 6, 3, "item")), r"field history.*\(6, 3\).*\(6, 2\)"),
}


@pytest.mark.parametrize("fields, message", WRONG.values(), ids=WRONG)
def test_wrong_fields_are_refused(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureEmbedding(fields)


WRONG_COLUMNS = {
    "missing": ("user", None, "field user: not in the batch, which has age"),
    "float ids": ("user", np.ones(3, np.float32), "field user: float32 values, expected integer ids"),
    "axes": ("history", np.ones((3, 2, 2), np.int32), r"field history: shape \(3, 2, 2\)"),
    "scalar": ("age", np.float32(1), r"field age: shape \(\)"),
    "vectors": ("price", np.ones((3, 2), np.float32), r"field price: shape \(3, 2\)"),
}


@pytest.mark.parametrize("name, column, message", WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_wrong_columns_are_refused(variables: Any, name: str, column: Any, message: str) -> None:
    batch: dict[str, Any] = {**BATCH, name: column}
    if column is None:
        del batch[name]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda v: MODULE.apply(v, batch), variables)


def test_a_model_behind_its_features() -> None:
    inner = SharedBottom(num_tasks=2, bottom_dims=(4,), tower_dims=())
    model = Featured(MODULE, inner)

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        vectors = MODULE.apply({"params": params["embedding"]}, BATCH)
        return model.apply({"params": params}, BATCH), inner.apply({"params": params["model"]}, vectors)

    np.testing.assert_array_equal(*both(moved(model)["params"]))


def test_a_model_of_features_and_a_condition() -> None:
    prior, inner = FeatureEmbedding((FIELDS[0],)), PPNet(dims=(4,))
    model = Conditioned(MODULE, prior, inner)

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        vectors = MODULE.apply({"params": params["embedding"]}, BATCH)
        condition = prior.apply({"params": params["condition"]}, BATCH)
        expected = inner.apply({"params": params["model"]}, vectors, condition)
        return model.apply({"params": params}, BATCH), expected

    params = moved(model)["params"]
    assert set(params["condition"]) == {"user_embedding"}
    np.testing.assert_array_equal(*both(params))
