"""Products of features, and the models made of them: DCN-V2, DeepFM, PNN, DLRM; position bias: PAL."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.nn.layers.interaction import (
    CrossNetwork,
    CrossNetworkMix,
    CrossNetworkV1,
    KernelProducts,
    fm_second_order,
    inner_products,
    outer_product,
)
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.dcn_v2 import DCNv2
from jaxrec.nn.ranking.deepfm import DeepFM
from jaxrec.nn.ranking.dlrm import DLRM
from jaxrec.nn.ranking.pal import PAL, ShallowTower
from jaxrec.nn.ranking.pnn import PNN
from tests.nn.drawn import applied, drawn

rng = np.random.default_rng(7)
B, D = 3, 5
X = rng.normal(size=(B, D)).astype(np.float32)
FIELDS = (
    Categorical("user", 6, 2),
    Categorical("tags", 5, 2, average=False),
    Numeric("price", 2),
    Categorical("item", 7, 2),
)
BATCH = {
    "user": np.array([1, 5, 0], np.int32),
    "tags": np.array([[0, 1, 4], [0, 0, 0], [2, 2, 3]], np.int32),
    "price": np.array([0.5, -1.0, 2.0], np.float32),
    "item": np.array([6, 1, 2], np.int32),
}


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def relu(x: Any) -> np.ndarray:
    return np.maximum(x, 0.0)


def dense(params: Any, x: Any) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def mlp(params: Any, x: Any) -> np.ndarray:
    for i in range(len(params)):
        x = relu(dense(params[f"layer_{i}"], x))
    return x


def tower(params: Any, x: Any) -> np.ndarray:
    return dense(params["logit"], mlp(params.get("mlp", {}), x))[:, 0]


def pairs(vectors: np.ndarray) -> list[np.ndarray]:
    """Inner products [B] of all pairs i > j, row by row."""
    count = vectors.shape[1]
    return [np.sum(vectors[:, i] * vectors[:, j], axis=-1) for i in range(count) for j in range(i)]


# --- functions -------------------------------------------------------------------------------------


def test_second_order_is_the_sum_over_pairs() -> None:
    vectors = rng.normal(size=(B, 4, 3))
    close(fm_second_order(vectors), sum(pairs(vectors)))
    close(fm_second_order(vectors[:, :1]), np.zeros(B))
    close(fm_second_order(np.eye(4)), 0.0)  # orthogonal


def test_inner_products_stand_row_by_row() -> None:
    vectors = rng.normal(size=(B, 4, 3))
    products = inner_products(vectors)
    close(products, np.stack(pairs(vectors), axis=1))
    assert products.shape == (B, 4 * 3 // 2)
    close(inner_products(3.0 * vectors), 9.0 * products)
    close(inner_products(np.eye(4)), np.zeros(6))
    rows, columns = np.tril_indices(4)
    close(inner_products(vectors, itself=True), (vectors @ vectors.swapaxes(1, 2))[:, rows, columns])


def test_outer_product_is_the_sum_over_all_pairs() -> None:
    vectors = rng.normal(size=(B, 4, 3))
    close(outer_product(vectors), np.einsum("bim,bjn->bmn", vectors, vectors))


@pytest.mark.parametrize("form", ["mat", "vec", "num"])
def test_products_with_a_kernel_are_a_form_of_each_pair(form: Any) -> None:
    vectors = rng.normal(size=(B, 4, 3)).astype(np.float32)
    module = KernelProducts(form)
    kernel = drawn(module, vectors)["params"]["kernel"]
    expected = []
    for pair, (i, j) in enumerate(zip(*np.tril_indices(4, -1), strict=True)):
        full = kernel[:, pair] if form == "mat" else np.diag(np.broadcast_to(kernel[pair], 3))
        expected.append(np.einsum("ba,ac,bc->b", vectors[:, i], full, vectors[:, j]))
    close(applied(module, {"params": {"kernel": kernel}}, vectors), np.stack(expected, axis=1))
    if form != "mat":  # of ones it is the inner product
        close(applied(module, {"params": {"kernel": np.ones_like(kernel)}}, vectors), inner_products(vectors))


# --- cross networks --------------------------------------------------------------------------------


def crossed(module: nn.Module, params: Any, x: Any = X) -> np.ndarray:
    return np.asarray(applied(module, {"params": params}, jnp.asarray(x)))


def test_without_weights_crossing_is_the_identity_and_with_the_identity_a_square() -> None:
    zero = {"kernel": np.zeros((D, D)), "bias": np.zeros(D)}
    close(crossed(CrossNetwork(2), {"layer_0": zero, "layer_1": zero}), X)
    close(crossed(CrossNetwork(1), {"layer_0": {**zero, "kernel": np.eye(D)}}), X * X + X)
    close(crossed(CrossNetwork(0), {}), X)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", [CrossNetwork, CrossNetworkV1])
def test_a_layer_raises_the_degree_by_one(layers: int, kind: Any) -> None:
    """Along a ray t · x a polynomial of degree n has vanishing differences of order n + 1, not of order n."""
    module = kind(layers)
    params = drawn(module, X)["params"]
    steps = np.arange(layers + 3)[:, None] / 2
    values = crossed(module, params, (steps * X[0]).astype(np.float32)).astype(np.float64)
    scale = np.abs(values).max()
    assert np.abs(np.diff(values, n=layers + 2, axis=0)).max() < 1e-4 * scale
    assert np.abs(np.diff(values, n=layers + 1, axis=0)).max() > 1e-3 * scale


def test_low_rank_and_mixture_and_rank_one_are_the_full_one_where_they_should() -> None:
    module = CrossNetwork(2)
    full = drawn(module, X)["params"]
    expected = crossed(module, full)
    low = full | {f"reduce_{i}": {"kernel": np.eye(D)} for i in range(2)}
    close(crossed(CrossNetwork(2, D), low), expected)

    def identity(x: Any) -> Any:
        return x

    single = {"gate": np.zeros((1, D))}  # x V = x W, as W acts from the right in our kernels
    for i in range(2):
        single |= {f"v_{i}": full[f"layer_{i}"]["kernel"][None], f"bias_{i}": full[f"layer_{i}"]["bias"]}
        single |= {f"u_{i}": np.eye(D)[None], f"c_{i}": np.eye(D)[None]}
    mixture = CrossNetworkMix(2, 1, D, activation=identity, share_gates=True)
    close(crossed(mixture, single), expected)

    weights = rng.normal(size=(2, D))
    equal = {
        f"layer_{i}": {"kernel": np.tile(w[:, None], D), "bias": np.zeros(D)} for i, w in enumerate(weights)
    }
    first = {f"weight_{i}": w for i, w in enumerate(weights)} | {f"bias_{i}": np.zeros(D) for i in range(2)}
    close(crossed(module, equal), crossed(CrossNetworkV1(2), first))


def test_mixture_equals_slow_numpy() -> None:
    module: Any = CrossNetworkMix(2, 3, 2, gate=nn.sigmoid)
    params = drawn(module, X)["params"]
    x = X
    for i in range(2):
        gates = 1 / (1 + np.exp(-x @ params[f"gate_{i}"].T))
        total = np.zeros_like(x)
        for k in range(3):
            u, v, c = (params[f"{name}_{i}"][k] for name in "uvc")
            low = np.tanh(np.tanh(x @ v) @ c.T)
            total += gates[:, k, None] * X * (low @ u.T + params[f"bias_{i}"])
        x = total + x
    close(jax.jit(module.apply)({"params": params}, X), x)


@pytest.mark.parametrize("stacked", [(), (4,)])
@pytest.mark.parametrize("parallel", [(), (3, 2)])
def test_dcn_v2_stacked_parallel_both_and_neither(stacked: Any, parallel: Any) -> None:
    module = DCNv2(stacked_dims=stacked, parallel_dims=parallel)
    params = drawn(module, X)["params"]
    outputs = mlp(params.get("stacked", {}), crossed(CrossNetwork(), params["cross_network"]))
    if parallel:
        outputs = np.concatenate([outputs, mlp(params["parallel"], X)], axis=1)
    close(applied(module, {"params": params}, X), dense(params["logit"], outputs)[:, 0])


def test_wrong_sizes_are_refused() -> None:
    for wrong, message in [
        (lambda: CrossNetwork(rank=0), "rank=0"),
        (lambda: CrossNetworkV1(-1), "num_layers=-1: must be at least 0"),
        (lambda: CrossNetworkMix(num_experts=0), "num_experts=0"),
        (lambda: PNN(FIELDS, dims=()), "dims=()"),
        (lambda: PNN(FIELDS, kernels=("mat", "mat")), r"kernels=\('mat', 'mat'\): name each form once"),
        (lambda: KernelProducts("full"), "form='full': must be one of"),
        (
            lambda: DLRM(FIELDS[2:3], FIELDS[:1], bottom_dims=(4,)),
            r"field user: dim=2, but bottom_dims=\(4,\)",
        ),
        (lambda: DLRM((), FIELDS[:1]), r"numbers=\[\], bottom_dims=\(512"),
        (lambda: PAL(None, 0), "num_positions=0"),
        (lambda: ShallowTower(None, 2, 0), "num_devices=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()  # type: ignore[no-untyped-call]


# --- models of fields ------------------------------------------------------------------------------


def vectors_of(params: Any, tables: Any = FIELDS) -> np.ndarray:
    """[B, fields, 2], by hand."""
    found = []
    for field in tables:
        column = BATCH[field.name]
        if isinstance(field, Numeric):
            found.append(column[:, None] * params[f"{field.name}_kernel"])
        else:
            rows = params[f"{field.name}_embedding"][column]
            found.append(rows if column.ndim == 1 else (rows * (column != 0)[..., None]).sum(axis=1))
    return np.stack(found, axis=1)


def run(module: Any) -> tuple[Any, np.ndarray]:
    params = drawn(module, BATCH)["params"]
    return params, np.asarray(jax.jit(module.apply)({"params": params}, BATCH))


def test_deepfm_is_a_machine_of_first_and_second_order_and_an_mlp() -> None:
    params, logits = run(DeepFM(FIELDS, dims=(4,)))
    vectors = vectors_of(params["embedding"])
    linear = vectors_of(params["weights"]).sum(axis=(1, 2))
    close(logits, linear + sum(pairs(vectors)) + tower(params["tower"], vectors.reshape(B, -1)))


@pytest.mark.parametrize(
    ("inner", "outer", "factorised"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_pnn_reads_products(inner: bool, outer: bool, factorised: bool) -> None:
    params, logits = run(PNN(FIELDS, inner, outer, factorised, dims=(4, 3)))
    vectors = vectors_of(params["embedding"])
    signal = dense(params["linear"], vectors.reshape(B, -1))
    gram = np.einsum("bim,bjm->bij", vectors, vectors)
    if inner and factorised:  # the double sum over all i and j
        signal = signal + np.einsum("bij,in,jn->bn", gram, params["theta"], params["theta"])
    elif inner:
        signal = signal + np.stack(pairs(vectors), axis=1) @ params["inner"]["kernel"]
    if outer:
        products = np.einsum("bim,bjn->bmn", vectors, vectors).reshape(B, -1)
        signal = signal + products @ params["outer"]["kernel"]
    close(logits, tower(params["tower"], relu(signal)))


def test_pnn_reads_products_with_kernels() -> None:
    params, logits = run(PNN(FIELDS, factorised=False, kernels=("vec", "num"), dims=(4,)))
    vectors = vectors_of(params["embedding"])
    signal = dense(params["linear"], vectors.reshape(B, -1))
    signal = signal + np.stack(pairs(vectors), axis=1) @ params["inner"]["kernel"]
    for form in ("vec", "num"):
        scaled = params[f"{form}_products"]["kernel"]  # [pairs, 2] and [pairs, 1]
        products = [
            (vectors[:, i] * scaled[n] * vectors[:, j]).sum(axis=1)
            for n, (i, j) in enumerate(zip(*np.tril_indices(4, -1), strict=True))
        ]
        signal = signal + np.stack(products, axis=1) @ params[form]["kernel"]
    close(logits, tower(params["tower"], relu(signal)))


def test_dlrm_multiplies_numbers_and_categories() -> None:
    numbers = (Numeric("price"),)
    params, logits = run(DLRM(numbers, (FIELDS[0], FIELDS[1], FIELDS[3]), bottom_dims=(3, 2), top_dims=(4,)))
    bottom = mlp(params["bottom"], BATCH["price"][:, None])
    vectors = np.concatenate(
        [bottom[:, None], vectors_of(params["embedding"], (FIELDS[0], FIELDS[1], FIELDS[3]))], axis=1
    )
    top = mlp(params["top"], np.concatenate([bottom, np.stack(pairs(vectors), axis=1)], axis=1))
    close(logits, dense(params["logit"], top)[:, 0])


def test_dlrm_without_numbers_reads_the_products_alone() -> None:
    categories = (FIELDS[0], FIELDS[1], FIELDS[3])
    params, logits = run(DLRM((), categories, bottom_dims=(), top_dims=(4,)))
    assert set(params) == {"embedding", "top", "logit"}
    top = mlp(params["top"], np.stack(pairs(vectors_of(params["embedding"], categories)), axis=1))
    close(logits, dense(params["logit"], top)[:, 0])


def test_dlrm_may_read_the_vectors_themselves() -> None:
    categories = (FIELDS[0], FIELDS[3])
    params, logits = run(
        DLRM((Numeric("price"),), categories, bottom_dims=(2,), top_dims=(4,), products=False)
    )
    bottom = mlp(params["bottom"], BATCH["price"][:, None])
    vectors = vectors_of(params["embedding"], categories).reshape(B, -1)
    top = mlp(params["top"], np.concatenate([bottom, vectors], axis=1))
    close(logits, dense(params["logit"], top)[:, 0])


def test_dlrm_may_leave_the_norm_of_the_last_layer_of_the_bottom_out() -> None:
    module: Any = DLRM(
        (Numeric("price"),),
        (FIELDS[0], FIELDS[3]),
        bottom_dims=(3, 2),
        top_dims=(),
        bottom_mlp=Factory(MLP, batch_norm=True, activation=jnp.tanh, activate_last=False),
        bottom_output_activation=jnp.tanh,
    )
    variables = drawn(module, BATCH)
    assert set(variables["batch_stats"]["bottom"]) == {"norm_0"}
    whole = module.clone(bottom_mlp=Factory(MLP, batch_norm=True), bottom_output_activation=None)
    assert set(drawn(whole, BATCH)["batch_stats"]["bottom"]) == {"norm_0", "norm_1"}
    _, seen = applied(module, variables, BATCH, mutable=["intermediates"])
    params, stats = variables["params"]["bottom"], variables["batch_stats"]["bottom"]["norm_0"]
    hidden = dense(params["layer_0"], BATCH["price"][:, None])
    hidden = (hidden - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    hidden = np.tanh(hidden * params["norm_0"]["scale"] + params["norm_0"]["bias"])
    close(seen["intermediates"]["crossed"][0][:, :2], np.tanh(dense(params["layer_1"], hidden)))


# --- position bias ---------------------------------------------------------------------------------


class Logits(nn.Module):
    """A free logit for each item."""

    num_items: int

    @nn.compact
    def __call__(self, item: Any, *, train: bool = False) -> Any:
        return self.param("logits", nn.initializers.zeros, (self.num_items,))[item]


def sigmoid(x: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_pal_multiplies_probabilities_and_serves_without_a_position() -> None:
    module: Any = PAL(Logits(3), 4)
    item, position = np.array([0, 1, 2, 0]), np.array([1, 4, 2, 5])
    variables = drawn(module, item, position)
    outputs = applied(module, variables, item, position)
    ctr, seen, observed = (sigmoid(outputs[name]) for name in ("ctr", "seen", "observed"))
    close(observed[:3], (ctr * seen)[:3])
    assert (observed[:3] <= np.minimum(ctr, seen)[:3]).all()
    assert np.isnan(observed).tolist() == [False, False, False, True]  # position 5 of 4
    close(seen[:3], sigmoid(variables["params"]["seen_logits"][[0, 3, 1]]))
    served = applied(module, variables, item)
    assert served.keys() == {"ctr"}
    np.testing.assert_array_equal(served["ctr"], outputs["ctr"])
    sure: Any = PAL(Logits(3), 4, seen=50.0)
    params = {"seen_logits": np.full(4, 50.0), "base": variables["params"]["base"]}
    outputs = applied(sure, {"params": params}, item[:3], position[:3])
    close(outputs["observed"], outputs["ctr"])  # a plain model where all is seen


def test_pal_learns_the_curve_of_examination_up_to_a_constant() -> None:
    curve, attraction = np.array([0.9, 0.6, 0.4, 0.25]), np.array([0.1, 0.3, 0.5, 0.7])
    item, position = (x.reshape(-1) for x in np.meshgrid(np.arange(4), np.arange(1, 5)))
    label = curve[position - 1] * attraction[item]  # the expected click
    module: Any = PAL(Logits(4), 4)
    tx = optax.adam(0.05)

    def step(state: Any, _: Any) -> Any:
        params, opt = state
        loss = lambda p: losses.binary_cross_entropy(  # noqa: E731
            module.apply({"params": p}, item, position)["observed"], label
        )
        updates, opt = tx.update(jax.grad(loss)(params), opt)
        return (optax.apply_updates(params, updates), opt), None

    params = {"seen_logits": jnp.zeros(4), "base": {"logits": jnp.zeros(4)}}
    (params, _), _ = jax.jit(lambda s: jax.lax.scan(step, s, length=1500))((params, tx.init(params)))
    seen = sigmoid(params["seen_logits"])
    np.testing.assert_allclose(seen / seen[0], curve / curve[0], rtol=0.02)
    learned = sigmoid(params["base"]["logits"])
    np.testing.assert_allclose(learned / learned[0], attraction / attraction[0], rtol=0.02)


def test_a_shallow_tower_adds_a_weight_for_position_and_device() -> None:
    item = np.array([0, 1, 2, 0, 1, 1])
    position, device = np.array([1, 3, 0, 2, 4, 1]), np.array([0, 1, 1, 1, 0, 2])
    module: Any = ShallowTower(Logits(3), 3, num_devices=2, dropout=1.0)
    params = drawn(module, item, position, device)["params"]
    params["weights"][0] = 0.0
    outputs = applied(module, {"params": params}, item, position, device)
    weights = params["weights"][[1, 6, 0, 5], 0]
    ctr = params["base"]["logits"][item] + params["bias"]
    close(outputs["ctr"], ctr)
    close(outputs["observed"][:4], ctr[:4] + weights)
    assert np.isnan(outputs["observed"][4:]).all()  # position 4 of 3, device 2 of 2
    served = applied(module, {"params": params}, item)
    np.testing.assert_array_equal(served["ctr"], outputs["ctr"])
    trained = module.apply(
        {"params": params},
        item[:4],
        position[:4],
        device[:4],
        train=True,
        rngs={"dropout": jax.random.key(0)},
    )
    close(trained["observed"], ctr[:4])  # every position dropped
