"""Reading of interests, routing, MIND and ComiRec: by formulas, slow NumPy and limits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxrec.nn.layers.interests import HIDDEN, attended, nearest, products
from jaxrec.nn.layers.routing import route, squash
from jaxrec.nn.retrieval.comirec import ComiRecDR, ComiRecSA
from jaxrec.nn.retrieval.mind import MIND
from jaxrec.nn.retrieval.sdm import SDM
from jaxrec.types import Array, Interests
from tests.nn.drawn import applied, drawn

SMALL: dict[str, Any] = {"num_items": 12, "dim": 4, "max_len": 6}
ITEMS = np.array([[0, 0, 4, 9, 2, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 11]], np.int32)
REAL = ITEMS != 0
RNG = np.random.default_rng(0)


def weights(model: Any) -> Any:
    found = drawn(model, ITEMS, train=False)
    for name in ("item_embedding", "output_embedding"):
        if name in found["params"]:
            found["params"][name][0] = 0.0
    return found


def run(model: Any, variables: Any, items: np.ndarray = ITEMS, **options: Any) -> Interests:
    return jax.tree.map(np.asarray, applied(model, variables, items, train=False, **options))


def close(a: Any, b: Any, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


# --- reading interests ---------------------------------------------------------------------------------

ACTIVE = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)
THREE = Interests(RNG.normal(size=(4, 3, 5)).astype(np.float32), ACTIVE)
AIM = RNG.normal(size=(4, 5)).astype(np.float32)


def test_the_nearest_interest_is_an_active_one_and_alone_has_a_gradient() -> None:
    scores = np.where(THREE.active, np.einsum("bkd,bd->bk", THREE.vectors, AIM), -np.inf)
    best = scores.argmax(axis=1)
    close(nearest(THREE, AIM), THREE.vectors[np.arange(4), best])
    read = jax.grad(lambda v: jnp.sum(nearest(Interests(v, THREE.active), AIM)))
    rows = np.flatnonzero(np.abs(read(jnp.asarray(THREE.vectors))).sum(axis=-1))
    assert rows.tolist() == (np.arange(4) * 3 + best).tolist()
    assert (products(THREE, AIM)[~THREE.active] == HIDDEN).all()
    tied = Interests(jnp.ones((1, 3, 5)) * jnp.array([1.0, 2.0, 2.0])[:, None], jnp.ones((1, 3), bool))
    gradient = jax.grad(lambda v: jnp.sum(nearest(Interests(v, tied.active), jnp.ones((1, 5)))))(tied.vectors)
    assert np.abs(gradient).sum(axis=-1).tolist() == [[0.0, 5.0, 0.0]]


@pytest.mark.parametrize(("power", "printed"), [(0, False), (0, True), (2.5, False), (3, True)])
def test_label_aware_attention_is_its_formula(power: float, printed: bool) -> None:
    scores = np.einsum("bkd,bd->bk", THREE.vectors, AIM)
    logits = np.where(THREE.active, scores ** int(power) if printed else power * scores, -np.inf)
    expected = np.einsum("bk,bkd->bd", softmax(logits, axis=1), THREE.vectors)
    close(attended(THREE, AIM, power, printed=printed), expected)


def test_a_large_power_is_the_nearest_interest() -> None:
    close(attended(THREE, AIM, 1e4), nearest(THREE, AIM))


# --- routing -------------------------------------------------------------------------------------------


def routed(h: np.ndarray, b: np.ndarray, mask: np.ndarray, iterations: int) -> np.ndarray:
    """One row by loops: h [L, K, D], b [L, K], mask [L]."""
    b = b.astype(np.float64)
    for _ in range(iterations):
        w = softmax(b, axis=1) * mask[:, None]
        np.testing.assert_allclose(w.sum(axis=1), mask)
        z = np.einsum("lk,lkd->kd", w, h)
        size = (z**2).sum(axis=1, keepdims=True)
        u = z * size / (1 + size) / np.sqrt(size + 1e-9)
        b = b + np.einsum("lkd,kd->lk", h, u)
    return u


@pytest.mark.parametrize("iterations", [1, 3])
def test_routing_equals_loops(iterations: int) -> None:
    h, b = RNG.normal(size=(3, 6, 2, 4)).astype(np.float32), RNG.normal(size=(3, 6, 2)).astype(np.float32)
    ours = route(h, b, REAL, iterations=iterations)
    close(ours, [routed(*row, iterations) for row in zip(h, b, REAL, strict=True)])
    same = route(h[:, :, 0], b, REAL, iterations=iterations)
    close(same, route(np.repeat(h[:, :, :1], 2, axis=2), b, REAL, iterations=iterations))
    assert (np.linalg.norm(ours, axis=-1) < 1).all()


def test_one_iteration_is_all_that_learns() -> None:
    """The gradient is that of the last iteration with its weights as constants."""
    h, b = jnp.asarray(RNG.normal(size=(1, 6, 2, 4)), jnp.float32), jnp.zeros((1, 6, 2))
    for _ in range(2):
        b = b + jnp.einsum("blkd,bkd->blk", h, route(h, b, REAL[1:2], iterations=1))
    grads = [
        jax.grad(lambda h, b=b, n=n: jnp.sum(jnp.sin(route(h, b, REAL[1:2], iterations=n))))(h)
        for b, n in ((jnp.zeros((1, 6, 2)), 3), (b, 1))
    ]
    close(*grads)


@pytest.mark.parametrize("given", [{"iterations": 0}, {"iterations": 1, "over": "events"}])
def test_arguments_of_routing_are_checked(given: Any) -> None:
    with pytest.raises(ValueError, match="iterations=0" if given["iterations"] == 0 else "over='events'"):
        route(np.ones((1, 2, 3), np.float32), np.ones((1, 2, 2), np.float32), np.ones((1, 2), bool), **given)


def test_squash_keeps_the_direction() -> None:
    z = RNG.normal(size=(5, 3)).astype(np.float32) * np.array([[1e-3], [1], [5], [100], [0]], np.float32)
    size = np.linalg.norm(z, axis=1, keepdims=True)
    close(squash(z), size**2 / (1 + size**2) * z / np.maximum(size, 1e-9), atol=1e-6)
    assert np.isfinite(jax.grad(lambda z: squash(z).sum())(jnp.asarray(z))).all()


# --- MIND and ComiRec ----------------------------------------------------------------------------------


def test_mind_has_as_many_interests_as_the_logarithm_says() -> None:
    model = MIND(**SMALL, num_interests=4)
    counts = np.array([0, 1, 2, 3, 4, 7, 8, 15, 16, 100])
    expected = np.clip(np.floor(np.log2(np.maximum(counts, 1))), 1, 4)
    assert (np.asarray(model.active(jnp.asarray(counts))).sum(axis=1) == expected).all()


def test_interests_that_are_not_active_take_no_part() -> None:
    """A user of K' interests is that of a model of K'."""
    model = MIND(**SMALL, num_interests=5)
    variables, logits = weights(model), RNG.normal(size=(3, 6, 5)).astype(np.float32)
    found = run(model, variables, logits=logits)
    assert found.active.sum(axis=1).tolist() == [2, 2, 1]
    for row, count in enumerate(found.active.sum(axis=1)):
        fewer = model.clone(num_interests=int(count), adaptive=False)
        one = run(fewer, variables, ITEMS[row : row + 1], logits=logits[row : row + 1, :, :count])
        close(one.vectors[0], found.vectors[row, :count])


def test_equal_logits_give_equal_interests_and_drawn_ones_do_not() -> None:
    model = MIND(**SMALL, num_interests=3, adaptive=False)
    variables = weights(model)
    same = run(model.clone(sigma=0.0), variables).vectors
    close(same, np.repeat(same[:, :1], 3, axis=1))
    other = run(model, variables).vectors
    assert np.abs(other[:2, 0] - other[:2, 1]).max() > 1e-2
    close(other, run(model, variables).vectors)
    assert not np.allclose(other, run(model.clone(routing_seed=1), variables).vectors, atol=1e-3)


def test_one_interest_is_the_squashed_sum() -> None:
    model = MIND(**SMALL, num_interests=1)
    variables = weights(model)
    params = variables["params"]
    total = params["item_embedding"][ITEMS].sum(axis=1) @ params["shared"]["kernel"]
    close(run(model, variables).vectors[:, 0], squash(total))


def test_mind_reads_a_set_and_comirec_dr_an_order() -> None:
    order = np.array([0, 1, 5, 3, 2, 4])
    mind = MIND(**SMALL, num_interests=2, adaptive=False)
    logits = RNG.normal(size=(3, 6, 2)).astype(np.float32)
    found = run(mind, weights(mind), logits=logits).vectors
    close(run(mind, weights(mind), ITEMS[:, order], logits=logits[:, order]).vectors, found)
    routing = ComiRecDR(**SMALL, num_interests=2)
    found = run(routing, weights(routing)).vectors
    assert np.abs(run(routing, weights(routing), ITEMS[:, order]).vectors - found)[:2].max() > 1e-2


def test_routing_logits_of_training_derive_from_key_and_row() -> None:
    model: Any = MIND(**SMALL, num_interests=2)
    variables = weights(model)

    @jax.jit
    def train(rows: Array, seed: Array) -> Array:
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, ITEMS[[0, 1, 0]], train=True, rows=rows, rngs=rngs).vectors

    one, rows = np.asarray(train(np.arange(3), 0)), np.array([5, 1, 0])
    close(train(rows, 0)[1], one[1])
    close(train(rows, 0)[2], one[0])
    assert not np.allclose(one[0], one[2], atol=1e-3)
    assert not np.allclose(train(np.arange(3), 1), one, atol=1e-3)
    fixed = model.clone(redraw=False).apply(variables, ITEMS, train=True, rngs={"dropout": jax.random.key(0)})
    close(fixed.vectors, run(model, variables).vectors)


def test_an_item_is_the_mean_of_its_id_and_the_fields_that_it_has() -> None:
    model = MIND(**SMALL, side_sizes=(3, 2))
    variables = weights(model)
    side = np.zeros((13, 2), np.int32)
    side[5], side[6] = (3, 0), (1, 2)
    params = variables["params"]
    for name in ("side_embedding_0", "side_embedding_1"):
        params[name][0] = 0.0
    table = applied(model, {**variables, "constants": {"side": side}}, method="item_table")
    own, first, second = (params[n] for n in ("item_embedding", "side_embedding_0", "side_embedding_1"))
    close(table[5], (own[5] + first[3]) / 2)
    close(table[6], (own[6] + first[1] + second[2]) / 3)
    close(table[7], own[7])
    assert not np.asarray(table[0]).any()


def test_one_head_without_positions_is_additive_attention_pooling() -> None:
    model = ComiRecSA(**SMALL, num_interests=1, positions=False)
    variables = weights(model)
    params = variables["params"]
    x = params["item_embedding"][ITEMS]
    scores = np.tanh(x @ params["hidden"]["kernel"]) @ params["heads"]["kernel"]
    share = softmax(np.where(REAL, scores[..., 0], -np.inf), axis=1)
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-6)
    close(run(model, variables).vectors[:, 0], np.einsum("bl,bld->bd", share, x))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"power": -1.0}, "power=-1"),
        ({"power": 1.5, "printed": True}, r"power=1\.5"),
        ({"printed": True}, "power=None"),
    ],
)
def test_fields_of_mind_are_checked(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MIND(**SMALL, **fields).init(jax.random.key(0), ITEMS, train=False)


@pytest.mark.parametrize("model", [ComiRecSA(**SMALL, num_users=3), SDM(**SMALL, num_users=3, num_heads=2)])
def test_users_are_given_with_their_number(model: Any) -> None:
    with pytest.raises(ValueError, match="num_users=3"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))
    users, nobody = np.array([1, 2, 3], np.int32), model.clone(num_users=0)
    with pytest.raises(ValueError, match="num_users=0"):
        jax.eval_shape(lambda: nobody.init(jax.random.key(0), ITEMS, users=users, train=False))
    variables = drawn(model, ITEMS, users=users, train=False)
    found = run(model, variables, users=users).vectors
    other = run(model, variables, users=np.array([1, 3, 3], np.int32)).vectors
    assert (np.abs(found - other).max(axis=(1, 2)) > 1e-3).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", [MIND, ComiRecSA, ComiRecDR])
def test_a_known_user_without_events_has_the_vectors_that_follow_from_the_user(kind: Any) -> None:
    """The user's embedding, of a width of its own, through the last layer; an unknown one's are 0."""
    model = kind(**SMALL, num_users=3, user_dim=2)
    users = np.array([1, 0, 3], np.int32)
    variables = drawn(model, ITEMS, users=users, train=False)
    found = run(model, variables, np.zeros_like(ITEMS), users=users)
    profile = variables["params"]["user"]
    alone = profile["user_embedding"][users] @ profile["output"]["kernel"][:2]
    known, first = (users > 0)[:, None], np.arange(model.num_interests) == 0
    np.testing.assert_array_equal(found.active, first | (known & (kind is not MIND)))  # MIND's number adapts
    close(found.vectors, np.where((found.active & known)[..., None], alone[:, None], 0.0))
