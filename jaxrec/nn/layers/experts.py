"""Banks of modules of one class, each with its own parameters, and the gates that mix their outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import lift
from flax.linen.transforms import lift_transform

from jaxrec.nn.layers.mlp import MLP, normalise
from jaxrec.types import Array, Key

COLLECTIONS = ("params", "batch_stats", "intermediates")  # get a leading axis of members


def bank(member: Callable[..., nn.Module], n: int, in_axes: int | None = None) -> Any:
    """Builds n members at once as `member` builds one: axis 0 of the parameters, axis 1 of the output.

    The members start from different values, drop out different units and run as one batched computation,
    whose trace does not grow with n. Keyword arguments of the call (`train`) are the same for all members.

        bank(MLP, E)((64,), name="experts")(x, train=train)             [B, F] → [B, E, 64]
        bank(Tower, T, in_axes=1)((16,), name="towers")(mixed)          [B, T, D] → [B, T]
        bank(bank(MLP, m), T, in_axes=1)((64,), name="specific")(x)     [B, T, F] → [B, T, m, 64]

    Args:
      member: a module class, or a `Factory` (or another `functools.partial`) of one.
      n: how many, at least 1.
      in_axes: the axis of the positional arguments along which each member has its own part; None: all
        members read the same.
    """
    built = member.func if isinstance(member, functools.partial) else member
    if not (isinstance(built, type) and issubclass(built, nn.Module)):
        raise ValueError(f"{member}: must be a module class, or a Factory of one; a function can't be a bank")
    if n < 1:
        raise ValueError(f"n={n}: a bank has at least one {built.__name__}")
    return lift_transform(
        _vmap,
        member,
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

    Models take it as a field `gate`. In its place may stand a `Factory` of it, or another module class that
    is built as gate(num_experts, name=…) and maps [B, F] to weights [B, E], with `train` as a keyword.

    Fields:
      dims: widths of hidden layers before the linear one; the papers have none.
      use_bias: of the linear layer; the equations of the papers have none.
      logits_batch_norm: batch norm just before the softmax. axis_name: of the devices whose batches share
        its statistics; None: each device has its own.
      drop_experts: rate at which training leaves an expert of an example out, see `expert_softmax`.
      mlp: builds the hidden layers, see `Tower`.
    """

    num_experts: int
    dims: Sequence[int] = ()
    use_bias: bool = True
    logits_batch_norm: bool = False
    axis_name: str | None = None
    drop_experts: float = 0.0
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps [B, F] to weights [B, E] that add up to 1."""
        x = self.mlp(self.dims, name="hidden")(x, train=train)
        init = nn.initializers.glorot_uniform()
        logits = nn.Dense(self.num_experts, self.use_bias, kernel_init=init, name="logits")(x)
        if self.logits_batch_norm:
            logits = normalise("norm", train, self.axis_name)(logits)
        key = self.make_rng("dropout") if train and self.drop_experts > 0.0 else None
        return expert_softmax(logits, self.drop_experts, key)


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
      where: True where the example is real, [B]; with no real example the result is 0.
    """
    where = jnp.ones(gates.shape[0], bool) if where is None else where
    real = where.reshape(-1, *[1] * (gates.ndim - 1))
    return jnp.sum(jnp.where(real, gates, 0.0), axis=0) / jnp.maximum(jnp.sum(where), 1)
