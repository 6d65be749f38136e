"""Side information of items that a model brings along, for batches that have nothing but ids of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.types import HISTORY, Array


class WithItemColumns(nn.Module):
    """A click model, with columns of side information looked up by the ids of a batch.

    A training batch has these columns from `tasks.ctr.behaviours`; where a model is served a batch has `item`
    [B] and `history_item` [B, L] alone. Parameters have the names that they have without this.

    Fields:
      within: the model, called with the columns of a batch, such as `Windows` of a `SIM`.
      columns: names of the side information, such as ("category",). Each is a variable of the collection
        "constants", int32 [num_items + 1], row 0 padding, which starts as zeros and is given.
    """

    within: Any
    columns: tuple[str, ...]
    num_items: int

    def setup(self) -> None:
        nn.share_scope(self, self.within)
        self.tables = {
            name: self.variable("constants", name, lambda: jnp.zeros(self.num_items + 1, jnp.int32))
            for name in self.columns
        }

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Any:
        """What the model gives for the batch and, of each of `columns`, `<name>` and `history_<name>`.

        An id outside a table gives -1, which no model's tables have.
        """
        found = dict(batch)
        for name, table in self.tables.items():
            for prefix in ("", HISTORY):
                ids = batch[f"{prefix}item"]
                found[f"{prefix}{name}"] = table.value.at[ids].get(
                    mode="fill", fill_value=-1, wrap_negative_indices=False
                )
        return self.within(found, train=train)
