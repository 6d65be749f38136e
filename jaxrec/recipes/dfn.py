"""DFN on an interaction matrix: clicks, dislikes and items shown in vain (Xie et al., IJCAI 2020).

Lists of 30, the width of vectors and the weights of the three losses are the paper's; sampled negatives are
ours, as it ranks what was shown and this ranks all items. Without `--feedback` every event is a click, and
there are no dislikes and no items shown in vain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxrec.data.events.feedback_lists import KINDS, no_feedback
from jaxrec.nn.retrieval.dfn import DFN, DFNPairs
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes import towers
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks import pairs
from jaxrec.tasks.feedback_pairs import feedback_pairs
from jaxrec.tasks.pairs import PairModel
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How DFN is trained."""

    dim: int = 64  # width of all vectors
    num_heads: int = 4  # of the attention inside each list
    attention_dim: int = 32  # hidden width of the attention to what was shown
    deep_dims: tuple[int, ...] = (32, 16)  # widths of the deep part
    ids: bool = True  # users and items have vectors of their own, beside those of their features
    max_len: int = 30  # last items of each list that are read
    negatives: int = 4  # sampled items per observed pair
    shown_weight: float = 1.0  # of the loss of items that were shown and not clicked
    disliked_weight: float = 10.0  # of the loss of disliked items
    batch_size: int = 256  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 20  # epochs to train
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never

    def __post_init__(self) -> None:
        if self.negatives < 1 or not min(self.shown_weight, self.disliked_weight) >= 0:
            raise ValueError(
                f"negatives={self.negatives}, shown_weight={self.shown_weight}, disliked_weight="
                f"{self.disliked_weight}: must be at least 1, 0 and 0"
            )
        if self.num_heads < 1:
            raise ValueError(f"num_heads={self.num_heads}: must be at least 1")
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: must be a multiple of num_heads={self.num_heads}")


def dfn(data: Data, recipe: Recipe) -> PairModel:
    """DFN over ids and categories, all of one width."""
    user, item = towers.id_and_feature_fields(data, recipe.dim, recipe.dim, ids=recipe.ids)
    longest = min(recipe.max_len, max(1, data.most))
    model = DFN(recipe.num_heads, recipe.max_len, recipe.attention_dim, recipe.deep_dims)
    longest_list = max(int(_lists(data)[f"{name}_length"].max()) for name in KINDS)
    return DFNPairs(user, item, model, longest, max_feedback=min(recipe.max_len, longest_list))


def _lists(data: Data) -> Context:
    return data.columns if "disliked" in data.columns else no_feedback(data.num_users)


def of_feedback(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """Binary cross-entropy of clicks and sampled items, of what was shown and of what was disliked."""
    return feedback_pairs(model, sampler=pairs.uniform(data.num_items), negatives=recipe.negatives)


def weights(data: Data, recipe: Recipe) -> Weighting:
    """Each loss has a weight of its own, that of clicks 1."""
    return static({"clicked": 1.0, "shown": recipe.shown_weight, "disliked": recipe.disliked_weight})


def columns(data: Data, recipe: Recipe) -> Context:
    """Those of two towers, and lists that the data may lack."""
    lists = {} if "disliked" in data.columns else no_feedback(data.num_users)
    return {**towers.columns(data, recipe), **lists}


READ = tuple(f"{name}{what}" for name in KINDS for what in ("", "_start", "_length"))
MODELS: Mapping[str, RetrievalModel] = {
    "dfn": RetrievalModel(
        Recipe,
        dfn,
        of_feedback,
        towers.every_pair,
        towers.adam,
        "binary cross-entropy of three kinds of feedback",
        columns,
        weighting=weights,
        reads=("items", "start", "length", *READ),
        reads_features=("user", "item"),
        feedback=True,
    ),
}
