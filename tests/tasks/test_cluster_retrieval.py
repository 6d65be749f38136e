"""Training by clusters: its examples, negatives and losses against loops, next-item prediction and NumPy."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrec import packing
from jaxrec.data.events.clusters import Clusters, cluster_examples, clusters_from_labels, one_cluster
from jaxrec.nn.retrieval.kuaishou_ebr import KuaishouEBR
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.packing import Packing
from jaxrec.tasks.cluster_retrieval import cluster_retrieval, in_cluster_softmax
from jaxrec.tasks.cluster_serving import cluster_retriever
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import with_tables
from jaxrec.types import SHARED, Batch, Context, Variables
from tests.lowering import closed_over
from tests.nn.drawn import drawn
from tests.tasks.small import MAX_LEN, NUM_ITEMS, columns, split

LABELS = np.arange(NUM_ITEMS) % 3
LABELS[4] = 3  # item 5 is alone in its cluster
CLUSTERS = clusters_from_labels(LABELS)
K, SAMPLES = CLUSTERS.num_clusters, 6
# No blocks, which compiles fast: the encoder itself is tested in tests/nn/test_kuaishou_ebr.py.
SIZES: dict[str, Any] = {
    "num_items": NUM_ITEMS, "dim": 8, "num_layers": 0, "num_heads": 1, "inner_dim": 8, "max_len": MAX_LEN,
    "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
INTENT = SASRec(**{**SIZES, "dim": 4, "num_layers": 0})
MODEL = KuaishouEBR(SASRec(**SIZES), INTENT, num_clusters=K)
EXAMPLES = cluster_examples(columns(), CLUSTERS, MAX_LEN)
COUNT = len(EXAMPLES["example_user"])
PACKED = Packing(COUNT, 8)
OBJECTIVE = in_cluster_softmax(CLUSTERS, SAMPLES)


def context_of(clusters: Clusters) -> Context:
    """All columns of training by some clusters, on the device."""
    examples = cluster_examples(columns(), clusters, MAX_LEN)
    found = {**columns(), **examples, "cluster": clusters.of}
    return jax.tree.map(jnp.asarray, with_tables(found, in_cluster_softmax(clusters, SAMPLES)))


CONTEXT = context_of(CLUSTERS)


def rows_of(numbers: np.ndarray, lengths: np.ndarray, packed: Packing | None) -> dict[str, Any]:
    rows: dict[str, Any] = {"example": numbers.astype(np.int32), "mask": np.ones(len(numbers), bool)}
    if packed is not None:
        placement = jax.jit(lambda n: packing.place(n, rows=packed.rows, width=packed.width))(lengths)
        assert (np.asarray(placement.row)[lengths > 0] < packed.rows).all()
        rows |= {"row": placement.row, "slot": placement.slot}
    return rows


@functools.cache
def prepared(packed: Packing | None, prompted: bool = True) -> dict[str, Any]:
    """A batch of all examples, or of their users without prompts."""
    users = EXAMPLES["example_user"] if prompted else np.unique(EXAMPLES["example_user"])
    lengths = np.clip(columns()["length"][users] - 1, 0, MAX_LEN)
    rows = rows_of(np.arange(COUNT) if prompted else users, lengths, packed)
    task = cluster_retrieval(MODEL, OBJECTIVE, packed=packed, prompted=prompted)
    batch = jax.jit(task.prepare)(jax.random.key(1), rows, CONTEXT)
    return dict(jax.tree.map(np.asarray, batch))


@functools.cache
def variables() -> Variables:
    return drawn(MODEL, np.ones((1, MAX_LEN), np.int32), train=False)


def losses(variables: Variables, batch: Batch) -> Any:
    """Both losses, twice: to differentiate one and look at the other."""
    task = cluster_retrieval(MODEL, OBJECTIVE, prompted="clusters" in batch)
    found, _ = task.losses(variables, batch, jax.random.key(2))
    return found, found


DIFFERENTIATED = jax.jit(jax.jacrev(losses, has_aux=True))


def losses_of(variables: Variables, batch: Batch) -> dict[str, float]:
    return {name: float(value) for name, value in DIFFERENTIATED(variables, batch)[1].items()}


# --- examples and negatives --------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [PACKED, None], ids=["packed", "padded"])
def test_an_example_reads_its_users_window_and_is_asked_for_its_cluster(packed: Packing | None) -> None:
    batch, whole = prepared(packed), prepared(None, prompted=False)
    users = np.unique(EXAMPLES["example_user"]).tolist()
    for number in range(COUNT):
        mine = batch["segments"] == number + 1
        of_user = users.index(EXAMPLES["example_user"][number])
        real = whole["segments"][of_user] > 0
        for name in ("items", "positions"):
            assert batch[name][mine].tolist() == whole[name][of_user][real].tolist()
        cluster = EXAMPLES["example_cluster"][number]
        assert (batch["clusters"][mine] == cluster).all()
        targets = whole["targets"][of_user][real]
        assert (
            batch["targets"][mine].tolist() == np.where(LABELS[targets - 1] == cluster, targets, 0).tolist()
        )
        assert batch["targets"][mine].any()


def test_every_event_is_asked_for_once() -> None:
    batch, whole = prepared(PACKED), prepared(None, prompted=False)
    asked = batch["targets"][batch["targets"] > 0]
    assert sorted(asked.tolist()) == sorted(whole["targets"][whole["targets"] > 0].tolist())


def test_users_without_a_target_have_no_example() -> None:
    none = np.flatnonzero(columns()["length"] < 2)
    assert none.size
    assert not set(none.tolist()) & set(EXAMPLES["example_user"].tolist())


def test_negatives_are_items_of_each_cluster_and_all_of_them_are_drawn() -> None:
    draw = jax.jit(in_cluster_softmax(CLUSTERS, 500).draw)
    samples = np.asarray(draw(jax.random.key(0), jnp.zeros((4, 2), jnp.int32), CONTEXT)["samples"])
    assert samples.shape == (4, K * 500)  # a copy for each row, which devices share out
    assert (samples == samples[0]).all()
    for number, drawn_items in enumerate(samples[0].reshape(K, 500)):
        items, counts = np.unique(drawn_items, return_counts=True)
        assert items.tolist() == [item for item in range(1, NUM_ITEMS + 1) if LABELS[item - 1] == number]
        assert np.abs(counts - 500 / len(counts)).max() < 5 * np.sqrt(500 / len(counts)) + 1e-9


@pytest.mark.parametrize("count", [0, -1])
def test_no_negatives_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"num_samples={count}: must be at least 1"):
        in_cluster_softmax(CLUSTERS, count)


# --- losses ------------------------------------------------------------------------------------------


def softmax_by_loop(
    hidden: np.ndarray, table: np.ndarray, targets: np.ndarray, samples: np.ndarray, clusters: Clusters
) -> float:
    """Mean over the events that have a negative: samples of the target's cluster other than the target."""
    terms = []
    for at in zip(*np.nonzero(targets), strict=True):
        target = targets[at]
        rivals = [j for j in samples if clusters.of[j] == clusters.of[target] and j != target]
        if rivals:
            scores = table[[target, *rivals]] @ hidden[at]
            terms.append(logsumexp(scores) - scores[0])
    return float(np.mean(terms))


