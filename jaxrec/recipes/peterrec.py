"""PeterRec's transfer (Yuan et al., SIGIR 2020, arXiv:2001.04253): a NextItNet is pre-trained, then adapted
to another task.

Departs from the paper: the softmax is over all items in pre-training and over all classes in fine-tuning,
where the code samples negatives, and the head has no penalty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax

from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec, trainable, transfer
from jaxrec.recipes.trainable_apart import TransferModel
from jaxrec.types import Variables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the model is pre-trained and a row trained; sizes are those for click sessions."""

    dim: int = 64  # channels
    dilations: tuple[int, ...] = (1, 4, 1, 4, 1, 4, 1, 4)  # of each block's first convolution
    norms: bool = False  # patched rows train the second norm of each block too, as the released code does
    max_len: int = 21  # most recent events read, including the token
    pretrain_seed: int = 0  # of the pre-trained model
    pretrain_batch_size: int = 256  # sessions or users per step
    pretrain_epochs: int = 5  # at most; the best one is used
    pretrain_patience: int = 2  # epochs without improvement of the validation score
    pretrain_learning_rate: float = 1e-3  # of Adam
    batch_size: int = 32  # examples per step of a row
    epochs: int = 60  # of a row, at most; the best one is used
    patience: int = 15  # epochs without improvement of the validation score
    learning_rate: float = 1e-3  # of Adam, for a row


@dataclasses.dataclass(frozen=True)
class Use:
    """How a row uses the pre-trained model.

    pretrained: whether it starts from it. frozen: whether the pre-trained parameters stay fixed. patched:
    whether each block has two patches, one after each convolution or, where parallel, in parallel with it.
    """

    pretrained: bool = True
    frozen: bool = False
    patched: bool = False
    parallel: bool = False


SCRATCH = Use(pretrained=False)
FULL = Use()
HEAD = Use(frozen=True)
SERIAL = Use(frozen=True, patched=True)
PARALLEL = Use(frozen=True, patched=True, parallel=True)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How a run of `jaxrec train nextitnet` is adapted; sizes are those of that run."""

    how: Literal["serial", "parallel", "head", "full"] = "serial"  # patches (two forms), the head, or all
    norms: bool = False  # patches come with the second norm of each block, as in the released code
    max_len: int = 50  # most recent events read, including the token
    batch_size: int = 32  # users per step
    epochs: int = 60  # at most; the best one is used
    patience: int = 15  # epochs without improvement of the validation score; 0: never
    learning_rate: float = 1e-3  # of Adam

    def __post_init__(self) -> None:
        if self.norms and self.how not in ("serial", "parallel"):
            raise ValueError(f"norms=True: is of patches; leave it out, or not with how={self.how!r}")
        if self.max_len < 2:
            raise ValueError(f"max_len={self.max_len}: must be at least 2, an event and the token")


USES: Mapping[str, Use] = {"serial": SERIAL, "parallel": PARALLEL, "head": HEAD, "full": FULL}


def backbone(num_items: int, recipe: Recipe) -> NextItNet:
    """The model that is pre-trained; its tables have a row for the token, which is not an item."""
    return NextItNet(
        num_items=num_items,
        dim=recipe.dim,
        dilations=recipe.dilations,
        max_len=recipe.max_len,
        extra_rows=1,
    )


def with_head(use: Use, num_items: int, num_classes: int, recipe: Recipe) -> PeterRec:
    """The pre-trained model's blocks, with a head and, for PeterRec, patches."""
    return PeterRec(
        num_items,
        num_classes,
        dim=recipe.dim,
        dilations=recipe.dilations,
        parallel=use.parallel,
        patched=use.patched,
        max_len=recipe.max_len,
        extra_rows=1,
    )


def body(pretrained: Variables) -> Variables:
    """The pre-trained parameters that a task uses: all but the output table, which the head replaces."""
    params = pretrained["params"]
    return {"params": {name: part for name, part in params.items() if not name.startswith("output_")}}


def adapted(source: Any, num_classes: int, recipe: Transfer) -> PeterRec:
    """The blocks of a pre-trained NextItNet with a head and, unless `recipe.how` is without, patches.

    Raises:
      ValueError: the source is another module, or its blocks take no patches.
    """
    if not isinstance(source, NextItNet):
        raise ValueError(
            f"{type(source).__name__}: is adapted by nothing here; start from a plain NextItNet, which reads "
            "ids of items alone"
        )
    use = USES[recipe.how]
    if source.bottleneck or (use.patched and source.dim % 4):
        raise ValueError(
            f"dim={source.dim}, bottleneck={source.bottleneck}: patches go into blocks of two convolutions "
            "whose channels are a multiple of 4; pre-train such a NextItNet, or take --how head"
        )
    return PeterRec(
        source.num_items,
        num_classes,
        dim=source.dim,
        dilations=source.dilations,
        kernel_size=source.kernel_size,
        parallel=use.parallel,
        patched=use.patched,
        skip_padding=source.skip_padding,
        max_len=recipe.max_len,
        norm_epsilon=source.norm_epsilon,
        extra_rows=1,
    )


def from_source(model: PeterRec, source: NextItNet, drawn: Variables, pretrained: Variables) -> Variables:
    """The parameters to begin with: the pre-trained ones, and as drawn the patches, the head and the row of
    the token, which pre-training did not have.

    Raises:
      ValueError: as `nn.sequential.peterrec.transfer`.
    """
    rows = source.num_items + 1
    parts = (pretrained["item_embedding"][:rows], drawn["item_embedding"][rows:])
    held = {**pretrained, "item_embedding": np.concatenate([np.asarray(part) for part in parts])}
    return transfer(drawn, held, models=(model, source.clone(extra_rows=1)))


def trained_by(use: Use, params: Variables, recipe: Recipe | Transfer) -> Variables:
    """Which parameters a row trains, as a tree of bool."""
    if not use.frozen:
        return jax.tree.map(lambda leaf: True, params)
    return trainable(params, norms=recipe.norms and use.patched)


def optimiser(use: Use, recipe: Recipe | Transfer) -> optax.GradientTransformation:
    """Adam of all parameters or, where the pre-trained ones are frozen, of the head and the patches."""
    tx = optax.adam(recipe.learning_rate)
    if not use.frozen:
        return tx

    def kinds(params: Variables) -> Variables:
        return jax.tree.map(lambda own: "own" if own else "frozen", trained_by(use, params, recipe))

    return optax.partition({"own": tx, "frozen": optax.set_to_zero()}, kinds)


def num_trained(use: Use, params: Variables, recipe: Recipe) -> tuple[int, int]:
    """Numbers of the parameters that a row trains, and of all. params: of one seed."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    own = jax.tree.leaves(trained_by(use, params, recipe))
    return sum(size for size, mine in zip(sizes, own, strict=True) if mine), sum(sizes)


def adam(recipe: Transfer) -> optax.GradientTransformation:
    """Adam of what a way of adapting trains."""
    return optimiser(USES[recipe.how], recipe)


MODELS: Mapping[str, TransferModel] = {
    "peterrec": TransferModel(Transfer, "nextitnet", adapted, from_source, adam),
}
