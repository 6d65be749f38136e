"""Splits the columns of a batch into the target, the history of such events, and the other features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.features import FeatureEmbedding
from jaxrec.types import Array


class WithHistory(nn.Module):
    """Embeds the features of a batch and applies an interest model to them.

    The model is called as model(x, target, history, mask, train=…): x [B, F] are the vectors of all columns
    but those below, the target's among them, in the order of the embedding's fields; target [B, D] and
    history [B, L, D] are the vectors of the columns `targets` and `histories`, concatenated; mask [B, L] is
    True where the first history column is not 0. Padding may stand on either side.

    Fields:
      embedding: has a `Categorical` for each column, those of one kind with the same `vocabulary`.
      targets: columns of ids [B], such as item and category. histories: the same of past events, [B, L]. All
        but the first may have several ids, [B, A] and [B, L, A], of which an event has the pooled vector.
      negatives: the same of events that did not happen, [B, L], one for each slot of the history: the model
        is then called with negatives=[B, L, D], or with None where the batch has no such columns, as in
        serving.
      extra_features: a module of the columns, such as `nn.ranking.can.CAN`, whose vector [B, K] is appended
        to x.
    """

    embedding: FeatureEmbedding
    model: nn.Module
    targets: Sequence[str]
    histories: Sequence[str]
    negatives: Sequence[str] = ()
    extra_features: nn.Module | None = None

    def __post_init__(self) -> None:
        if not self.targets or not len(self.targets) == len(self.histories) == len(
            self.negatives or self.targets
        ):
            raise ValueError(
                f"targets={tuple(self.targets)}, histories={tuple(self.histories)}, "
                f"negatives={tuple(self.negatives)}: name the same number of columns, at least one"
            )
        super().__post_init__()

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Any:
        """Applies the model to the columns of a batch and returns what it returns."""
        inputs, extra = self.inputs(batch)
        return self.model(*inputs, train=train, **extra)

    def inputs(self, batch: Mapping[str, Array]) -> tuple[tuple[Array, Array, Array, Array], dict[str, Any]]:
        """What the model is called with: (x, target, history, mask), and keywords other than `train`."""
        for name in self.histories:
            one = name == self.histories[0]
            if name not in batch or jnp.ndim(batch[name]) not in ((2,) if one else (2, 3)):
                shape = jnp.shape(batch[name]) if name in batch else "missing"
                several = "" if one else " or [B, L, A]"
                raise ValueError(f"field {name}: {shape}, expected ids of events [B, L]{several}")
        drawn = all(name in batch for name in self.negatives)
        read = dict(batch)
        if not drawn:  # the model gets None in place of their vectors
            read |= {n: batch[h] for n, h in zip(self.negatives, self.histories, strict=True)}
        lists = (*self.histories, *self.negatives)
        shape = read[self.histories[0]].shape
        events = {name: read[name].reshape(-1, *read[name].shape[2:]) for name in lists}
        vectors = self.embedding.vectors({**read, **events})

        def joined(names: Sequence[str], *shape: int) -> Array:
            return jnp.concatenate([vectors[name].reshape(*shape, -1) for name in names], axis=-1)

        x = joined([name for name in vectors if name not in lists], shape[0])
        if self.extra_features is not None:
            x = jnp.concatenate([x, self.extra_features(batch)], axis=-1)
        mask = read[self.histories[0]] != 0
        inputs = (x, joined(self.targets, shape[0]), joined(self.histories, *shape), mask)
        extra = {}
        if self.negatives:
            extra["negatives"] = joined(self.negatives, *shape) if drawn else None
        return inputs, extra
