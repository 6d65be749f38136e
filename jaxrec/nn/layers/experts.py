"""Banks of equal modules with their own parameters, and the gates that mix what they give."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import lift
from flax.linen.transforms import lift_transform

from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.mlp import MLP, Activation, mlp_fields, normalise
from jaxrec.types import Array, Key

COLLECTIONS = ("params", "batch_stats", "intermediates")  # get a leading axis of members


def bank(module_class: type[nn.Module], n: int, in_axes: int | None = None) -> Any:
    """A module class whose instances are n members: axis 0 of the parameters, axis 1 of the output.

    The members start from different values, drop out different units and run as one batched computation,
    whose trace does not grow with n. Keyword arguments of the call (`train`) are the same for all members.

        bank(MLP, E)((64,), name="experts")(x, train=train)             [B, F] → [B, E, 64]
        bank(Tower, T, in_axes=1)((16,), name="towers")(mixed)          [B, T, D] → [B, T]
        bank(bank(MLP, m), T, in_axes=1)((64,), name="specific")(x)     [B, T, F] → [B, T, m, 64]

    Args:
      module_class: of the members.
      n: how many, at least 1.
      in_axes: the axis of the positional arguments along which each member has its own part; None: all
        members read the same.
    """
    if n < 1:
        raise ValueError(f"n={n}: a bank has at least one {module_class.__name__}")
    return lift_transform(
        _vmap,
        module_class,
        variable_axes=dict.fromkeys(COLLECTIONS, 0),
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        out_axes=1,
        axis_size=n,
    )


def _vmap(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Flax's lifted vmap, which on its own would ignore keyword arguments."""
    return lambda scope, *args, **kwargs: lift.vmap(functools.partial(function, **kwargs), **options)(
        scope, *args
    )


class Gate(nn.Module):
    """Softmax weights over experts, from the input of the model: [B, F] → [B, E] (Jacobs et al., 1991).

    Fields:
      dims: widths of hidden layers before the linear one; the papers have none.
      use_bias: of the linear layer; the equations of the papers have none.
      logits_batch_norm: batch norm just before the softmax.
      drop_experts: rate at which training leaves an expert of an example out, see `expert_softmax`.
      activation, dropout, batch_norm, axis_name, bits: of the hidden layers, see `MLP`.
    """

    num_experts: int
    dims: Sequence[int] = ()
    use_bias: bool = True
    logits_batch_norm: bool = False
    drop_experts: float = 0.0
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps [B, F] to weights [B, E] that add up to 1."""
        x = MLP(self.dims, **mlp_fields(self), name="hidden")(x, train=train)
        init = nn.initializers.glorot_uniform()
        logits = nn.Dense(self.num_experts, self.use_bias, kernel_init=init, name="logits")(x)
        if self.logits_batch_norm:
            logits = normalise("norm", train, self.axis_name)(logits)
        key = self.make_rng("dropout") if train and self.drop_experts > 0.0 else None
        return expert_softmax(logits, self.drop_experts, key)


def gate_fields(module: Any) -> dict[str, Any]:
    """The fields of a model, gate_dims and so on, that its gates have in common, with those of its MLPs."""
    return {
        "dims": module.gate_dims,
        "use_bias": module.gate_bias,
        "logits_batch_norm": module.gate_batch_norm,
        "drop_experts": module.drop_experts,
        **mlp_fields(module),
    }


def expert_softmax(logits: Array, drop: float = 0.0, key: Key | None = None) -> Array:
    """Softmax over experts of which some are left out at random: [..., E] → [..., E].

    With a key each expert is left out with probability `drop`, the others' weights still add up to 1, and
    where none would be left all stay (Zhao et al., RecSys 2019, section 5.2.4: against gates that settle
    on one expert). Without a key it is the softmax.
    """
    if not 0.0 <= drop <= 1.0:
        raise ValueError(f"drop_experts={drop}: must be between 0 and 1")
    if key is None:
        return nn.softmax(logits)
    kept = jax.random.bernoulli(key, 1.0 - drop, logits.shape)
    return nn.softmax(logits, where=kept | ~kept.any(axis=-1, keepdims=True))


def mix(gates: Array, experts: Array) -> Array:
    """Weighted sums of expert outputs: [B, ..., E] and [B, E, D] → [B, ..., D]."""
    return jnp.einsum("b...e,bed->b...d", gates, experts)


def entropy(gates: Array) -> Array:
    """Entropy of gates in nats, 0 for one expert alone, ln E for the mean of all: [..., E] → [...].

    >>> round(float(entropy(jnp.full(4, 0.25))), 4)  # ln 4
    1.3863
    """
    return -jnp.sum(gates * jnp.log(jnp.maximum(gates, 1e-30)), axis=-1)


def utilisation(gates: Array, where: Array | None = None) -> Array:
    """Mean weight of each expert over a batch, [B, ..., E] → [..., E]; the experts' shares add up to 1.

    Args:
      gates: weights that add up to 1 over the last axis.
      where: True where the row is real, [B]; with no real row the result is 0.
    """
    where = jnp.ones(gates.shape[0], bool) if where is None else where
    rows = where.reshape(-1, *[1] * (gates.ndim - 1))
    return jnp.sum(jnp.where(rows, gates, 0.0), axis=0) / jnp.maximum(jnp.sum(where), 1)
