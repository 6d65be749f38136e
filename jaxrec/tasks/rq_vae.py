"""Learning codes of item vectors: the loss of an RQ-VAE (Rajput et al., arXiv:2305.05065, section 3.1).

The model is a module such as `nn.retrieval.rq_vae.RQVAE`: `__call__(vectors [N, E], *, train)`, which gives
`vectors` and `levels` of residuals and chosen codes; `encode(vectors) -> [N, D]`; `codes(vectors) -> [N, L]`;
levels, num_codes, and a parameter `codebooks` [L, K, D].

Context columns: vectors [I, E], of items 1 .. I in turn. Examples: example [B], from 0, and mask [B].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.semantic_ids import quantised
from jaxrec.losses import masked_mean
from jaxrec.losses.quantisation import residual_quantisation
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Batch, Context, Evaluation, Key, Task, Variables
from jaxrec.types import Protocol as Measured

CODEBOOKS = "codebooks"


class Autoencoder(Protocol):
    """What the task calls; see the head of this file."""

    levels: int
    num_codes: int

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


def rq_vae(model: Autoencoder, *, beta: float = 0.25, rounds: int = 10) -> Task:
    """The task of reconstructing vectors from their codes. predict: codes int32 [B, L].

    Losses: "reconstruction", "codebook" and "commitment" (`losses.quantisation`), means over the batch. The
    codebooks begin at residual k-means of the first batch's latent vectors, `rounds` rounds a level.

    Raises:
      ValueError: beta is negative or rounds below 1; when variables are made: the batch has fewer vectors
        than a level has codes.
    """
    if not beta >= 0 or rounds < 1:
        raise ValueError(f"beta={beta}, rounds={rounds}: must be 0 or more, and at least 1")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        rows = rows_by_id(context["vectors"], jnp.where(examples["mask"], examples["example"], 0))
        return {"vectors": rows, "mask": examples["mask"]}

    def init(key: Key, batch: Batch) -> Variables:
        number = batch["vectors"].shape[0]
        if number < model.num_codes:
            raise ValueError(
                f"batch of {number} vectors: must have at least num_codes={model.num_codes}, as the "
                "codebooks begin at k-means of it; take a larger batch_size or fewer codes"
            )
        found: Variables = model.init(key, batch["vectors"][:1])
        latent = model.apply(found, batch["vectors"], method="encode")
        size = {"num_codes": model.num_codes, "levels": model.levels, "rounds": rounds}
        tables = quantised(latent, jnp.arange(number), **size).codebooks
        return {**found, "params": {**found["params"], CODEBOOKS: tables}}

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found = model.apply(variables, batch["vectors"], train=True)
        codebook, commitment = residual_quantisation(found.levels.residuals, found.levels.chosen, beta=beta)
        errors = jnp.sum((found.vectors - batch["vectors"]) ** 2, axis=1)
        named = {"reconstruction": errors, "codebook": codebook, "commitment": commitment}
        return {name: masked_mean(each, batch["mask"], axis_name) for name, each in named.items()}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        found: Array = model.apply(variables, batch["vectors"], method="codes")
        return found

    return Task(prepare, init, losses, predict)


def evaluation(model: Autoencoder, number: int, batch_size: int) -> Evaluation:
    """The mean squared error of all vectors' reconstructions, "error": those of training, all there are."""
    size = min(batch_size, number)
    rows = np.resize(np.arange(number), -(-number // size) * size).reshape(-1, size)
    mask = np.arange(rows.size).reshape(rows.shape) < number

    def measure(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        def batch(columns: Mapping[str, Array]) -> tuple[Array, Array]:
            vectors = rows_by_id(context["vectors"], columns["row"])
            error = jnp.sum((model.apply(variables, vectors).vectors - vectors) ** 2, axis=1)
            return error, jnp.sum(~jnp.isfinite(error) & columns["mask"])

        return jax.lax.map(batch, dict(queries))

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"error": float(np.asarray(values, np.float64)[np.asarray(queries["mask"])].mean())}

    queries = {"row": rows.astype(np.int32), "mask": mask}
    return Evaluation(measure, queries, summarise, Measured("none", "all items", "keep", ks=()))
