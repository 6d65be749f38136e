"""Co-action network (Bian et al., WSDM 2022, arXiv:2011.05625)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.co_action import CoAction
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.id_columns import TABLE_INIT, column
from jaxrec.types import Array


class CAN(nn.Module):
    """Co-actions of pairs of columns, as extra features of an interest model.

        co_actions = CAN(((item, history_item),))
        WithHistory(embedding, DIN(), ("item",), ("history_item",), extra_features=co_actions)

    The first column of a pair, such as the target's id, gives the weights of a small network, and the second,
    such as the ids of a history or a feature of the user, its input; the outputs of a history are summed.
    Both are read from tables of their own (the first level of independence), so that co-actions and the
    other embeddings do not share parameters. Id 0 on either side gives zero.

    Fields:
      pairs: (weights, inputs), columns of ids [B], and [B] or [B, L]; `dim` and `average` do not matter.
      unit: sizes and orders of the network.
      pair_tables: whether each pair has tables of its own, the second level of independence. False: pairs
        share by vocabulary, weights with weights and inputs with inputs.
      table_init: of the tables but their row 0, which is zero and never trains.
    """

    pairs: tuple[tuple[Categorical, Categorical], ...]
    unit: CoAction = CoAction()
    pair_tables: bool = False
    table_init: nn.initializers.Initializer = TABLE_INIT

    def __post_init__(self) -> None:
        names = [tuple(field.name for field in pair) for pair in self.pairs]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"pairs={names}: name at least one pair of columns, none twice")
        if self.pair_tables:
            self._check_names(names)
        self.table_shapes()
        super().__post_init__()

    def table_shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes of the tables by name. Raises ValueError where columns of one vocabulary disagree."""
        shapes: dict[str, tuple[int, int]] = {}
        for pair in self.pairs:
            widths = self.unit.num_weights, self.unit.dim
            for name, field, width in zip(self._names(pair), pair, widths, strict=True):
                shared = shapes.setdefault(name, (field.vocab_size, width))
                if shared[0] != field.vocab_size:
                    raise ValueError(
                        f"field {field.name}: vocab_size={field.vocab_size}, but another field of the table "
                        f"{name!r} has {shared[0]}; make them equal or the vocabularies different"
                    )
        return shapes

    def _check_names(self, names: list[tuple[str, ...]]) -> None:
        """Raises ValueError where two pairs would have tables of one name."""
        first: dict[str, tuple[str, ...]] = {}
        for pair in names:
            other = first.setdefault("_".join(pair), pair)
            if other != pair:
                raise ValueError(
                    f"pairs {other} and {pair} would both have the tables {'_'.join(pair)}_weights and "
                    "…_inputs, but pair_tables=True gives each its own; rename a column"
                )

    def _names(self, pair: tuple[Categorical, Categorical]) -> tuple[str, str]:
        """The tables of a pair: of the weights and of the inputs."""
        own = "_".join(field.name for field in pair)
        weights, inputs = (own if self.pair_tables else field.vocabulary or field.name for field in pair)
        return f"{weights}_weights", f"{inputs}_inputs"

    @nn.compact
    def __call__(self, batch: Mapping[str, Array]) -> Array:
        """Maps columns to the co-actions of all pairs side by side, [B, pairs · K]; see `CoAction` for K.

        An id out of range gives NaN.
        """
        tables = {
            name: self.param(name, pad_row(self.table_init), shape)
            for name, shape in self.table_shapes().items()
        }
        found = []
        for pair in self.pairs:
            target, ids = (column(batch, field.name) for field in pair)
            if target.ndim != 1 or ids.ndim not in (1, 2):
                raise ValueError(
                    f"pair {pair[0].name}, {pair[1].name}: shapes {target.shape} and {ids.shape}; expected "
                    "one id an example, and one or several"
                )
            ids = ids.reshape(ids.shape[0], -1)
            weights, inputs = (tables[name] for name in self._names(pair))
            found.append(self.unit(lookup(weights, target), lookup(inputs, ids), ids != 0))
        return jnp.concatenate(found, axis=-1)
