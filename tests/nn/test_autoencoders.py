"""Auto-encoders of rows: what holds for each of them, and the formulas of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.dropout import counter_bits, threefry_bits
from jaxrec.nn.retrieval.macridvae import MacridVAE
from jaxrec.nn.retrieval.multivae import MultDAE, MultVAE, unit_rows
from tests.nn.drawn import applied, drawn

NUM_ITEMS, V = 9, 10
KEY = jax.random.key(3)
X = np.zeros((4, V), np.float32)
X[0, [1, 4, 9]] = X[1, [2]] = X[3, [3, 4, 5, 6]] = 1.0  # the third user has no item

MODELS: dict[str, Callable[..., Any]] = {
    "multvae": lambda **fields: MultVAE(NUM_ITEMS, hidden_dims=(6,), latent_dim=3, **fields),
    "multdae": lambda **fields: MultDAE(NUM_ITEMS, hidden_dims=(6,), latent_dim=3, **fields),
    "macridvae": lambda **fields: MacridVAE(NUM_ITEMS, num_concepts=3, dim=4, hidden_dims=(6,), **fields),
}
every_model = pytest.mark.parametrize("name", MODELS)


def trained(model: Any, variables: Any, x: Any, rows: Any = None) -> Any:
    return jax.jit(lambda v, x: model.apply(v, x, train=True, rows=rows, rngs={"dropout": KEY}))(variables, x)


def close(ours: Any, theirs: Any, rtol: float = 2e-5) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


# --- every model ---


@every_model
def test_scores_of_all_items_and_rows_that_do_not_see_each_other(name: str) -> None:
    model = MODELS[name]()
    variables = drawn(model, X, train=False)
    scores, kl = applied(model, variables, X, train=False)
    assert scores.shape == (4, V) and np.isfinite(scores).all()
    order = np.array([3, 2, 1, 0])
    close(applied(model, variables, X[order], train=False), jax.tree.map(lambda a: a[order], (scores, kl)))
    assert not np.allclose(scores[0], scores[1], atol=1e-3)


@every_model
def test_the_padding_column_is_no_item(name: str) -> None:
    """Its weights in the encoder meet a 0 whatever they are."""
    model = MODELS[name]()
    variables = drawn(model, X, train=False)
    kernels = [
        leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.shape[:1] == (V,) and leaf.ndim > 1
    ]
    scores = applied(model, variables, X, train=False).scores
    for kernel in kernels:
        kernel[0] += 5.0
    close(applied(model, variables, X, train=False).scores[:, 1:], scores[:, 1:])
    assert kernels


@every_model
def test_noise_belongs_to_the_number_of_a_row(name: str) -> None:
    """The same in another order and in another part of the batch; without noise nothing is random."""
    model = MODELS[name](bits=counter_bits)
    variables = drawn(model, X, train=False)
    rows = np.arange(4, dtype=np.int32)
    whole = trained(model, variables, X, rows)
    half = trained(model, variables, X[2:], rows[2:])
    close(half, jax.tree.map(lambda a: a[2:], whole))
    served = applied(model, variables, X, train=False)
    assert not np.allclose(whole.scores[0], served.scores[0], atol=1e-3)
    close(applied(model, variables, X, train=False), served)


@every_model
def test_gradients_are_finite_and_reach_all(name: str) -> None:
    model = MODELS[name](dropout=0.2)
    variables = drawn(model, X, train=False)

    def total(variables: Any) -> Any:
        scores, kl = model.apply(variables, X, train=True, rngs={"dropout": KEY})
        return jnp.sum(jnp.sin(scores)) + (0.0 if kl is None else jnp.sum(jnp.sin(kl)))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(variables)):
        assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)


@every_model
def test_maps_over_seeds(name: str) -> None:
    model = MODELS[name]()
    each = [drawn(model, X, train=False, seed=seed) for seed in (0, 1)]
    both = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    mapped = jax.jit(jax.vmap(lambda v: model.apply(v, X, train=False)))(both)
    for i in range(2):
        found = jax.tree.map(lambda a, i=i: a[i], mapped)
        close(found, applied(model, each[i], X, train=False))


@every_model
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_items=0: must be at least 1"):
        MODELS[name]().clone(num_items=0).init(KEY, X, train=False)


# --- Mult-VAE and Mult-DAE ---


def layers(params: Any, h: np.ndarray) -> np.ndarray:
    """Linear, tanh, linear."""
    first, last = params["layer_0"], params["layer_1"]
    return np.tanh(h @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]


def test_mult_vae_equals_the_formulas() -> None:
    """z = μ + ε σ, KL = ½ Σ (μ² + σ² - 1 - ln σ²), of x / √(number of items)."""
    model = MODELS["multvae"](dropout=0.0)
    variables = drawn(model, X, train=False)
    h = X / np.sqrt(np.maximum(X.sum(-1, keepdims=True), 1.0))
    mean, log_variance = np.split(layers(variables["params"]["encoder"], h), 2, axis=-1)
    noise = np.random.default_rng(1).normal(size=mean.shape).astype(np.float32)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(-1)
    served = applied(model, variables, X, train=False)
    close(served, (layers(variables["params"]["decoder"], mean), kl))
    drawn_scores = layers(variables["params"]["decoder"], mean + noise * np.exp(log_variance / 2))
    close(applied(model, variables, X, train=True, noise=noise).scores, drawn_scores)


def test_mult_vae_draws_standard_normal_noise_times_the_factor() -> None:
    """Codes of 4,000 equal rows: mean μ, deviation noise_std · σ."""
    for noise_std in (1.0, 0.01):
        model = MultVAE(NUM_ITEMS, hidden_dims=(), latent_dim=1, dropout=0.0, noise_std=noise_std)
        x = np.broadcast_to(X[:1], (4000, V))
        variables = drawn(model, X, train=False)
        decoder = variables["params"]["decoder"]["layer_0"]
        decoder["kernel"][:] = 1.0
        decoder["bias"][:] = 0.0  # so that scores are the code
        mean, log_variance = applied(model, variables, X[:1], train=False, method="encode")
        for rows in (None, np.arange(4000)):
            code = (trained(model, variables, x, rows).scores[:, 1] - mean[0, 0]) / np.exp(log_variance / 2)
            np.testing.assert_allclose(np.std(code), noise_std, rtol=0.05)
            np.testing.assert_allclose(np.mean(code), 0.0, atol=0.06 * noise_std)


def test_mult_dae_equals_the_formula() -> None:
    """tanh behind every layer but the last, the code's too."""
    model = MultDAE(NUM_ITEMS, latent_dim=3)
    variables = drawn(model, X, train=False)
    h = X / np.sqrt(np.maximum(X.sum(-1, keepdims=True), 1.0))
    found = applied(model, variables, X, train=False)
    close(found.scores, layers(variables["params"]["layers"], h))
    assert found.kl is None


