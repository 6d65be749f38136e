"""NextItNet: dilated convolutions over a user's items (Yuan et al., WSDM 2019, arXiv:1808.05163)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import optax

from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.recipes import trainable
from jaxrec.recipes.compute import later
from jaxrec.recipes.trainable import SequenceModel


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How it is trained. Sizes: form b of the paper, with the softmax over all items."""

    dim: int = 100  # channels
    dilations: tuple[int, ...] = (1, 2, 1, 2, 1, 2)  # of each block's first convolution
    kernel_size: int = 3  # events that a convolution reads
    max_len: int = 50  # most recent events read
    epochs: int = 50  # at most; the best one on validation counts
    patience: int = 5  # epochs without a better one before a seed stops; 0: never
    batch_size: int = 128  # users or sessions a step
    learning_rate: float = 1e-3  # of Adam
    remat: bool = later(False)  # blocks are computed again in the backward pass, for less memory


def nextitnet(num_items: int, recipe: Recipe) -> NextItNet:
    """The network, whose output table is not that of its input, as in the paper."""
    return NextItNet(
        num_items=num_items,
        dim=recipe.dim,
        dilations=recipe.dilations,
        kernel_size=recipe.kernel_size,
        max_len=recipe.max_len,
        remat=recipe.remat,
    )


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam, the paper's optimiser."""
    return optax.adam(recipe.learning_rate)


MODELS: Mapping[str, SequenceModel] = {
    "nextitnet": SequenceModel(
        Recipe, nextitnet, {"ce": trainable.ce, "bce": trainable.bce, "bpr": trainable.bpr}, adam
    ),
}