def loss_and_gradient(clusters: Clusters, hidden: Any, table: Any, targets: Any) -> Any:
    """Of the objective with its own samples, which come last."""
    objective = in_cluster_softmax(clusters, SAMPLES)

    def run(hidden: Any, table: Any) -> Any:
        context = with_tables({}, objective)
        batch = {"targets": targets, **objective.draw(jax.random.key(0), jnp.asarray(targets), context)}
        return objective.loss(hidden, table, batch, None), batch["samples"][0]

    (value, samples), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(hidden, table)
    return value, gradient, np.asarray(samples)


@pytest.mark.parametrize("clusters", [CLUSTERS, one_cluster(NUM_ITEMS)], ids=["four", "one"])
def test_softmax_is_over_sampled_items_of_the_targets_cluster(clusters: Clusters) -> None:
    rng = np.random.default_rng(3)
    hidden, table = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 7, 5), (NUM_ITEMS + 1, 5)))
    targets = rng.integers(1, NUM_ITEMS + 1, (2, 7))
    targets[0, :2], targets[1, 0] = 0, 5  # padding, and the item that is alone
    got, _, samples = loss_and_gradient(clusters, hidden, table, targets)
    assert float(got) == pytest.approx(softmax_by_loop(hidden, table, targets, samples, clusters), rel=1e-5)


def test_an_item_alone_in_its_cluster_teaches_nothing() -> None:
    hidden, table = np.ones((2, 7, 5), np.float32), np.ones((NUM_ITEMS + 1, 5), np.float32)
    value, gradient, _ = loss_and_gradient(CLUSTERS, hidden, table, np.full((2, 7), 5))
    assert value == 0
    assert (gradient == 0).all()


