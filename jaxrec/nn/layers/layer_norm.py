"""Layer normalisation (Ba et al., 2016, arXiv:1607.06450)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.types import Array


class LayerNorm(nn.LayerNorm):
    """`flax.linen.LayerNorm` of the last axis, with the same parameters, in fewer passes backward.

    The mean is taken off before squares are summed, so that a common offset loses no digits.
    """

    use_fast_variance: bool = False

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Maps [..., D] to [..., D]; statistics are float32 at least. With a mask it is the layer of Flax."""
        if mask is not None:
            return super().__call__(x, mask=mask)
        width = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, width, self.param_dtype)
        bias = self.param("bias", self.bias_init, width, self.param_dtype)
        dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        wide = jnp.promote_types(dtype, jnp.float32)
        return (normalised(x.astype(wide), self.epsilon) * scale + bias).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def normalised(x: Array, epsilon: float) -> Array:
    """(x - mean) / √(variance + epsilon) over the last axis, [..., D].

    Its derivative, r · (t - mean(t) - y · mean(t · y)) with the result y, r = 1 / √(variance + epsilon) and
    the tangent t, keeps y and r alone.
    """
    return _parts(x, epsilon)[0]


@normalised.defjvp
def _tangent(epsilon: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    y, rate = _parts(x, epsilon)
    return y, rate * (change - _mean(change) - y * _mean(change * y))


def _parts(x: Array, epsilon: float) -> tuple[Array, Array]:
    centred = x - _mean(x)
    rate = jax.lax.rsqrt(_mean(jnp.square(centred)) + epsilon)
    return centred * rate, rate


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=-1, keepdims=True)
