"""Deep Retrieval: a user's probabilities of paths through layers of codes (Gao et al., arXiv:2007.07203).

The structure model (section 2.2) is p(c | x) = Π_d p(c_d | x, c_1 .. c_{d-1}), where layer d is an MLP with
softmax over K nodes that reads the user's vector x and the embeddings of the codes so far. On which paths an
item lies is no parameter: it is the collection "paths", drawn at random and changed by
`index.paths_learning`. Softmax embeddings of items score those that the paths lead to (section 3.4).

Departs from the paper: x is the mean of the events through layers by default (`MeanOfHistory`), for histories
without an order; `GRUOfHistory` is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.nn.layers.recurrent import GRU
from jaxrec.segments import pick
from jaxrec.types import Array, Key

PATHS, OF_ITEMS = "paths", "of_items"  # collection and name of the items' paths


class MeanOfHistory(nn.Module):
    """The mean of the vectors of events through ReLU layers of `dims` and a linear one: no order is read."""

    dim: int
    dims: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps events [B, L, E] and which of them are real [B, L] to [B, dim]."""
        real = mask[..., None]
        mean = jnp.where(real, x, 0.0).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
        return nn.Dense(self.dim, name="output")(MLP(self.dims, name="mlp")(mean))


class GRUOfHistory(nn.Module):
    """The last state of a GRU over the events, the most recent one last: the paper's encoder."""

    dim: int

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps events [B, L, E] and which of them are real [B, L] to [B, dim]."""
        return GRU(self.dim, name="gru")(x, update=mask)[:, -1]


class DeepRetrieval(nn.Module):
    """The structure model, the items' paths, and softmax embeddings that share the user's vector.

    Shape names: B batch, L slots, E dim, D depth, K num_codes, W prefixes, J paths_per_item, V vocab_size.

    Fields:
      dim: width of the vectors of items, codes and users. max_len: most recent events read.
      num_codes, depth: K nodes in each of D layers. paths_per_item: J, distinct paths of each item.
      hidden_dims: widths of the hidden ReLU layers of each layer's MLP.
      reader: makes the module that maps (events [B, L, E], mask [B, L]) to users [B, E], as reader(E).
      shared: one table for events and for the softmax over items; False: two, as in the paper.
      draw: (key, num_items=, paths_per_item=, num_paths=) -> numbers of paths int32 [V, J] that items begin
        on, row 0 being -1: `index.paths_learning.draw_paths`.
      item_std: of the normal initialisation of vectors of items and codes.
    """

    num_items: int
    draw: Callable[..., Array]
    dim: int = 64
    max_len: int = 50
    num_codes: int = 100
    depth: int = 3
    paths_per_item: int = 3
    hidden_dims: tuple[int, ...] = (128,)
    reader: Callable[..., nn.Module] = Factory(MeanOfHistory)
    shared: bool = False
    item_std: float = 0.05

    @property
    def num_paths(self) -> int:
        """K^D."""
        return self.num_codes**self.depth

    def setup(self) -> None:
        sizes = ("num_items", "dim", "max_len", "num_codes", "depth", "paths_per_item")
        check_sizes(**{name: getattr(self, name) for name in sizes})
        if self.num_paths >= 2**31 - 1:
            raise ValueError(
                f"num_codes={self.num_codes}, depth={self.depth}: num_codes^depth must be below 2^31 - 1"
            )
        init = nn.initializers.normal(self.item_std)
        shape = (self.num_items + 1, self.dim)
        self.item_embedding = self.param("item_embedding", pad_row(init), shape)
        if not self.shared:
            self.class_embedding = self.param("class_embedding", pad_row(init), shape)
        if self.depth > 1:
            self.code_embedding = self.param(
                "code_embedding", init, ((self.depth - 1) * self.num_codes, self.dim)
            )
        self.user = self.reader(self.dim)
        self.layers = [MLP(self.hidden_dims) for _ in range(self.depth)]
        self.outputs = [Dense(self.num_codes) for _ in range(self.depth)]
        self.of_items = self.variable(PATHS, OF_ITEMS, self._drawn)

    def _drawn(self) -> Array:
        key: Key = self.make_rng("params")
        sizes = {"paths_per_item": self.paths_per_item, "num_paths": self.num_paths}
        return self.draw(key, num_items=self.num_items, **sizes)

    def __call__(self, items: Array, *, train: bool = False) -> Array:
        """Maps histories of ids, 0 = padding, [B, L] to users' vectors x [B, E]. train: ignored."""
        if items.shape[1] > self.max_len:
            raise ValueError(
                f"sequences of length {items.shape[1]}: max_len={self.max_len} is the longest; cut off the "
                "oldest events"
            )
        x = self.user(lookup(self.item_embedding, items), items != 0)
        if self.is_initializing():
            self.path_log_prob(x, jnp.zeros((x.shape[0], 1, self.depth), jnp.int32))
        return x

    def item_table(self) -> Array:
        """Softmax embeddings of all ids, padding first: [V, E]. A score is their product with x."""
        return self.item_embedding if self.shared else self.class_embedding

    def next_code(self, x: Array, begun: Array) -> Array:
        """log p(c_{d+1} | x, c_1 .. c_d) of all codes, from users [B, E] and W prefixes [B, W, d]: [B, W, K].

        d is 0 .. D - 1; with d = 0 the prefixes are empty, [B, W, 0].
        """
        number, d = begun.shape[1:]
        if not 0 <= d < self.depth:
            raise ValueError(f"prefixes of {d} codes: must have 0..{self.depth - 1}, fewer than depth")
        user = jnp.broadcast_to(x[:, None], (x.shape[0], number, x.shape[1]))
        parts = [user]
        if d:
            codes = rows_at(self.code_embedding, begun + self.num_codes * jnp.arange(d))  # [B, W, d, E]
            parts.append(codes.reshape(*begun.shape[:2], -1))
        hidden = self.layers[d](jnp.concatenate(parts, axis=-1))
        return jax.nn.log_softmax(self.outputs[d](hidden).astype(jnp.float32), axis=-1)

    def path_log_prob(self, x: Array, paths: Array) -> Array:
        """log p(c | x) of some paths of each user, int32 [B, J, D]: [B, J]."""
        total = jnp.zeros(paths.shape[:2])
        for d in range(self.depth):
            every = self.next_code(x, paths[..., :d])
            total = total + pick(every, paths[..., d, None])[..., 0]
        return total

    def paths_of(self, ids: Array) -> Array:
        """Numbers of the paths of items, [...] → int32 [..., J]; of padding -1, of an unknown id -2."""
        table = self.of_items.value
        known = (ids >= 0) & (ids < len(table))
        found: Array = jnp.where(known[..., None], table[jnp.where(known, ids, 0)], -2)
        return found
