"""Models that read features in the light of a domain (STAR), a scene (EPNet) or a user's state (POSO)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical, Conditioned, FeatureEmbedding
from jaxrec.nn.layers.personal_gate import PersonalGate
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.ranking.epnet import EPNet
from jaxrec.nn.ranking.poso import PersonalAttention, PersonalMLP, PersonalMMoE
from jaxrec.nn.ranking.star import STAR, Domain, PartitionedNorm, StarDense, premultiplied
from tests.nn.drawn import drawn

rng = np.random.default_rng(3)
X = rng.normal(size=(6, 4)).astype(np.float32)
CODE = rng.normal(size=(6, 2)).astype(np.float32)
DOMAIN = np.array([2, 0, 2, 0, 0, 2], np.int32)  # domain 1 of three is absent
STAR_SMALL = STAR(3, (5,), (4,), domain_dim=2)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def dense(params: Any, x: np.ndarray) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


# --- STAR ------------------------------------------------------------------------------------------


def star_by_hand(variables: Any, x: np.ndarray, domain: np.ndarray, moments: Any) -> np.ndarray:
    """Row by row, with a domain's merged weights; `moments` gives mean and variance for a domain."""
    params, logits = variables["params"], []
    for row, d in zip(x, domain, strict=True):
        norm, (mean, var) = params["norm"], moments(d)
        hidden = (row - mean) / np.sqrt(var + 1e-6) * norm["shared_scale"] * norm["scale"][d]
        hidden = hidden + norm["shared_bias"] + norm["bias"][d]
        for i in range(2):
            layer = params[f"layer_{i}"]
            hidden = hidden @ (layer["shared_kernel"] * layer["kernel"][d])
            hidden = hidden + layer["shared_bias"] + layer["bias"][d]
            hidden = relu(hidden) if i == 0 else hidden
        auxiliary = np.concatenate([params["domain_embedding"]["embedding"][d], row])
        auxiliary = dense(
            params["auxiliary"]["logit"], relu(dense(params["auxiliary"]["mlp"]["layer_0"], auxiliary))
        )
        logits.append(hidden[0] + auxiliary[0])
    return np.stack(logits)


serve = jax.jit(STAR_SMALL.apply)


@pytest.fixture(scope="module")
def star() -> Any:
    return drawn(STAR_SMALL, X, DOMAIN)


def of_batch(d: int) -> tuple[np.ndarray, np.ndarray]:
    return X[d == DOMAIN].mean(axis=0), X[d == DOMAIN].var(axis=0)


def test_star_equals_slow_numpy_in_evaluation(star: Any) -> None:
    running = star["batch_stats"]["norm"]
    domain = np.array([0, 1, 2, 0, 1, 2], np.int32)
    expected = star_by_hand(star, X, domain, lambda d: (running["mean"][d], running["var"][d]))
    close(serve(star, X, domain), expected)


@jax.jit
def step(variables: Any, x: Any, domain: Any) -> Any:
    """Logits in training, gradients of the sum of their squares, running statistics after the step."""

    def total(params: Any) -> Any:
        logits, updates = STAR_SMALL.apply(
            {**variables, "params": params}, x, domain, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), (logits, updates["batch_stats"]["norm"])

    grads, (logits, statistics) = jax.grad(total, has_aux=True)(variables["params"])
    return logits, grads, statistics


@pytest.fixture(scope="module")
def trained(star: Any) -> Any:
    return jax.tree.map(np.asarray, step(star, X, DOMAIN))


def test_star_normalises_by_the_rows_of_the_domain_in_training(star: Any, trained: Any) -> None:
    close(trained[0], star_by_hand(star, X, DOMAIN, of_batch))


def test_running_statistics_move_for_domains_of_the_batch_only(star: Any, trained: Any) -> None:
    before, after = star["batch_stats"]["norm"], trained[2]
    for name, index in (("mean", 0), ("var", 1)):
        np.testing.assert_array_equal(after[name][1], before[name][1])
        for d in (0, 2):
            count = int(np.count_nonzero(np.equal(DOMAIN, d)))
            unbiased = count / (count - 1) if name == "var" else 1.0
            close(after[name][d], 0.9 * before[name][d] + 0.1 * of_batch(d)[index] * unbiased)