def test_rows_have_length_one_and_an_empty_one_stays() -> None:
    np.testing.assert_allclose(np.linalg.norm(unit_rows(jnp.asarray(X)), axis=-1), [1, 1, 0, 1], rtol=1e-6)
    gradient = jax.grad(lambda x: unit_rows(x)[:, 1].sum())(jnp.asarray(X))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("bits", [threefry_bits, counter_bits])
def test_dropout_is_of_entries_after_the_row_is_normalised(bits: Any) -> None:
    """At rate 0.5 what remains of a row of n items is 2/√n; the code of a row without any is that of bias."""
    model = MultDAE(NUM_ITEMS, latent_dim=V, dropout=0.5, bits=bits)
    variables = drawn(model, X, train=False)
    first, last = (variables["params"]["layers"][f"layer_{i}"] for i in (0, 1))
    first["kernel"][:], first["bias"][:] = 1e-3 * np.eye(V), 0.0
    last["kernel"][:], last["bias"][:] = 1e3 * np.eye(V), 0.0  # so that scores are the input
    noisy = np.asarray(trained(model, variables, np.repeat(X, 50, axis=0)).scores)
    present = np.repeat(X, 50, axis=0) > 0
    each = (noisy * np.repeat(np.sqrt(np.maximum(X.sum(-1), 1)), 50)[:, None])[present]
    assert set(np.round(each, 3)) == {0.0, 2.0} and 0.4 < (each > 0).mean() < 0.6
    assert not noisy[~present].any()


# --- MacridVAE ---


def mixture(params: Any, assignment: np.ndarray, code: np.ndarray, temperature: float) -> np.ndarray:
    """log Σ_k c_ik exp(cos(z_k, h_i) / τ), user by user and item by item, in float64."""
    items = np.asarray(params["items"], np.float64)
    found = np.zeros((len(code), len(items)))
    for user, codes in enumerate(code.astype(np.float64)):
        for i, h in enumerate(items):
            cosine = codes @ h / np.linalg.norm(codes, axis=-1) / np.linalg.norm(h)
            found[user, i] = np.log(np.sum(assignment[i] * np.exp(cosine / temperature)))
    return found


