"""COLD: pre-ranking by a network of all features, whose cost decides how many it reads (Wang et al., 2020).

DLP-KDD 2020, arXiv:2007.16122. Pre-ranking scores thousands of candidates of a request and keeps hundreds for
the ranker. The network is an MLP on the vectors of user, item and crossed features. With `weighted`, each
field has a weight in each example (section 3.2, squeeze and excitation); the fields of the largest mean
weights are kept, and a network of these alone is trained anew, `weighted=False`:

    chosen = keep_fields(fields, mean_weights, 5)
    network = COLD(chosen)
    cost(chosen, network.dims, per_request=("user", "age"))

Departs from the paper: one field is one group of features; one logit, not two; W has the shape that maps all
vectors to the weights, M fields by the sum of their widths, where the paper prints k by M.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array

Fields = tuple[Categorical | Numeric, ...]


class COLD(nn.Module):
    """An MLP on the vectors of all fields, side by side.

    Shape names: B batch, M fields, F sum of their widths.

    Fields:
      fields: the columns that are read. dims: widths of the hidden layers.
      weighted: vector i is multiplied by its weight s_i, s = σ(W [e_1, …, e_M] + b).
      squashed: `linear_log` of the vectors first, as for half precision.
      mlp: builds the hidden layers, as of `Tower`.
    """

    fields: Fields
    dims: Sequence[int] = (1024, 512, 256, 128, 64)
    weighted: bool = False
    squashed: bool = False
    mlp: Callable[..., nn.Module] = MLP

    def setup(self) -> None:
        self.embedding = FeatureEmbedding(self.fields)
        self.tower = Tower(self.dims, mlp=self.mlp)
        if self.weighted:
            self.excitation = nn.Dense(len(self.fields))

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        """Maps columns to a logit [B]."""
        vectors = self._vectors(batch)
        if self.weighted:
            weights = self._weights(vectors)
            vectors = [vector * weights[:, i, None] for i, vector in enumerate(vectors)]
        return self.tower(jnp.concatenate(vectors, axis=-1), train=train)

    def weights(self, batch: Mapping[str, Array]) -> Array:
        """The weights of all fields in each example, in (0, 1): [B, M].

        Raises:
          ValueError: the network has none.
        """
        if not self.weighted:
            raise ValueError("weighted=False: the network has no weights of fields; train one with them")
        return self._weights(self._vectors(batch))

    def _vectors(self, batch: Mapping[str, Array]) -> list[Array]:
        found = list(self.embedding.vectors(batch).values())
        return [linear_log(vector) for vector in found] if self.squashed else found

    def _weights(self, vectors: list[Array]) -> Array:
        return nn.sigmoid(self.excitation(jnp.concatenate(vectors, axis=-1)))


class VectorProduct(nn.Module):
    """The product of a user's and an item's vector: the pre-ranking that COLD replaces (section 2.2).

    Vectors of items are made before the request, so that a candidate costs one product; no feature can cross
    user and item. Fields: columns of the user and of the item; dims: of both MLPs, the last layer linear.
    """

    user_fields: Fields
    item_fields: Fields
    dims: Sequence[int] = (200, 200, 10)
    mlp: Callable[..., nn.Module] = Factory(MLP, activate_last=False)

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        """Maps columns to a logit [B]."""
        user, item = (
            self.mlp(self.dims, name=f"{side}_mlp")(
                FeatureEmbedding(fields, name=f"{side}_embedding")(batch), train=train
            )
            for side, fields in (("user", self.user_fields), ("item", self.item_fields))
        )
        return jnp.sum(user * item, axis=-1) + self.param("bias", nn.initializers.zeros, ())


def linear_log(x: Array) -> Array:
    """x for |x| ≤ 1, and sign(x) (1 + log |x|) beyond: [...] → [...] (section 3.3.2).

    Odd, increasing, and with a continuous derivative; sums of large inputs stay in the range of float16.

    >>> linear_log(jnp.array([-0.5, 0.5, 1.0])).tolist()
    [-0.5, 0.5, 1.0]
    """
    size = jnp.abs(x)
    large = size > 1.0
    return jnp.where(large, jnp.sign(x) * (1.0 + jnp.log(jnp.where(large, size, 1.0))), x)


def keep_fields(fields: Fields, weights: np.ndarray, number: int) -> Fields:
    """The fields of the largest mean weights, in their order; of equal ones the first.

    weights: mean over examples (and over seeds, where these are trained together) of `COLD.weights`, [M].

    Raises:
      ValueError: number is not in 1..M, or the weights are of other fields.
    """
    if not 1 <= number <= len(fields) or np.shape(weights) != (len(fields),):
        raise ValueError(
            f"number={number}, weights {list(np.shape(weights))}: must be in 1..{len(fields)}, and a weight "
            "for each field"
        )
    best = np.sort(np.argsort(-np.asarray(weights), kind="stable")[:number])
    return tuple(fields[i] for i in best)


class Cost(NamedTuple):
    """What scoring takes: floating-point operations and bytes read, once a request and for each candidate."""

    request_flops: int
    request_bytes: int
    candidate_flops: int
    candidate_bytes: int

    def flops(self, candidates: int) -> int:
        """Of a request with so many candidates."""
        return self.request_flops + candidates * self.candidate_flops

    def bytes(self, candidates: int) -> int:
        """Of a request with so many candidates, without the weights of layers, which a batch shares."""
        return self.request_bytes + candidates * self.candidate_bytes


def cost(
    fields: Fields,
    dims: Sequence[int],
    *,
    per_request: Collection[str] = (),
    ids: Mapping[str, int] | None = None,
    bytes_per_number: int = 4,
) -> Cost:
    """The cost of `COLD` without weights: multiplications and additions of its layers, rows of tables.

    The part of the first layer that reads fields of the request is computed once: W [u, a] = W_u u + W_a a.
    Additions of biases and activations are not counted.

    Args:
      per_request: names of fields that are the same for all candidates, such as the user's.
      ids: of columns of several ids, how many rows are read; others have one.
      bytes_per_number: 4, or 2 in half precision. An id takes 4.

    Raises:
      ValueError: a name that is no field.
    """
    strange = sorted({*per_request, *(ids or {})} - {field.name for field in fields})
    if strange:
        raise ValueError(f"per_request, ids: {strange} are no fields, which are {[f.name for f in fields]}")
    widths, read = [0, 0], [0, 0]  # of the request, of a candidate
    for field in fields:
        side = 0 if field.name in per_request else 1
        widths[side] += field.dim or 1
        rows = (ids or {}).get(field.name, 1)
        of_row = field.dim * bytes_per_number + 4 if isinstance(field, Categorical) else bytes_per_number
        read[side] += rows * of_row
    layers = (*dims, 1)
    later = _products(layers)
    return Cost(2 * widths[0] * layers[0], read[0], 2 * widths[1] * layers[0] + later, read[1])


def product_cost(
    user_fields: Fields,
    dims: Sequence[int],
    *,
    ids: Mapping[str, int] | None = None,
    bytes_per_number: int = 4,
) -> Cost:
    """The cost of `VectorProduct`, whose vectors of items are stored: the user's MLP, and products.

    ids, bytes_per_number: as of `cost`.

    Raises:
      ValueError: there is no layer, or a name that is no field.
    """
    if not dims:
        raise ValueError("dims=(): the vectors need a width")
    names = [field.name for field in user_fields]
    made = cost(user_fields, dims[:1], per_request=names, ids=ids, bytes_per_number=bytes_per_number)
    width = dims[-1]
    return Cost(made.request_flops + _products(dims), made.request_bytes, 2 * width, width * bytes_per_number)


def _products(widths: Sequence[int]) -> int:
    """Operations of the products between layers of these widths."""
    return sum(2 * a * b for a, b in itertools.pairwise(widths))
