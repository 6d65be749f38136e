"""PeterRec: small patches in a pre-trained NextItNet, trained per task (Yuan et al., SIGIR 2020).

arXiv:2001.04253, section 3. A patch is z + U GELU(D z) with a quarter of the channels in between. A task
trains its patches and its table of targets; item vectors, convolutions and norms stay as pre-trained:

    model = PeterRec(num_items, num_targets)
    start = model.init(key, items)["params"]
    params = transfer(start, pretrained["params"], models=(model, backbone))
    kinds = jax.tree.map(lambda own: "own" if own else "shared", trainable(params))
    tx = optax.partition({"own": optax.adam(1e-3), "shared": optax.set_to_zero()}, kinds)

(With `optax.masked(tx, trainable)` chain `optax.set_to_zero` for the others, whose gradients it passes on.)

Departs from the code as `nextitnet.py` does: padding is not read unless `skip_padding=False`. The code also
trains the second norm of each block, here with `trainable(params, norms=True)` alone. Its `cardinality` cuts
D and U into slices whose results add up, which is the same function, so there is no such field; where the
slices leave a remainder of dim / 4, `patch_dim` is the sum of their widths. The bidirectional (GRec) encoder
is not here.

Tenrec's port has patches in parallel with the convolutions, without z and with another activation, and a
softmax over all items with a bias: `parallel=True, patch_residual=False, patch_activation=nn.leaky_relu,
head_bias=True`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import pad_row
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.nn.sequential.nextitnet import INIT, NextItNet, TwoLayerBlock, encode
from jaxrec.types import Array, Variables

gelu = functools.partial(nn.gelu, approximate=True)  # by tanh, as the authors' code has it

OWN = ("patch_", "head")  # prefixes of the names of the parameters that a task trains
SHARED = ("num_items", "extra_rows", "dim", "kernel_size", "dilations", "skip_padding", "norm_epsilon")


class PeterRec(nn.Module):
    """The blocks of a NextItNet with patches; its state of a user scores the targets of one task.

    A task's input ends with a special id, [CLS] in the code, for which `extra_rows` adds a row to the item
    table, and the user's vector is the output in the last slot. Parameters but those of the task have the
    names and shapes of a NextItNet with the same num_items, extra_rows, dim, kernel_size and dilations.

    Shape names: B batch, L slots, C dim (channels), T num_targets.

    Fields besides those of `NextItNet`:
      num_targets: largest target id; 0 is padding.
      parallel: a patch reads what the convolution reads, and the two are added. False: it reads the
        convolution's output.
      both: a patch for each of a block's two convolutions; False for the second alone.
      patched: False leaves the patches out: the pre-trained blocks and a head, to compare with.
      patch_dim: channels inside a patch; None means dim / 4. patch_activation: of them.
      patch_residual: False leaves z out of a patch, z + U GELU(D z), for parallel patches only: a serial one
        would then take the convolution's place.
      head_bias: a bias of each target: item_table() has it as its last column, and outputs a 1.
    """

    num_items: int
    num_targets: int
    dim: int = 64
    dilations: Sequence[int] = (1, 4, 1, 4, 1, 4, 1, 4)
    kernel_size: int = 3
    parallel: bool = False
    both: bool = True
    patched: bool = True
    patch_dim: int | None = None
    patch_activation: Callable[[Array], Array] = gelu
    patch_residual: bool = True
    head_bias: bool = False
    skip_padding: bool = True
    max_len: int = 50
    norm_epsilon: float = 1e-8
    extra_rows: int = 1
    dtype: Any = None

    def setup(self) -> None:
        check_sizes(self, "num_items", "num_targets", "dim", "max_len")
        if self.patch_dim is None and self.dim % 4:
            raise ValueError(
                f"dim={self.dim}: must be a multiple of 4, as a patch has dim / 4 channels unless patch_dim "
                "gives another number"
            )
        if self.patch_dim is not None and self.patch_dim < 1:
            raise ValueError(f"patch_dim={self.patch_dim}: must be at least 1, or None for dim / 4")
        if not self.patch_residual and not self.parallel:
            raise ValueError(
                "patch_residual=False: a serial patch without it takes the convolution's place instead of "
                "adding to it; use parallel=True"
            )
        rows = self.num_items + 1 + self.extra_rows
        self.item_embedding = self.param("item_embedding", pad_row(INIT), (rows, self.dim))
        block: Any = TwoLayerBlock
        if self.patched:
            patch = functools.partial(
                Patch, self.patch_dim, self.patch_activation, self.patch_residual, self.dtype
            )
            block = functools.partial(PatchedBlock, patch=patch, parallel=self.parallel, both=self.both)
        self.layers = [
            block(dilation, self.kernel_size, self.norm_epsilon, self.dtype, name=f"layer_{i}")
            for i, dilation in enumerate(self.dilations)
        ]
        self.head = self.param("head", pad_row(INIT), (self.num_targets + 1, self.dim))
        if self.head_bias:
            self.bias = self.param("head_bias", nn.initializers.zeros, (self.num_targets + 1,))

    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Maps item ids to the user's state at each slot: [B, L] → [B, L, C].

        C + 1 with `head_bias`. Arguments as of `NextItNet`.
        """
        del positions, rows, train
        x = encode(self.layers, self.item_embedding, items, segments, self.skip_padding)
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) if self.head_bias else x

    def item_table(self) -> Array:
        """Vectors of all targets, padding first: [T + 1, C], C + 1 with `head_bias`. Products are logits."""
        return jnp.concatenate([self.head, self.bias[:, None]], axis=-1) if self.head_bias else self.head