def test_losses_of_a_batch_against_numpy() -> None:
    batch = prepared(None)
    parts = {"positions": batch["positions"], "segments": batch["segments"], "train": False}

    def outputs(variables: Variables) -> Any:
        hidden = MODEL.apply(variables, batch["items"], clusters=batch["clusters"], **parts)
        return hidden, MODEL.apply(variables, batch["items"], **parts, method="intent")

    hidden, logits = jax.device_get(jax.jit(outputs)(variables()))
    table = variables()["params"]["item_embedding"]
    found = losses_of(variables(), batch)
    expected = softmax_by_loop(hidden, table, batch["targets"], batch["samples"][0], CLUSTERS)
    assert found["next_item"] == pytest.approx(expected, rel=1e-4)
    real = batch["targets"] > 0
    label = LABELS[batch["targets"][real] - 1]
    surprise = -log_softmax(logits[real], axis=-1)[np.arange(len(label)), label]
    assert found["intent"] == pytest.approx(surprise.mean(), rel=1e-4)


def test_prompts_of_one_have_the_losses_of_no_prompts() -> None:
    """The same events, each read once; and K = 1 is plain next-item prediction, see below."""
    ones = {"params": {**variables()["params"], "prompts": np.ones((K, 8), np.float32)}}
    users = len(np.unique(EXAMPLES["example_user"]))
    naive = {**prepared(None, prompted=False), "samples": prepared(None)["samples"][:users]}
    expected = {name: float(value) for name, value in jax.jit(losses)(variables(), naive)[0].items()}
    assert losses_of(ones, prepared(None)) == pytest.approx(expected, rel=1e-4)
    prompted = losses_of(variables(), prepared(None))
    assert prompted["next_item"] != pytest.approx(expected["next_item"], rel=1e-2)
    assert prompted["intent"] == pytest.approx(expected["intent"], rel=1e-4)


def test_one_cluster_and_a_prompt_of_one_are_sasrec() -> None:
    """The same batch, loss and gradient, given the same keys."""
    whole = one_cluster(NUM_ITEMS)
    context = context_of(whole)
    objective = in_cluster_softmax(whole, SAMPLES)
    model, plain = KuaishouEBR(SASRec(**SIZES), INTENT, num_clusters=1), SASRec(**SIZES)
    ours = cluster_retrieval(model, objective)
    theirs = next_item(plain, objective)
    users = np.asarray(context["example_user"][:5])
    rows = (rows_of(number, np.zeros(5), None) for number in (np.arange(5), users))
    prepare = jax.jit(lambda key, a, b: (ours.prepare(key, a, context), theirs.prepare(key, b, context)))
    mine, same = prepare(jax.random.key(4), *rows)
    for name in same.keys() - {SHARED}:
        np.testing.assert_array_equal(mine[name], same[name])
    params = dict(drawn(model, np.ones((1, MAX_LEN), np.int32), train=False)["params"])
    params["prompts"] = np.ones((1, 8), np.float32)
    shared = {n: leaf for n, leaf in params.items() if n not in ("prompts", "intent_encoder", "intent_head")}

    def loss(task: Any, batch: Batch) -> Any:
        return lambda params: task.losses({"params": params}, batch, jax.random.key(5))[0]["next_item"]

    both = jax.jit(
        lambda a, b: (jax.value_and_grad(loss(ours, mine))(a), jax.value_and_grad(loss(theirs, same))(b))
    )
    (value, gradient), (expected, expected_gradient) = both(params, shared)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for name, tree in expected_gradient.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient[name], tree
        )


def test_gradients_are_finite_and_each_loss_has_its_own_parameters() -> None:
    gradients = jax.device_get(DIFFERENTIATED(variables(), prepared(None))[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    retrieval, intent = gradients["next_item"]["params"], gradients["intent"]["params"]
    of_intent = {"intent_encoder", "intent_head"}
    for name in retrieval:
        trained = [any(leaf.any() for leaf in jax.tree.leaves(tree[name])) for tree in (retrieval, intent)]
        assert trained == [name not in of_intent, name in of_intent], name
    asked_with_rivals = sorted({*EXAMPLES["example_cluster"].tolist()} - {3})
    assert np.flatnonzero(np.abs(retrieval["prompts"]).max(axis=1)).tolist() == asked_with_rivals
    assert (retrieval["item_embedding"][0] == 0).all()  # padding never trains


def test_twenty_steps_lower_both_losses() -> None:
    current, values = variables(), []
    for _ in range(20):
        gradients, found = jax.device_get(DIFFERENTIATED(current, prepared(None)))
        values.append(found)
        current = jax.tree.map(lambda x, a, b: x - np.float32(0.3) * (a + b), current, *gradients.values())
    for name, first in values[0].items():
        assert values[-1][name] < 0.9 * first


def test_a_batch_without_a_real_event_has_losses_zero_and_no_gradient() -> None:
    whole = prepared(None)
    batch = {**jax.tree.map(np.zeros_like, whole), **{name: whole[name] for name in ("samples", SHARED)}}
    gradients, values = DIFFERENTIATED(variables(), batch)
    assert jax.device_get(values) == {"next_item": 0.0, "intent": 0.0}
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients))


