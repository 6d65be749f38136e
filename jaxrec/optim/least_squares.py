"""Solvers of alternating least squares: one row of a table from the rows of the other that it met.

A row w minimises Σ_l a_l (h_l · w)² - 2 t_l (h_l · w) + α₀ Σ_i (h_i · w)² + λ |w - m|², where l counts the L
pairs of the row and i all rows of the other table H; a is a pair's weight and t its response; m, the mean
of the row's prior, is mostly 0. The second sum is α₀ wᵀ G w with the Gramian G = Hᵀ H. Each solver works in
the basis of eigenvectors of G, where α₀ G + λ is a diagonal matrix P. One rotation of a table, a single
product, saves every row its product with G; and a row with fewer pairs than coordinates is solved in the
space of its pairs (Woodbury's identity), an L × L system in place of a D × D one, with the same solution.

Shape names: B rows, L pairs of a row, D coordinates, S coordinates of a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.types import Array


class Basis(NamedTuple):
    """Of a half-step. rotation: eigenvectors of the other table's Gramian, [D, D']. spectrum: its
    eigenvalues, [D']. For `Blocks`, D' may be more than D, by columns of zeros.
    """

    rotation: Array
    spectrum: Array


class Rows(NamedTuple):
    """Rows to solve, in a half-step's basis.

    pairs: rows of the other table, 0 where there is no pair, [B, L, D]. response: [B, L], 0 where there is no
    pair. weight: [B, L] or None, which means 1. ridge: λ of each row, [B]. previous: the rows so far, [B, D].
    mean: m of each row, [B, D], which `Exact` alone reads; None: 0.
    """

    pairs: Array
    response: Array
    weight: Array | None
    ridge: Array
    previous: Array
    mean: Array | None = None


@dataclasses.dataclass(frozen=True)
class Exact:
    """The minimum, by a Cholesky factorisation (Hu, Koren and Volinsky, ICDM 2008, section 4).

    dual: solve rows of fewer pairs than coordinates in the space of their pairs. Needs positive weights.
    """

    dual: bool = True

    def basis(self, gramian: Array) -> Basis:
        return eigenbasis(gramian)

    def solve(self, rows: Rows, basis: Basis, alpha0: float | Array) -> Array:
        """The rows' minimum, [B, D]."""
        prior = _prior(rows, basis.spectrum, alpha0)
        if self.dual and rows.pairs.shape[1] < rows.pairs.shape[2]:
            response = rows.response
            if rows.weight is not None:
                response = _divide(response, jnp.sqrt(rows.weight))
            scaled = _scale(rows.pairs, rows.weight, prior)
            if rows.mean is None:
                solved = solve_positive(_outer(scaled), response)
                return jnp.einsum("bl,bld->bd", solved, scaled) * jax.lax.rsqrt(prior)
            drawn = (
                rows.ridge[:, None] * rows.mean * jax.lax.rsqrt(prior)
            )  # what the prior alone gives, scaled
            solved = solve_positive(_outer(scaled), response - jnp.einsum("bld,bd->bl", scaled, drawn))
            return (drawn + jnp.einsum("bl,bld->bd", solved, scaled)) * jax.lax.rsqrt(prior)
        right = jnp.einsum("bl,bld->bd", rows.response, rows.pairs)
        right = right if rows.mean is None else right + rows.ridge[:, None] * rows.mean
        return solve_positive(_normal(rows.pairs, rows.weight, prior), right)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """One sweep of Newton steps over blocks of coordinates: iALS++ (Rendle et al., arXiv:2110.14044).

    A step is exact for its block, so that none raises the loss. Departs from the authors' code: the
    coordinates are those of the basis of eigenvectors, in which blocks meet in a row's pairs alone; rows with
    fewer pairs than a block has coordinates are solved exactly, which costs less than a sweep; and a sweep is
    all blocks of one table and then all of the other, as in irspack, where theirs alternates after every
    block. One block of all coordinates is `Exact`.

    size: coordinates of a block; the last one is filled up with coordinates that stay 0. dual: as in `Exact`.
    """

    size: int = 64
    dual: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be at least 1")

    def basis(self, gramian: Array) -> Basis:
        return eigenbasis(gramian, padding=-len(gramian) % min(self.size, len(gramian)))

    def solve(self, rows: Rows, basis: Basis, alpha0: float | Array) -> Array:
        """The rows after one sweep, [B, D]."""
        size = min(self.size, rows.pairs.shape[2])
        if self.dual and rows.pairs.shape[1] < size:
            return Exact().solve(rows, basis, alpha0)
        prior = _prior(rows, basis.spectrum, alpha0)

        def step(block: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            solution, predicted = state
            start = block * size
            pairs = jax.lax.dynamic_slice_in_dim(rows.pairs, start, size, axis=2)
            own = jax.lax.dynamic_slice_in_dim(solution, start, size, axis=1)
            error = (predicted if rows.weight is None else rows.weight * predicted) - rows.response
            diagonal = jax.lax.dynamic_slice_in_dim(prior, start, size, axis=1)
            slope = jnp.einsum("bl,bls->bs", error, pairs) + diagonal * own
            change = -_newton(pairs, rows.weight, diagonal, slope, self.dual)
            solution = jax.lax.dynamic_update_slice_in_dim(solution, own + change, start, axis=1)
            return solution, predicted + jnp.einsum("bs,bls->bl", change, pairs)

        predicted = jnp.einsum("bd,bld->bl", rows.previous, rows.pairs)
        return jax.lax.fori_loop(0, prior.shape[1] // size, step, (rows.previous, predicted))[0]


@dataclasses.dataclass(frozen=True)
class ConjugateGradients:
    """Few steps of conjugate gradients from the row so far (Takács et al., RecSys 2011).

    No step raises the loss, and as many as there are coordinates give `Exact`, up to rounding. Departs from
    the paper: preconditioned by P, which costs nothing in this basis and leaves a matrix that differs from
    the identity in no more directions than the row has pairs.

    steps: of each half-step; 3 in the code of Frederickson's `implicit`.
    """

    steps: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be at least 1")

    def basis(self, gramian: Array) -> Basis:
        return eigenbasis(gramian)

    def solve(self, rows: Rows, basis: Basis, alpha0: float | Array) -> Array:
        """The rows after the steps, [B, D]."""
        prior = _prior(rows, basis.spectrum, alpha0)

        def times(vector: Array) -> Array:
            dots = jnp.einsum("bld,bd->bl", rows.pairs, vector)
            dots = dots if rows.weight is None else rows.weight * dots
            return prior * vector + jnp.einsum("bl,bld->bd", dots, rows.pairs)

        def step(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            solution, residual, direction, size = state
            image = times(direction)
            length = _divide(size, jnp.sum(direction * image, axis=1))[:, None]
            solution, residual = solution + length * direction, residual - length * image
            scaled = residual / prior
            new = jnp.sum(residual * scaled, axis=1)
            return solution, residual, scaled + _divide(new, size)[:, None] * direction, new

        residual = jnp.einsum("bl,bld->bd", rows.response, rows.pairs) - times(rows.previous)
        scaled = residual / prior
        state = (rows.previous, residual, scaled, jnp.sum(residual * scaled, axis=1))
        return jax.lax.fori_loop(0, self.steps, step, state)[0]


Solver = Exact | Blocks | ConjugateGradients


def eigenbasis(gramian: Array, *, padding: int = 0) -> Basis:
    """The basis in which a Gramian is diagonal, from the largest entry on, with columns of zeros added."""
    values, vectors = jnp.linalg.eigh(gramian)
    return Basis(jnp.pad(vectors[:, ::-1], ((0, 0), (0, padding))), jnp.pad(values[::-1], (0, padding)))


def _prior(rows: Rows, spectrum: Array, alpha0: float | Array) -> Array:
    """The diagonal of P for each row, [B, D]; rounding may leave an eigenvalue below 0."""
    return alpha0 * jnp.maximum(spectrum, 0) + rows.ridge[:, None]


def _normal(pairs: Array, weight: Array | None, prior: Array) -> Array:
    weighted = pairs if weight is None else pairs * weight[..., None]
    return jnp.einsum("bld,ble->bde", weighted, pairs) + prior[:, None] * jnp.eye(
        prior.shape[1], dtype=prior.dtype
    )


def _newton(pairs: Array, weight: Array | None, prior: Array, right: Array, dual: bool) -> Array:
    """(Σ_l a_l h_l h_lᵀ + P)⁻¹ right, [B, S]."""
    if not dual or pairs.shape[1] >= pairs.shape[2]:
        return solve_positive(_normal(pairs, weight, prior), right)
    scaled = _scale(pairs, weight, prior)
    right = right * jax.lax.rsqrt(prior)
    inner = jnp.einsum("bls,bs->bl", scaled, right)
    solved = solve_positive(_outer(scaled), inner)
    return (right - jnp.einsum("bl,bls->bs", solved, scaled)) * jax.lax.rsqrt(prior)


def _scale(pairs: Array, weight: Array | None, prior: Array) -> Array:
    """√a_l P^-½ h_l, [B, L, D]."""
    scaled = pairs * jax.lax.rsqrt(prior)[:, None]
    return scaled if weight is None else scaled * jnp.sqrt(weight)[..., None]


def _outer(scaled: Array) -> Array:
    """Products of each row's pairs, plus the identity, [B, L, L]."""
    return jnp.einsum("bld,bmd->blm", scaled, scaled) + jnp.eye(scaled.shape[1], dtype=scaled.dtype)


def solve_positive(matrix: Array, right: Array) -> Array:
    """matrix⁻¹ right of positive definite matrices: [B, N, N] and [B, N] → [B, N]."""
    factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]


def after(solved: Sequence[Array], ridge: Array) -> Array:
    """The ridge of rows that are solved once the last of these are: itself, NaN if these are not finite.

    Solves that wait for each other run one at a time. On CPU, jaxlib's batched Cholesky waits on a thread of
    a pool for parts of its work that it gives to the same pool, so as many large ones at a time as the pool
    has threads, one per core, wait forever (jaxlib 0.10.2). Several CPU devices of one process share the pool
    and still can: width 200 over two devices on two cores stops so. One device is free of it.
    """
    return ridge + 0.0 * solved[-1].ravel()[0] if solved else ridge


def _divide(a: Array, b: Array) -> Array:
    """a / b, 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))
