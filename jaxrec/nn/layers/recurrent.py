"""Recurrent layers over sequences with padding and packed segments."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.types import Array, Key


def gate_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Glorot uniform, ±√(6 / (in + out)), for each of the three gates side by side: [in, 3 · out]."""
    limit = (6.0 / (shape[0] + shape[1] // 3)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def gate_parameters(module: Any, width: int, input_init: Any = gate_init) -> list[Array]:
    """Kernels of the input [width, 3H] and of the state [H, 3H], and their biases [3H], 0 without bias."""
    gates = 3 * module.hidden_dim
    kernels = [
        module.param("input_kernel", input_init, (width, gates)),
        module.param("hidden_kernel", gate_init, (module.hidden_dim, gates)),
    ]
    biases = [
        module.param(name, nn.initializers.zeros, (gates,)) if module.use_bias else jnp.zeros(gates)
        for name in ("input_bias", "hidden_bias")
    ]
    return kernels + biases


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al., EMNLP 2014) in the form that cuDNN and PyTorch compute.

        r = σ(W_r x + U_r h)   u = σ(W_u x + U_u h)   n = tanh(W_n x + r ⊙ U_n h)   h' = (1 - u) ⊙ n + u ⊙ h

    Departs from the paper: the reset gate acts after U_n, and with `use_bias` both products have a bias.
    Parameters hold the gates side by side in the order reset, update, new.

    reset_after: False resets the state before U_n, as in the paper: n = tanh(W_n x + U_n (r ⊙ h)).
    num_ids: with a number, inputs are one-hot vectors of that many entries, given by their ids; 0 is padding.
    """

    hidden_dim: int
    use_bias: bool = True
    dtype: Any = None
    num_ids: int | None = None
    reset_after: bool = True

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        update: Array | None = None,
        reset: Array | None = None,
        start: Array | None = None,
    ) -> Array:
        """Maps inputs [B, L, E], or ids [B, L] with `num_ids`, to the state after each step [B, L, H].

        Args:
          update: True where the step changes the state, [B, L]; None means everywhere.
          reset: True where the state is set to zero before the step, [B, L]; None means nowhere.
          start: the state before the first step, [B, H]; None means zero.
        """
        if self.num_ids is None:
            x, w, u, b, c = nn.dtypes.promote_dtype(x, *gate_parameters(self, x.shape[-1]), dtype=self.dtype)
            projected = x @ w + b
        else:
            weights = gate_parameters(self, self.num_ids, pad_row(gate_init))
            w, u, b, c = nn.dtypes.promote_dtype(*weights, dtype=self.dtype)
            projected = lookup(w, x) + b
        ones = jnp.ones(x.shape[:2], bool)
        update = ones if update is None else update
        reset = ~ones if reset is None else reset

        def step(state: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            projected, updates, resets = inputs
            state = jnp.where(resets[:, None], 0.0, state)
            from_input = jnp.split(projected, 3, axis=-1)
            gates = 3 if self.reset_after else 2  # of which U h is read
            width = gates * self.hidden_dim
            from_state = jnp.split(state @ u[:, :width] + c[:width], gates, axis=-1)
            r, z = (nn.sigmoid(i + s) for i, s in zip(from_input[:2], from_state[:2], strict=True))
            reset_state = r * from_state[2] if self.reset_after else (r * state) @ u[:, width:] + c[width:]
            new = jnp.tanh(from_input[2] + reset_state)
            state = jnp.where(updates[:, None], (1.0 - z) * new + z * state, state)
            return state, state

        inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (projected, update, reset))  # time first
        if start is None:
            start = jnp.zeros((x.shape[0], self.hidden_dim), projected.dtype)
        return jax.lax.scan(step, start.astype(projected.dtype), inputs)[1].swapaxes(0, 1)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; with forget gates: Gers et al., 2000).

        i, f, o = σ(W x + U h + b)   g = tanh(W_g x + U_g h + b_g)   c' = f ⊙ c + i ⊙ g   h' = o ⊙ tanh(c')

    Parameters hold the gates side by side in the order i, f, g, o, as Keras does.
    """

    hidden_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, update: Array | None = None) -> Array:
        """Maps inputs [B, L, E] to the state h after each step [B, L, H].

        update: True where the step changes the state, [B, L]; None means everywhere.
        """
        width = 4 * self.hidden_dim
        glorot, orthogonal = nn.initializers.xavier_uniform(), nn.initializers.orthogonal()
        x, w, u, b = nn.dtypes.promote_dtype(
            x,
            self.param("input_kernel", glorot, (x.shape[-1], width)),
            self.param("hidden_kernel", orthogonal, (self.hidden_dim, width)),
            self.param("bias", nn.initializers.zeros, (width,)),
            dtype=self.dtype,
        )
        update = jnp.ones(x.shape[:2], bool) if update is None else update

        def step(state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            projected, updates = inputs
            h, c = state
            i, f, g, o = jnp.split(projected + h @ u, 4, axis=-1)
            cell = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            cell = jnp.where(updates[:, None], cell, c)
            h = jnp.where(updates[:, None], nn.sigmoid(o) * jnp.tanh(cell), h)
            return (h, cell), h

        projected = x @ w + b
        start = jnp.zeros_like(projected[:, 0, : self.hidden_dim])
        inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (projected, update))  # time first
        return jax.lax.scan(step, (start, start), inputs)[1].swapaxes(0, 1)


