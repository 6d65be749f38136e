"""Training on pairs: what is drawn, the losses against NumPy, samplers, plans, and what is refused."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec import losses, sampling
from jaxrec.nn.retrieval.mf import MF
from jaxrec.nn.retrieval.ncf import MLPPairs
from jaxrec.protocols import retrieval
from jaxrec.tasks import pairs
from jaxrec.types import SHARED, Array, Protocol
from tests.nn.drawn import drawn
from tests.tasks import small_pairs
from tests.tasks.small_pairs import MOST, NUM_ITEMS, NUM_USERS, PAIRS

MODEL = MF(NUM_USERS, NUM_ITEMS, dim=3)
EVERY = tuple(range(len(PAIRS)))
KEY = jax.random.key(4)
UNSEEN = pairs.unseen(NUM_ITEMS, MOST)


def positives(user: int) -> set[int]:
    return {item for u, item in PAIRS if u == user}


@functools.cache
def variables() -> Any:
    return drawn(MODEL, np.ones(1, int), np.ones((1, 1), int), {}, train=False)


def value(task: Any, batch: Any) -> dict[str, float]:
    found, updates = jax.jit(lambda b: task.losses(variables(), b, KEY))(batch)
    assert updates == {}
    return {name: float(x) for name, x in found.items()}


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


class Batch:
    """A drawn batch and its scores and rows in NumPy; the last example is masked."""

    def __init__(self, task: Any) -> None:
        numbers = (0, 4, 5, 10, 2)
        self.batch = jax.jit(task.prepare)(
            KEY, small_pairs.examples(*numbers, last=False), small_pairs.context()
        )
        users, items = (np.asarray(variables()["params"][f"{side}_embedding"]) for side in ("user", "item"))
        self.user = users[self.batch["user"]][:4]
        self.pos = items[self.batch["item"]][:4]
        self.neg = items[self.batch["negatives"]][:4]
        self.pos_score = np.einsum("bd,bd->b", self.user, self.pos)
        self.neg_score = np.einsum("bd,bnd->bn", self.user, self.neg)


# --- what is drawn -------------------------------------------------------------------------------------


def test_a_batch_holds_the_pairs_of_its_examples() -> None:
    task = pairs.pairwise(MODEL, sampler=UNSEEN, negatives=3)
    batch = task.prepare(KEY, small_pairs.examples(*EVERY), small_pairs.context())
    drawn_pairs = zip((np.asarray(batch["user"]) - 1).tolist(), batch["item"].tolist(), strict=True)
    assert sorted(drawn_pairs) == PAIRS
    assert batch["negatives"].shape == (len(PAIRS), 3)
    assert batch[SHARED].keys() == small_pairs.context().keys()


def test_unseen_negatives_are_uniform_over_the_rest() -> None:
    user = jnp.array([0, 2, 3])
    ids = np.asarray(jax.jit(UNSEEN, static_argnums=2)(KEY, user, 4000, small_pairs.context()))
    for row, number in zip(ids, user.tolist(), strict=True):
        rest = sorted(set(range(1, NUM_ITEMS + 1)) - positives(number))
        assert set(row.tolist()) == set(rest)
        assert stats.chisquare([(row == item).sum() for item in rest]).pvalue > 1e-3


def test_other_samplers_draw_seen_items_too() -> None:
    user, count = jnp.array([2]), 6000
    counts = np.array([0, 4, 0, 1, 1, 1, 1, 1, 9, 0])
    popular = pairs.popular(sampling.popularity_table(counts, alpha=0.5))
    for sampler, weights in ((pairs.uniform(NUM_ITEMS), np.ones(NUM_ITEMS)), (popular, counts[1:] ** 0.5)):
        ids = np.asarray(sampler(KEY, user, count, small_pairs.context()))[0]
        seen = np.bincount(ids, minlength=NUM_ITEMS + 1)[1:]
        assert seen[weights == 0].sum() == 0
        some = weights > 0
        assert stats.chisquare(seen[some], count * weights[some] / weights.sum()).pvalue > 1e-3


# --- losses --------------------------------------------------------------------------------------------


def test_bpr_and_its_penalty() -> None:
    task = pairs.pairwise(MODEL, sampler=UNSEEN, negatives=2, l2=0.3)
    b = Batch(task)
    expected = softplus(b.neg_score - b.pos_score[:, None]).mean(axis=1).mean()
    squares = (b.user**2).sum(-1) + (b.pos**2).sum(-1) + (b.neg**2).sum((-1, -2))
    found = value(task, b.batch)
    np.testing.assert_allclose(found["pairs"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["l2"], 0.15 * squares.mean(), rtol=1e-5)


def test_pointwise_counts_the_user_in_every_labelled_pair() -> None:
    task = pairs.pointwise(MODEL, sampler=UNSEEN, negatives=2, l2=0.3)
    b = Batch(task)
    expected = (softplus(-b.pos_score) + softplus(b.neg_score).sum(axis=1)).mean()
    squares = 3 * (b.user**2).sum(-1) + (b.pos**2).sum(-1) + (b.neg**2).sum((-1, -2))
    found = value(task, b.batch)
    np.testing.assert_allclose(found["pairs"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["l2"], 0.15 * squares.mean(), rtol=1e-5)


def test_the_hardest_negatives_alone_enter_loss_and_penalty() -> None:
    task = pairs.pairwise(MODEL, sampler=UNSEEN, negatives=5, hardest=2, l2=2.0)
    b = Batch(task)
    order = np.argsort(-b.neg_score, axis=1)[:, :2]
    hard = np.take_along_axis(b.neg_score, order, axis=1)
    rows = np.take_along_axis(b.neg, order[..., None], axis=1)
    squares = (b.user**2).sum(-1) + (b.pos**2).sum(-1) + (rows**2).sum((-1, -2))
    found = value(task, b.batch)
    np.testing.assert_allclose(
        found["pairs"], softplus(hard - b.pos_score[:, None]).mean(1).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(found["l2"], squares.mean(), rtol=1e-5)


def test_any_loss_of_scores_can_be_given() -> None:
    def margin(pos: Array, neg: Array, *, where: Array, axis_name: str | None) -> Array:
        return losses.masked_mean(jnp.maximum(0, 1 - pos + neg.max(-1)), where, axis_name)

    task = pairs.pairwise(MODEL, margin, sampler=UNSEEN, negatives=3)
    b = Batch(task)
    expected = np.maximum(0, 1 - b.pos_score + b.neg_score.max(1)).mean()
    assert value(task, b.batch) == pytest.approx({"pairs": expected}, rel=1e-5)


def test_predictions_are_scores_of_observed_items() -> None:
    task = pairs.pairwise(MODEL, sampler=UNSEEN)
    b = Batch(task)
    np.testing.assert_allclose(task.predict(variables(), b.batch)[:4], b.pos_score, rtol=1e-5)


# --- ranking -------------------------------------------------------------------------------------------


def test_final_vectors_rank_by_the_user_of_the_query() -> None:
    found = pairs.finished(MODEL, variables(), small_pairs.context())
    queries = {"user": jnp.array([4, 0])}
    query = pairs.FACTORS.query(found, queries, {})
    np.testing.assert_array_equal(query, variables()["params"]["user_embedding"][np.array([5, 1])])
    np.testing.assert_array_equal(pairs.FACTORS.items(found), variables()["params"]["item_embedding"])


@pytest.mark.parametrize("kind", ["vectors", "scores"])
def test_a_model_is_measured_by_its_own_variables(kind: str) -> None:
    """As its ranked lists are, whether from final vectors or from scores of all items."""
    model = MODEL if kind == "vectors" else MLPPairs(NUM_USERS, NUM_ITEMS, dim=3, hidden_dims=(4,))
    user, item = np.arange(1, NUM_USERS + 1), np.tile(np.arange(1, NUM_ITEMS + 1), (NUM_USERS, 1))
    own = drawn(model, user, item, {}, train=False)
    scores = np.array(model.apply(own, user, item, {}, train=False))
    protocol = Protocol(split="by hand", ks=(2,), loss="", selection="none")
    seeds = jax.tree.map(lambda leaf: leaf[None], own)
    (found,) = retrieval.test(model, small_pairs.data(), protocol, seeds)
    recall = []
    for user_number, relevant in enumerate(small_pairs.TEST):
        if relevant and small_pairs.TRAINING[user_number]:
            scores[user_number, [i - 1 for i in small_pairs.TRAINING[user_number]]] = -np.inf
            best = set((np.argsort(-scores[user_number])[:2] + 1).tolist())
            recall.append(len(best & set(relevant)) / len(relevant))
    np.testing.assert_allclose(found["recall@2"], np.mean(recall), rtol=1e-6)


def test_some_items_are_scored_as_all_are() -> None:
    model = MLPPairs(NUM_USERS, NUM_ITEMS, dim=3, hidden_dims=(4,))
    ids, asked = np.array([[3, 1, 3], [0, NUM_ITEMS, 2]]), {"user": np.array([2, 0])}
    own = drawn(model, np.array([1]), np.array([[1]]), {}, train=False)
    every = pairs.scorer(model).scores(own, asked, {})
    some = pairs.scorer(model).some
    assert some is not None
    np.testing.assert_allclose(some(own, asked, {}, ids), np.take_along_axis(every, ids, axis=1), rtol=1e-5)


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"negatives": 0}, "negatives=0"),
        ({"negatives": 2, "hardest": 3}, r"hardest=3: must be in 1\.\.2"),
        ({"hardest": 0}, "hardest=0"),
        ({"l2": -1.0}, r"l2=-1\.0"),
        ({"l2": float("nan")}, "l2=nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pairs.pairwise(MODEL, sampler=UNSEEN, **options)


def test_a_user_of_every_item_leaves_no_negative() -> None:
    with pytest.raises(ValueError, match="most=9: of 9 items"):
        pairs.unseen(9, 9)
