"""The co-action unit of the authors' CAN (CAN-Paper/Co-Action-Network, script/model.py) as ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, State, convert, shape
from jaxrec.nn.layers.co_action import CoAction
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.ranking.can import CAN


def co_action(
    kernels: Sequence[Sequence[int]],
    biases: Sequence[int],
    num_orders: int,
    *,
    order_indep: bool = False,
) -> CoAction:
    """The unit of the constants there: weight_emb_w, weight_emb_b, orders and order_indep.

    With its order_indep the weights of all orders end in one list, and every order goes through the layers of
    all of them, one after the other. This is what `order_indep` gives; see `CoAction` for what is meant.

    Raises:
      ValueError: layers that do not follow each other, or a bias of another width than its layer.
    """
    sets = num_orders if order_indep else 1
    layers = [tuple(kernel) for kernel in kernels] * sets
    if any(first[1] != second[0] for first, second in pairwise(layers)):
        order = " order_indep=True chains the layers of all orders;" if order_indep else ""
        raise ValueError(f"weight_emb_w={layers}:{order} each layer must read what the one before it gives")
    wrong = [bias not in (0, kernel[1]) for kernel, bias in zip(kernels, biases, strict=True)]
    if any(wrong):
        raise ValueError(f"weight_emb_b={list(biases)}: must be 0 or the width of the layer, {list(kernels)}")
    return CoAction(
        layers[0][0],
        tuple(columns for _, columns in layers),
        num_orders,
        use_bias=tuple(bias > 0 for bias in biases) * sets,
        activate_last=False,
        concatenate=True,
    )


def can(
    state: State, unit: CoAction, *, weights: str = "ad_table", inputs: str = "history_table"
) -> Converted:
    """`CAN` of one pair of columns, "ad" [B] and "history" [B, L].

    Ids there start at 0 and are all real; ours are theirs plus 1, with 0 where its mask is 0.
    """
    ad, history = (
        Categorical(n, shape(state, key)[0] + 1, 1) for n, key in (("ad", weights), ("history", inputs))
    )
    locations = {
        weights: Location(("params", "ad_weights"), padded=True),
        inputs: Location(("params", "history_inputs"), padded=True),
    }
    batch = {"ad": np.zeros(1, np.int32), "history": np.zeros((1, 1), np.int32)}
    return convert(CAN(((ad, history),), unit), state, locations, batch)