def test_shared_weights_hear_from_all_rows_and_own_ones_from_their_domain(trained: Any) -> None:
    grads = trained[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    for node in (grads["layer_0"], grads["layer_1"], grads["norm"]):
        for name, leaf in node.items():
            if name.startswith("shared"):
                assert np.abs(leaf).max() > 0
            else:
                assert (np.abs(leaf).reshape(3, -1).max(axis=1) > 0).tolist() == [True, False, True]
    assert (np.abs(grads["domain_embedding"]["embedding"]).max(axis=1) > 0).tolist() == [True, False, True]


def test_rows_of_another_domain_change_nothing_in_training(star: Any, trained: Any) -> None:
    alone = DOMAIN == 0
    logits, _, _ = step(star, np.where(alone[:, None], X, 2.0 - X), DOMAIN)
    close(np.asarray(logits)[alone], trained[0][alone])
    assert not np.allclose(np.asarray(logits)[~alone], trained[0][~alone])


def test_domains_may_change_places_with_their_parameters(star: Any) -> None:
    order = np.array([2, 0, 1])  # domain i becomes order[i]

    def move(path: Any, leaf: np.ndarray) -> np.ndarray:
        own = path[-1].key in ("kernel", "bias", "scale", "mean", "var", "embedding")
        if not own or any(part.key == "auxiliary" for part in path):
            return leaf
        moved = np.empty_like(leaf)
        moved[order] = leaf
        return moved

    moved = jax.tree_util.tree_map_with_path(move, star)
    close(serve(moved, X, order[DOMAIN].astype(np.int32)), serve(star, X, DOMAIN))


def test_premultiplied_weights_serve_the_same_logits(star: Any) -> None:
    served = {**star, "params": premultiplied(star["params"])}
    assert (served["params"]["layer_0"]["shared_kernel"] == 1.0).all()
    close(serve(served, X, DOMAIN), serve(star, X, DOMAIN))


def test_at_first_all_domains_are_the_shared_network(star: Any) -> None:
    x = jnp.zeros((1, 3, 4))
    initial = jax.jit(StarDense(3, 2).init)(jax.random.key(0), x)["params"]
    assert (initial["kernel"] == 1.0).all() and (initial["bias"] == 0.0).all()
    assert len(np.unique(initial["shared_kernel"])) == 8
    norm = jax.jit(lambda key: PartitionedNorm(3).init(key, X, DOMAIN, train=True))(jax.random.key(0))
    for collection, name, value in (
        ("params", "scale", 1.0),
        ("params", "shared_scale", 1.0),
        ("params", "bias", 0.0),
        ("params", "shared_bias", 0.0),
        ("batch_stats", "mean", 0.0),
        ("batch_stats", "var", 1.0),
    ):
        assert (norm[collection][name] == value).all()


def test_a_domain_that_does_not_exist_gives_nan(star: Any) -> None:
    logits = np.asarray(serve(star, X, np.array([3, -1, 1, 0, 2, -3], np.int32)))
    assert np.isnan(logits).tolist() == [True, True, False, False, False, True]


def test_statistics_of_the_whole_batch_forget_the_domains() -> None:
    norm = PartitionedNorm(3, domain_statistics=False)
    variables = drawn(norm, X, DOMAIN, train=False)
    assert set(variables) == {"params"}
    params = variables["params"]
    centred = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-6)
    expected = [centred * params["shared_scale"] * params["scale"][d] for d in range(3)]
    expected = [e + params["shared_bias"] + params["bias"][d] for d, e in enumerate(expected)]
    for train in (False, True):
        run = jax.jit(lambda v, x, train=train: norm.apply(v, x, DOMAIN, train=train))
        close(run(variables, X), np.stack(expected, axis=1))


def test_one_row_of_a_domain_is_its_own_mean_and_gradients_are_finite(star: Any) -> None:
    domain = np.array([0, 1, 2, 2, 2, 2], np.int32)
    logits, grads, statistics = step(star, X, domain)
    close(logits[:2], star_by_hand(star, X[:2], domain[:2], lambda d: (X[d], 0.0)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, statistics)))


def test_running_variances_of_a_rare_domain_do_not_shrink() -> None:
    norm, own = PartitionedNorm(3), np.random.default_rng(5)
    domain = np.array([0, 1, 1, *[2] * 20], np.int32)  # alone, in pairs, in company
    variables = norm.init(jax.random.key(0), np.ones((23, 4), np.float32), domain, train=False)

    @jax.jit
    def step(variables: Any, x: Any) -> Any:
        return {**variables, **norm.apply(variables, x, domain, train=True, mutable=["batch_stats"])[1]}

    seen = []
    for _ in range(400):
        variables = step(variables, own.normal(3.0, 2.0, (23, 4)).astype(np.float32))
        seen.append(variables["batch_stats"])
    mean, var = (np.mean([stats[name] for stats in seen[100:]], axis=(0, 2)) for name in ("mean", "var"))
    np.testing.assert_allclose(mean, [3.0] * 3, atol=0.2)
    np.testing.assert_allclose(var[1:], [4.0] * 2, rtol=0.15)
    assert var[0] == 1.0  # one row says nothing of a variance: it stays at its start


