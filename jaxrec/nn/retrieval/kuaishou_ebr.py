"""Divide and conquer in embedding-based retrieval: SASRec adapted to clusters of items by prompts.

Zhang, Dong, Ding, Li, Jiang and Gai, "Divide and Conquer: Towards Better Embedding-based Retrieval for
Recommender Systems from a Multi-task Perspective", arXiv:2302.02657 (2023). The tasks are the clusters:
retrieving from cluster k is one task, and a prompt t_k adapts the shared user tower to it by a Hadamard
product with every token, e_u^k = Transformer([s_1 * t_k, ..., s_n * t_k]). The item tower has no prompt.

Ours, where we know of no statement of the paper: a token is what enters the first block (item plus position,
normalised), prompts start at ones, and the user-intent model is a small SASRec of its own with a linear head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import rows_at
from jaxrec.types import Array


class KuaishouEBR(nn.Module):
    """A user's vector for each cluster of items, and how probable each cluster is to hold the next item.

    Shape names: B batch, L slots, D dim, K clusters. The intent model shares no parameter with retrieval, so
    training both at once is training them separately.

    Fields:
      encoder: of retrieval, `SASRec` or another whose `__call__` takes the factors `scale` of its tokens. Its
        parameters stand beside the prompts, under its own names.
      intent_encoder: of the intent model, a `SASRec` in the paper's way or any other encoder of items.
      num_clusters: K, the number of prompts and of intents.
    """

    encoder: Any
    intent_encoder: Any
    num_clusters: int = 8

    @property
    def max_len(self) -> int:
        """The most slots that both encoders read."""
        return min(self.encoder.max_len, self.intent_encoder.max_len)

    def setup(self) -> None:
        if self.num_clusters < 1:
            raise ValueError(f"num_clusters={self.num_clusters}: must be at least 1")
        nn.share_scope(self, self.encoder)
        self.encoder.item_table()  # draws its parameters first, so that they start as they do without prompts
        self.prompts = self.param("prompts", nn.initializers.ones, (self.num_clusters, self.encoder.dim))
        self.intent_head = Dense(
            self.num_clusters,
            kernel_init=nn.initializers.normal(self.intent_encoder.init_std),
            dtype=self.intent_encoder.dtype,
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
        scale = None if clusters is None else rows_at(self.prompts, clusters)
        return self.encoder(
            items, positions=positions, segments=segments, rows=rows, scale=scale, train=train
        )

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

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]. No prompt enters them."""
        return self.encoder.item_table()