def macridvae(**fields: Any) -> tuple[MacridVAE, Any]:
    """Without dropout, so that only the concepts are random, and its weights."""
    model = MODELS["macridvae"](dropout=0.0, temperature=0.5, **fields)
    return model, drawn(model, X, train=False)


def test_macridvae_equals_the_formulas() -> None:
    model, variables = macridvae(gumbel=False, prior_std=0.3)
    params = variables["params"]
    unit = [np.asarray(unit_rows(jnp.asarray(params[name]))) for name in ("items", "concepts")]
    weight = np.exp(unit[0] @ unit[1].T / 0.5)
    assignment = weight / weight.sum(-1, keepdims=True)
    parts = X[:, None] * assignment.T
    parts = parts / np.maximum(np.linalg.norm(parts, axis=-1, keepdims=True), 1e-6)
    mean, log_variance = np.split(layers(params["encoder"], parts), 2, axis=-1)
    mean = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    noise = np.random.default_rng(1).normal(size=mean.shape).astype(np.float32)
    scores, kl = applied(model, variables, X, train=False)
    np.testing.assert_allclose(scores, mixture(params, assignment, mean, 0.5), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(kl, 0.5 * (np.exp(log_variance) - 1 - log_variance).sum((1, 2)), rtol=1e-4)
    expected = mixture(params, assignment, mean + noise * np.exp(log_variance / 2), 0.5)
    np.testing.assert_allclose(
        applied(model, variables, X, train=True, noise=noise).scores, expected, rtol=1e-4, atol=1e-4
    )
    draws = [trained(model.clone(prior_std=s), variables, X, np.arange(4)).scores for s in (0.0, 0.3)]
    close(draws[0], scores)
    assert not np.allclose(draws[1], scores, atol=1e-3)


def test_concepts_in_another_order_and_vectors_of_other_lengths_change_nothing() -> None:
    model, variables = macridvae()
    params = variables["params"]
    made = applied(model, variables, X, train=False)
    others = [{"concepts": params["concepts"][[2, 0, 1]]}, {"concepts": 3.0 * params["concepts"]}]
    others.append({"items": params["items"] * np.linspace(0.5, 3.0, V, dtype=np.float32)[:, None]})
    for other in others:
        close(applied(model, {"params": {**params, **other}}, X, train=False), made, rtol=1e-4)


def test_one_concept_has_all_items_and_the_divergence_does_not_see_means() -> None:
    model = MacridVAE(NUM_ITEMS, num_concepts=1, dim=4, hidden_dims=(), dropout=0.0)
    variables = drawn(model, X, train=False)
    assert not applied(model, variables, train=False, method="assignment").any()  # log 1
    scored: Any = model.apply
    gradient = jax.grad(lambda v: scored(v, X, train=False).kl.sum())(variables)["params"]
    assert not np.asarray(gradient["encoder"]["layer_0"]["bias"][:4]).any()
    assert np.asarray(gradient["encoder"]["layer_0"]["bias"][4:]).all()


def test_a_row_normalised_before_it_is_split_is_an_option() -> None:
    """With one concept, which has every item, the two are one."""
    model, variables = macridvae()
    first, second = (
        applied(model.clone(normalise=how), variables, X, train=False).scores
        for how in ("concept", "history")
    )
    assert not np.allclose(first[0], second[0], atol=1e-3)
    alone = MacridVAE(NUM_ITEMS, num_concepts=1, dim=4, hidden_dims=())
    variables = drawn(alone, X, train=False)
    close(*(applied(alone.clone(normalise=how), variables, X, train=False) for how in ("concept", "history")))


def test_training_draws_concepts_that_serving_averages() -> None:
    """P(argmax of the draw = k) is the probability of concept k: the Gumbel trick."""
    model, variables = macridvae(gumbel=True)
    expected = np.exp(applied(model, variables, train=False, method="assignment"))
    keys = jax.random.split(KEY, 3000)
    draw = jax.jit(
        jax.vmap(lambda key: model.apply(variables, train=True, method="assignment", rngs={"dropout": key}))
    )(keys)
    np.testing.assert_allclose(np.exp(draw).sum(-1), 1.0, rtol=1e-5)
    share = np.mean(np.argmax(draw, -1)[..., None] == np.arange(3), axis=0)
    np.testing.assert_allclose(share, expected, atol=0.04)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"normalise": "row"}, "normalise='row'"),
        ({"num_concepts": 0}, "num_c"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS["macridvae"]().clone(**change).init(KEY, X, train=False)