def test_devices_share_the_statistics_of_a_domain() -> None:
    norm = PartitionedNorm(3, axis_name="d")
    variables = drawn(norm, X, DOMAIN, train=False)

    options: dict[str, Any] = {"train": True, "mutable": ["batch_stats"]}

    @jax.jit
    def both(variables: Any) -> Any:
        parts = X.reshape(2, 3, 4), DOMAIN.reshape(2, 3)
        shared = jax.vmap(lambda *p: norm.apply(variables, *p, **options), axis_name="d")(*parts)
        return shared, norm.clone(axis_name=None).apply(variables, X, DOMAIN, **options)

    (halves, updates), (whole, expected) = both(variables)
    close(halves.reshape(6, 3, 4), whole)
    for name in ("mean", "var"):
        close(updates["batch_stats"][name], np.stack([expected["batch_stats"][name]] * 2))


def test_a_column_names_the_domain() -> None:
    model = Conditioned(
        FeatureEmbedding((Categorical("item", 9, 4),)), Domain("country", first=3), STAR_SMALL
    )
    batch = {"item": np.arange(6, dtype=np.int32), "country": DOMAIN + 3}
    variables = drawn(model, batch)
    parts = {name: variables[name]["model"] for name in ("params", "batch_stats")}
    vectors = variables["params"]["embedding"]["item_embedding"][batch["item"]]
    close(jax.jit(model.apply)(variables, batch), serve(parts, vectors, DOMAIN))
    with pytest.raises(ValueError, match="column country: not in the batch, which has item"):
        model.apply(variables, {"item": batch["item"]})


# --- gates -----------------------------------------------------------------------------------------


def gate(params: Any, code: np.ndarray, factor: float = 2.0) -> np.ndarray:
    return factor * sigmoid(dense(params["gate"], relu(dense(params["hidden"], code))))


def neutral(params: Any) -> Any:
    """The same with gates of 1: C · σ(0) with C = 2."""

    def leaf(path: Any, value: np.ndarray) -> np.ndarray:
        of_gate = (
            len(path) > 1 and path[-2].key == "gate" and path[0].key.endswith(("gate", "gate_0", "gate_1"))
        )
        return np.zeros_like(value) if of_gate else value

    return jax.tree_util.tree_map_with_path(leaf, params)


def test_a_gate_stays_between_zero_and_its_factor() -> None:
    model = PersonalGate(3, factor=1.5)
    variables = drawn(model, CODE)
    gates = np.asarray(jax.jit(model.apply)(variables, 30.0 * CODE))
    close(gates, gate(variables["params"], 30.0 * CODE, 1.5))
    assert ((gates >= 0.0) & (gates <= 1.5)).all()


# --- POSO ------------------------------------------------------------------------------------------

POSO_MLP = PersonalMLP((5, 3), gate_dim=4)
POSO_MMOE = PersonalMMoE(2, num_experts=3, expert_dims=(5,), tower_dims=(4,))
POSO_MHA = PersonalAttention(4, num_heads=2, num_values=3)
KEYS = rng.normal(size=(6, 3, 5)).astype(np.float32)
QUERIES = rng.normal(size=(6, 2, 4)).astype(np.float32)
VISIBLE = rng.integers(0, 2, size=(6, 2, 3)).astype(bool)
VISIBLE[0, 0], VISIBLE[1] = False, True  # a query that may look at nothing
run_mlp = jax.jit(lambda *inputs: POSO_MLP.apply(*inputs, mutable=["intermediates"]))
run_mmoe = jax.jit(lambda *inputs: POSO_MMOE.apply(*inputs, mutable=["intermediates"]))


def test_poso_mlp_is_a_gated_sum_of_units() -> None:
    """C Σ_i g_i f_i(x), where f_i is unit i of the layer and 0 elsewhere."""
    params = drawn(POSO_MLP, X, CODE)["params"]
    x = X
    for i in range(2):
        units = relu(dense(params[f"layer_{i}"], x))
        gates = gate(params[f"gate_{i}"], CODE, 1.0)
        parts = units[:, :, None] * np.eye(units.shape[1])  # [B, N, d]
        x = 2.0 * np.einsum("bn,bnd->bd", gates, parts)
    close(run_mlp({"params": params}, X, CODE)[0], x)


def test_neutral_gates_leave_the_mlp_alone() -> None:
    params = neutral(drawn(POSO_MLP, X, CODE)["params"])
    expected = relu(dense(params["layer_1"], relu(dense(params["layer_0"], X))))
    close(run_mlp({"params": params}, X, CODE)[0], expected)


