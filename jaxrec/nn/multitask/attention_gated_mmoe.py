"""Attention-gated MMoE: tasks attend to what the experts say. A variant of our own, not a published model.

A task's query meets a key of each expert, a = softmax(q·k / (√A τ)), in place of MMoE's linear map of the
features. Relatives: MRAN (KDD 2019), MTAN (arXiv:1803.10704), AdaTT (KDD 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.experts import Gate, bank, expert_softmax, mix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()
VECTORS = nn.initializers.normal(1.0)


class AttentionGatedMMoE(nn.Module):
    """MMoE with the gates of `mode`.

    Shape names: B batch, F features, E experts, D expert width, T tasks, A query width. Sows the weights of
    the experts, [B, T, E], as "gates" into the collection "intermediates".

    Fields besides numbers and widths:
      mode: "content": q = W_q x + t for each task, k = W_k e of each expert's output e. "static": q = t and
        a learned k for each expert, the same for all examples. "linear": the gates and parameters of MMoE.
      temperature: τ; large values mix all experts equally, small ones choose one.
      key_vectors: in "content", a learned vector of each expert is added to its key.
      detach_keys: no gradient from the gates into the experts, as in MMoE.
      drop_experts: see `Gate`.
      mlp: builds all MLPs, see `Tower`.
    """

    num_tasks: int
    num_experts: int = 8
    expert_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    mode: Literal["content", "static", "linear"] = "content"
    query_dim: int = 16
    temperature: float = 1.0
    key_vectors: bool = False
    detach_keys: bool = False
    drop_experts: float = 0.0
    mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        if self.mode not in ("content", "static", "linear"):
            raise ValueError(f'mode={self.mode!r}: must be "content", "static" or "linear"')
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: must be positive")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        experts = bank(self.mlp, self.num_experts)(self.expert_dims, name="experts")(x, train=train)
        if self.mode == "linear":
            gates = bank(Gate, self.num_tasks)(self.num_experts, drop_experts=self.drop_experts, name="gate")(
                x, train=train
            )
        else:
            gates = self.attend(x, experts, train)
        self.sow("intermediates", "gates", gates)
        return bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, mlp=self.mlp, name="towers")(
            mix(gates, experts), train=train
        )

    def attend(self, x: Array, experts: Array, train: bool) -> Array:
        """Weights of the experts [B, T, E] from features [B, F] and expert outputs [B, E, D]."""
        tasks = self.param("task_vectors", VECTORS, (self.num_tasks, self.query_dim))
        query = jnp.broadcast_to(tasks, (x.shape[0], *tasks.shape))  # [B, T, A]
        keys: Array | float = 0.0
        if self.mode == "static" or self.key_vectors:
            keys = self.param("expert_vectors", VECTORS, (self.num_experts, self.query_dim))
        if self.mode == "content":
            projection = self.param("query_kernel", INIT, (x.shape[-1], self.num_tasks * self.query_dim))
            query = query + (x @ projection).reshape(query.shape)
            seen = jax.lax.stop_gradient(experts) if self.detach_keys else experts
            keys = keys + nn.Dense(self.query_dim, use_bias=False, kernel_init=INIT, name="keys")(seen)
        keys = jnp.broadcast_to(keys, (x.shape[0], self.num_experts, self.query_dim))  # [B, E, A]
        scores = jnp.einsum("bta,bea->bte", query, keys) / (math.sqrt(self.query_dim) * self.temperature)
        key = self.make_rng("dropout") if train and self.drop_experts > 0.0 else None
        return expert_softmax(scores, self.drop_experts, key)
