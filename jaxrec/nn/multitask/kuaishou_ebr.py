"""Divide and conquer in embedding-based retrieval: SASRec adapted to clusters of items by prompts.

Zhang, Dong, Ding, Li, Jiang and Gai, "Divide and Conquer: Towards Better Embedding-based Retrieval for
Recommender Systems from a Multi-task Perspective", arXiv:2302.02657 (2023). The tasks are the clusters:
retrieving from cluster k is one task, and a prompt t_k adapts the shared user tower to it by a Hadamard
product with every token, e_u^k = Transformer([s_1 * t_k, ..., s_n * t_k]). The item tower has no prompt.

Ours, where we know of no statement of the paper: a token is what enters the first block (item plus position,
normalised), prompts start at ones, and the user-intent model is a small SASRec of its own with a linear head.
"""

from __future__ import annotations

import flax.linen as nn

from jaxrec.nn.layers.attention import causal_mask
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, rows_at, slots
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.types import Array


class KuaishouEBR(SASRec):
    """A user's vector for each cluster of items, and how probable each cluster is to hold the next item.

    Shape names: B rows, L slots, D dim, K clusters. The intent model shares no parameter with retrieval, so
    training both at once is training them separately. Fields beside those of SASRec:
      num_clusters: K, the number of prompts and of intents.
      intent_dim, intent_layers: width and blocks of the intent model, whose inner width is 4 * intent_dim.
    """

    num_clusters: int = 8
    intent_dim: int = 32
    intent_layers: int = 1

    def setup(self) -> None:
        super().setup()
        for field in ("num_clusters", "intent_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: must be at least 1")
        self.prompts = self.param("prompts", nn.initializers.ones, (self.num_clusters, self.dim))
        self.intent_encoder = SASRec(
            self.num_items,
            dim=self.intent_dim,
            num_layers=self.intent_layers,
            num_heads=self.num_heads,
            inner_dim=4 * self.intent_dim,
            max_len=self.max_len,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation=self.activation,
            init_std=self.init_std,
            norm_epsilon=self.norm_epsilon,
            mask_value=self.mask_value,
            extra_rows=self.extra_rows,
            bits=self.bits,
            dtype=self.dtype,
        )
        self.intent_head = Dense(
            self.num_clusters, kernel_init=nn.initializers.normal(self.init_std), dtype=self.dtype
        )

    def __call__(
        self,
        items: Array,
        *,
        clusters: Array | None = None,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        """Maps item ids to what the model expects next at each slot from a cluster: [B, L] → [B, L, D].

        Args:
          clusters: cluster 0..K-1 that each slot is read for, int32 [B, L] or [B, 1], the same for all slots
            of a user; K and above give NaN. None: no prompts, which is plain SASRec.

        The other arguments are those of SASRec.
        """
        if self.is_initializing():
            self.intent(items, train=False)
        positions = slots(items.shape[-1], self.max_len) if positions is None else positions
        x = lookup(self.item_embedding, items) + rows_at(self.position_embedding, positions)
        x = self.drop(self.norm(x), train=train, rows=rows)
        if clusters is not None:
            x = x * rows_at(self.prompts, clusters)
        visible = causal_mask(items, segments)
        for layer in self.layers:
            x = layer(x, visible, train=train, rows=rows)
        return x

    def intent(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        """Logits of the cluster of the next item at each slot: [B, L] → [B, L, K]. Arguments: see SASRec."""
        hidden = self.intent_encoder(items, positions=positions, segments=segments, rows=rows, train=train)
        return self.intent_head(hidden)
