"""Every encoder trains with every objective, whatever the type that it computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses, sampling
from jaxrec.data.events.clusters import clusters_from_labels
from jaxrec.nn.layers.dice import Dice
from jaxrec.nn.retrieval.kuaishou_ebr import KuaishouEBR
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.nn.sequential.ligr import LiGR
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.optim.loss_weighting import uncertainty
from jaxrec.tasks import next_click as session
from jaxrec.tasks import objectives
from jaxrec.tasks.cluster_retrieval import cluster_retrieval, in_cluster_softmax
from jaxrec.tasks.generative import generative
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.tasks.profile import profile
from jaxrec.types import SHARED as OF_BATCH
from jaxrec.types import Array, Batch, Context, Key, Task

NUM_ITEMS, DIM, LENGTH, DTYPES = 12, 4, 5, (None, "bfloat16", "float64")
SMALL: dict[str, Any] = {"num_items": NUM_ITEMS, "dim": DIM, "max_len": LENGTH}
BLOCKS: dict[str, Any] = {**SMALL, "num_layers": 1, "num_heads": 2}
KEYS: dict[str, Any] = {"num_layers": 1, "key_dim": 2, "value_dim": 2, "time_bias": False}
ENCODERS: dict[str, Any] = {
    "sasrec": SASRec(**BLOCKS, inner_dim=6),
    "sasrec_original": SASRecOriginal(**BLOCKS),
    "sasrec_hstu": SASRecHSTU(**BLOCKS),
    "gru4rec": GRU4Rec(**SMALL, hidden_dim=6),
    "gru4rec_bias": GRU4Rec(**SMALL, hidden_dim=DIM, projection=False, item_bias=True),
    "hstu": HSTU(**SMALL, **KEYS),
    "ligr": LiGR(**BLOCKS, inner_dim=6),
    "nextitnet": NextItNet(**SMALL, dilations=(1,)),
    "stamp": STAMP(**SMALL),
    "kuaishou_ebr": KuaishouEBR(
        SASRec(**BLOCKS, inner_dim=6), SASRec(**{**BLOCKS, "dim": 4}, inner_dim=16), num_clusters=2
    ),
}
ITEMS = np.array([[0, 0, 3, 1, 4], [1, 5, 9, 2, 6]], np.int32)
TARGETS = np.array([[0, 0, 1, 4, 12], [5, 9, 2, 6, 1]], np.int32)
ACTIONS = (TARGETS > 0) * (1 + ITEMS % 3).astype(np.int32)
COUNTS = np.arange(NUM_ITEMS + 1)
POPULAR = sampling.popularity_table(COUNTS, alpha=1.0)
SHARED = objectives.negatives(COUNTS, num_samples=3, alpha=0.5, logq=1.0)
CLUSTERS = clusters_from_labels(np.arange(NUM_ITEMS) % 2)
OBJECTIVES: Mapping[str, Objective] = {
    "sampled_bce": objectives.sampled(losses.bce, NUM_ITEMS, 2),
    "full_softmax": objectives.full_softmax(block=5),
    "sampled_softmax": objectives.sampled_softmax(3, POPULAR),
    "uniform_softmax": objectives.uniform_softmax(NUM_ITEMS, 2),
    "uniform_softmax_shared": objectives.uniform_softmax(NUM_ITEMS, 3, shared=True),
    "sigmoid_softmax": session.sigmoid_softmax(block=5),
    "in_cluster_softmax": in_cluster_softmax(CLUSTERS, 3),
    "bpr_max": objectives.shared_negatives(losses.bpr_max, SHARED),
    "top1_max": objectives.shared_negatives(losses.top1_max, SHARED),
    "cosine": Objective(lambda key, users, context: {}, lambda *args: cosine(*args), "cosine"),
}


def cosine(hidden: Array, table: Array, batch: Mapping[str, Any], axis_name: str | None) -> Array:
    """`losses.sampled_cosine_softmax` with one negative."""
    targets = batch["targets"]
    return losses.sampled_cosine_softmax(hidden, table, targets, batch["others"], where=targets > 0)


def all_at_once(parts: Mapping[str, Objective]) -> Objective:
    """The sum of several objectives: the encoder is traced once for all of them."""

    def draw(key: Key, users: Array, context: Context) -> dict[str, Any]:
        return {name: part.draw(key, users, with_tables(context, part)) for name, part in parts.items()}

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        found = [
            part.loss(hidden, table, {**batch, **batch[name]}, axis_name) for name, part in parts.items()
        ]
        return sum(found, jnp.zeros(()))

    return Objective(draw, loss, "all")


EVERY = all_at_once(OBJECTIVES)


@contextlib.contextmanager
def wide(dtype: str | None) -> Iterator[None]:
    """Lets arrays of 64 bits be where a model computes in them."""
    with jax.enable_x64(dtype == "float64"):
        yield


def batch_for(objective: Objective | None) -> dict[str, Any]:
    """A batch of two padded rows, with what the objective draws for it."""
    context = {
        "excluded": np.array([1, 2], np.int32),
        "excluded_start": np.zeros(2, np.int32),
        "excluded_length": np.full(2, 2, np.int32),
    }
    users = np.zeros(ITEMS.shape, np.int32)
    return {
        "items": ITEMS,
        "actions": ACTIONS,
        "targets": TARGETS,
        "others": np.full((*TARGETS.shape, 1), 7, np.int32),
        "positions": np.broadcast_to(np.arange(LENGTH), ITEMS.shape),
        "segments": np.broadcast_to(np.array([[1], [2]]), ITEMS.shape) * (TARGETS > 0),
        "row": np.arange(2),
        "label": np.array([1, 2], np.int32),
        "mask": np.ones(2, bool),
        **({} if objective is None else jax.jit(objective.draw)(jax.random.key(0), users, context)),
    }


def gradients_have_the_types_of_parameters(task: Task, batch: Mapping[str, Any]) -> None:
    """Traces what a step of training computes, without compiling it."""
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)

    def total(params: Any, others: Any) -> Array:
        found, _ = task.losses({**others, "params": params}, batch, jax.random.key(1))
        return sum(found.values(), jnp.zeros(()))

    others = {name: tree for name, tree in variables.items() if name != "params"}
    value, grads = jax.eval_shape(jax.value_and_grad(total), variables["params"], others)
    assert value.dtype in (jnp.float32, jnp.float64)
    types = (jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (grads, variables["params"]))
    assert next(types) == next(types)


def computed_in(encoder: str, dtype: str | None) -> Any:
    """An encoder that computes in a type, and so do the encoders that it is made of."""
    model, own = ENCODERS[encoder], {"dtype": None if dtype is None else jnp.dtype(dtype)}
    if not isinstance(model, KuaishouEBR):
        return model.clone(**own)
    return model.clone(encoder=model.encoder.clone(**own), intent_encoder=model.intent_encoder.clone(**own))


every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.long
def test_every_encoder_trains_with_every_objective(encoder: str, dtype: str | None) -> None:
    with wide(dtype):
        model = computed_in(encoder, dtype)
        gradients_have_the_types_of_parameters(next_item(model, EVERY), batch_for(EVERY))
        if encoder == "stamp":  # whatever is inside
            gradients_have_the_types_of_parameters(next_item(Cosine(model), EVERY), batch_for(EVERY))


@pytest.mark.long
@every_dtype
def test_tasks_with_a_loss_of_their_own_train_too(dtype: str | None) -> None:
    with wide(dtype):
        of: dict[str, Any] = {"dtype": None if dtype is None else jnp.dtype(dtype)}
        objective = OBJECTIVES["uniform_softmax_shared"]
        actions = GenerativeHSTU(NUM_ITEMS, 3, dim=DIM, **KEYS, max_len=LENGTH, **of)
        clusters = computed_in("kuaishou_ebr", dtype)
        classes = PeterRec(NUM_ITEMS, 2, dim=4, dilations=(1,), max_len=LENGTH, **of)
        tasks = (
            generative(actions, objective, positive=(2, 3)),
            cluster_retrieval(clusters, objective),
            profile(classes, token=NUM_ITEMS),
            session.next_click(STAMP(**SMALL, **of), objectives.full_softmax(), last_only=True),
        )
        batch = batch_for(objective)
        divided = {**batch, OF_BATCH: {"cluster": CLUSTERS.of}}
        last = {**batch, "targets": batch["targets"][:, -1]}
        for task, given in zip(tasks, (batch, divided, batch, last), strict=True):
            gradients_have_the_types_of_parameters(task, given)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_products_have_the_gradient_of_a_product_in_each_type(dtype: str) -> None:
    rng = np.random.default_rng(0)
    with wide(dtype):
        hidden, vectors = jnp.asarray(rng.normal(size=(3, 4)), dtype), jnp.asarray(rng.normal(size=(5, 4)))
        vectors = vectors.astype(jnp.float32)

        def total(product: Any) -> Any:
            weights = jnp.arange(15.0).reshape(3, 5)
            return jax.grad(lambda h, v: jnp.sum(product(h, v) * weights), argnums=(0, 1))(hidden, vectors)

        ours, plain = total(losses.dot_products), total(lambda h, v: h @ v.T)
        assert [g.dtype for g in ours] == [hidden.dtype, vectors.dtype]
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("kept", ["bfloat16", "float32"])
def test_every_gradient_written_by_hand_has_the_types_of_its_inputs(dtype: str, kept: str) -> None:
    """Beside `products`: the blocked softmax, Dice, and the bounds of learned loss weights."""
    with wide(dtype):
        x, other = jnp.ones((3, 4), dtype), jnp.ones((5, 4), kept)
        weighting = uncertainty(regression=["a"], classification=[])

        def softmax(x: Array, table: Array) -> Array:
            return losses.softmax_cross_entropy(x, table, jnp.array([1, 2, 3]), block=2)

        def dice(x: Array, slope: Array) -> Array:
            layer = Dice()
            state = layer.init(jax.random.key(0), x)["batch_stats"]
            variables = {"params": {"alpha": slope}, "batch_stats": state}
            return jnp.sum(layer.apply(variables, x, train=True, mutable=["batch_stats"])[0])

        def bounded(loss: Array, learned: Array) -> Array:
            return weighting.combine({"a": learned}, {}, {"a": loss})[0]

        for fn, inputs in (
            (softmax, (x, other)),
            (dice, (x, other[0])),
            (bounded, (x[0, 0], other[0, 0])),
        ):
            grads = jax.eval_shape(jax.grad(lambda *a, fn=fn: fn(*a).astype("float32"), (0, 1)), *inputs)
            assert [g.dtype for g in grads] == [i.dtype for i in inputs], fn
