"""Recurrent layers over sequences with padding and packed segments."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.types import Array, Key


def gate_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Glorot uniform, ±√(6 / (in + out)), for each of the three gates side by side: [in, 3 · out]."""
    limit = (6.0 / (shape[0] + shape[1] // 3)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al., EMNLP 2014) in the form that cuDNN and PyTorch compute.

        r = σ(W_r x + U_r h)   u = σ(W_u x + U_u h)   n = tanh(W_n x + r ⊙ U_n h)   h' = (1 - u) ⊙ n + u ⊙ h

    Departs from the paper: the reset gate acts after U_n, and with `use_bias` both products have a bias.
    Parameters hold the gates side by side in the order reset, update, new.
    """

    hidden_dim: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, update: Array | None = None, reset: Array | None = None) -> Array:
        """Maps inputs [B, L, E] to the state after each step [B, L, H].

        Args:
          update: True where the step changes the state, [B, L]; None means everywhere.
          reset: True where the state is set to zero before the step, [B, L]; None means nowhere.
        """
        width = 3 * self.hidden_dim
        shapes = {"input_kernel": (x.shape[-1], width), "hidden_kernel": (self.hidden_dim, width)}
        kernels = [self.param(name, gate_init, shape) for name, shape in shapes.items()]
        biases = [
            self.param(name, nn.initializers.zeros, (width,)) if self.use_bias else jnp.zeros(width)
            for name in ("input_bias", "hidden_bias")
        ]
        x, w, u, b, c = nn.dtypes.promote_dtype(x, *kernels, *biases, dtype=self.dtype)
        ones = jnp.ones(x.shape[:2], bool)
        update = ones if update is None else update
        reset = ~ones if reset is None else reset

        def step(state: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            projected, updates, resets = inputs
            state = jnp.where(resets[:, None], 0.0, state)
            from_input = jnp.split(projected, 3, axis=-1)
            from_state = jnp.split(state @ u + c, 3, axis=-1)
            r, z = (nn.sigmoid(i + s) for i, s in zip(from_input[:2], from_state[:2], strict=True))
            new = jnp.tanh(from_input[2] + r * from_state[2])
            state = jnp.where(updates[:, None], (1.0 - z) * new + z * state, state)
            return state, state

        inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (x @ w + b, update, reset))  # time first
        start = jnp.zeros((x.shape[0], self.hidden_dim), x.dtype)
        return jax.lax.scan(step, start, inputs)[1].swapaxes(0, 1)