def test_gates_see_the_code_and_nothing_else() -> None:
    variables = drawn(POSO_MLP, X, CODE)

    def gates(x: np.ndarray, code: np.ndarray) -> Any:
        return run_mlp(variables, x, code)[1]["intermediates"]["gates"]

    for ours, same, other in zip(gates(X, CODE), gates(-X, CODE), gates(X, CODE[::-1]), strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.allclose(ours, other)


def test_poso_mmoe_with_neutral_gates_is_mmoe() -> None:
    params = neutral(drawn(POSO_MMOE, X, CODE)["params"])
    host = {name: params[name] for name in ("experts", "gate", "towers")}
    personal = params["personal_gate"]
    assert (personal["gate"]["kernel"] == 0.0).all() and (host["gate"]["logits"]["kernel"] != 0.0).all()
    expected = jax.jit(MMoE(2, num_experts=3, expert_dims=(5,), tower_dims=(4,)).apply)({"params": host}, X)
    close(run_mmoe({"params": params}, X, CODE)[0], expected)


def test_poso_mmoe_scales_the_softmax_without_scaling_it_back() -> None:
    variables = drawn(POSO_MMOE, X, CODE)
    _, state = run_mmoe(variables, X, CODE)
    logits = np.einsum("bf,tfe->bte", X, variables["params"]["gate"]["logits"]["kernel"])
    weights = np.exp(logits + variables["params"]["gate"]["logits"]["bias"])
    weights = weights / weights.sum(axis=-1, keepdims=True)
    expected = gate(variables["params"]["personal_gate"], CODE)[:, None] * weights  # the same for both tasks
    close(state["intermediates"]["gates"][0], expected)
    assert not np.allclose(expected.sum(axis=-1), 1.0)


def test_poso_attention_equals_slow_numpy() -> None:
    params = drawn(POSO_MHA, QUERIES, KEYS, CODE, VISIBLE)["params"]
    query = dense(params["query"], QUERIES)
    key = gate(params["key_gate"], CODE, 1.0)[:, None] * dense(params["key"], KEYS)
    mixed = np.einsum("bn,fnd->bfd", gate(params["value_gate"], CODE), params["values"]["kernel"])
    value = np.einsum("bkf,bfd->bkd", KEYS, mixed)
    expected = np.zeros((6, 2, 4))
    for b, q in np.ndindex(6, 2):
        seen = np.flatnonzero(VISIBLE[b, q])
        for head in (slice(0, 2), slice(2, 4)):
            if len(seen):
                weights = np.exp(key[b, seen, head] @ query[b, q, head] / np.sqrt(2))
                expected[b, q, head] = weights @ value[b, seen, head] / weights.sum()
    ours = jax.jit(POSO_MHA.apply)({"params": params}, QUERIES, KEYS, CODE, VISIBLE)
    close(ours, expected)
    assert (np.asarray(ours)[0, 0] == 0.0).all()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    for heads in (3, 0):
        with pytest.raises(ValueError, match=f"num_heads={heads}: must be at least 1 and divide dim=4"):
            PersonalAttention(4, num_heads=heads).init(jax.random.key(0), QUERIES, KEYS, CODE, VISIBLE)


def test_star_without_a_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="num_domains=0: must be at least 1"):
        STAR(0)


def test_the_gates_are_all_that_poso_adds() -> None:
    params = drawn(POSO_MLP, X, CODE)["params"]
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    gates = sum((2 * 4 + 4) + (4 * dim + dim) for dim in (5, 3))
    assert size(params) == (4 * 5 + 5) + (5 * 3 + 3) + gates


# --- EPNet -----------------------------------------------------------------------------------------


def test_epnet_by_its_formula_and_no_gradient_through_the_gate() -> None:
    model: Any = EPNet((), gate_dim=3)
    params = drawn(model, X, CODE)["params"]
    gates = gate(params["gate"], np.concatenate([CODE, X], axis=1))
    kernel, bias = params["tower"]["logit"]["kernel"][:, 0], params["tower"]["logit"]["bias"]
    close(jax.jit(model.apply)({"params": params}, X, CODE), (gates * X) @ kernel + bias)
    grad = jax.jit(jax.grad(lambda x: model.apply({"params": params}, x, CODE).sum()))(X)
    close(grad, gates * kernel)


def test_epnet_has_an_mlp_behind_the_gate() -> None:
    model = EPNet((3,))
    params = drawn(model, X, CODE)["params"]
    gates = gate(params["gate"], np.concatenate([CODE, X], axis=1))
    hidden = relu(dense(params["tower"]["mlp"]["layer_0"], gates * X))
    close(jax.jit(model.apply)({"params": params}, X, CODE), dense(params["tower"]["logit"], hidden)[:, 0])
