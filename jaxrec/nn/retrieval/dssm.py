"""DSSM: tanh towers over letter trigrams or other features, and cosines times a smoothing factor.

Huang et al., CIKM 2013, doi:10.1145/2505515.2505665, sections 3.2 to 3.4. The counts of letter trigrams are
features that no layer learns: `jaxrec.data.letter_trigrams`. With as many sampled negatives as the paper, 4,
the loss is a softmax over 5 scores. The paper does not state its smoothing factor; the default is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.two_tower import Field, TwoTower


def dssm(
    user_fields: tuple[Field, ...],
    item_fields: tuple[Field, ...],
    *,
    dims: Sequence[int] = (300, 300, 128),
    smoothing: float = 10.0,
    **fields: Any,
) -> TwoTower:
    """Towers of queries (or users) and documents (or items), whose score is γ · cos.

    dims: of both towers, tanh after every layer, the last among them. smoothing: γ. fields: others of
    `TwoTower`.

    Raises:
      ValueError: the smoothing factor is not positive; as `TwoTower`.
    """
    if not smoothing > 0:
        raise ValueError(f"smoothing={smoothing}: must be positive")
    mlp = Factory(MLP, activation=nn.tanh)
    given: dict[str, Any] = {"mlp": mlp, "cosine": True, **fields}
    return TwoTower(user_fields, item_fields, tuple(dims), tuple(dims), temperature=1.0 / smoothing, **given)
