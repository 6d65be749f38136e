"""POSO: personalised cold-start modules (Dai et al., 2021, arXiv:2108.04690).

A module's output is rebuilt from parts, each scaled by a gate that sees nothing but a personalisation code
(how much of a user is known, whether the user is new): C · Σ_i g_i(code) · f_i(x). The gates are sigmoids, so
that new users switch parts on and off without outvoting anybody; feeding all features to them would make it a
mixture of experts. C = 2 makes an undecided gate neutral; the paper does not state its value.

The code [B, P] consists of vectors or numbers. A feature that does not apply to a user is masked by the
padding id 0, whose vector is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import attend
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.experts import Gate, bank, mix
from jaxrec.nn.layers.mlp import MLP, Activation, Tower
from jaxrec.nn.layers.personal_gate import PersonalGate
from jaxrec.types import Array


class PersonalMLP(nn.Module):
    """POSO(MLP): every layer is C · g(code) ⊙ activation(W x), each with a gate of its own.

    Fields: gate_dim is the hidden width of each gate, None for that of the layer. factor is C. activation is
    a function, and so is gate_activation, of the gates' hidden layer. use_bias: of W.
    """

    dims: Sequence[int]
    gate_dim: int | None = None
    factor: float = 2.0
    use_bias: bool = True
    activation: Activation = nn.relu
    gate_activation: Activation = nn.relu
    dropout: float = 0.0
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, code: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and a code [B, P] to [B, dims[-1]]."""
        for i, dim in enumerate(self.dims):
            gate = PersonalGate(
                dim,
                hidden_dim=self.gate_dim,
                factor=self.factor,
                activation=self.gate_activation,
                name=f"gate_{i}",
            )
            gates = gate(code)
            self.sow("intermediates", "gates", gates)
            x = gates * self.activation(nn.Dense(dim, self.use_bias, name=f"layer_{i}")(x))
            x = Dropout(self.dropout, self.bits)(x, train=train)
        return x


class PersonalAttention(nn.Module):
    """POSO(MHA): attention whose keys are scaled unit by unit, and whose values are a gated sum of several.

        C · softmax(Q (G(code) ⊙ K)ᵀ / √d) Σ_i g_i(code) V_i

    Queries are left alone, since they come from the candidate, not from the user. C scales the values
    alone: a key's gates lie between 0 and 1, and undecided ones halve the scores.

    Fields:
      dim: of queries, keys and values, a multiple of num_heads.
      num_values: value matrices, of which the gates make one.
      gate_dim: hidden width of the gates, None for that of their output. factor is C.
      gate_activation: a function, of the gates' hidden layer.

    Shape names: B batch, Q queries, K keys, N value matrices, P width of the code.
    """

    dim: int
    num_heads: int = 4
    num_values: int = 4
    gate_dim: int | None = None
    factor: float = 2.0
    gate_activation: Activation = nn.relu

    @nn.compact
    def __call__(self, queries: Array, keys: Array, code: Array, visible: Array) -> Array:
        """Maps [B, Q, F], [B, K, G], a code [B, P] and bool [B, Q, K] (True: may look at) to [B, Q, dim].

        A query that may look at nothing gets zeros.
        """
        if self.num_heads < 1 or self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must be at least 1 and divide dim={self.dim}")
        query = nn.Dense(self.dim, use_bias=False, name="query")(queries)
        gate = functools.partial(PersonalGate, hidden_dim=self.gate_dim, activation=self.gate_activation)
        key_gates = gate(self.dim, factor=1.0, name="key_gate")(code)
        key = key_gates[:, None] * nn.Dense(self.dim, use_bias=False, name="key")(keys)
        gates = gate(self.num_values, factor=self.factor, name="value_gate")(code)
        self.sow("intermediates", "gates", gates)
        values = nn.DenseGeneral((self.num_values, self.dim), use_bias=False, name="values")(keys)
        value = jnp.einsum("bn,bknd->bkd", gates, values)
        mixed = attend(
            self._heads(query), self._heads(key), self._heads(value), visible
        )  # [B, heads, Q, dim / heads]
        return mixed.swapaxes(1, 2).reshape(*queries.shape[:2], self.dim)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)


class PersonalMMoE(nn.Module):
    """POSO(MMoE): every expert is scaled by its gate, the same for all tasks, under each task's softmax.

    The softmax weights are not scaled up again to a sum of 1.

    Fields:
      gate_dim: hidden width of the personal gate, None for that of its output. factor is C.
      unit_gates: False, the paper's, is one gate an expert, all from one network. True gives each expert a
        network of its own, with a gate for each unit of the expert's output.
      gate_activation: a function, of the personal gate's hidden layer.
      mlp, gate: build the MLPs of experts and towers, and the tasks' gates, see `Tower` and `Gate`.

    Shape names: B batch, F features, P width of the code, E experts, D expert width, T tasks.
    """

    num_tasks: int
    num_experts: int = 8
    expert_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    gate_dim: int | None = None
    factor: float = 2.0
    unit_gates: bool = False
    gate_activation: Activation = nn.relu
    mlp: Callable[..., nn.Module] = MLP
    gate: Callable[..., nn.Module] = Gate

    @nn.compact
    def __call__(self, x: Array, code: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and a code [B, P] to one logit a task [B, T]."""
        experts = bank(self.mlp, self.num_experts)(self.expert_dims, name="experts")(x, train=train)
        gates = bank(self.gate, self.num_tasks)(self.num_experts, name="gate")(x, train=train)  # [B, T, E]
        personal = functools.partial(
            PersonalGate,
            hidden_dim=self.gate_dim,
            factor=self.factor,
            activation=self.gate_activation,
            name="personal_gate",
        )
        if self.unit_gates:
            experts = bank(personal, self.num_experts)(experts.shape[-1])(code) * experts  # [B, E, D]
        else:
            gates = personal(self.num_experts)(code)[:, None] * gates
        self.sow("intermediates", "gates", gates)
        return bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, mlp=self.mlp, name="towers")(
            mix(gates, experts), train=train
        )
