"""SASRec, CoSeRec and TiCoSeRec: the settings of their code, model, loss and phases of training.

CoSeRec (Liu et al., arXiv:2108.06479) adds to SASRec's loss a contrastive one between two randomly augmented
views of each user; TiCoSeRec (Dang et al., AAAI 2023, arXiv:2212.08262) chooses where to augment by the gaps
between events. A `Recipe` has the settings; the functions build the encoder, its loss and the phases of
training; `recipes.ticoserec_views` builds the views.

The two code bases order the same events in different ways. TiCoSeRec's files of Beauty and Sports have times
in days; CoSeRec's have none, and order the events of a day by item: of 76,867 pairs of consecutive events of
one day in its Beauty, all ascend by TiCoSeRec's item ids, and 38,245 do in TiCoSeRec's file. So published
numbers of the two are on different sequences. Yelp has times in seconds, and all sequences are equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxrec import losses
from jaxrec.augment import similarity
from jaxrec.augment.similarity import SimilarItems
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols.next_item import Data
from jaxrec.tasks.combine import combine
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_item import item_table
from jaxrec.tasks.objectives import Objective, sampled
from jaxrec.train.fit import Phase
from jaxrec.types import Context, Task, Variables

SIZES = (
    "dim", "inner_dim", "num_layers", "num_heads", "max_len", "batch_size", "epochs", "patience", "threshold",
    "item2vec_epochs",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one row is trained; `Changes` documents the fields. Defaults: the official TiCoSeRec code."""

    dim: int = 128
    inner_dim: int = 256
    num_layers: int = 2
    num_heads: int = 2
    max_len: int = 50
    dropout: float = 0.5
    attention_dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    batch_size: int = 128
    epochs: int = 350
    patience: int = 150
    warm_up: int = 40
    hybrid_after: int = 80
    weight: float = 0.1
    temperature: float = 1.0
    unaugmented: float = 0.15
    by_gaps: bool = True  # TiCoSeRec's operators; False: CoSeRec's random ones
    threshold: int = 12
    short: str = "SIM"
    crop: float = 0.7
    mask: float = 0.5
    reorder: float = 0.2
    substitute: float = 0.1
    insert: float = 0.5
    mask_largest: bool | None = None  # True: largest gaps, False: smallest, None: random positions
    operators: str = ""
    opposite: bool = False
    official_bug: bool = False
    inverted_similarity: bool = False
    item2vec_epochs: int = 100

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: must be a multiple of the {self.num_heads} attention heads")
        for name in ("short", "operators"):
            letters = getattr(self, name)
            if set(letters) - set("SIMRC") or not (letters or name == "operators"):
                raise ValueError(f"{name}={letters!r}: letters of SIMRC, such as 'SIM'")

    @property
    def reads_times(self) -> bool:
        """Whether views are made by the times of events."""
        return self.weight > 0 and (self.by_gaps or self.unaugmented > 0)


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes of a recipe; None keeps its value."""

    dim: int | None = None  # width of the encoder
    inner_dim: int | None = None  # width of its feed-forward networks
    num_layers: int | None = None  # its layers
    num_heads: int | None = None  # its attention heads
    max_len: int | None = None  # most recent events read
    dropout: float | None = None  # of embeddings and layers
    attention_dropout: float | None = None  # of attention weights
    learning_rate: float | None = None  # of Adam
    weight_decay: float | None = None  # added to the gradient, as L2
    batch_size: int | None = None  # users per step
    epochs: int | None = None  # epochs to train
    patience: int | None = None  # epochs without better validation NDCG@20 before a seed stops
    warm_up: int | None = None  # epochs before the first views
    hybrid_after: int | None = None  # epochs before similarities also come from the item table
    weight: float | None = None  # of the contrastive loss; 0: no views at all
    temperature: float | None = None  # of the contrastive loss
    unaugmented: float | None = None  # share of users, those of the most even gaps, that are not augmented
    threshold: int | None = None  # longest sequence that counts as short
    short: str | None = None  # operators of short sequences; long ones draw from all five
    crop: float | None = None  # share of a sequence that is kept
    mask: float | None = None  # share that is masked
    reorder: float | None = None  # share that is shuffled
    substitute: float | None = None  # share that is replaced by similar items
    insert: float | None = None  # share that a similar item is inserted next to
    mask_largest: bool | None = None  # mask at the largest gaps; False: at the smallest
    operators: str = ""  # only these, for short and long: S, I, M, R, C; empty: the recipe's
    opposite: bool = False  # Ti operators with smallest and largest gaps exchanged
    official_bug: bool = False  # do not augment the users that the official code selects by mistake
    inverted_similarity: bool = (
        False  # the official code's hybrid similarity, which prefers the least similar item
    )
    item2vec_epochs: int | None = None  # epochs of the item vectors of --similarity item2vec


# --- settings --------------------------------------------------------------------------------------

COSEREC_FILES: Mapping[str, str] = {  # without times
    "coserec-Beauty": "Beauty",
    "coserec-Sports": "Sports_and_Outdoors",
    "coserec-Toys": "Toys_and_Games",
    "coserec-Yelp": "Yelp",
}
TICOSEREC: Mapping[str, Recipe] = {  # by data set; the code's defaults for others
    "Beauty": Recipe(hybrid_after=350, mask_largest=True, substitute=0.2, crop=0.4, mask=0.7, reorder=0.5),
    "Sports": Recipe(substitute=0.2, weight_decay=1e-5, patience=100),
}

_COSEREC = Recipe(
    dim=64,
    attention_dropout=0.5,
    weight_decay=0.0,
    batch_size=256,
    epochs=300,
    patience=40,
    warm_up=0,
    hybrid_after=160,
    unaugmented=0.0,
    by_gaps=False,
    threshold=4,
    crop=0.2,
    mask=0.7,
    reorder=0.7,  # its code gives Reorder the rate of Mask
    substitute=0.1,
    insert=0.4,
)
_COSEREC_BEAUTY = dataclasses.replace(
    _COSEREC, threshold=12, hybrid_after=220, short="SIMRC", insert=0.5, substitute=0.05
)
_COSEREC_YELP = dataclasses.replace(_COSEREC, hybrid_after=300, insert=0.5)
COSEREC: Mapping[str, Recipe] = {  # by data set; the code's defaults for others
    "Beauty": _COSEREC_BEAUTY,
    "Yelp-A": _COSEREC_YELP,
    "coserec-Beauty": _COSEREC_BEAUTY,
    "coserec-Yelp": _COSEREC_YELP,
}
REPRODUCE: Mapping[str, Any] = {"dim": 64, "batch_size": 32, "epochs": 30, "warm_up": 8, "hybrid_after": 16}


def ticoserec(dataset: str) -> Recipe:
    """TiCoSeRec's settings for a data set."""
    return TICOSEREC.get(dataset, Recipe())


