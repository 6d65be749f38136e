"""RQ-VAE: codes are greedy and nearest, gradients go where they should, all levels reconstruct best."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.losses.quantisation import residual_quantisation
from jaxrec.nn.retrieval.rq_vae import RQVAE, quantise, straight_through

MODEL: Any = RQVAE(6, (8,), 4, levels=3, num_codes=5)
VECTORS = jnp.asarray(np.random.default_rng(0).normal(size=(20, 6)), jnp.float32)
TABLES = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 4)), jnp.float32)
LATENT = jnp.asarray(np.random.default_rng(2).normal(size=(20, 4)), jnp.float32)


@functools.cache
def variables() -> Any:
    return jax.jit(MODEL.init)(jax.random.key(0), VECTORS)


def terms(latent: Any, tables: Any) -> Any:
    levels = quantise(latent, tables)
    codebook, commitment = residual_quantisation(levels.residuals, levels.chosen, beta=0.25)
    return codebook.sum(), commitment.sum()


def test_codes_are_the_nearest_of_what_is_left() -> None:
    found, left = quantise(LATENT, TABLES), np.asarray(LATENT)
    for level, table in enumerate(np.asarray(TABLES)):
        np.testing.assert_allclose(found.residuals[level], left, atol=1e-5)
        nearest = ((left[:, None] - table) ** 2).sum(axis=2).argmin(axis=1)
        np.testing.assert_array_equal(found.codes[:, level], nearest)
        np.testing.assert_array_equal(found.chosen[level], table[nearest])
        left = left - table[nearest]


def test_losses_are_by_their_formulas() -> None:
    found = quantise(LATENT, TABLES)
    expected = ((np.asarray(found.residuals) - np.asarray(found.chosen)) ** 2).sum()
    codebook, commitment = terms(LATENT, TABLES)
    assert float(codebook) == pytest.approx(expected, rel=1e-5)
    assert float(commitment) == pytest.approx(0.25 * expected, rel=1e-5)


def test_commitment_moves_vectors_alone_and_the_codebook_term_codes_alone() -> None:
    of_codebook, of_commitment = (
        jax.grad(lambda latent, tables, n=n: terms(latent, tables)[n], argnums=(0, 1))(LATENT, TABLES)
        for n in (0, 1)
    )
    assert not np.any(of_codebook[0]) and np.any(of_codebook[1])
    assert np.any(of_commitment[0]) and not np.any(of_commitment[1])
    found = quantise(LATENT, TABLES)
    expected = 0.5 * np.asarray(found.residuals - found.chosen).sum(axis=0)  # 2 β (r - e) of each level
    np.testing.assert_allclose(of_commitment[0], expected, atol=1e-5)


def test_straight_through_is_the_quantised_vector_with_the_gradient_of_the_identity() -> None:
    quantised, weight = quantise(LATENT, TABLES).chosen.sum(axis=0), jnp.arange(4.0)
    np.testing.assert_allclose(straight_through(LATENT, quantised), quantised, atol=1e-6)
    gradient = jax.grad(lambda x: (straight_through(x, quantised) * weight).sum())(LATENT)
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(weight, (20, 4)))


def test_reconstruction_trains_the_encoder_and_no_codebook() -> None:
    def error(params: Any) -> Any:
        rebuilt: Any = MODEL.apply({"params": params}, VECTORS)
        return jnp.sum((rebuilt.vectors - VECTORS) ** 2)

    found = jax.jit(jax.grad(error))(variables()["params"])
    assert not np.any(found["codebooks"])
    for part in ("encoder", "decoder"):
        assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(found[part]))


def test_methods_agree_with_each_other() -> None:
    found: Any = MODEL.apply(variables(), VECTORS)
    levels: Any = MODEL.apply(variables(), VECTORS, method="decode_levels")
    assert levels.shape == (4, 20, 6)
    np.testing.assert_allclose(levels[-1], found.vectors, atol=1e-5)
    codes = MODEL.apply(variables(), VECTORS, method="codes")
    np.testing.assert_array_equal(codes, found.levels.codes)
    latent = MODEL.apply(variables(), VECTORS, method="encode")
    np.testing.assert_array_equal(found.levels.residuals[0], latent)


@pytest.mark.parametrize("field", ["input_dim", "latent_dim", "levels", "num_codes"])
def test_sizes_below_one_are_refused(field: str) -> None:
    sizes: dict[str, Any] = {"input_dim": 6, field: 0}
    with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
        RQVAE(**sizes).init(jax.random.key(0), VECTORS)
