"""One history as the two that search models read: the most recent events, and all that came before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.behaviours import column
from jaxrec.types import Array

HISTORY = "history_"


class Windows(nn.Module):
    """A search model (SIM, ETA) of the flat columns of a batch that has one history.

    For each of `model.items` the batch holds the target's column of that name [B] and `history_<name>`
    [B, L], right-aligned. The last `short` events are the model's short history, those before its long one.
    Ages are not passed on: the model's `age_dim` must be None.
    """

    model: Any
    short: int

    def __post_init__(self) -> None:
        if self.short < 1:
            raise ValueError(f"short={self.short}: the short history needs at least 1 event")
        super().__post_init__()

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array | dict[str, Array]:
        """A logit [B]; in training {"click": [B], "search": [B]} of a model with a search to train.

        Raises:
          ValueError: a column is missing, or the history is no longer than the short one.
        """
        names = [item.name for item in self.model.items]
        events = {name: column(batch, f"{HISTORY}{name}") for name in names}
        length = events[names[0]].shape[1]
        if length <= self.short:
            raise ValueError(f"short={self.short}: of histories of {length} events nothing is left to search")
        outputs = self.model(
            {name: column(batch, name) for name in names},
            {name: ids[:, : length - self.short] for name, ids in events.items()},
            {name: ids[:, length - self.short :] for name, ids in events.items()},
            train=train,
        )
        if not isinstance(outputs, Mapping):
            return outputs  # type: ignore[no-any-return]
        named = {"click": outputs["ctr"], **{name: outputs[name] for name in outputs if name != "ctr"}}
        return named if train and len(named) > 1 else named["click"]
