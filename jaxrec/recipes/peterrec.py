"""PeterRec's transfer (Yuan et al., SIGIR 2020, arXiv:2001.04253): a NextItNet is pre-trained, then adapted
to another task.

Departs from the paper: the softmax is over all items in pre-training and over all classes in fine-tuning,
where the code samples negatives, and the head has no penalty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import optax

from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec, trainable
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


def trained_by(use: Use, params: Variables, recipe: Recipe) -> Variables:
    """Which parameters a row trains, as a tree of bool."""
    if not use.frozen:
        return jax.tree.map(lambda leaf: True, params)
    return trainable(params, norms=recipe.norms and use.patched)


def optimiser(use: Use, recipe: Recipe) -> optax.GradientTransformation:
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


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "peterrec": "a pre-trained body and labels of users in a second file: see "
    "experiments/sequential/peterrec_attributes.py",
}
