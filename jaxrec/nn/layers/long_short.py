"""One history as the two that search models read: the most recent events, and all that came before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.id_columns import column
from jaxrec.types import HISTORY, Array


class Windows(nn.Module):
    """A search model (SIM, ETA) of the flat columns of a batch that has one history.

    For each of `model.items` the batch holds the target's column of that name [B] and `history_<name>`
    [B, L], right-aligned. The last `short` events are the model's short history, those before its long one.
    A model that reads ages (`model.aged`) gets those of either part of `history_age`, in seconds [B, L].

    Fields: short is the number of events of the short history. served: the output that is given when not in
    training, "click" or, of a model with a search to train, "search".
    """

    model: Any
    short: int
    served: str = "click"

    def __post_init__(self) -> None:
        if self.short < 1:
            raise ValueError(f"short={self.short}: the short history needs at least 1 event")
        if self.served not in ("click", "search"):
            raise ValueError(f"served={self.served!r}: must be 'click' or 'search'")
        super().__post_init__()

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array | dict[str, Array]:
        """A logit [B]; in training {"click": [B], "search": [B]} of a model with a search to train.

        Raises:
          ValueError: a column is missing, the history is no longer than the short one, or there is no search
            to serve.
        """
        names = [item.name for item in self.model.items]
        events = {name: column(batch, f"{HISTORY}{name}") for name in names}
        length = events[names[0]].shape[1]
        if length <= self.short:
            raise ValueError(f"short={self.short}: of histories of {length} events nothing is left to search")
        cuts = {"long": slice(length - self.short), "short": slice(length - self.short, None)}
        roles: dict[str, Any] = {
            role: {name: ids[:, cut] for name, ids in events.items()} for role, cut in cuts.items()
        }
        if self.model.aged:
            ages = column(batch, f"{HISTORY}age")
            roles |= {f"{role}_age": ages[:, cuts[role]] for role in self.model.aged}
        outputs = self.model({name: column(batch, name) for name in names}, **roles, train=train)
        named = outputs if isinstance(outputs, Mapping) else {"ctr": outputs}
        named = {"click" if name == "ctr" else name: output for name, output in named.items()}
        if self.served not in named:
            raise ValueError("served='search': the model has no search to train")
        return named if train and len(named) > 1 else named[self.served]