def coserec(dataset: str) -> Recipe:
    """CoSeRec's settings for a data set."""
    return COSEREC.get(dataset, _COSEREC)


def sasrec(dataset: str) -> Recipe:
    """The settings of the code base that a data set belongs to, without views."""
    return dataclasses.replace((coserec if dataset in COSEREC_FILES else ticoserec)(dataset), weight=0.0)


def sized(recipe: Recipe, **sizes: Any) -> Recipe:
    """A recipe with other sizes; one without warm-up epochs keeps none."""
    return dataclasses.replace(recipe, **{**sizes, "warm_up": sizes["warm_up"] if recipe.warm_up else 0})


# --- model and loss --------------------------------------------------------------------------------


def encoder(num_items: int, recipe: Recipe, *, mask_value: float = -np.inf) -> SASRec:
    """SASRec with norms after each layer.

    mask_value: added to masked attention scores, if there are views (see `Form`).
    """
    return SASRec(
        num_items=num_items,
        dim=recipe.dim,
        inner_dim=recipe.inner_dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.attention_dropout,
        mask_value=mask_value if recipe.weight else -np.inf,
        bits=counter_bits,
    )


def bce(data: Data) -> Objective:
    """Binary cross-entropy with one negative per event."""
    return sampled(losses.bce, data.num_items, data.excluded_width)


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam, with weight decay added to the gradient."""
    return optax.chain(optax.add_decayed_weights(recipe.weight_decay), optax.adam(recipe.learning_rate))


def phases(next_item: Task, views: Task | None, model: Encoder, data: Data, recipe: Recipe) -> list[Phase]:
    """Plain epochs, then epochs with views, then epochs whose similar items also come from the item table.

    views: the contrastive task, and data with the columns of `ticoserec_views.augmented`; None: all epochs
    are plain.
    """
    if views is None:
        return [Phase("plain", next_item, recipe.epochs)]
    offline: SimilarItems = data.columns["similar"]
    inverted = recipe.inverted_similarity

    def refresh(variables: Variables, context: Context) -> Context:
        live = similarity.online(item_table(model, variables), inverted=inverted)
        return {"similar": similarity.hybrid(offline, live, inverted=inverted)}

    both = combine(next_item=next_item, contrastive=views)
    weighting = static({"next_item": 1.0, "contrastive": recipe.weight})
    plain = min(recipe.warm_up, recipe.epochs)
    with_views = max(min(recipe.hybrid_after + 1, recipe.epochs) - plain, 0)
    found = [
        Phase("plain", next_item, plain),
        Phase("views", both, with_views, weighting),
        Phase("hybrid", both, recipe.epochs - plain - with_views, weighting, refresh),
    ]
    return [phase for phase in found if phase.epochs]
