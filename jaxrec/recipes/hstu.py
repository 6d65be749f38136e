"""HSTU and the encoders it is compared with, with the settings of its research code (arXiv:2402.17152).

Source: Zhai et al., ICML 2024. All rows of a data set have the same width, layers, heads, length, dropout,
optimiser, batch size and epochs; only the blocks differ, and HSTU's have no feed-forward network.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import optax

from jaxrec import losses
from jaxrec.augment.stochastic_length import shortened_lengths, stochastic_length
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols.next_item import Data, Shortening
from jaxrec.recipes import trainable
from jaxrec.recipes.compute import dtype_of, later
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.objectives import Objective, sampled, uniform_softmax
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

SPARE_SLOTS = 11  # slots that the public code adds to max_len in its padded rows


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the rows of one data set are trained; `Changes` documents the fields.

    Defaults: the public code's for ML-1M.
    """

    dim: int = 50
    num_layers: int = 2
    num_heads: int = 1
    head_dim: int = 50
    max_len: int = 200
    dropout: float = 0.2
    num_samples: int = 128
    epochs: int = 101
    evaluate_every: int = 5
    patience: int = 0
    batch_size: int = 128
    learning_rate: float = 1e-3
    b2: float = 0.98
    temperature: float = 0.05
    times: bool = True
    alpha: float = 0.0
    shared: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    block: int = 0
    remat: bool = later(False)

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "head_dim", "max_len", "num_samples", "epochs",
                     "evaluate_every", "batch_size"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("patience", "block"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive, or 0")
        if self.alpha != 0 and not 1 < self.alpha <= 2:
            raise ValueError(f"alpha={self.alpha}: must be above 1 and at most 2, or 0 for whole histories")


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes of a recipe; None keeps its value."""

    dim: int | None = None  # width of every encoder
    num_layers: int | None = None  # layers of every encoder
    num_heads: int | None = None  # attention heads of every encoder
    head_dim: int | None = None  # width of queries and keys, and of values, of one of HSTU's heads
    max_len: int | None = None  # most recent events read
    dropout: float | None = None  # of inputs and layers
    num_samples: int | None = None  # negatives of the sampled softmax
    epochs: int | None = None  # epochs to train
    evaluate_every: int | None = None  # epochs between evaluations on validation
    patience: int | None = None  # evaluations without improvement before a seed stops; 0: never
    batch_size: int | None = None  # users per step
    learning_rate: float | None = None  # of Adam
    b2: float | None = None  # decay of Adam's second moment
    temperature: float | None = None  # divides the cosines
    times: bool = True  # HSTU's bias by time; data without times need --no-times
    alpha: float = 0.0  # of HSTU's stochastic length, above 1 and at most 2; lower is shorter; 0: off
    shared: bool = False  # the same negatives for the whole batch instead of others for each event
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; parameters stay float32
    block: int = 0  # queries that HSTU's attention computes at a time, for long histories; 0: all
    remat: bool = later(False)  # layers are computed again in the backward pass, for less memory


_ML_1M = Recipe()
_ML_20M = Recipe(dim=256, num_layers=4, num_heads=4, head_dim=64)
_BOOKS = Recipe(
    dim=64, num_layers=4, num_heads=4, head_dim=16, max_len=50, dropout=0.5, num_samples=512, epochs=201
)
RECIPES: Mapping[str, Recipe] = {
    "ml-100k": dataclasses.replace(_ML_1M, patience=10),  # ML-1M is the most similar published one
    **dict.fromkeys(("Beauty", "Sports", "Video"), dataclasses.replace(_BOOKS, patience=10)),  # Books
    "ml-1m": _ML_1M,
    "ml-20m": _ML_20M,
    "Books": _BOOKS,
}
LARGE: Mapping[int, Mapping[str, Any]] = {  # by width
    50: {"num_layers": 8, "num_heads": 2, "head_dim": 25},
    256: {"num_layers": 16, "num_heads": 8, "head_dim": 32},
    64: {"num_layers": 16, "num_heads": 8, "head_dim": 8},
}


def usual(dataset: str) -> Recipe:
    """The settings for a data set; those of MovieLens-100K if `RECIPES` does not have it."""
    return RECIPES.get(dataset, RECIPES["ml-100k"])


def large(dataset: str) -> Recipe:
    """The code's "large" settings: more layers and heads."""
    recipe = usual(dataset)
    return dataclasses.replace(recipe, **LARGE[recipe.dim])


# --- encoders --------------------------------------------------------------------------------------


def hstu(num_items: int, recipe: Recipe) -> HSTU:
    """HSTU with its bias by position and by time."""
    return HSTU(
        num_items=num_items,
        dim=recipe.dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        key_dim=recipe.head_dim,
        value_dim=recipe.head_dim,
        max_len=recipe.max_len,
        spare_slots=SPARE_SLOTS,
        dropout=recipe.dropout,
        linear_dropout=recipe.dropout,
        time_bias=recipe.times,
        block=recipe.block or None,
        bits=counter_bits,
        dtype=dtype_of(recipe),
        remat=recipe.remat,
    )


def sasrec_original(num_items: int, recipe: Recipe) -> SASRecOriginal:
    """SASRec as its authors published it."""
    return SASRecOriginal(num_items=num_items, **_sizes(recipe))


def sasrec_original_cosine(num_items: int, recipe: Recipe) -> Cosine:
    """SASRec as its authors published it, scored by cosines."""
    return Cosine(sasrec_original(num_items, recipe))


def sasrec(num_items: int, recipe: Recipe) -> Cosine:
    """SASRec as the public code builds it for its baseline."""
    return Cosine(SASRecHSTU(num_items=num_items, spare_slots=SPARE_SLOTS, **_sizes(recipe)))


def sasrec_raw_residual(num_items: int, recipe: Recipe) -> Cosine:
    """`sasrec`, with residuals of inputs that are not normalised."""
    sizes = {**_sizes(recipe), "spare_slots": SPARE_SLOTS, "raw_residual": True}
    return Cosine(SASRecHSTU(num_items=num_items, **sizes))


def _sizes(recipe: Recipe) -> dict[str, Any]:
    """The fields of both SASRecs. Raises ValueError for heads that do not divide the width."""
    if recipe.dim % recipe.num_heads:
        raise ValueError(f"num_heads={recipe.num_heads}: must divide dim={recipe.dim}")
    return {
        "dim": recipe.dim,
        "num_layers": recipe.num_layers,
        "num_heads": recipe.num_heads,
        "max_len": recipe.max_len,
        "dropout": recipe.dropout,
        "bits": counter_bits,
        "dtype": dtype_of(recipe),
        "remat": recipe.remat,
    }


# --- objectives, optimiser, shorter histories --------------------------------------------------------


def bce(data: Data, recipe: Recipe) -> Objective:
    """Binary cross-entropy with one negative per event, SASRec's loss."""
    return sampled(losses.bce, data.num_items, data.excluded_width)


def ssm(data: Data, recipe: Recipe) -> Objective:
    """Softmax of cosines over the target and uniform negatives, HSTU's loss."""
    return uniform_softmax(
        data.num_items, recipe.num_samples, temperature=recipe.temperature, shared=recipe.shared
    )


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """The public code's optimiser."""
    return optax.adam(recipe.learning_rate, b2=recipe.b2)


def stochastic(recipe: Recipe) -> Shortening | None:
    """HSTU's stochastic length; None: off."""
    if not recipe.alpha:
        return None
    lengths: dict[str, Any] = {"max_len": recipe.max_len, "alpha": recipe.alpha}
    return Shortening(
        functools.partial(stochastic_length, **lengths), functools.partial(shortened_lengths, **lengths)
    )


def _train(
    encoder: Encoder,
    objective: Objective,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    recipe: Recipe,
    **options: Any,
) -> Fitted:
    """Trains on the events that stochastic length leaves of each input."""
    shortening = stochastic(recipe)
    return trainable.by_user(encoder, objective, data, protocol, tx, recipe, shortening=shortening, **options)


MODELS: Mapping[str, SequenceModel] = {
    "hstu": SequenceModel(Recipe, hstu, {"ssm": ssm}, adam, documented=Changes, train=_train, sessions=None),
    "sasrec-cosine": SequenceModel(Recipe, sasrec, {"ssm": ssm}, adam, documented=Changes, sessions=None),
}
