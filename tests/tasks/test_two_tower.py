"""Training of two towers: losses against NumPy, batches without a negative, and what is found at the end."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses, sampling
from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.events.side_features import SideFeatures, tower_columns
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.protocols import retrieval
from jaxrec.tasks.two_tower import DRAWN, STREAM, two_tower
from jaxrec.train.epoch import shuffled
from jaxrec.types import Array, Protocol
from tests.nn.drawn import applied, drawn
from tests.tasks import small_pairs
from tests.tasks.small_pairs import NUM_ITEMS, PAIRS
from tests.tasks.small_towers import ITEM_ID, TAGS, USER_ID, VIEW, context

TEMPERATURE = 0.5
MODEL = TwoTower((USER_ID,), (ITEM_ID,), (), (), temperature=TEMPERATURE)
KEY = jax.random.key(4)
NUMBERS = (0, 4, 5, 10, 2)  # the last is masked; items of 0 and 4 differ


@functools.cache
def variables() -> Any:
    return drawn(MODEL, np.ones(1, int), np.ones((1, 1), int), context(), train=False)


def batch_of(task: Any, *numbers: int, columns: Any = None) -> Any:
    examples = small_pairs.examples(*(numbers or NUMBERS), last=bool(numbers))
    return jax.jit(task.prepare)(KEY, examples, columns or context())


def value(task: Any, batch: Any) -> float:
    found, updates = jax.jit(lambda b: task.losses(variables(), b, KEY))(batch)
    assert updates == {}
    return float(found["pairs"])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def numpy_loss(
    batch: Any,
    *,
    in_batch: bool = True,
    negatives: int = 0,
    corrected: bool = True,
    margin: float | None = None,
    hardest: int | None = None,
    hard: int | None = None,
    same: bool = False,
) -> float:
    """Softmax or hinge, an example and a candidate at a time."""
    params = variables()["params"]["embedding"]
    users, items = (np.asarray(params[f"{side}_id_embedding"]) for side in ("user", "item"))
    user, item, mask = (np.asarray(batch[name]) for name in ("user", "item", "mask"))
    drawn_items = np.asarray(batch[DRAWN]).tolist() if negatives else []
    trained = {number for _, number in PAIRS}  # others have no id

    def score(u: int, i: int) -> float:
        return float(unit(users[u]) @ unit(items[i] if i in trained else 0 * items[i])) / TEMPERATURE

    def lowered(i: int) -> float:
        if not (corrected and in_batch):
            return 0.0
        share, size = sum(number == i for _, number in PAIRS) / len(PAIRS), int(mask.sum())
        p = share * size / (size + negatives) + negatives / (size + negatives) / NUM_ITEMS
        return float(np.log(p))

    terms, triplets = [], []
    for u, i, real in zip(user.tolist(), item.tolist(), mask.tolist(), strict=True):
        if not real:
            continue
        others = (
            [j for j, other in zip(item.tolist(), mask.tolist(), strict=True) if other] if in_batch else []
        )
        if hard is not None:
            of_batch = sorted(((score(u, j), j) for j in others if j != i), reverse=True)
            others = [j for _, j in of_batch[:hard]]
        others = [j for j in others + drawn_items if j != i and (not same or VIEW[j] == VIEW[i])]
        neg = sorted((score(u, j) - lowered(j) for j in others), reverse=True)[:hardest]
        pos = score(u, i) - lowered(i)
        terms.append(np.log(np.exp(pos) + np.sum(np.exp(neg))) - pos)
        triplets += [max(0.0, (margin or 0.0) - pos + n) for n in neg]
    return float(np.mean(triplets if margin is not None else terms))


def test_all_devices_have_the_mean_of_their_statistics() -> None:
    """Or else each would keep its own, and an evaluation read those of the first."""
    model = TwoTower((USER_ID,), (ITEM_ID,), (4,), (3, 4), mlp=Factory(MLP, batch_norm=True))
    found = drawn(model, np.ones(1, int), np.ones((1, 1), int), context(), train=False)
    task = two_tower(model)
    batch = {name: column for name, column in batch_of(task, 0, 4, 5, 10).items() if name != "shared"}
    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)

    def of_device(part: Any) -> Any:
        return task.losses(found, {**part, "shared": context()}, KEY, "devices")[1]["batch_stats"]

    shared = jax.jit(jax.vmap(of_device, axis_name="devices"))(halves)
    alone = [of_part(task, found, jax.tree.map(lambda x, i=i: x[i], halves)) for i in range(2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *alone)
    for device in range(2):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-5), shared, mean)


def of_part(task: Any, found: Any, part: Any) -> Any:
    run = jax.jit(lambda b: task.losses(found, {**b, "shared": context()}, KEY))
    return run(part)[1]["batch_stats"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"corrected": False},
        {"negatives": 6},
        {"negatives": 6, "corrected": False, "same": True},
        {"negatives": 6, "in_batch": False},
        {"hardest": 2},
        {"margin": 0.9, "hardest": 2, "corrected": False},
        {"margin": 0.9, "negatives": 3, "corrected": False},
        {"margin": 0.9, "negatives": 3, "hard": 2, "corrected": False},
    ],
    ids=str,
)
def test_losses_are_those_of_a_loop_over_examples(options: dict[str, Any]) -> None:
    given = {name: x for name, x in options.items() if name not in ("margin", "same")}
    margin = options.get("margin")
    loss = losses.sampled_softmax if margin is None else functools.partial(losses.hinge, margin=margin)
    task = two_tower(MODEL, loss, **given, same="item_view" if "same" in options else None)
    batch = batch_of(task)
    np.testing.assert_allclose(value(task, batch), numpy_loss(batch, **options), rtol=1e-5)


def test_hard_items_are_those_of_all_devices() -> None:
    """Two devices, each with half of the pairs and of the drawn items: their shares add up to the loss."""
    task = two_tower(MODEL, functools.partial(losses.hinge, margin=0.9), negatives=4, hard=2, corrected=False)
    batch = {name: column for name, column in batch_of(task, 0, 4, 5, 10).items() if name != "shared"}
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)

    def of_device(part: Any) -> Array:
        return task.losses(variables(), {**part, "shared": context()}, KEY, "devices")[0]["pairs"]

    shares = jax.jit(jax.vmap(of_device, axis_name="devices"))(halves)
    np.testing.assert_allclose(shares.sum(), value(task, {**batch, "shared": context()}), rtol=1e-5)


def test_a_batch_whose_items_are_all_the_same_has_no_negative() -> None:
    """Pairs 1, 3 and 7 are of item 2, by three users: loss and gradient are 0, and not NaN."""
    numbers = [n for n, (_, item) in enumerate(PAIRS) if item == 2]
    assert len(numbers) == 3
    for loss in (losses.sampled_softmax, losses.hinge, losses.bpr):
        task = two_tower(MODEL, loss)
        batch = batch_of(task, *numbers)

        def total(found: Any, task: Any = task, batch: Any = batch) -> Array:
            return task.losses(found, batch, KEY)[0]["pairs"]

        loss_value, gradients = jax.jit(jax.value_and_grad(total))(variables())
        assert loss_value == 0
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients))


def test_a_pair_that_is_there_twice_is_no_negative_of_itself() -> None:
    task = two_tower(MODEL)
    batch = batch_of(task, 0, 4, 0)
    np.testing.assert_allclose(value(task, batch), numpy_loss(batch), rtol=1e-5)
    lone = batch_of(task, 0, 0)
    assert value(task, lone) == 0


def test_an_item_without_a_pair_is_pushed_away_only_if_it_is_drawn() -> None:
    """By its features; as it has no id, its own row of the table has no gradient."""
    model = TwoTower((USER_ID,), (ITEM_ID, TAGS), (4,), (4,), mlp=Factory(MLP, activate_last=False))
    found = drawn(model, np.ones(1, int), np.ones((1, 1), int), context(), train=False)
    tags = np.zeros((NUM_ITEMS + 1, 2), np.int32)
    tags[8] = 3  # item 8 alone has this one
    columns = {**context(), "item_tags": jnp.asarray(tags)}
    for negatives in (0, 40):
        task = two_tower(model, negatives=negatives)
        batch = batch_of(task, *NUMBERS, columns=columns)
        total = jax.jit(jax.grad(lambda v, t=task, b=batch: t.losses(v, b, KEY)[0]["pairs"]))
        tables = total(found)["params"]["embedding"]
        assert bool(np.asarray(tables["item_tags_embedding"][3]).any()) == (negatives > 0)
        assert not np.asarray(tables["item_id_embedding"][8]).any()


def test_ages_of_examples_reach_a_model_that_reads_them() -> None:
    linear = Factory(MLP, activate_last=False)
    model = TwoTower((USER_ID, Numeric("example_age")), (ITEM_ID,), (4,), (4,), mlp=linear)
    task = two_tower(model)
    columns = {**context(), "pair_age": jnp.arange(len(PAIRS), dtype=jnp.float32)}
    batch = batch_of(task, 0, 4, 5, columns=columns)
    assert batch["age"].tolist() == [0.0, 4.0, 5.0]
    found = drawn(model, np.ones(1, int), np.ones((1, 1), int), context(), train=False)
    young = {**batch, "age": jnp.zeros(3)}
    run = jax.jit(lambda b: task.losses(found, b, KEY)[0]["pairs"])
    assert abs(run(batch) - run(young)) > 1e-3
    with pytest.raises(ValueError, match=r"example_age: .* training gives none; .* column pair_age \[P\]"):
        task.losses(found, batch_of(task, 0, 4, 5), KEY)


def test_statistics_of_batch_norm_are_updated_by_both_towers() -> None:
    mlp = Factory(MLP, batch_norm=True)
    model = TwoTower((USER_ID,), (ITEM_ID,), (4,), (3, 4), mlp=mlp)
    found = drawn(model, np.ones(1, int), np.ones((1, 1), int), context(), train=False)
    task = two_tower(model, negatives=3)
    batch = batch_of(task, 0, 4, 5, 10)
    _, updates = jax.jit(lambda b: task.losses(found, b, KEY))(batch)
    for side, method, number in (
        ("user_tower", "users", batch["user"]),
        ("item_tower", "items", jnp.concatenate([batch["item"], batch[DRAWN]])),
    ):
        given = {"target": batch["item"]} if side == "user_tower" else {}
        _, alone = model.apply(
            found, number, context(), **given, train=True, method=method, mutable=["batch_stats"]
        )
        for a, b in zip(
            jax.tree.leaves(updates["batch_stats"][side]),
            jax.tree.leaves(alone["batch_stats"][side]),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"in_batch": False}, "in_batch=False, negatives=0: take the batch's items"),
        ({"negatives": -1}, "negatives=-1"),
        ({"hardest": 0}, "hardest=0: must be at least 1"),
        ({"hard": 0, "negatives": 3}, "hard=0: must be at least 1"),
        ({"hard": 2}, "hard=2: .* beside drawn items"),
        ({"hard": 2, "negatives": 3, "hardest": 1}, "without hardest=1"),
        ({"in_batch": False, "negatives": 3, "hardest": 4}, r"hardest=4: .* at most 3 \(negatives\)"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_tower(MODEL, **options)


# --- trained to the end --------------------------------------------------------------------------------

GROUPS, SIZE, COLD = 4, 6, (6, 12, 18, 24)  # the last item of each group is in no training pair


def tastes() -> HeldOut:
    """Users of one group each, who have three of its first five items; the cold one is to be found.

    Users 60 and above have no training item at all.
    """
    rng = np.random.default_rng(5)
    train: list[tuple[int, int]] = []
    test: list[tuple[int, int]] = []
    for user in range(64):
        group = user % GROUPS
        first = group * SIZE + 1
        if user < 60:
            train += [(user, int(first + i)) for i in rng.permutation(SIZE - 1)[:3]]
        test.append((user, first + SIZE - 1))
    parts = [
        tuple(np.array(column, np.int64) for column in zip(*rows, strict=True)) for rows in (train, test)
    ]
    validation = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    return from_parts(
        "cold",
        (parts[0], validation, parts[1]),
        num_items=GROUPS * SIZE,
        rule="by hand",
        user_ids=np.arange(64),
        item_ids=np.arange(GROUPS * SIZE),
    )


def test_unseen_users_and_items_are_found_by_their_features(tmp_path: Path) -> None:
    """Among all items, and among candidates: the one cold item of a user's group comes first of the cold."""
    split = tastes()
    data = retrieval.resident(split)
    group = np.repeat(np.arange(1, GROUPS + 1), SIZE)
    items = SideFeatures({"group": np.concatenate([[0], group])}, {"group": GROUPS})
    users = SideFeatures({"group": np.concatenate([[0], np.arange(64) % GROUPS + 1])}, {"group": GROUPS})
    columns = tower_columns(
        data.columns["pair_user"],
        data.columns["pair_item"],
        num_users=64,
        num_items=GROUPS * SIZE,
        users=users,
        items=items,
    )
    model = TwoTower(
        (Categorical("user_id", 65, 8), Categorical("user_group", GROUPS + 1, 8)),
        (Categorical("item_id", GROUPS * SIZE + 1, 8), Categorical("item_group", GROUPS + 1, 8)),
        (16,),
        (16,),
        mlp=Factory(MLP, activate_last=False),
        temperature=0.2,
        id_dropout=0.5,
    )
    task = two_tower(model, negatives=16)
    plan = shuffled(len(data.columns["pair_user"]), 60)
    ask = Protocol("by hand", ks=(6,), selection=retrieval.LAST_EPOCH)
    fitted = retrieval.train(
        task,
        plan,
        model,
        data,
        ask,
        optax.adam(0.02),
        epochs=30,
        every=30,
        columns=columns,
        seeds=(0,),
        workdir=tmp_path,
        description={},
        progress=False,
    )
    variables = fitted.variables
    found = retrieval.run_test(model, data, ask, variables, columns=columns)
    assert found.metrics[0]["recall@6"] == 1  # of 24, at most 5 of a group, and only in one
    sampled = ask._replace(candidates="sampled-15", ks=(1, 6))
    among = retrieval.run_test(model, data, sampled, variables, columns=columns)
    assert among.metrics[0]["hit@6"] == 1
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    context = {name: jnp.asarray(column) for name, column in {**data.columns, **columns}.items()}
    every = np.tile(np.array(COLD), (64, 1))
    scores = applied(model, one, np.arange(1, 65), every, context, train=False)
    assert (np.asarray(scores).argmax(axis=1) == np.arange(64) % GROUPS).all()


