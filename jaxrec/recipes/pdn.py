"""PDN on an interaction matrix (Li et al., SIGIR 2021, arXiv:2105.08246). Settings are ours.

Negatives are sampled, as a matrix has no items that were shown. Of an item pair SimNet reads the two items'
vectors and which categories they share: neither counts of common clicks, which would have to leave out the
pair that is trained on, nor anything of the click itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxrec.nn.retrieval.pdn import PDN, PDNPairs
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.towers import adam, columns, every_pair, id_and_feature_fields
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks import pairs
from jaxrec.tasks.pairs import PairModel
from jaxrec.types import Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How PDN is trained."""

    dim: int = 32  # width of the vectors of ids
    feature_dim: int = 16  # width of the vectors of features
    hidden_dims: tuple[int, ...] = (64, 32)  # widths of the layers of TrigNet and SimNet before their logit
    direct_dims: tuple[int, ...] = (64, 32)  # widths of the two towers of the direct path
    direct: bool = True  # the direct path, the product of the two towers
    ids: bool = True  # users and items have vectors of their own, beside those of their features
    max_history: int = 50  # last items of a user that are read, a path each
    negatives: int = 4  # sampled items per observed pair
    batch_size: int = 512  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 30  # epochs to train
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never

    def __post_init__(self) -> None:
        if self.max_history < 1 or self.negatives < 1:
            raise ValueError(
                f"max_history={self.max_history}, negatives={self.negatives}: must be at least 1"
            )
        if min((*self.hidden_dims, *self.direct_dims), default=1) < 1:
            raise ValueError(
                f"hidden_dims={self.hidden_dims}, direct_dims={self.direct_dims}: each must be at least 1"
            )


def pdn(data: Data, recipe: Recipe) -> PairModel:
    """PDN, which starts with the share of observed pairs among labelled ones."""
    longest = min(recipe.max_history, max(1, data.most))
    user, item = id_and_feature_fields(data, recipe.dim, recipe.feature_dim, ids=recipe.ids)
    model = PDN(
        recipe.hidden_dims,
        recipe.direct_dims,
        base_rate=1 / (1 + recipe.negatives),
        max_paths=longest,
        with_direct=recipe.direct,
        with_bias=False,
    )
    same = () if data.items is None else tuple(f"item_{name}" for name in data.items.sizes)
    return PDNPairs(user, item, model, longest, same=same)


def labelled(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """Binary cross-entropy of observed and sampled pairs."""
    return pairs.pointwise(model, sampler=pairs.uniform(data.num_items), negatives=recipe.negatives)


MODELS: Mapping[str, RetrievalModel] = {
    "pdn": RetrievalModel(
        Recipe,
        pdn,
        labelled,
        every_pair,
        adam,
        "binary cross-entropy",
        columns,
        reads=("items", "start", "length"),
        reads_features=("user", "item"),
    ),
}