class AttentionGRU(nn.Module):
    """A GRU that attention opens and closes (DIEN: Zhou et al., AAAI 2019, "interest evolving layer").

        r = σ(W_r x + U_r h)   u = σ(W_u x + U_u h)   n = tanh(W_n x + r ⊙ U_n h)   h' = h + ũ ⊙ (n - h)

    Here, as in that paper, u is how much of the state is replaced; in `GRU` it is how much is kept. With
    attention a, one number a step:

        "augru"           ũ = a · u                 a = 0 keeps the state, a = 1 is a GRU
        "agru"            ũ = a                     without an update gate, whose weights are not read
        "augru_reversed"  ũ = 1 - (1 - a)(1 - u)    a = 0 is a GRU, a = 1 forgets: the authors' public code,
                                                    which scales the share that is kept

    AIGRU, the third of the paper, is a `GRU` of a · x. Parameters are those of `GRU`.
    """

    hidden_dim: int
    gate: Literal["augru", "agru", "augru_reversed"] = "augru"
    use_bias: bool = True

    def __post_init__(self) -> None:
        if self.gate not in ("augru", "agru", "augru_reversed"):
            raise ValueError(f'gate={self.gate!r}: must be "augru", "agru" or "augru_reversed"')
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, attention: Array, *, update: Array | None = None) -> Array:
        """Maps inputs [B, L, E] and attention [B, L] to the state after each step [B, L, H].

        update: True where the step changes the state, [B, L]; None means everywhere.
        """
        w, u, b, c = gate_parameters(self, x.shape[-1])
        update = jnp.ones(x.shape[:2], bool) if update is None else update

        def step(state: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            projected, a, updates = inputs
            from_input = jnp.split(projected, 3, axis=-1)
            from_state = jnp.split(state @ u + c, 3, axis=-1)
            reset, replace = (nn.sigmoid(i + s) for i, s in zip(from_input[:2], from_state[:2], strict=True))
            new = jnp.tanh(from_input[2] + reset * from_state[2])
            a = a[:, None]
            if self.gate == "agru":
                replace = a
            elif self.gate == "augru":
                replace = a * replace
            else:
                replace = 1.0 - (1.0 - a) * (1.0 - replace)
            state = jnp.where(updates[:, None], state + replace * (new - state), state)
            return state, state

        inputs = jax.tree.map(
            lambda values: values.swapaxes(0, 1), (x @ w + b, attention, update)
        )  # time first
        start = jnp.zeros((x.shape[0], self.hidden_dim), x.dtype)
        return jax.lax.scan(step, start, inputs)[1].swapaxes(0, 1)