# --- frequencies that are estimated from the batches ----------------------------------------------------

FREQUENCY = sampling.streaming_frequency(NUM_ITEMS + 1, num_hashes=0, rate=0.3, start_gap=3.0)


def streamed(task: Any, state: Any, batch: Any, axis: str | None = None) -> Any:
    return task.losses({**variables(), STREAM: state}, batch, KEY, axis)


@pytest.mark.parametrize("negatives", [0, 3])
def test_estimated_frequencies_stand_in_for_counted_ones(negatives: int) -> None:
    task = two_tower(MODEL, negatives=negatives, frequency=FREQUENCY)
    counted = two_tower(MODEL, negatives=negatives)
    found = jax.jit(task.init)(KEY, batch_of(task))
    state = found[STREAM]
    assert set(found) == {"params", STREAM} and int(state["step"]) == 0
    run = jax.jit(functools.partial(streamed, task))
    for numbers in (NUMBERS, (1, 2, 3), NUMBERS):
        batch = batch_of(task, *numbers)
        loss, updates = run(state, batch)
        stream = FREQUENCY.update(sampling.Stream(**state), batch["item"], batch["mask"])
        jax.tree.map(np.testing.assert_array_equal, updates, {STREAM: stream._asdict()})
        size = np.asarray(batch["mask"]).sum()
        share = FREQUENCY.log_probability(stream, jnp.arange(NUM_ITEMS + 1)) - np.log(size)
        batch["shared"]["item_log_frequency"] = share
        assert float(loss["pairs"]) == pytest.approx(value(counted, batch), rel=1e-5)
        state = updates[STREAM]


def test_all_devices_remember_the_batches_of_all() -> None:
    task = two_tower(MODEL, frequency=FREQUENCY)
    batch = {name: column for name, column in batch_of(task, 0, 4, 5, 10).items() if name != "shared"}
    state = FREQUENCY.init()._asdict()
    whole, stream = streamed(task, state, {**batch, "shared": context()})

    def one(part: Any) -> Any:
        return streamed(task, state, {**part, "shared": context()}, "devices")

    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    parts, streams = jax.vmap(one, axis_name="devices")(halves)
    assert float(parts["pairs"].sum()) == pytest.approx(float(whole["pairs"]), rel=1e-5)
    for device in range(2):
        of_device = jax.tree.map(lambda x, device=device: x[device], streams)
        jax.tree.map(np.testing.assert_array_equal, of_device, stream)


@pytest.mark.parametrize("options", [{"corrected": False}, {"in_batch": False, "negatives": 2}])
def test_a_frequency_that_corrects_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="frequency: corrects scores of a batch's items, but"):
        two_tower(MODEL, frequency=FREQUENCY, **options)
