"""How much each event of a history matters for a target: the weights that interest models pool with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dice import Activation, Dice, activate
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.target_attention import masked_softmax
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()


class ActivationUnit(nn.Module):
    """A small network of [target, event, target - event, target ⊙ event] for each event (DIN, section 4.3).

    By default the weights are what the network says, of any sign and sum, so that their sum tells how strong
    the interest is (the paper); `softmax` makes them a distribution (its public code, which also divides
    the scores by √D: that is `temperature`). Padding has weight 0 and sends no gradient.

    The paper feeds [target, product, event] and leaves open what the product is; its code feeds the above.

    Fields besides these:
      dims: hidden layers. activation, dropout, bits: of them, see `MLP`.
      padded_statistics: whether padding counts in the batch statistics of `Dice`, as in FuxiCTR. By default
        it does not: then padding changes nothing in training either.
      output_activation: of the scores, before the softmax if there is one (FuxiCTR's option); None: none.
      axis_name: see `Dice`.
    """

    dims: Sequence[int] = (80, 40)
    activation: Activation = Dice
    softmax: bool = False
    temperature: float = 1.0
    padded_statistics: bool = False
    output_activation: Callable[[Array], Array] | None = None
    dropout: float = 0.0
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, target: Array, history: Array, mask: Array, *, train: bool = False) -> Array:
        """Maps targets [B, D], events [B, L, D] and a mask [B, L] to a weight for each event, [B, L]."""
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: must be positive, it divides the scores")
        x = Pairs(self.dims[0] if self.dims else 1, name="layer_0" if self.dims else "score")(target, history)
        for i in range(len(self.dims)):
            x = activate(
                self.activation,
                x,
                f"activation_{i}",
                train=train,
                where=None if self.padded_statistics else mask,
                axis_name=self.axis_name,
            )
            x = Dropout(self.dropout, self.bits)(x, train=train)
            last = i + 1 == len(self.dims)
            x = Dense(
                1 if last else self.dims[i + 1], kernel_init=INIT, name="score" if last else f"layer_{i + 1}"
            )(x)
        x = x if self.output_activation is None else self.output_activation(x)
        return weights_of(x[..., 0] / self.temperature, mask, softmax=self.softmax)


class Pairs(nn.Module):
    """A linear layer of [a, b, a - b, a ⊙ b] for every b of a list.

    Its kernel is that of the four side by side, but they are never put there: with W = [A; B; C; P],
    a(A + C) is computed once for the list, and b(B - C) + (a ⊙ b)P once for each entry: half the products.
    """

    features: int

    @nn.compact
    def __call__(self, a: Array, b: Array) -> Array:
        """Maps [B, D] and [B, L, D] to [B, L, features]."""
        dim = a.shape[-1]
        if b.shape[-1] != dim:
            raise ValueError(f"widths {dim} and {b.shape[-1]}: target and events must have the same")
        kernel = self.param("kernel", INIT, (4 * dim, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        of_a, of_b, of_difference, of_product = jnp.split(kernel, 4)

        def flat(x: Array) -> Array:
            return x.reshape(-1, dim)

        entries = flat(b) @ (of_b - of_difference) + flat(a[:, None] * b) @ of_product
        return entries.reshape(*b.shape[:-1], -1) + (a @ (of_a + of_difference) + bias)[:, None]


def weights_of(scores: Array, mask: Array, *, softmax: bool) -> Array:
    """Scores with padding set to 0, or their softmax over what is real: [B, L], bool [B, L] → [B, L].

    An example without any event gets zeros.
    """
    return masked_softmax(scores, mask) if softmax else jnp.where(mask, scores, 0.0)


def pool(weights: Array, history: Array) -> Array:
    """Σ_t w_t h_t: [B, L], [B, L, D] → [B, D]."""
    return jnp.einsum("bl,bld->bd", weights, history)
