"""TIGER (Rajput et al., NeurIPS 2023, arXiv:2305.05065): codes of items, settings, training.

    learned = residual_k_means_codes(vectors, recipe) or rq_vae_codes(vectors, recipe, workdir=…)
        int32 [I, levels], from vectors of items 1 .. I, such as `baselines.item_svd`'s
    ids = semantic_ids.build(learned, num_codes=recipe.num_codes)
    model, fitted = train(data, ids, protocol, recipe, seeds=…, workdir=…, description=…)
        data: `protocols.next_item.Data`. fitted.variables: {"params": …} with a leading axis of seeds.
    with_ids(data, ids)
        the data with the column that `tasks.semantic_ids` reads; `next_item.run_test` of
        `tasks.semantic_ids.scorer(model, width=recipe.width)` on it measures what a beam finds.

Sizes are the paper's. It trains for 200,000 steps of 256 with a learning rate of 0.01 for 10,000 steps, then
by the inverse square root, in T5X; with Adam 0.01 is too much, so the rate is that of snap-research/GRID. The
number of epochs and patience are ours.

Histories of a batch share rows of tokens where that saves work (`packing_of`): the loss is that of a row for
each, and the noise of dropout is drawn by row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.baselines.item_svd import co_visit_vectors
from jaxrec.index import semantic_ids
from jaxrec.index.semantic_ids import SemanticIds
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.rq_vae import RQVAE
from jaxrec.nn.retrieval.tiger import TIGER
from jaxrec.packing import Packing, dealt_width
from jaxrec.protocols import next_item
from jaxrec.protocols.interests import every_event
from jaxrec.protocols.next_item import Data
from jaxrec.recipes.trainable_apart import SemanticIdModel
from jaxrec.tasks import rq_vae as autoencoder
from jaxrec.tasks import semantic_ids as task
from jaxrec.train.accumulate import num_shares
from jaxrec.train.epoch import Plan, redrawn, shuffled
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Key, Protocol

SHARED = (2, 4, 8)  # histories in a row that are tried


@dataclasses.dataclass(frozen=True)
class Settings:
    """How codes are learned by residual k-means and the model is trained."""

    num_codes: int = 256  # K, values of a code, of the last digit too
    levels: int = 3  # learned codes of an item, before the last digit
    k_means_rounds: int = 50  # of residual k-means at each level
    codes_seed: int = 0  # of the codes, which all seeds share
    dim: int = 128  # width of tokens
    num_heads: int = 6  # attention heads
    head_dim: int = 64  # width of a head
    inner_dim: int = 1024  # of feed-forward layers
    num_layers: int = 4  # of the encoder, and of the decoder
    max_len: int = 20  # most recent items read
    dropout: float = 0.1  # of embeddings, attention weights and layers
    width: int = 50  # beam; some of its items are seen ones, which are left out
    learning_rate: float = 1e-3  # of AdamW
    constant_steps: int = 10_000  # steps before the rate falls by the inverse square root
    weight_decay: float = 1e-4  # of AdamW
    batch_size: int = 256  # targets per step
    epochs: int = 100  # epochs to train at most
    evaluate_every: int = 2  # epochs between evaluations on validation
    patience: int = 10  # evaluations without a better one before a seed stops; 0: never

    def __post_init__(self) -> None:
        _check_whole(self, Settings, ("patience", "codes_seed"))
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay}: must be 0 or more")


@dataclasses.dataclass(frozen=True)
class Recipe(Settings):
    """The same with what an RQ-VAE learns codes by, and tokens of users."""

    code_dims: tuple[int, ...] = (512, 256, 128)  # hidden layers of the RQ-VAE's encoder
    latent_dim: int = 32  # of the RQ-VAE
    beta: float = 0.25  # weight of its commitment loss
    code_batch_size: int = 1024  # items per step of the RQ-VAE
    code_learning_rate: float = 0.4  # of its Adagrad
    code_epochs: int = 1000  # of the RQ-VAE; the paper has 20,000
    num_users: int = 2000  # tokens that users are hashed to; 0: none

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        _check_whole(self, Recipe, ("patience", "codes_seed", "num_users"))
        if not self.beta >= 0:
            raise ValueError(f"beta={self.beta}: must be 0 or more")


def _check_whole(settings: Settings, kind: type[Settings], may_be_zero: tuple[str, ...]) -> None:
    """Raises ValueError for whole numbers of a recipe that are too small."""
    for field in dataclasses.fields(kind):
        value, least = getattr(settings, field.name), int(field.name not in may_be_zero)
        if type(value) is int and value < least:
            raise ValueError(f"{field.name}={value}: must be at least {least}")


@dataclasses.dataclass(frozen=True)
class OfVectors(Settings):
    """How `jaxrec train` trains: a run answers for histories of anybody, so there are no tokens of users."""

    vector_dim: int = 64  # of vectors of co-visits, which codes are made of without --item-vectors

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        _check_whole(self, OfVectors, ("patience", "codes_seed"))


def residual_k_means_codes(vectors: np.ndarray, recipe: Settings) -> np.ndarray:
    """Codes by residual k-means, int32 [I, levels]. Raises ValueError as `index.semantic_ids`."""
    size = {"num_codes": recipe.num_codes, "levels": recipe.levels, "rounds": recipe.k_means_rounds}
    key = jax.random.key(recipe.codes_seed)
    return np.asarray(semantic_ids.residual_k_means(vectors, key=key, **size).codes)


def rq_vae(input_dim: int, recipe: Recipe) -> RQVAE:
    """The autoencoder of codes."""
    return RQVAE(input_dim, recipe.code_dims, recipe.latent_dim, recipe.levels, recipe.num_codes)


def rq_vae_codes(vectors: np.ndarray, recipe: Recipe, *, workdir: str | Path, **options: Any) -> np.ndarray:
    """Codes by an RQ-VAE, which is trained here: int32 [I, levels].

    options: of `train.fit.fit`.

    Raises:
      ValueError: as `tasks.rq_vae` and `train.fit.fit`.
    """
    model, number = rq_vae(vectors.shape[1], recipe), len(vectors)
    learn = autoencoder.rq_vae(model, beta=recipe.beta)
    batch = min(recipe.code_batch_size, number)
    asked = autoencoder.evaluation(model, number, batch)
    every, vectors = recipe.code_epochs, np.asarray(vectors, np.float32)
    fitted = fit_reusing(
        [Phase("train", learn, recipe.code_epochs)],
        optax.adagrad(recipe.code_learning_rate),
        shuffled(number, batch),
        {"vectors": vectors},
        Selection(asked, "error", every, lower_is_better=True, keep="last"),
        seeds=(recipe.codes_seed,),
        workdir=workdir,
        **{"save_every": recipe.code_epochs, "description": {}, **options},
    )
    variables = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
    return np.asarray(jax.jit(learn.predict)(variables, {"vectors": jnp.asarray(vectors)}))


def codes_of_items(data: Data, vectors: np.ndarray | None, recipe: OfVectors) -> SemanticIds:
    """Semantic ids by residual k-means of the items' vectors [V, E], padding first; None: of co-visits.

    Raises:
      ValueError: there are too few items, or vectors that differ too little; as `index.semantic_ids`.
    """
    if recipe.num_codes > data.num_items:
        raise ValueError(
            f"num_codes={recipe.num_codes}: must be at most {data.num_items:,}, the number of items; take "
            "fewer codes"
        )
    if vectors is None:
        if recipe.vector_dim >= data.num_items:
            raise ValueError(
                f"vector_dim={recipe.vector_dim}: must be below {data.num_items:,}, the number of items, for "
                "vectors of co-visits; take a smaller vector_dim, or give vectors of the items"
            )
        made = co_visit_vectors(data.split.training_events(), dim=recipe.vector_dim)
    else:
        made = vectors[1:]
    return semantic_ids.build(residual_k_means_codes(made, recipe), num_codes=recipe.num_codes)


def tiger(ids: SemanticIds, recipe: Settings, *, num_users: int = 0) -> TIGER:
    """The encoder-decoder of some semantic ids. num_users: tokens that users are hashed to; 0: none."""
    return TIGER(
        num_codes=ids.num_codes,
        depth=ids.depth,
        dim=recipe.dim,
        num_heads=recipe.num_heads,
        head_dim=recipe.head_dim,
        inner_dim=recipe.inner_dim,
        num_layers=recipe.num_layers,
        max_len=recipe.max_len,
        num_users=num_users,
        dropout=recipe.dropout,
        bits=counter_bits,
    )


def adamw(recipe: Settings) -> optax.GradientTransformation:
    """AdamW, its rate constant at first, then falling by the inverse square root of the step."""

    def rate(step: Any) -> Any:
        first = recipe.constant_steps
        return recipe.learning_rate * jnp.sqrt(first / jnp.maximum(step, first))

    return optax.adamw(rate, weight_decay=recipe.weight_decay)


def with_ids(data: Data, ids: SemanticIds) -> Data:
    """The data with its items' semantic ids as a column.

    Raises:
      ValueError: there are ids of another number of items.
    """
    if len(ids.codes) != data.num_items + 1:
        raise ValueError(f"semantic ids of {len(ids.codes) - 1:,} items: must be of {data.num_items:,}")
    return data._replace(columns={**data.columns, task.COLUMN: ids})


def check_width(protocol: Protocol, recipe: Settings) -> None:
    """Raises ValueError for a beam that finds fewer items than the longest list of the protocol has."""
    if recipe.width < max(protocol.ks):
        raise ValueError(
            f"width={recipe.width}: must be at least {max(protocol.ks)}, the longest list; a beam finds no "
            "more items than it is wide"
        )


def packing_of(data: Data, model: TIGER, batch_size: int, *, num_devices: int = 1) -> Packing | None:
    """Rows of tokens that the histories of a batch share, a multiple of `num_devices`; None: a row for each.

    As many histories a row as make the fewest products of the encoder; most are shorter than the longest.
    """
    lengths, front = np.asarray(data.columns["length"]), int(model.num_users > 0)
    items = np.concatenate([np.arange(1, number) for number in np.maximum(lengths, 1)])
    if not items.size:
        return None
    tokens = model.depth * np.minimum(items, model.max_len) + front
    heads = model.num_heads * model.head_dim

    def products(packed: Packing) -> int:  # of a layer: its weights with each token, tokens with their row
        of_token = model.dim * (6 * heads + 2 * model.inner_dim) + 2 * heads * packed.width
        return packed.rows * packed.width * of_token

    padded = Packing(batch_size, model.depth * model.max_len + front)
    found = [padded]
    for each in SHARED:
        rows = -(-batch_size // (each * num_devices)) * num_devices
        found.append(Packing(rows, dealt_width(tokens, batch_size, rows)))
    best = min(found, key=products)
    return None if best is padded else best


def plan(data: Data, model: TIGER, batch_size: int, packed: Packing | None) -> Plan:
    """Every training event with an earlier one, once an epoch; an order that does not fit is drawn again.

    Raises:
      ValueError: as `every_event`.
    """
    whole = every_event(data, batch_size)
    if packed is None:
        return whole

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        def attempt(key: Key) -> tuple[Mapping[str, Array], Array]:
            drawn, ok = whole.draw(key, context)
            return drawn, ok & jax.lax.map(lambda step: task.fits(model, packed, step, context), drawn).all()

        return redrawn(key, attempt)

    return whole._replace(draw=draw)


def train(
    data: Data, ids: SemanticIds, protocol: Protocol, recipe: Recipe, **options: Any
) -> tuple[TIGER, Fitted]:
    """Trains for all seeds at once on every training event that has an earlier one: each prefix of a user's
    events is a history once an epoch. Each seed keeps the parameters of its best evaluation on validation.

    protocol: `protocol.selection` is the metric, of what a beam of `recipe.width` finds. options: seeds,
    workdir, description, num_devices and other arguments of `train.fit.fit`.

    Raises:
      ValueError: as `check_width`, `with_ids`, `tiger`, `every_event` and `train.fit.fit`.
    """
    model = tiger(ids, recipe, num_users=recipe.num_users)
    return model, fit(model, with_ids(data, ids), protocol, adamw(recipe), recipe, **options)


def fit(
    model: TIGER,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    recipe: Settings,
    **options: Any,
) -> Fitted:
    """`train` of a model that is made, and data that have the ids (`with_ids`)."""
    check_width(protocol, recipe)
    ranked = task.scorer(model, width=recipe.width)
    every = min(recipe.evaluate_every, recipe.epochs)
    shares = num_shares(options.get("num_devices", 1), options.get("accumulate_steps", 1))
    packed = packing_of(data, model, recipe.batch_size, num_devices=shares)
    return fit_reusing(
        [Phase("train", task.semantic_ids(model, packed), recipe.epochs)],
        tx,
        plan(data, model, recipe.batch_size, packed),
        data.columns,
        Selection(
            next_item.evaluation(ranked, data, protocol, "validation"),
            protocol.selection,
            every,
            recipe.patience or None,
        ),
        vocabulary=next_item.vocabulary(data),
        **options,
    )


MODELS: Mapping[str, SemanticIdModel] = {
    "tiger": SemanticIdModel(OfVectors, codes_of_items, tiger, adamw, fit),
}
