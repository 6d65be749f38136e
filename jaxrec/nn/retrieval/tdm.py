"""TDM's network: how likely a user is to want a node of a tree, from windows of the user's history.

Zhu et al., KDD 2018, arXiv:1801.02294, section 3.3: DIN's attention in windows of the history, and layers.
The form of JTM (arXiv:1902.07565, section 3.2) has plain means for attention and reads the history of a
node's level: the ancestors on that level of the items that the user had.

Departs from the paper: none is known but for the start of the weights. A weighted sum over a window is
divided by the number of its events, where the paper says "weighted average"; Alibaba's TorchEasyRec does so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrec.nn.layers.batch_norm import MaskedBatchNorm
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dice import Activation, PReLU, activate
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.segments import pick
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()


def window_sums(weights: Array, history: Array, windows: Sequence[int]) -> Array:
    """Weighted sums of events over consecutive windows: [B, M, L], [B, L, D] → [B, M, W · D].

    windows: their lengths, oldest first, which add up to L.
    """
    ends = np.cumsum(windows)
    parts = [slice(end - size, end) for end, size in zip(ends, windows, strict=True)]
    sums = [jnp.einsum("bml,bld->bmd", weights[:, :, part], history[:, part]) for part in parts]
    return jnp.concatenate(sums, axis=-1)


class WindowAttention(nn.Module):
    """DIN's weights of events for nodes, and their weighted means over windows of the history.

    The weight of an event h for a node n is a small network of [h, n ⊙ h, n], of any sign. Its first layer is
    computed in the three parts of its kernel, as of the part of h there is one for all nodes.

    Shape names: B batch, M nodes, L slots, D dim, W windows.

    Fields:
      windows: lengths of the windows, consecutive slots, oldest first; (L,) for a history without order.
      dims: hidden layers of the small network. activation: of them. last: behind its last layer, as in
        TorchEasyRec; None: nothing is, as in the paper.
      axis_name: of devices whose batches share the statistics of activations; None: each has its own.
    """

    windows: Sequence[int]
    dims: Sequence[int] = (36,)
    activation: Activation = PReLU
    last: Activation | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, node: Array, history: Array, mask: Array, *, where: Array | None = None, train: bool = False
    ) -> Array:
        """Maps nodes [B, M, D], events [B, L, D] and which are real, [B, L], to [B, M, W · D].

        where: which nodes are real, bool [B, M], for the statistics of activations; None: all.
        """
        dim, widths = history.shape[-1], (*self.dims, 1)
        kernel = self.param("kernel", INIT, (3 * dim, widths[0]))
        bias = self.param("bias", nn.initializers.zeros, (widths[0],))
        of_event, of_product, of_node = jnp.split(kernel, 3)
        products = jnp.einsum("bld,bmdh->bmlh", history, node[..., None] * of_product)
        x = products + (history @ of_event)[:, None] + (node @ of_node + bias)[:, :, None]
        real = jnp.broadcast_to(
            mask[:, None] if where is None else mask[:, None] & where[:, :, None], x.shape[:3]
        )
        options: dict[str, Any] = {"train": train, "where": real, "axis_name": self.axis_name}
        for i, width in enumerate(widths[1:]):
            x = activate(self.activation, x, f"activation_{i}", **options)
            x = Dense(width, kernel_init=INIT, name=f"layer_{i + 1}")(x)
        if self.last is not None:
            x = activate(self.last, x, "last", **options)
        weights = jnp.where(mask[:, None], x[..., 0], 0.0)
        weights = weights / of_windows(mask, self.windows)[:, None]
        return window_sums(weights, history, self.windows)


def of_windows(mask: Array, windows: Sequence[int]) -> Array:
    """How many real events the window of each slot has, at least 1: [..., L] → [..., L]."""
    window = np.repeat(np.arange(len(windows)), windows)
    together = jnp.asarray(window[:, None] == window, jnp.float32)
    return jnp.maximum(mask.astype(jnp.float32) @ together, 1.0)


class NodeNetwork(nn.Module):
    """Windows of a history, a node and further features of the user, through layers.

    Shape names: as of `WindowAttention`; J histories of a user, O width of further features.

    Fields:
      windows: see `WindowAttention`. attention: computes the weighted means of windows; None: they are plain
        means, the "DNN" of the paper's table 2.
      dims: layers, each linear → batch norm → activation. outputs: of the linear layer behind them.
      axis_name: of devices whose batches share their statistics; None: each has its own.
    """

    windows: Sequence[int]
    attention: nn.Module | None = None
    dims: Sequence[int] = (128, 64, 24)
    activation: Activation = PReLU
    batch_norm: bool = True
    outputs: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        node: Array,
        history: Array,
        mask: Array,
        *,
        other: Array | None = None,
        level: Array | None = None,
        where: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Maps nodes [B, M, Q], events [B, L, D], mask [B, L] and features [B, O] to [B, M, outputs].

        where: which nodes are real, bool [B, M], so that others do not enter the statistics of batches; None:
        all are.

        Nodes that are narrower than events are filled up with zeros. With plain means there may be several
        histories of each user, [B, J, L, D] and [B, J, L]: then `level` [M] or [B, M] says, from 0 on, which
        of them a node is scored with.
        """
        if sum(self.windows) != history.shape[-2]:
            raise ValueError(f"windows={tuple(self.windows)}: must add up to {history.shape[-2]}, the slots")
        node = jnp.pad(node, ((0, 0), (0, 0), (0, history.shape[-1] - node.shape[-1])))
        if self.attention is not None:
            interest = self.attention(node, history, mask, where=where, train=train)
        else:
            slots = history.reshape(-1, *history.shape[-2:])
            weights = mask / of_windows(mask, self.windows)
            interest = window_sums(weights.reshape(len(slots), 1, -1), slots, self.windows)
            interest = interest.reshape(len(node), -1, interest.shape[-1])  # [B, J or 1, W · D]
        x = self._first([interest, node] if other is None else [interest, node, other[:, None]], level)
        for i in range(len(self.dims)):
            if self.batch_norm:
                norm = MaskedBatchNorm(axis_name=self.axis_name, name=f"norm_{i}")
                x = norm(x, where=where, train=train)
            name = f"activation_{i}"
            x = activate(self.activation, x, name, train=train, axis_name=self.axis_name, where=where)
            last = i + 1 == len(self.dims)
            width, name = (self.outputs, "logit") if last else (self.dims[i + 1], f"layer_{i + 1}")
            x = Dense(width, kernel_init=INIT, name=name)(x)
        return x

    def _first(self, parts: Sequence[Array], level: Array | None) -> Array:
        """A linear layer of parts side by side, [B, M or 1, …] each, without putting them there."""
        width = self.dims[0]
        kernel = self.param("kernel", INIT, (sum(part.shape[-1] for part in parts), width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
        products = [part @ block for part, block in zip(parts, jnp.split(kernel, ends), strict=True)]
        if level is not None:
            products[0] = of_level(products[0], level)
        return sum(products[1:], products[0]) + bias


def of_level(values: Array, level: Array) -> Array:
    """Of each node the values of its level: [B, J, H] and [M] or [B, M] → [B, M, H]."""
    if level.ndim == 1:
        chosen = (level[:, None] == jnp.arange(values.shape[1])).astype(values.dtype)
        return jnp.einsum("mj,bjh->bmh", chosen, values, precision="highest")
    return pick(values, level)


class TDM(nn.Module):
    """The network on ids: items and inner nodes share one table, in which an item is its leaf.

    Shape names: B batch, M nodes, J levels, L slots, D dim.

    Fields:
      num_ids: of items and inner nodes (`Tree.num_ids`).
      dim: width of the vectors.
      windows: lengths of windows of the history, oldest first, (L,) where it has no order. The paper has ten.
      attention: hidden layers of the attention unit; None: plain means.
      outputs: 2 is the paper's binary softmax, the logit being the difference of both; 1 has one output.
      others: see `NodeNetwork`; axis_name is that of the attention unit too.
    """

    num_ids: int
    dim: int = 24
    windows: Sequence[int] = (20, 20, 10, 10, 2, 2, 2, 1, 1, 1)
    attention: Sequence[int] | None = (36,)
    dims: Sequence[int] = (128, 64, 24)
    activation: Activation = PReLU
    batch_norm: bool = True
    outputs: int = 2
    axis_name: str | None = None

    @property
    def max_len(self) -> int:
        """L, how many events it reads."""
        return sum(self.windows)

    def setup(self) -> None:
        check_sizes(num_ids=self.num_ids, dim=self.dim)
        if not self.windows or min(self.windows) < 1 or not self.dims or self.outputs not in (1, 2):
            raise ValueError(
                f"windows={tuple(self.windows)}, dims={tuple(self.dims)}, outputs={self.outputs}: windows of "
                "at least 1 slot, at least one layer, and 1 output or 2 are needed"
            )
        init = pad_row(nn.initializers.normal(1 / np.sqrt(self.dim)))
        self.embedding = self.param("embedding", init, (self.num_ids + 1, self.dim))
        attention = None
        if self.attention is not None:
            attention = WindowAttention(
                tuple(self.windows),
                tuple(self.attention),
                self.activation,
                axis_name=self.axis_name,
                parent=None,
            )
        self.network = NodeNetwork(
            tuple(self.windows),
            attention,
            tuple(self.dims),
            self.activation,
            self.batch_norm,
            self.outputs,
            self.axis_name,
        )

    def __call__(
        self, history: Array, nodes: Array, level: Array | None = None, *, train: bool = False
    ) -> Array:
        """Maps ids of events [B, L] and of nodes [B, M] to logits [B, M]; 0 is padding.

        Nodes of id 0 do not enter the statistics of batches.

        With histories [B, J, L], one for each level, `level` [M] or [B, M] says which of them a node reads.

        Raises:
          ValueError: several histories with attention, or without `level`.
        """
        if history.ndim == 3 and (self.attention is not None or level is None):
            raise ValueError(
                f"histories {history.shape} of several levels: give the level of each node, and "
                "attention=None"
            )
        found = self.network(
            lookup(self.embedding, nodes),
            lookup(self.embedding, history),
            history != 0,
            level=level if history.ndim == 3 else None,
            where=nodes != 0,
            train=train,
        )
        return found[..., 0] if self.outputs == 1 else found[..., 1] - found[..., 0]

    def table(self) -> Array:
        """Vectors of all ids, padding first: [num_ids + 1, D]."""
        return self.embedding
