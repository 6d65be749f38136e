"""COLD: weights of fields, the choice of fields, squashing, and what the network costs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses, metrics
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.nn.ranking import cold
from jaxrec.nn.ranking.cold import COLD, VectorProduct, keep_fields, linear_log
from tests.nn.drawn import applied, drawn

rng = np.random.default_rng(0)
FIELDS = (Categorical("user", 6, 3), Categorical("tags", 5, 2), Numeric("price"), Categorical("item", 7, 4))
BATCH = {
    "user": np.array([1, 5, 2, 3, 4, 1], np.int32),
    "tags": np.array([[0, 1, 4], [0, 0, 3], [2, 2, 3], [1, 0, 0], [4, 3, 2], [0, 0, 1]], np.int32),
    "price": rng.normal(size=6).astype(np.float32),
    "item": np.array([6, 1, 2, 3, 4, 5], np.int32),
}
WEIGHTED = COLD(FIELDS, (8, 4), weighted=True)


def weights(variables: Any, batch: Any = None) -> np.ndarray:
    return np.asarray(applied(WEIGHTED, variables, BATCH if batch is None else batch, method="weights"))


def test_weights_are_between_0_and_1_and_equal_without_parameters() -> None:
    variables = drawn(WEIGHTED, BATCH)
    found = weights(variables)
    assert found.shape == (6, 4) and ((found > 0) & (found < 1)).all() and np.ptp(found) > 0.1
    none = jax.tree.map(np.zeros_like, variables["params"]["excitation"])
    flat = weights({"params": {**variables["params"], "excitation": none}})
    assert (flat == 0.5).all()
    assert keep_fields(FIELDS, flat.mean(axis=0), 2) == FIELDS[:2]  # ties: the first


def test_the_network_reads_the_weighted_vectors() -> None:
    """By hand: pooled vectors, sigmoid weights, and the layers."""
    variables = drawn(WEIGHTED, BATCH)
    params = variables["params"]
    tables = params["embedding"]
    tags = [np.mean([tables["tags_embedding"][i] for i in row if i], axis=0) for row in BATCH["tags"]]
    vectors = [
        tables["user_embedding"][BATCH["user"]], np.stack(tags), BATCH["price"][:, None],
        tables["item_embedding"][BATCH["item"]],
    ]  # fmt: skip
    x = np.concatenate(vectors, axis=1)
    assert params["excitation"]["kernel"].shape == (10, 4)
    s = 1 / (1 + np.exp(-(x @ params["excitation"]["kernel"] + params["excitation"]["bias"])))
    np.testing.assert_allclose(weights(variables), s, rtol=1e-4)
    h = np.concatenate([v * s[:, i : i + 1] for i, v in enumerate(vectors)], axis=1)
    for i in range(2):
        layer = params["tower"]["mlp"][f"layer_{i}"]
        h = np.maximum(h @ layer["kernel"] + layer["bias"], 0)
    logit = h @ params["tower"]["logit"]["kernel"] + params["tower"]["logit"]["bias"]
    np.testing.assert_allclose(applied(WEIGHTED, variables, BATCH), logit[:, 0], rtol=1e-4, atol=1e-5)


def test_the_network_of_kept_fields_has_no_weights_and_their_width() -> None:
    kept = keep_fields(FIELDS, np.array([0.2, 0.4, 0.9, 0.3]), 2)
    assert [field.name for field in kept] == ["tags", "price"]
    params = drawn(COLD(kept, (8, 4)), BATCH)["params"]
    assert set(params) == {"embedding", "tower"} and set(params["embedding"]) == {"tags_embedding"}
    assert params["tower"]["mlp"]["layer_0"]["kernel"].shape == (2 + 1, 8)
    with pytest.raises(ValueError, match="weighted=False: the network has no weights"):
        COLD(kept, (8, 4)).apply({"params": params}, BATCH, method="weights")


@pytest.mark.parametrize("number, size", [(0, 4), (5, 4), (2, 3)])
def test_a_choice_of_fields_that_there_are_not_is_refused(number: int, size: int) -> None:
    with pytest.raises(ValueError, match=rf"number={number}, weights \[{size}\]: must be in 1\.\.4"):
        keep_fields(FIELDS, np.ones(size), number)


def test_a_field_of_noise_gets_the_least_mean_weight() -> None:
    """Clicks depend on two columns; a third one is random."""
    size = 512
    columns = {name: rng.integers(1, 5, size).astype(np.int32) for name in ("a", "b", "noise")}
    effect = np.array([0.0, -2.0, 2.0, -1.0, 1.0])
    logits = effect[columns["a"]] + effect[columns["b"]]
    labels = (rng.random(size) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    model = COLD(tuple(Categorical(name, 5, 4) for name in columns), (8,), weighted=True)
    tx = optax.adam(0.03)
    params: Any = model.init(jax.random.key(0), columns)["params"]

    def loss(params: Any) -> Any:
        return losses.binary_cross_entropy(model.apply({"params": params}, columns), labels)

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            change, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=60)[0][0]

    mean = np.asarray(model.apply({"params": train(params)}, columns, method="weights")).mean(axis=0)
    assert mean.argmin() == 2
    assert [f.name for f in keep_fields(model.fields, mean, 2)] == ["a", "b"]


def test_linear_log_is_odd_increasing_and_smooth_at_one() -> None:
    x = np.concatenate([np.linspace(-1e4, 1e4, 301), np.linspace(-3, 3, 301)]).astype(np.float32)
    x.sort()
    y, slope = (np.asarray(v) for v in (linear_log(x), jax.vmap(jax.grad(linear_log))(x)))
    np.testing.assert_allclose(linear_log(-x), -y, rtol=1e-6)
    assert (np.diff(y)[np.diff(x) > 0] > 0).all() and (y[np.abs(x) <= 1] == x[np.abs(x) <= 1]).all()
    np.testing.assert_allclose(slope, np.where(np.abs(x) > 1, 1 / np.maximum(np.abs(x), 1), 1.0), rtol=1e-5)
    np.testing.assert_allclose(linear_log(jnp.array([np.e, -np.e])), [2.0, -2.0], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: linear_log(x).sum())(jnp.array([0.0, 3e38]))).all()


def test_squashed_inputs_are_those_of_linear_log() -> None:
    variables = drawn(COLD(FIELDS, (8, 4)), BATCH)
    large = {**BATCH, "price": np.float32(1e3) * BATCH["price"]}
    small = {**BATCH, "price": np.asarray(linear_log(large["price"]))}
    tables = jax.tree.map(
        lambda t: np.clip(t, -1, 1), variables["params"]["embedding"]
    )  # as they are below 1
    variables = {"params": {**variables["params"], "embedding": tables}}
    np.testing.assert_allclose(
        applied(COLD(FIELDS, (8, 4), squashed=True), variables, large),
        applied(COLD(FIELDS, (8, 4)), variables, small),
        rtol=1e-5,
    )


# --- cost ------------------------------------------------------------------------------------------


def test_a_network_costs_its_products() -> None:
    """User 3 numbers; tags 2, price 1 and item 4; layers of 8 and 4."""
    found = cold.cost(FIELDS, (8, 4), per_request=("user",), ids={"tags": 3})
    assert found.request_flops == 2 * 3 * 8
    assert found.candidate_flops == 2 * (2 + 1 + 4) * 8 + 2 * 8 * 4 + 2 * 4
    assert found.request_bytes == 3 * 4 + 4
    assert found.candidate_bytes == 3 * (2 * 4 + 4) + 4 + (4 * 4 + 4)
    assert found.flops(100) == found.request_flops + 100 * found.candidate_flops
    half = cold.cost(FIELDS, (8, 4), per_request=("user",), ids={"tags": 3}, bytes_per_number=2)
    assert half.flops(10) == found.flops(10)
    assert half.bytes(10) == (3 * 2 + 4) + 10 * (3 * (2 * 2 + 4) + 2 + (4 * 2 + 4))


def test_fewer_fields_cost_less_and_all_of_a_request_leave_the_later_layers() -> None:
    whole = cold.cost(FIELDS, (8, 4))
    assert cold.cost(FIELDS[1:], (8, 4)).candidate_flops == whole.candidate_flops - 2 * 3 * 8
    names = [field.name for field in FIELDS]
    assert cold.cost(FIELDS, (8, 4), per_request=names).candidate_flops == 2 * 8 * 4 + 2 * 4
    assert cold.cost(FIELDS, ()).candidate_flops == 2 * 10  # a linear model


def test_the_count_is_that_of_the_compiled_network() -> None:
    model = COLD(FIELDS, (64, 32))
    variables = drawn(model, BATCH)

    def layers(x: Any) -> Any:
        return model.apply(variables, x, method=lambda m, x: m.tower(x))

    lowered = jax.jit(layers).lower(jnp.ones((1, 10)))
    counted: Any = lowered.compile().cost_analysis()
    dots = cold.cost(FIELDS, (64, 32)).candidate_flops
    assert dots <= counted["flops"] <= dots + 4 * (64 + 32 + 1)  # biases and activations besides


def test_a_product_costs_a_candidate_its_width() -> None:
    found = cold.product_cost(FIELDS[:2], (8, 5), ids={"tags": 3})
    assert found.candidate_flops == 2 * 5 and found.candidate_bytes == 4 * 5
    assert found.request_flops == 2 * (3 + 2) * 8 + 2 * 8 * 5
    assert found.request_bytes == (3 * 4 + 4) + 3 * (2 * 4 + 4)


def test_costs_of_fields_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['price_'\] are no fields, which are \['user'"):
        cold.cost(FIELDS, (8,), per_request=("price_",))
    with pytest.raises(ValueError, match=r"\['x'\] are no fields"):
        cold.cost(FIELDS, (8,), ids={"x": 2})
    with pytest.raises(ValueError, match=r"dims=\(\): the vectors need a width"):
        cold.product_cost(FIELDS, ())


# --- the product of two vectors --------------------------------------------------------------------


def test_the_vector_product_crosses_nothing() -> None:
    """A logit is <u, v> + b, so that logits of users and items are a matrix of the vectors' rank."""
    model = VectorProduct((FIELDS[0],), (FIELDS[3],), (8, 2))
    user, item = (grid.reshape(-1).astype(np.int32) for grid in np.meshgrid([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]))
    batch = {"user": user, "item": item}
    variables = drawn(model, batch)
    logits = np.asarray(applied(model, variables, batch)).reshape(5, 5)
    assert np.linalg.matrix_rank(logits - variables["params"]["bias"], tol=1e-4) == 2


