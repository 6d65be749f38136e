"""What holds for every model that scores pairs of a user and an item (`jaxrec.tasks.pairs.PairModel`)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.data.events.graph import bipartite
from jaxrec.data.events.neighbourhoods import importance_neighbourhoods
from jaxrec.nn.retrieval.cdan import CDAN
from jaxrec.nn.retrieval.dfn import DFN, DFNPairs
from jaxrec.nn.retrieval.lightgcn import LightGCN
from jaxrec.nn.retrieval.mf import MF
from jaxrec.nn.retrieval.ncf import GMF, MLPPairs, NeuMF, pretrained
from jaxrec.nn.retrieval.ngcf import NGCF
from jaxrec.nn.retrieval.pdn import PDN, PDNPairs
from jaxrec.nn.retrieval.pinsage import PinSage
from jaxrec.nn.retrieval.rcf import RCF
from jaxrec.nn.retrieval.simplex import SimpleX
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import pairs
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context, Retriever, Variables
from tests.lowering import repeated_float_adds
from tests.nn.drawn import applied, drawn
from tests.tasks import small_pairs, small_towers
from tests.tasks.small_pairs import MOST, NUM_ITEMS, NUM_USERS

SMALL: dict[str, Any] = {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "dim": 4}
POOLED: dict[str, Any] = {"max_history": 5, "gamma": 0.6}
FIELDS = (
    (small_towers.USER_ID, small_towers.KIND._replace(dim=4)),
    (small_towers.ITEM_ID, small_towers.TAGS._replace(dim=4)),
)
MODELS: dict[str, Any] = {
    "lightgcn": LightGCN(**SMALL),
    "lightgcn_dropout": LightGCN(**SMALL, num_layers=2, edge_dropout=0.2),
    "mf": MF(**SMALL),
    "mf_biases": MF(**SMALL, item_bias=True, user_bias=True),
    "mf_cosine": MF(**SMALL, cosine=True),
    "gmf": GMF(**SMALL),
    "mlp": MLPPairs(**SMALL, hidden_dims=(5, 3)),
    "simplex_mean": SimpleX(**SMALL, **POOLED, pooling="mean"),
    "simplex": SimpleX(**SMALL, **POOLED),
    "simplex_self": SimpleX(**SMALL, **POOLED, pooling="self_attention", count_padding=True),
    "neumf": NeuMF(**SMALL, mlp_dim=3, hidden_dims=(4,)),
    "cdan": CDAN(**SMALL, part_dims=(5, 4), serve="merged"),
    "pinsage": PinSage(NUM_ITEMS, 4, 5, item_bias=True),
    "rcf": RCF(**SMALL, num_values=(3, 2), max_history=4, attention_dim=3, hidden_dims=(4,), items_at_once=4),
    "pdn": PDNPairs(*FIELDS, PDN((4,), (3,), max_paths=5, with_bias=False), 5, 4, same=("item_tags",)),
    "dfn": DFNPairs(*FIELDS, DFN(2, 5, 3, (4,)), 5, 4, max_feedback=3),
    "ngcf": NGCF(**SMALL, hidden_dims=(3, 5), node_dropout=0.1, message_dropout=0.1),
}
TABLES = ("user_embedding", "item_embedding")  # the endings of the names of tables of users and items
# Models that read rows of others than the user and the item: histories and graphs.
SPREADING = {
    "simplex_mean",
    "simplex",
    "simplex_self",
    "lightgcn",
    "lightgcn_dropout",
    "ngcf",
    "pinsage",
    "rcf",
    "pdn",
    "dfn",
}
USER, ITEM = np.array([1, 3, 6, 4]), np.array([[2, 9, 2], [1, 1, 5], [7, 3, 8], [4, 6, 9]])
LABELLED = {
    "mf_biases",
    "gmf",
    "mlp",
    "neumf",
    "pdn",
    "dfn",
}  # trained on labelled pairs, where biases of users matter
ALIKE = {"mf_cosine", "gmf", "simplex_mean"}  # whose steps are compiled for another of their kind
# Adam makes whole steps of gradients that are 0 but for rounding, unless its epsilon is well above them.
ADAM = optax.adam(0.05, eps=1e-5)
# Parameters of which the gradient may be 0: these biases shift what a softmax reads where no unit is cut.
UNFELT = {"rcf": "type_hidden", "dfn": "score"}
every_model = pytest.mark.parametrize("name", MODELS)


# Of each user; users 4 and 6 have neither.
DISLIKED = ((7, 3), (2, 8, 9, 1), (), (4,), (), ())
SHOWN = ((), (4, 6, 7), (1,), (), (3, 9), ())


def ragged(lists: dict[str, tuple[tuple[int, ...], ...]]) -> dict[str, np.ndarray]:
    """Lists of items of users as columns, with where each begins and how long it is."""
    found: dict[str, np.ndarray] = {}
    for name, of_users in lists.items():
        length = np.array([len(items) for items in of_users], np.int32)
        found |= {
            name: np.array([item for items in of_users for item in items], np.int32),
            f"{name}_start": (np.cumsum(length) - length).astype(np.int32),
            f"{name}_length": length,
        }
    return found


@functools.cache
def context() -> dict[str, Any]:
    """The columns that the models read."""
    graph = bipartite(small_pairs.events(), num_users=NUM_USERS)
    near = importance_neighbourhoods(graph, number=2, walks=20, seed=1)
    # Two attributes of each item, with up to two values of three, and of two.
    attributes = np.array([[[1 + i % 3, 0], [i % 3, i % 2 * 2]] for i in range(NUM_ITEMS + 1)], np.int32)
    lists = {"disliked": DISLIKED, "shown": SHOWN}
    columns = {"graph": graph, "neighbours": near, "attributes": attributes, **ragged(lists)}
    return {**small_towers.context(), **jax.tree.map(jnp.asarray, columns)}


@functools.cache
def variables(name: str) -> Any:
    """Drawn variables, whose rows of padding are 0."""
    found = drawn(MODELS[name], USER, ITEM, context(), train=False)
    return jax.tree_util.tree_map_with_path(_without_padding, found)


def _without_padding(path: Any, leaf: np.ndarray) -> np.ndarray:
    if path[-1].key.endswith(TABLES):
        leaf[0] = 0.0
    return leaf


def scores(name: str, user: Any = USER, item: Any = ITEM) -> np.ndarray:
    found = applied(MODELS[name], variables(name), user, item, context(), train=False)
    return np.asarray(found)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@every_model
def test_scores_are_those_without_compilation(name: str) -> None:
    eager = MODELS[name].apply(variables(name), USER, ITEM, context(), train=False)
    assert eager.shape == ITEM.shape
    close(scores(name), eager)


@every_model
def test_a_pair_is_scored_for_itself(name: str) -> None:
    order = np.array([2, 0, 3, 1])
    close(scores(name, USER[order], ITEM[order]), scores(name)[order])
    close(scores(name, USER, ITEM[:, ::-1]), scores(name)[:, ::-1])
    one = scores(name, USER[:1], ITEM[:1, :1])
    close(one[0, 0], scores(name)[0, 0])
    assert scores(name).std() > 0.05


@every_model
def test_padding_rows_start_at_zero(name: str) -> None:
    init = jax.jit(functools.partial(MODELS[name].init, train=False))(
        jax.random.key(0), USER, ITEM, context()
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(init):
        if path[-1].key.endswith(TABLES):
            assert (leaf[0] == 0.0).all()
            assert (leaf[1:] != 0.0).all()
            assert leaf.shape[0] in (NUM_USERS + 1, NUM_ITEMS + 1)


@every_model
def test_gradients_are_finite_and_where_they_belong(name: str) -> None:
    """Padding sends none, and only the rows that a batch reads have one."""
    user, item = np.array([0, 2, 5]), np.array([[1, 0], [5, 4], [0, 4]])

    def total(variables: Variables) -> Array:
        found = MODELS[name].apply(variables, user, item, context(), train=False)
        return jnp.sum(jnp.sin(1.0 + found))

    read = {NUM_USERS + 1: [2, 5], NUM_ITEMS + 1: [1, 4, 5]}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(variables(name))):
        leaf = np.asarray(leaf)
        assert np.isfinite(leaf).all()
        assert leaf.any() or (path[-2].key == UNFELT.get(name) and path[-1].key == "bias")
        if path[-1].key.endswith(TABLES):
            assert not leaf[0].any()
            if name not in SPREADING:
                rows = np.flatnonzero(np.abs(leaf).sum(axis=-1))
                assert set(rows) <= set(read[len(leaf)])


@every_model
def test_all_items_are_ranked_by_the_scores_of_pairs(name: str) -> None:
    """Up to a constant of each user, which ranks nothing: by vectors, or by scores of all items."""
    model, found = pairs.ranked(MODELS[name]), variables(name)
    users = np.array([0, 3, 5])
    queries = {"user": jnp.asarray(users), "length": jnp.zeros(3, jnp.int32)}
    if isinstance(model, Retriever):
        found = pairs.finished(MODELS[name], found, context())
        assert found["users"].shape[0] in (NUM_USERS + 1, NUM_ITEMS + 1)
        ranked = model.query(found, queries, context()) @ model.items(found).T
    else:
        ranked = model.scores(found, queries, context())
    assert ranked.shape == (3, NUM_ITEMS + 1)
    every = np.tile(np.arange(1, NUM_ITEMS + 1), (3, 1))
    difference = np.asarray(ranked)[:, 1:] - scores(name, users + 1, every)
    close(difference, np.broadcast_to(difference[:, :1], difference.shape))


@every_model
def test_penalised_rows_are_those_of_the_pairs(name: str) -> None:
    rows = applied(MODELS[name], variables(name), USER, ITEM, method="penalised")
    assert {row.ndim for row in rows} <= {2, 3, 4}
    for row in rows:
        assert row.shape[: min(row.ndim - 1, 2)] in ((4,), (4, 3))
    swapped = applied(MODELS[name], variables(name), USER[::-1].copy(), ITEM[::-1].copy(), method="penalised")
    for row, other in zip(rows, swapped, strict=True):
        close(row, other[::-1])


@every_model
@pytest.mark.parametrize("field", ["num_users", "num_items", "dim"])
def test_sizes_below_one_are_refused(name: str, field: str) -> None:
    model = MODELS[name]
    if field not in {f.name for f in model.__dataclass_fields__.values()}:
        pytest.skip(f"{name} has no {field}")
    with pytest.raises(ValueError, match=f"{field}=0"):
        jax.eval_shape(
            lambda: model.clone(**{field: 0}).init(jax.random.key(0), USER, ITEM, context(), train=False)
        )


# --- in a step of training -----------------------------------------------------------------------------


class Trained(NamedTuple):
    start: Any
    step: Any
    losses: list[float]


@functools.cache
def task(name: str) -> Any:
    make = pairs.pointwise if name in LABELLED else pairs.pairwise
    sampler = pairs.unseen(NUM_ITEMS, MOST)
    return make(MODELS[name], sampler=sampler, negatives=2, l2=0.01)


def step_of(name: str, axis: str | None, steps: int = 1) -> Any:
    """Steps on the same eight pairs, of which the last is masked: (state, context) → state, losses."""
    step = make_step(task(name), optax.flatten(ADAM), static(), axis)
    some = small_pairs.examples(0, 3, 5, 6, 8, 9, 12, 1, last=False)

    def run(state: Any, context: Context) -> Any:
        def body(state: Any, _: None) -> Any:
            state, logs = step(state, some, context)
            return state, logs["loss"]

        return jax.lax.scan(body, state, None, length=steps)

    return run


@functools.cache
def start(name: str) -> Any:
    some = small_pairs.examples(0, 3, 5, 6, 8, 9, 12, 1, last=False)
    tx = optax.flatten(ADAM)
    return jax.jit(lambda c: create(task(name), tx, static(), jax.random.key(1), some, c))(context())


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ALIKE])
def test_steps_lower_the_loss_and_devices_change_nothing(name: str) -> None:
    one, found = jax.jit(step_of(name, None, steps=12))(start(name), context())
    found = np.asarray(found)
    assert found[-3:].mean() < found[:3].mean()
    spread = jax.vmap(step_of(name, "devices", steps=12), (None, None), axis_name="devices", axis_size=2)
    two, shared = jax.jit(spread)(start(name), context())
    np.testing.assert_allclose(shared[0], found, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(b[1], a, rtol=1e-3, atol=1e-4)
        if a.ndim == 2 and a.shape[0] in (NUM_USERS + 1, NUM_ITEMS + 1):
            assert not np.asarray(a[0]).any()


@every_model
def test_no_step_adds_floats_by_repeated_ids_on_cuda(name: str) -> None:
    traced = jax.jit(step_of(name, None)).trace(start(name), context())
    assert repeated_float_adds(traced, "cuda") == []


# --- of single models ----------------------------------------------------------------------------------


def test_gmf_with_equal_weights_is_matrix_factorisation() -> None:
    tables = variables("mf")["params"]
    output = {"kernel": np.ones((4, 1), np.float32), "bias": np.zeros(1, np.float32)}
    found = applied(
        MODELS["gmf"], {"params": {**tables, "output": output}}, USER, ITEM, context(), train=False
    )
    close(found, scores("mf"))


@pytest.mark.parametrize("alpha", [0.5, 0.2, 1.0])
def test_a_pretrained_neumf_scores_the_blend_of_its_branches(alpha: float) -> None:
    branch = MLPPairs(**{**SMALL, "dim": 3}, hidden_dims=(4,))
    mlp = drawn(branch, USER, ITEM, context(), train=False, seed=1)
    whole = pretrained(variables("gmf"), mlp, alpha=alpha)
    ours, theirs = (jax.tree.map(np.shape, tree) for tree in (whole, variables("neumf")))
    assert ours == theirs
    found = applied(MODELS["neumf"], whole, USER, ITEM, context(), train=False)
    other = applied(branch, mlp, USER, ITEM, context(), train=False)
    close(found, alpha * scores("gmf") + (1 - alpha) * other)


def test_a_blend_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        pretrained(variables("gmf"), variables("mlp"), alpha=1.5)


def test_noise_of_an_mlp_derives_from_the_number_of_a_row() -> None:
    model = MODELS["mlp"].clone(dropout=0.5)

    def noisy(user: Array, item: Array, rows: Array) -> Array:
        rngs = {"dropout": jax.random.key(2)}
        return model.apply(variables("mlp"), user, item, context(), rows=rows, train=True, rngs=rngs)

    run, rows = jax.jit(noisy), np.arange(4)
    whole = run(USER, ITEM, rows)
    close(run(USER[::-1].copy(), ITEM[::-1].copy(), rows[::-1].copy())[::-1], whole)
    assert not np.allclose(whole, scores("mlp"))


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = MLPPairs(**SMALL, hidden_dims=())
    found = drawn(model, USER, ITEM, context(), train=False)
    params = found["params"]
    rows = params["user_embedding"][USER], params["item_embedding"][ITEM]
    kernel = params["output"]["kernel"][:, 0]
    expected = (rows[0] @ kernel[:4])[:, None] + rows[1] @ kernel[4:] + params["output"]["bias"]
    close(applied(model, found, USER, ITEM, context(), train=False), expected)


def test_biases_and_cosines_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="cosine=True"):
        MF(**SMALL, cosine=True, item_bias=True).init(jax.random.key(0), USER, ITEM, {}, train=False)


POOLING = pytest.mark.parametrize("name", ["simplex_mean", "simplex", "simplex_self"])


@POOLING
def test_a_user_is_its_vector_and_its_items(name: str) -> None:
    """By the formula, the last five items of a user of six among them, and none of a user without."""
    model, params = MODELS[name], variables(name)["params"]
    users, items = params["user_embedding"], params["item_embedding"]
    for user, own in enumerate(small_pairs.TRAINING):
        pooled = np.zeros(4)
        if own:
            rows = items[sorted(own)[-5:]]
            keys = (
                np.tanh(rows @ params["key_kernel"] + params["key_bias"]) if "key_kernel" in params else rows
            )
            query = params["query"][:, 0] if "query" in params else users[user + 1]
            mass = np.ones(len(rows)) if name == "simplex_mean" else np.exp(keys @ query)
            total = mass.sum() + (5 - len(rows)) * model.count_padding
            pooled = (mass / total) @ rows @ params["value_kernel"]
        vector = 0.6 * users[user + 1] + 0.4 * pooled
        expected = items[1:] @ vector / np.linalg.norm(vector) / np.linalg.norm(items[1:], axis=1)
        found = scores(name, np.array([user + 1]), np.arange(1, NUM_ITEMS + 1)[None])
        close(found[0], expected)


def test_attention_stays_finite_at_large_scores() -> None:
    large = jax.tree.map(lambda leaf: 300 * leaf, variables("simplex_self"))

    def total(variables: Variables) -> Array:
        return jnp.sum(MODELS["simplex_self"].apply(variables, USER, ITEM, context(), train=False))

    value, gradients = jax.jit(jax.value_and_grad(total))(large)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("field", "value"), [("gamma", 1.2), ("pooling", "max"), ("max_history", 0)])
def test_fields_of_simplex_are_checked(field: str, value: Any) -> None:
    model = MODELS["simplex"].clone(**{field: value})
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), USER, ITEM, context(), train=False))