def test_shares_of_devices_add_up_to_the_loss_of_the_batch() -> None:
    """Two devices with different numbers of events: rows of padding make the batch even."""
    extra = 2 + COUNT % 2
    batch = {**prepared(None)}
    shared = jax.tree.map(jnp.asarray, batch.pop(SHARED))
    batch = {name: np.pad(x, [(0, extra), *[(0, 0)] * (x.ndim - 1)]) for name, x in batch.items()}
    batch["samples"] = np.broadcast_to(batch["samples"][0], batch["samples"].shape)
    halves = jax.tree.map(lambda x: jnp.asarray(x).reshape(2, -1, *x.shape[1:]), batch)
    task = cluster_retrieval(MODEL, OBJECTIVE)

    def share(variables: Variables, part: Batch) -> dict[str, Any]:
        return task.losses(variables, {**part, SHARED: shared}, jax.random.key(2), "devices")[0]

    shares = jax.jit(jax.vmap(share, (None, 0), axis_name="devices"))(variables(), halves)
    total = {name: float(value.sum()) for name, value in shares.items()}
    assert total == pytest.approx(losses_of(variables(), prepared(None)), rel=1e-5)


def test_no_program_holds_the_clusters() -> None:
    """A step of many items: what it closes over is no larger than its batch."""
    many = 5000
    clusters = clusters_from_labels(np.arange(many) % 3)
    objective = in_cluster_softmax(clusters, SAMPLES)
    sizes = {**SIZES, "num_items": many}
    model = KuaishouEBR(SASRec(**sizes), SASRec(**{**sizes, "dim": 4}), num_clusters=3)
    task = cluster_retrieval(model, objective)
    data = {"items": np.arange(many) + 1, "start": np.arange(0, many, 5), "length": np.full(many // 5, 5)}
    context = {**with_tables(data, objective), **cluster_examples(data, clusters, MAX_LEN)}
    context = jax.tree.map(jnp.asarray, {**context, "cluster": clusters.of})
    rows = {"example": jnp.arange(4), "mask": jnp.ones(4, bool)}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, MAX_LEN), int), train=False))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)

    def step(variables: Variables, context: Context) -> Any:
        batch = task.prepare(jax.random.key(0), rows, context)
        return task.losses(variables, batch, jax.random.key(1))[0]

    assert closed_over(step, params, context) < 1000


# --- queries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [Packing(4, 8), None], ids=["packed", "padded"])
def test_a_query_is_read_under_the_prompt_of_its_cluster(packed: Packing | None) -> None:
    """The first history has one item, the last query is a padded tail."""
    asked = split().validation
    user, length = asked.user[:5], asked.length[:5]
    assert length[0] == 1
    mask = np.arange(5) < 4
    queries: dict[str, Any] = rows_of(user, np.where(mask, np.minimum(length, MAX_LEN), 0), packed)
    queries["user"] = user.astype(np.int32)
    queries |= {"length": length, "mask": mask}
    clusters = jnp.array([2, 0, 1, 3, 0])
    histories = [split().sequences.user_items(u)[:n][-MAX_LEN:] for u, n in zip(user, length, strict=True)]
    items = np.stack([np.pad(items, (MAX_LEN - len(items), 0)) for items in histories])
    served = cluster_retriever(MODEL, packed)

    def vectors(variables: Variables) -> Any:
        ours = served.query(variables, queries, CONTEXT, clusters), served.intent(variables, queries, CONTEXT)
        hidden = MODEL.apply(variables, items, clusters=clusters[:, None], train=False)
        return ours, (hidden, MODEL.apply(variables, items, train=False, method="intent"))

    ours, expected = jax.jit(vectors)(variables())
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a[mask], b[mask, -1], rtol=1e-4, atol=1e-5)
        assert np.isfinite(a).all()
    assert served.items(variables()) is variables()["params"]["item_embedding"]