class Patch(nn.Module):
    """z + U GELU(D z + b) + c, nearly z at first: the products start small.

    dim: channels of D z; None means a quarter of those of z. residual: False leaves z out.
    """

    dim: int | None = None
    activation: Callable[[Array], Array] = gelu
    residual: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Maps [..., C] to [..., C]."""
        channels = z.shape[-1]
        down = Dense(self.dim or channels // 4, kernel_init=INIT, dtype=self.dtype, name="down")(z)
        up = Dense(channels, kernel_init=INIT, dtype=self.dtype, name="up")(self.activation(down))
        return z + up if self.residual else up


class PatchedBlock(TwoLayerBlock):
    """A block of two convolutions, with a patch after (or parallel to) each of them or the second alone."""

    patch: Callable[..., nn.Module] = Patch
    parallel: bool = False
    both: bool = True

    def patched(self, number: int, before: Array, after: Array) -> Array:
        """Adds the patch: of the convolution's output, or of its input where parallel."""
        if number == 1 and not self.both:
            return after
        patch = self.patch(name=f"patch_{number}")
        return after + patch(before) if self.parallel else patch(after)


def trainable(params: Variables, *, norms: bool = False) -> Variables:
    """Which parameters a task trains: a tree of bool like `params`, which may lie in any other tree.

    norms: whether the second norm of each block is trained as well, as the released code does.
    """
    own = (*OWN, "norm_2") if norms else OWN

    def is_own(path: tuple[Any, ...], _: Any) -> bool:
        return any(jax.tree_util.keystr((part,), simple=True).startswith(own) for part in path)

    return jax.tree_util.tree_map_with_path(is_own, params)


def transfer(
    params: Variables, pretrained: Variables, *, models: tuple[PeterRec, NextItNet] | None = None
) -> Variables:
    """The parameters of a PeterRec with everything but its patches and head from a NextItNet's.

    pretrained: arrays, not values that are being traced. models: what both belong to. Dilations and
    the treatment of padding are not visible in parameters, so they are compared only if the models are given.

    Raises:
      ValueError: the pre-trained model lacks a parameter, has one of another shape or a block too many, or a
        value that is not finite; the models differ.
    """
    if models is not None:
        _check_models(*models)
    ours, theirs = traverse_util.flatten_dict(params), traverse_util.flatten_dict(pretrained)
    for path, leaf in theirs.items():
        bad = np.size(leaf) - np.isfinite(np.asarray(leaf)).sum()
        if bad:
            raise ValueError(
                f"{'/'.join(path)}: {bad:,} of {np.size(leaf):,} values of the pre-trained model are NaN or "
                "infinite; take an earlier checkpoint, or pre-train with a lower learning rate"
            )
    shared = {path for path in ours if not any(part.startswith(OWN) for part in path)}
    for path in sorted(shared):
        found = theirs[path].shape if path in theirs else None
        if found != ours[path].shape:
            raise ValueError(
                f"{'/'.join(path)}: {ours[path].shape} here, {found or 'missing'} in the pre-trained model; "
                "both need the same num_items, extra_rows, dim, kernel_size and dilations"
            )
        ours[path] = theirs[path]
    blocks = (path for path in theirs.keys() - shared if path[0].startswith("layer_"))
    left = sorted(path for path in blocks if not path[1].startswith(OWN))  # patches are another task's own
    if left:
        raise ValueError(
            f"{'/'.join(left[0])}: {theirs[left[0]].shape} in the pre-trained model, missing here (so are "
            f"{len(left) - 1} more); both need the same dilations, one for each block"
        )
    return traverse_util.unflatten_dict(ours)


def _check_models(ours: PeterRec, theirs: NextItNet) -> None:
    """Raises ValueError where the two modules compute different functions of equal parameters."""
    if theirs.bottleneck:
        raise ValueError(
            "bottleneck=True in the pre-trained model: patches go into blocks of two convolutions; pre-train "
            "with bottleneck=False"
        )
    for field in SHARED:
        here, there = getattr(ours, field), getattr(theirs, field)
        if field == "dilations":
            here, there = tuple(here), tuple(there)
        if here != there:
            raise ValueError(
                f"{field}={here} here, {there} in the pre-trained model: build both with the same {field}"
            )
