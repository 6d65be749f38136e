"""SINE: a few of many learned prototypes a user (Tan et al., WSDM 2021, arXiv:2102.09267, section 3).

The paper calls two matrices W_3; here they are two, and one with `tied`, as RecBole has it.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at
from jaxrec.nn.layers.interests import nearest, of_items, placed, weights_over
from jaxrec.nn.layers.pairs import check_fields, unit
from jaxrec.segments import pick, rows_by_id
from jaxrec.types import Array, Interests

SIZES = ("num_items", "dim", "max_len", "num_interests", "num_prototypes")  # fields that are at least 1
Norm = Literal["layer", "length", "harmonic", "none"]
Positions = Literal["weighting", "everywhere", "none"]
CHOICES: dict[str, tuple[str, ...]] = {
    "norms": ("layer", "length", "harmonic", "none"),
    "positions": ("weighting", "everywhere", "none"),
    "centred": ("prototypes", "features"),
    "empty": ("zero", "padding"),
}


class SINE(nn.Module):
    """Interests of the K prototypes nearest to a user, and one vector: their mean, weighted by the next one.

        z = Σ a_t x_t,  a = softmax_t w_2 tanh(W_1 x_t),  s = C z,  c_k = C_i σ(s_i) of the K largest s_i
        P(k|t) = softmax_k LN_1(W_3 x_t)·LN_2(c_k),  P(t|k) = softmax_t w_k2 tanh(W_k1 (x_t + p_t))
        φ_k = LN_3(Σ_t P(k|t) P(t|k) x_t)
        y_t = Σ_k P(k|t) c_k,  c = LN_4(Σ_t b_t y_t),  b = softmax_t w_5 tanh(W_4 y_t)
        v = Σ_k e_k φ_k,  e = softmax_k φ_k·c / τ

    Shape names: B batch, L slots, K interests, P prototypes, D dim, H hidden_dim, V vocab_size.

    Fields besides the sizes:
      hidden_dim: rows of W_1, W_k1 and W_4; None: D.
      temperature: τ. penalty: weight λ of the covariance of prototypes, see `penalties`.
      aggregated: False gives the K interests φ instead of v; the nearest one is read out.
      norms: LN_1 … LN_4: "layer" normalisation; "length": to length 1; "none". "harmonic" multiplies by
        Σ 1/|x_d|, which torch-rechub does by mistake.
      positions: where p is added: "weighting", in P(t|k) alone; "everywhere", to x itself; "none".
      shared_hidden: one W_k1 for all k. tied: W_4 is W_3.
      masked: False lets padding take part in every softmax, as in RecBole: then it changes the vectors.
      empty: what a row without events gives: "zero", or, as in torch-rechub, what its "padding" does, all
        slots with equal weights, so that the vector of padding is read and learns.
      centred: what the means of the covariance are taken over, "prototypes" or the "features" of each.
      item_std: of the normal initialisation. dtype: of the computation.
    """

    num_items: int
    dim: int = 128
    max_len: int = 20
    num_interests: int = 4
    num_prototypes: int = 500
    hidden_dim: int | None = None
    temperature: float = 0.1
    penalty: float = 0.5
    aggregated: bool = True
    norms: tuple[Norm, Norm, Norm, Norm] = ("layer", "layer", "layer", "layer")
    norm_epsilon: float = 1e-6
    positions: Positions = "weighting"
    shared_hidden: bool = False
    tied: bool = False
    masked: bool = True
    empty: Literal["zero", "padding"] = "zero"
    centred: Literal["prototypes", "features"] = "prototypes"
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        self._check_choices()
        dim, interests = self.dim, self.num_interests
        hidden = dim if self.hidden_dim is None else self.hidden_dim
        drawn, glorot = nn.initializers.normal(self.item_std), nn.initializers.xavier_uniform()
        fan_in = nn.initializers.normal(dim**-0.5)
        self.item_embedding = self.param("item_embedding", pad_row(drawn), (self.num_items + 1, dim))
        self.prototypes = self.param("prototypes", drawn, (self.num_prototypes, dim))
        if self.positions != "none":
            self.position_embedding = self.param("position_embedding", drawn, (self.max_len, dim))
        self.concept_kernel = self.param("concept_kernel", glorot, (dim, hidden))  # W_1
        self.concept_weight = self.param("concept_weight", fan_in, (hidden,))  # w_2
        self.assign_kernel = self.param("assign_kernel", glorot, (dim, dim))  # W_3
        shape = (dim, hidden) if self.shared_hidden else (interests, dim, hidden)
        self.weighting_kernel = self.param("weighting_kernel", fan_in, shape)  # W_k1
        self.weighting_weight = self.param("weighting_weight", fan_in, (interests, hidden))  # w_k2
        if self.aggregated and not self.tied:
            self.next_kernel = self.param("next_kernel", glorot, (dim, hidden))  # W_4
        if self.aggregated:
            self.next_weight = self.param("next_weight", fan_in, (hidden,))  # w_5
        layer = functools.partial(nn.LayerNorm, self.norm_epsilon, dtype=self.dtype, use_fast_variance=False)
        self.norm = [
            layer(name=f"norm_{i}") if norm == "layer" else None for i, norm in enumerate(self.norms, 1)
        ]

    def _check_choices(self) -> None:
        for field, allowed in CHOICES.items():
            value = getattr(self, field)
            given = value if isinstance(value, tuple) else (value,)
            if not set(given) <= set(allowed) or (field == "norms" and len(given) != 4):
                number = "four of " if field == "norms" else ""
                raise ValueError(f"{field}={value!r}: must be {number}{', '.join(allowed)}")
        if self.num_interests > self.num_prototypes:
            raise ValueError(
                f"num_interests={self.num_interests}: must be at most num_prototypes={self.num_prototypes}"
            )
        if self.tied and self.hidden_dim not in (None, self.dim):
            raise ValueError(f"hidden_dim={self.hidden_dim}: with tied=True must be dim={self.dim}")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: must be positive")

    def __call__(self, items: Array, *, train: bool, rows: Array | None = None) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to one vector of each row; with aggregated=False to K.

        rows, train: ignored; there is no dropout.
        """
        del train, rows
        read = lookup if self.empty == "zero" else rows_at
        x = self._cast(read(self.item_embedding, items))
        x = placed(x, self.position_embedding) if self.positions == "everywhere" else x
        mask = items != 0 if self.masked else jnp.ones_like(items, bool)
        concepts = self.concepts(x, mask)  # [B, K, D]
        assigned = jax.nn.softmax(  # P(k|t), [B, L, K]
            jnp.einsum(
                "bld,bkd->blk",
                self._normed(0, x @ self._cast(self.assign_kernel)),
                self._normed(1, concepts),
            ),
            axis=-1,
        )
        weights = assigned * self.weighting(x, mask)
        found = self._normed(2, jnp.einsum("blk,bld->bkd", weights, x))
        if not self.aggregated:
            return self._interests(items, found)
        share = jnp.einsum("bkd,bd->bk", found, self.intention(assigned, concepts, mask))
        share = jax.nn.softmax(share / self.temperature, axis=-1)
        return self._interests(items, jnp.einsum("bk,bkd->bd", share, found)[:, None])

    def _interests(self, items: Array, vectors: Array) -> Interests:
        if self.empty == "padding":
            return Interests(vectors, jnp.ones(vectors.shape[:2], bool))
        return of_items(items, vectors)

    def _weights(self, scores: Array, mask: Array) -> Array:
        """Softmax of scores [B, L, …] over the slots that the mask shows; by `empty` where it shows none."""
        mask = mask.reshape(*mask.shape, *(1,) * (scores.ndim - 2))
        if self.empty == "zero":
            return weights_over(scores, mask, axis=1)
        none = ~mask.any(
            axis=1, keepdims=True
        )  # a common number as small as -1e9 leaves equal float32 scores
        scores = jnp.where(none, scores - jax.lax.stop_gradient(scores), scores)
        return weights_over(scores, mask | none, axis=1)

    def concepts(self, x: Array, mask: Array) -> Array:
        """The K prototypes nearest to events [B, L, D], nearest first, times their gates: [B, K, D]."""
        scores = jnp.tanh(x @ self._cast(self.concept_kernel)) @ self._cast(self.concept_weight)
        pooled = jnp.einsum("bl,bld->bd", self._weights(scores, mask), x)
        near = pooled @ self._cast(self.prototypes).T  # [B, P]
        index = jax.lax.top_k(jax.lax.stop_gradient(near), self.num_interests)[1]
        gate = jax.nn.sigmoid(pick(near, index))
        return self._cast(rows_by_id(self.prototypes, index)) * gate[..., None]

    def weighting(self, x: Array, mask: Array) -> Array:
        """P(t|k) of events [B, L, D]: [B, L, K]."""
        keys = placed(x, self.position_embedding) if self.positions == "weighting" else x
        kernel, weight = self._cast(self.weighting_kernel), self._cast(self.weighting_weight)
        if self.shared_hidden:
            scores = jnp.tanh(keys @ kernel) @ weight.T
        else:
            scores = jnp.einsum("blkh,kh->blk", jnp.tanh(jnp.einsum("bld,kdh->blkh", keys, kernel)), weight)
        return self._weights(scores, mask)

    def intention(self, assigned: Array, concepts: Array, mask: Array) -> Array:
        """The concept of the next item, c, from P(k|t) and the K concepts: [B, D]."""
        y = jnp.einsum("blk,bkd->bld", assigned, concepts)
        kernel = self.assign_kernel if self.tied else self.next_kernel
        scores = jnp.tanh(y @ self._cast(kernel)) @ self._cast(self.next_weight)
        return self._normed(3, jnp.einsum("bl,bld->bd", self._weights(scores, mask), y))

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        return self.item_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """The user's vector; of several interests the one nearest to the target [B, D]: [B, D]."""
        return interests.vectors[:, 0] if self.aggregated else nearest(interests, target)

    def penalties(self) -> dict[str, Array]:
        """ "prototypes": λ/2 (‖M‖² - ‖diag M‖²), M the covariance of prototypes (equation 12)."""
        table = self.prototypes.astype(jnp.float32)
        centred = table - table.mean(axis=0 if self.centred == "prototypes" else 1, keepdims=True)
        covariance = centred @ centred.T / self.dim
        off = jnp.where(jnp.eye(self.num_prototypes, dtype=bool), 0.0, covariance)
        return {"prototypes": 0.5 * self.penalty * jnp.sum(off**2)}

    def _cast(self, x: Array) -> Array:
        return x if self.dtype is None else x.astype(self.dtype)

    def _normed(self, number: int, x: Array) -> Array:
        layer, norm = self.norm[number], self.norms[number]
        if layer is not None:
            return layer(x)
        if norm == "length":
            return unit(x)
        return x * jnp.sum(1.0 / jnp.abs(x), axis=-1, keepdims=True) if norm == "harmonic" else x