# --- what pre-ranking keeps of the ranker's best ------------------------------------------------


def test_pre_ranking_as_the_ranker_keeps_all_it_shows() -> None:
    scores = rng.normal(size=(4, 9))
    for keep, shown, share in ((5, 5, 1.0), (9, 3, 1.0), (2, 4, 0.5)):
        found = metrics.recall_of_ranker(scores, scores, keep=keep, shown=shown)
        np.testing.assert_allclose(found, share)
    assert (metrics.recall_of_ranker(-scores, scores, keep=3, shown=3) == 0).all()


def test_recall_of_the_ranker_is_an_intersection() -> None:
    pre, ranked = rng.normal(size=(2, 5, 12))
    found = jax.jit(lambda a, b: metrics.recall_of_ranker(a, b, keep=6, shown=4))(pre, ranked)
    for i in range(5):
        both = set(np.argsort(-pre[i])[:6]) & set(np.argsort(-ranked[i])[:4])
        assert float(found[i]) == pytest.approx(len(both) / 4)


def test_equal_scores_earn_pre_ranking_nothing() -> None:
    ranked = np.arange(8.0)
    found = metrics.recall_of_ranker(np.zeros((8,)), ranked, keep=6, shown=2)
    assert float(found) == 0.0
    assert float(metrics.recall_of_ranker(np.zeros((8,)), ranked, keep=7, shown=2)) == 0.5


@pytest.mark.parametrize("keep, shown", [(0, 1), (4, 1), (1, 0), (1, 4)])
def test_more_than_there_are_candidates_is_refused(keep: int, shown: int) -> None:
    with pytest.raises(ValueError, match=rf"keep={keep}, shown={shown}: must be in 1\.\.3"):
        metrics.recall_of_ranker(np.zeros((1, 3)), np.zeros((1, 3)), keep=keep, shown=shown)
