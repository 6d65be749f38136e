"""A linear map from content to a factor model's vectors of items, in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxrec.baselines.ials import TRAINED
from jaxrec.types import Baseline


def content_ridge(
    factors: Mapping[str, np.ndarray], *, regularisation: float = 1.0, damping: float = 0.0
) -> Baseline:
    """score(u, j) = u_u · v_j, where v_j of an item without training events is Bᵀ c_j + b.

    B and b minimise Σ_i w_i |v_i - Bᵀ c_i - b|² + λ |B|² over the items that have training events, with
    w_i = n_i / (n_i + c) for n_i of these. It is the map of `linear_prior` for fixed vectors, but for the
    weights of items, and the linear form of CB2CF.

    Args:
      factors: columns of `data.events.factor_columns`, with content.
      regularisation: λ. damping: c; 0: items count alike.

    Raises:
      ValueError: there is no content; regularisation is not above 0, or damping is negative.
    """
    if "item_content" not in factors:
        raise ValueError("item_content: there is none; give the content of items to `factor_columns`")
    if not 0 < regularisation < np.inf or not 0 <= damping < np.inf:
        raise ValueError(
            f"regularisation={regularisation}, damping={damping}: must be above 0, and 0 or more, and finite"
        )
    warm = factors["warm_items"]
    content = factors["item_content"].astype(np.float64)
    count = factors["item_count"][warm].astype(np.float64)
    weight = (count / (count + damping))[:, None]
    given, vectors = content[warm], factors["item_teacher"][warm].astype(np.float64)
    mean, centre = ((weight * table).sum(axis=0) / weight.sum() for table in (given, vectors))
    given, vectors = given - mean, vectors - centre
    normal = given.T @ (weight * given) + regularisation * np.eye(given.shape[1])
    matrix = scipy.linalg.solve(normal, given.T @ (weight * vectors), assume_a="pos")
    items = ((content - mean) @ matrix + centre).astype(np.float32)
    items[0] = 0.0
    items[warm] = factors["item_teacher"][warm]
    users = jnp.asarray(factors["user_teacher"])
    return Baseline("content_ridge", TRAINED, {"users": users, "items": jnp.asarray(items)})
