"""DeepFM: factorisation machine and MLP over the same vectors (Guo et al., IJCAI 2017, arXiv:1703.04247)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn

from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.interaction import fm_second_order
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class DeepFM(nn.Module):
    """w₀ + Σ w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j + MLP([v_1 x_1; …]), whose bias is w₀.

    Fields:
      fields: columns of one width; those of several ids are pooled to one vector and one weight first. A
        number has a vector that it multiplies, so it needs a dim.
      dims: hidden layers. mlp: builds them, see `Tower`; the paper's dropout of 0.5 is a rate of keeping.
    """

    fields: tuple[Categorical | Numeric, ...]
    dims: Sequence[int] = (400, 400, 400)
    mlp: Callable[..., nn.Module] = MLP
    table_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        """Maps columns to a logit [B]."""
        weights = tuple(field._replace(dim=1) for field in self.fields)
        linear = FeatureEmbedding(weights, self.table_init, name="weights")(batch).sum(axis=-1)
        vectors = FeatureEmbedding(self.fields, self.table_init, name="embedding").stacked(batch)
        deep = Tower(self.dims, mlp=self.mlp, name="tower")
        return linear + fm_second_order(vectors) + deep(vectors.reshape(vectors.shape[0], -1), train=train)
