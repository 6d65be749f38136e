"""Comparisons with a fixture: outputs, gradients, and what the last layers of a model read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array


def close_outputs(ours: Mapping[str, Any], theirs: Mapping[str, np.ndarray]) -> None:
    """The same names, and values to 1e-5."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert np.shape(ours[name]) == value.shape, name
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def close_gradients(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    """Values to 1e-4; for those near zero to 1e-5 of the largest.

    A parameter that nothing reads has no gradient there, and one of zeros here.
    """
    assert set(theirs) <= set(ours)
    for name in set(ours) - set(theirs):
        assert not np.any(ours[name]), f"{name}: the reference has no gradient of it"
    for name, value in theirs.items():
        assert ours[name].shape == value.shape, name
        atol = 1e-5 * max(1e-2, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=atol, err_msg=name)


def read_by_heads(logits: Callable[[Any], Array], params: Any) -> Array:
    """What the linear heads `params["towers"]["logit"]` of a model read, [B, T, D].

    logits: the model, params → [B, T]. A head with one weight of 1 and no bias gives one number of its input.
    """
    heads = params["towers"]["logit"]
    tasks, dim, _ = heads["kernel"].shape
    unit = jnp.broadcast_to(jnp.eye(dim)[:, None, :, None], (dim, tasks, dim, 1))
    bias = jnp.zeros_like(heads["bias"])

    def read(kernel: Array) -> Array:
        towers = {**params["towers"], "logit": {"kernel": kernel, "bias": bias}}
        return logits({**params, "towers": towers})

    return jnp.moveaxis(jax.jit(jax.vmap(read))(unit), 0, -1)
