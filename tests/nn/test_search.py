"""Hashing, target attention, and the models that search a long history: SIM, ETA; BST, that reads it all."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.hashing import hamming, hamming_top_k, simhash
from jaxrec.nn.layers.id_columns import Pooled, Sequenced
from jaxrec.nn.layers.target_attention import TargetAttention, masked_softmax, top_k
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.sim import SIM, SoftSearch, of_search, relevance, transfer
from tests.nn.drawn import drawn

rng = np.random.default_rng(5)
B, L, S, F = 5, 11, 4, 2
SEEN = ["intermediates"]
ITEMS = (Categorical("item", 20, 4), Categorical("category", 5, 4))
D = 8


def history(length: int) -> dict[str, np.ndarray]:
    """Right-aligned: a full row, an empty one, and others; padding has ids in its second column."""
    real = np.arange(length) >= length - np.array([length, 0, 3, 1, length - 2])[:, None]
    item = np.where(real, rng.integers(1, 20, (B, length)), 0)
    return {"item": item.astype(np.int32), "category": rng.integers(1, 4, (B, length)).astype(np.int32)}


TARGET = {"item": np.arange(1, 6, dtype=np.int32), "category": np.array([1, 2, 3, 4, 1], np.int32)}
LONG, SHORT = history(L), history(S)
AGES = rng.integers(0, 10_000, (B, L)).astype(np.int32)
FEATURES = rng.normal(size=(B, F)).astype(np.float32)
REAL = LONG["item"] != 0


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def shapes_with(function: Any, inputs: Any, *sizes: int) -> list[str]:
    """Shapes of all that `function` computes which have an axis of each of these sizes."""
    shapes = set(re.findall(r"\[([\d,]+)\]", str(jax.make_jaxpr(function)(*inputs))))
    return [shape for shape in shapes if set(map(str, sizes)) <= set(shape.split(","))]


# --- layers ----------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def attention_by_hand(params: Any, target: np.ndarray, events: np.ndarray, heads: int, plain: bool) -> Any:
    """One example, real events alone; `plain` is the form without scale, values and output."""
    if not len(events):
        return np.zeros(heads * D if plain else len(target))
    query = target @ params["query_kernel"]
    keys = events @ params["key_kernel"]
    d = len(query) // heads
    outputs = []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        weights = softmax(keys[:, part] @ query[part] / (1 if plain else np.sqrt(d)))
        values = events if plain else events @ params["value_kernel"][:, part]
        outputs.append(weights @ values)
    joined = np.concatenate(outputs)
    return joined if plain else joined @ params["output_kernel"]


@pytest.mark.parametrize("plain", [False, True])
def test_target_attention_equals_slow_numpy_and_ignores_padding(plain: bool) -> None:
    target, events = rng.normal(size=(B, 6)), rng.normal(size=(B, L, D))
    module: Any = TargetAttention(2, 8, not plain, not plain)
    variables = drawn(module, target, events, REAL)
    outputs = jax.jit(module.apply)(variables, target, events, REAL)
    expected = [
        attention_by_hand(variables["params"], t, e[r], 2, plain)
        for t, e, r in zip(target, events, REAL, strict=True)
    ]
    close(outputs, expected)
    assert (np.asarray(outputs)[1] == 0).all()  # no history


def test_padding_and_empty_histories_send_finite_gradients_to_what_is_real() -> None:
    target, events = rng.normal(size=(B, 3)), rng.normal(size=(B, L, D))
    module: Any = TargetAttention(project_values=False)
    variables = drawn(module, target, events, REAL)
    total = jax.grad(lambda v, e: jnp.sum(module.apply(v, target, e, REAL) ** 2), (0, 1))
    grads = jax.jit(total)(variables, events)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert ((np.asarray(grads[1]) != 0).any(axis=-1) == REAL).all()


def test_with_a_finite_mask_value_a_masked_row_is_the_mean() -> None:
    scores, mask = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[True, False], [False, False]])
    assert masked_softmax(scores, mask, -1e9).tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_neither_attention_nor_search_holds_projections_of_the_history() -> None:
    length, dim = 13, 34
    inputs = (np.ones((2, D)), np.ones((2, length, D)), np.ones((2, length), bool))
    attention, search = TargetAttention(2, dim), SoftSearch(dim)

    def attended(variables: Any) -> Any:
        return attention.apply(variables, *inputs).sum()  # type: ignore[union-attr]

    def found(variables: Any) -> Any:
        pooled, scores = relevance(search.apply(variables, inputs[0]), *inputs[1:])  # type: ignore[arg-type]
        return pooled.sum() + scores.sum()

    for variables, function in ((drawn(attention, *inputs), attended), (drawn(search, inputs[0]), found)):
        grad = jax.grad(function)
        for width in (dim, dim // 2):
            assert shapes_with(grad, (variables,), length, width) == []
        assert shapes_with(grad, (variables,), length, D) != []  # the history itself is seen
    codes = (np.ones((length, D)), np.ones((D, 70)))
    assert shapes_with(simhash, codes, length, 32) != []
    assert shapes_with(simhash, codes, length, 70) + shapes_with(simhash, codes, length, 96) == []


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads=3: must be at least 1 and divide dim=8"):
        drawn(TargetAttention(3, 8), np.ones((1, 2)), np.ones((1, 1, 2)), np.ones((1, 1), bool))


choose = jax.jit(top_k, static_argnames=("k", "padding_score"))


def test_top_k_prefers_high_scores_then_recent_slots_and_padding_last() -> None:
    scores = np.array([[3, 1, 3, 3, 1], [-1, -2, -3, 5, 5], [-1, -2, 0, 9, 9], [1] * 5], np.float32)
    mask = np.array([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]) > 0
    slots, found = (np.asarray(x) for x in choose(scores, mask, k=3))
    assert slots[[0, 1, 3]].tolist() == [[0, 2, 3], [0, 1, 2], [1, 2, 3]]
    assert found.tolist() == [[True] * 3, [True] * 3, [True, True, False], [True] * 3]
    assert set(slots[2][found[2]]) == {0, 1}
    slots, found = choose(scores, mask, k=2, padding_score=0.0)
    assert slots[1:].tolist() == [[3, 4], [3, 4], [2, 3]]  # both padded slots beat negative scores
    assert found[1:].tolist() == [[False] * 2, [False] * 2, [True] * 2]
    slots, found = choose(scores, mask, k=50)
    assert slots.tolist() == [list(range(5))] * 4
    np.testing.assert_array_equal(found, mask)
    with pytest.raises(ValueError, match="k=0"):
        top_k(scores, mask, 0)


nearest = jax.jit(hamming_top_k, static_argnums=4)
hashes = jax.jit(simhash)


def bits_of(code: Any, num_bits: int) -> np.ndarray:
    words = np.asarray(code)[..., None] >> np.arange(32, dtype=np.uint32)
    return (words & 1).reshape(*np.shape(code)[:-1], -1)[..., :num_bits]


def test_codes_are_signs_of_projections() -> None:
    x, rotations = rng.normal(size=(6, D)), rng.normal(size=(D, 70))
    x[2] = 0.0
    code = np.asarray(hashes(x, rotations))
    assert code.dtype == np.uint32
    assert code.shape == (6, 3)
    np.testing.assert_array_equal(bits_of(code, 70), x @ rotations > 0)
    np.testing.assert_array_equal(hashes(7.0 * x, rotations), code)
    flipped = bits_of(hashes(-x, rotations), 70)
    np.testing.assert_array_equal(np.delete(flipped, 2, 0), np.delete(1 - bits_of(code, 70), 2, 0))
    assert hamming(code, code).tolist() == [0] * 6
    differ = (x[:1] @ rotations > 0) != (x @ rotations > 0)
    np.testing.assert_array_equal(hamming(code[:1], code), differ.sum(axis=1))


def test_the_distance_measures_the_angle_and_search_approaches_that_by_cosine() -> None:
    """Overlap of what is found with the exact top 4 of 24, over 32 targets, for more and more bits."""
    target, events = rng.normal(size=(32, D)), rng.normal(size=(32, 24, D))
    mask = rng.random((32, 24)) < 0.8
    cosine = np.einsum("bd,bld->bl", target, events) / np.linalg.norm(events, axis=-1)
    cosine /= np.linalg.norm(target, axis=-1)[:, None]
    exact = np.argsort(np.where(mask, -cosine, np.inf), axis=1)[:, :4]
    overlap = []
    for num_bits in (4, 2048):
        slots, found, distances = nearest(target, events, mask, rng.normal(size=(D, num_bits)), 4)
        assert found.all()
        assert (np.asarray(distances)[~mask] == num_bits + 1).all()
        pairs = zip(np.asarray(slots), exact, strict=True)
        overlap.append(np.mean([len(set(a) & set(b)) for a, b in pairs]) / 4)
    assert overlap[0] < 0.7
    assert overlap[1] > 0.85
    expected = np.arccos(cosine) / np.pi
    deviation = np.sqrt(expected * (1 - expected) / num_bits)
    assert (np.abs(distances / num_bits - expected)[mask] <= 5 * deviation[mask] + 1e-3).all()


def test_each_head_finds_behaviours_of_its_own() -> None:
    target, events, rotations = (rng.normal(size=s) for s in ((B, 2, 3), (B, 2, L, 3), (2, 3, 40)))
    slots, *_ = nearest(target, events, np.stack([REAL, REAL], axis=1), rotations, 3)
    assert slots.shape == (B, 2, 3)
    for row, head in np.ndindex(B, 2):
        distance = (
            (events[row, head] @ rotations[head] > 0) != (target[row, head] @ rotations[head] > 0)
        ).sum(1)
        order = sorted(np.flatnonzero(REAL[row]), key=lambda slot: (distance[slot], -slot))
        assert set(order[:3]) <= set(np.asarray(slots)[row, head].tolist())


# --- SIM -------------------------------------------------------------------------------------------

SOFT = SIM(ITEMS, k=3, search_dim=5, age_dim=2, num_heads=2, dims=(6,))
HARD = SIM(ITEMS, k=2, category="category", dims=(6,))
PLUGGED = SIM(
    ITEMS,
    k=50,
    search_dim=5,
    own_tables=False,
    features_in_search=True,
    exact=TargetAttention(2, 8),
    short=Pooled(ActivationUnit((3,), jnp.tanh)),
    dims=(),
)


def applied(module: Any) -> Any:
    def apply(variables: Any, *inputs: Any) -> Any:
        outputs, state = module.apply(variables, *inputs, mutable=["intermediates"])
        return outputs, state["intermediates"]

    return jax.jit(apply)


soft, hard = applied(SOFT), applied(HARD)


@pytest.fixture(scope="module")
def weights() -> Any:
    return drawn(SOFT, TARGET, LONG, SHORT, FEATURES, AGES)


@pytest.fixture(scope="module")
def searched(weights: Any) -> Any:
    return soft(weights, TARGET, LONG, SHORT, FEATURES, AGES)


def tower(params: Any, x: np.ndarray) -> float:
    for i in range(len(params.get("mlp", {}))):
        layer = params["mlp"][f"layer_{i}"]
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0.0)
    return float((x @ params["logit"]["kernel"] + params["logit"]["bias"])[0])


def vectors(tables: Any, columns: Any) -> np.ndarray:
    return np.concatenate([tables[f"{c.name}_embedding"][columns[c.name]] for c in ITEMS], axis=-1)


def sim_by_hand(
    model: SIM, params: Any, row: int, history: Any = LONG
) -> tuple[float, float | None, list[Any]]:
    """Both logits and the chosen slots of one example, from its real behaviours alone."""
    target = {n: c[row] for n, c in TARGET.items()}
    long = {n: c[row] for n, c in history.items()}
    short = {n: c[row][SHORT["item"][row] != 0] for n, c in SHORT.items()}
    item, slots, search = vectors(params["items"], target), np.flatnonzero(REAL[row]), None
    if model.category is not None:
        chosen = [s for s in slots if long["category"][s] == target["category"]][-model.k :]
    else:
        query, events = vectors(params["search_items"], target), vectors(params["search_items"], long)
        w = params["search"]
        scores = [(events[s] @ w["behaviour_kernel"]) @ (query @ w["target_kernel"]) for s in slots]
        pooled = sum((r * events[s] for r, s in zip(scores, slots, strict=True)), np.zeros(D))
        search = tower(params["search_tower"], np.concatenate([query, pooled]))
        chosen = sorted(slots[np.argsort(scores)[::-1][: model.k]])
    read = vectors(params["items"], long)[chosen]
    if model.age_dim is not None:
        buckets = 1 + np.floor(np.log2(1 + AGES[row][chosen])).astype(int)
        read = np.concatenate([read, params["age"]["embedding"][buckets]], axis=1)
    recent = attention_by_hand(
        params["short_attention"], item, vectors(params["items"], short), model.num_heads, True
    )
    width = D + (model.age_dim or 0)
    exact = (
        attention_by_hand(params["long_attention"], item, read, model.num_heads, True)
        if chosen
        else np.zeros(width * model.num_heads)
    )
    return tower(params["tower"], np.concatenate([FEATURES[row], item, recent, exact])), search, chosen


def test_soft_search_equals_slow_numpy(weights: Any, searched: Any) -> None:
    outputs, seen = searched
    slots, found = (np.asarray(x) for x in seen["found"][0])
    expected = [sim_by_hand(SOFT, weights["params"], row) for row in range(B)]
    close(outputs["ctr"], [ctr for ctr, _, _ in expected])
    close(outputs["search"], [search for _, search, _ in expected])
    for row, (*_, chosen) in enumerate(expected):
        assert slots[row][found[row]].tolist() == chosen
    assert (np.asarray(seen["interests"][0][1])[1] == 0).all()  # no history


def test_hard_search_equals_slow_numpy_and_looks_up_only_what_it_found() -> None:
    """It finds the last min(k, n) of n events of the target's category, k = 2: n is 5, 0, 1, 0 and 2."""
    categories = np.full((B, L), 4, np.int32)
    for row, alike in enumerate((5, 7, 1, 0, 2)):  # row 1 has no event, so these stand on padding
        categories[row, L - alike :] = TARGET["category"][row]
    categories[3] = 1
    long = {**LONG, "category": categories}
    inputs = (TARGET, long, SHORT, FEATURES)
    weights = drawn(HARD, *inputs)
    outputs, seen = hard(weights, *inputs)
    slots, found = (np.asarray(x) for x in seen["found"][0])
    expected = [sim_by_hand(HARD, weights["params"], row, long) for row in range(B)]
    close(outputs["ctr"], [ctr for ctr, _, _ in expected])
    assert outputs.keys() == {"ctr"}
    assert found.sum(axis=1).tolist() == [2, 0, 1, 0, 2]
    for row, (*_, chosen) in enumerate(expected):
        assert slots[row][found[row]].tolist() == chosen == list(range(L - len(chosen), L))
    assert (np.asarray(seen["interests"][0][1])[[1, 3]] == 0).all()
    for width in (4, D):
        assert shapes_with(hard, (weights, *inputs), L, width) == []


def test_the_order_of_behaviours_and_what_stands_on_padding_change_nothing(
    weights: Any, searched: Any
) -> None:
    order = rng.permutation(L)
    long = {n: c[:, order] for n, c in LONG.items()}
    for columns, ages in [
        (long, AGES[:, order]),
        ({**LONG, "category": np.where(REAL, LONG["category"], 4)}, np.where(REAL, AGES, -9)),
    ]:
        outputs, *_ = soft(weights, TARGET, columns, SHORT, FEATURES, ages)
        for name, value in outputs.items():
            close(value, searched[0][name])


def test_a_behaviour_that_was_not_found_does_not_matter_to_the_exact_unit(
    weights: Any, searched: Any
) -> None:
    slots, _ = (np.asarray(x) for x in searched[1]["found"][0])
    others = REAL.copy()
    np.put_along_axis(others, slots, False, axis=1)
    outputs, *_ = soft(
        weights,
        TARGET,
        {**LONG, "item": np.where(others, 0, LONG["item"])},
        SHORT,
        FEATURES,
        AGES,
    )
    assert others.sum(axis=1).tolist() == [L - 3, 0, 0, 0, L - 5]
    np.testing.assert_array_equal(outputs["ctr"], searched[0]["ctr"])
    assert not np.allclose(outputs["search"][0], searched[0]["search"][0])


def test_neither_loss_trains_the_other_unit(weights: Any) -> None:
    """Only the gradients that are looked at get compiled, and those that are zero cost nothing."""
    own = {"search", "search_items", "search_tower"}
    parts = {"ctr": own, "search": set(weights["params"]) - own}

    def gradient(name: str, params: Any) -> Any:
        model: Any = SOFT
        found = jax.grad(
            lambda p: model.apply({"params": p}, TARGET, LONG, SHORT, FEATURES, AGES)[name].sum()
        )(params)
        return [found[part] for part in parts[name]]

    gradients = jax.jit(lambda params: [gradient(name, params) for name in parts])(weights["params"])
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == len(jax.tree.leaves(weights["params"]))
    assert not any(np.asarray(leaf).any() for leaf in leaves)


def test_with_identities_soft_search_ranks_by_inner_product_at_any_length_of_the_target() -> None:
    target, events = rng.normal(size=(2, D)), rng.normal(size=(2, L, D))
    variables = {"params": {name: np.eye(D) for name in ("target_kernel", "behaviour_kernel")}}
    asked = SoftSearch(D).apply(variables, target)
    pooled, scores = relevance(asked, events, REAL[[0, 2]])  # type: ignore[arg-type]
    expected = np.where(REAL[[0, 2]], np.einsum("bd,bld->bl", target, events), 0.0)
    close(scores, expected)
    close(pooled, np.einsum("bl,bld->bd", expected, events))
    _, longer = relevance(3 * asked, events, REAL[[0, 2]])  # type: ignore[operator, arg-type]
    np.testing.assert_array_equal(top_k(longer, REAL[[0, 2]], 3)[0], top_k(scores, REAL[[0, 2]], 3)[0])


def test_with_room_for_all_the_exact_unit_is_full_attention_behind_columns_of_a_batch() -> None:
    """Also with other units, shared tables, and features in the search."""
    module = Sequenced(PLUGGED, FeatureEmbedding((Categorical("user", 7, 2),)))
    batch = {"user": np.arange(B, dtype=np.int32), **TARGET}
    batch |= {f"{r}_{n}": c for r, h in {"long": LONG, "short": SHORT}.items() for n, c in h.items()}
    weights = drawn(module, batch)
    params = weights["params"]

    @jax.jit
    def run(variables: Any) -> Any:
        outputs, state = module.apply(variables, batch, mutable=["intermediates"])
        return outputs["ctr"], state["intermediates"]["model"]

    ctr, seen = run(weights)
    recent, exact = (np.asarray(x) for x in seen["interests"][0])
    tables = params["model"]["items"]
    attention = params["model"]["exact"]
    rows = zip(vectors(tables, TARGET), vectors(tables, LONG), REAL, strict=True)
    close(exact, [attention_by_hand(attention, t, events[real], 2, False) for t, events, real in rows])
    users = params["embedding"]["user_embedding"][batch["user"]]
    x = np.concatenate([users, vectors(tables, TARGET), recent, exact], axis=1)
    close(ctr, [tower(params["model"]["tower"], row) for row in x])
    assert (recent[1] == 0).all()
    assert "search_items" not in params["model"]
    short = {key: value for key, value in batch.items() if key != "short_item"}
    with pytest.raises(ValueError, match="column short_item: not there, only"):
        jax.eval_shape(module.apply, weights, short)


def test_a_search_that_returns_all_is_attention_over_the_whole_history() -> None:
    """With k = L: head_h = Σ_j softmax_j((W_k z_j)·(W_q e)) z_j over all real j, z_j = [e_j ; e_t(Δ_j)]."""
    everything = SOFT.clone(k=L)
    weights = drawn(everything, TARGET, LONG, SHORT, FEATURES, AGES)
    outputs, seen = applied(everything)(weights, TARGET, LONG, SHORT, FEATURES, AGES)
    params, heads = weights["params"], SOFT.num_heads
    attention, width = params["long_attention"], D + 2
    buckets = 1 + np.floor(np.log2(1 + AGES)).astype(int)
    z = np.concatenate([vectors(params["items"], LONG), params["age"]["embedding"][buckets]], axis=2)
    expected = np.zeros((B, heads * width))
    for row, e in enumerate(vectors(params["items"], TARGET)):
        for h in range(heads if REAL[row].any() else 0):
            part = slice(h * D // heads, (h + 1) * D // heads)
            events = z[row][REAL[row]]
            logits = (events @ attention["key_kernel"][:, part]) @ (e @ attention["query_kernel"][:, part])
            expected[row, h * width : (h + 1) * width] = softmax(logits) @ events
    close(seen["interests"][0][1], expected)
    np.testing.assert_array_equal(seen["found"][0][1], REAL)
    searchless, _ = applied(everything.clone(k=L + 5))(weights, TARGET, LONG, SHORT, FEATURES, AGES)
    for name, value in outputs.items():
        close(searchless[name], value)
    kernel = {"behaviour_kernel": -params["search"]["behaviour_kernel"]}  # the other way round
    turned = {"params": params | {"search": params["search"] | kernel}}
    close(applied(everything)(turned, TARGET, LONG, SHORT, FEATURES, AGES)[0]["ctr"], outputs["ctr"])


AGED = (SOFT.clone(short_ages=True), ETA(ITEMS, k=4, num_bits=40, age_dim=2, short_ages=True, dims=(6,)))


@pytest.mark.parametrize("model", AGED, ids=["sim", "eta"])
def test_the_short_history_has_ages_from_the_same_table(model: Any) -> None:
    """Its vectors are [e_j ; e_t(Δ_j)]; ages on padding do not matter."""
    ages = rng.integers(0, 10_000, (B, S)).astype(np.int32)
    roles = {"long_age": AGES, "short_age": ages}
    weights = drawn(model, TARGET, LONG, SHORT, FEATURES, **roles)
    apply: Any = jax.jit(
        lambda w, **ages: model.apply(w, TARGET, LONG, SHORT, FEATURES, **ages, mutable=SEEN)
    )
    outputs, seen = apply(weights, **roles)
    params, real, plain = weights["params"], SHORT["item"] != 0, isinstance(model, SIM)
    assert model.aged == ("long", "short") and model.clone(short_ages=False).aged == ("long",)
    assert model.clone(age_dim=None).aged == ()
    assert set(params) & {"age", "short_age"} == {"age"}
    buckets = 1 + np.floor(np.log2(1 + ages)).astype(int)
    z = np.concatenate([vectors(params["items"], SHORT), params["age"]["embedding"][buckets]], axis=2)
    items = vectors(params["items"], TARGET)
    expected = [
        attention_by_hand(params["short_attention"], e, events[mask], model.num_heads, plain)
        if mask.any()
        else np.zeros(seen["intermediates"]["interests"][0][0].shape[1])
        for e, events, mask in zip(items, z, real, strict=True)
    ]
    close(seen["intermediates"]["interests"][0][0], expected)
    same, _ = apply(weights, long_age=AGES, short_age=np.where(real, ages, -9))
    for ours, theirs in zip(jax.tree.leaves(same), jax.tree.leaves(outputs), strict=True):
        close(ours, theirs)
    with pytest.raises(ValueError, match="age_dim=2 needs the age"):
        drawn(model, TARGET, LONG, SHORT, FEATURES, AGES)


SHARING = SOFT.clone(own_tables=False)


@pytest.mark.parametrize("model", [SOFT, SHARING], ids=["own-tables", "shared-tables"])
@pytest.mark.parametrize("deep", [False, True])
def test_of_search_marks_all_that_the_search_depends_on(model: Any, deep: bool) -> None:
    """Changing W_a, W_b or the marked tables changes the scores; changing all others changes nothing."""
    params = drawn(model, TARGET, LONG, SHORT, FEATURES, AGES)["params"]
    marks = of_search({"model": {"tower": params}})["model"]["tower"] if deep else of_search(params)
    tables = {"search_items"} if model.own_tables else {"items"}
    assert {name for name, of in marks.items() if any(jax.tree.leaves(of))} == {
        "search",
        "search_tower",
    } | tables
    assert all(len(set(jax.tree.leaves(of))) == 1 for of in marks.values())  # parts are marked whole

    run = applied(model)

    def searched(params: Any) -> Any:
        outputs, seen = run({"params": params}, TARGET, LONG, SHORT, FEATURES, AGES)
        return outputs["search"], seen["search_scores"][0], *seen["found"][0]

    before = searched(params)
    others = searched(jax.tree.map(lambda x, marked: x if marked else 2 * x + 1, params, marks))
    for ours, theirs in zip(others, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name in {"search", *tables}:
        moved = params | {name: jax.tree.map(lambda x: 2 * x, params[name])}
        assert not np.allclose(searched(moved)[1], before[1])


def test_a_search_is_transferred_whole_or_not_at_all() -> None:
    inputs = (TARGET, LONG, SHORT, FEATURES, AGES)
    params, pretrained = (drawn(SOFT, *inputs, seed=seed)["params"] for seed in (0, 1))
    for found, ours, theirs, marked in zip(
        *map(jax.tree.leaves, (transfer(params, pretrained), params, pretrained, of_search(params))),
        strict=True,
    ):
        np.testing.assert_array_equal(found, theirs if marked else ours)
    for other, message in (
        (SOFT.clone(search_dim=7), r"search/behaviour_kernel: \(8, 5\) here, \(8, 7\) in the pre-trained"),
        (SHARING, r"search_items/category_embedding: \(5, 4\) here, missing in the pre-trained search"),
    ):
        with pytest.raises(ValueError, match=message):
            transfer(params, drawn(other, *inputs)["params"])
    with pytest.raises(ValueError, match="only a SIM with category=None has a search"):
        of_search(drawn(HARD, TARGET, LONG, SHORT, FEATURES)["params"])


@pytest.mark.parametrize("model", [SOFT, SHARING], ids=["own-tables", "shared-tables"])
def test_a_frozen_search_is_the_pretrained_one_to_the_bit(model: Any) -> None:
    """Phase 1 trains "search" alone, phase 2 "ctr" with what the search reads set to zero updates."""
    inputs = (TARGET, LONG, SHORT, FEATURES, AGES)
    labels = np.array([1, 0, 1, 0, 0], np.float32)

    def kinds(params: Any) -> Any:
        return jax.tree.map(lambda search: "frozen" if search else "own", of_search(params))

    freezing = optax.partition({"own": optax.adam(0.05), "frozen": optax.set_to_zero()}, kinds)

    def train(params: Any, weights: dict[str, float], tx: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs = model.apply({"params": params}, *inputs)
            entropy = {name: losses.binary_cross_entropy(outputs[name], labels) for name in weights}
            return weights["search"] * entropy["search"] + weights["ctr"] * entropy["ctr"]

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, length=10))(params)

    start = drawn(model, *inputs)["params"]
    (pretrained, _), first = train(start, {"search": 1.0, "ctr": 0.0}, optax.adam(0.05))
    (params, _), second = train(transfer(start, pretrained), {"search": 0.0, "ctr": 1.0}, freezing)
    assert first[-1] < first[0] and second[-1] < second[0]
    for marked, before, after, found in zip(
        *map(jax.tree.leaves, (of_search(params), start, pretrained, params)), strict=True
    ):
        assert not (marked and np.array_equal(before, after))
        assert np.array_equal(after, found) == marked
    run = applied(model)
    (ours, seen), (theirs, before) = (run({"params": p}, *inputs) for p in (params, pretrained))
    np.testing.assert_array_equal(ours["search"], theirs["search"])
    for ids, others in zip(seen["found"][0], before["found"][0], strict=True):
        np.testing.assert_array_equal(ids, others)
    assert not np.allclose(ours["ctr"], theirs["ctr"])


def test_wrong_fields_and_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="category='brand': hard search needs one of items"):
        SIM(ITEMS, category="brand")
    with pytest.raises(ValueError, match="age_dim=2 needs the age"):
        drawn(SOFT, TARGET, LONG, SHORT, FEATURES)
    with pytest.raises(ValueError, match="column item: float32 values, expected integers"):
        drawn(HARD, {**TARGET, "item": np.ones(B, np.float32)}, LONG, SHORT)
    with pytest.raises(ValueError, match="ages of type float32"):
        drawn(SOFT, TARGET, LONG, SHORT, FEATURES, AGES.astype(np.float32))
    with pytest.raises(ValueError, match="num_bits=0"):
        ETA(ITEMS, num_bits=0)


def test_a_behaviour_after_the_request_gives_nan_in_its_row(weights: Any) -> None:
    ages = AGES.copy()
    ages[2, -1] = -1
    outputs, *_ = soft(weights, TARGET, LONG, SHORT, FEATURES, ages)
    assert np.isnan(outputs["ctr"]).tolist() == [False, False, True, False, False]


# --- ETA -------------------------------------------------------------------------------------------

HASHED = ETA(ITEMS, k=4, num_bits=40, age_dim=2, num_heads=2, attention_dim=8, dims=(6,))


hashed = applied(HASHED)


@pytest.fixture(scope="module")
def codes() -> Any:
    return drawn(HASHED, TARGET, LONG, SHORT, FEATURES, AGES)


def test_eta_equals_slow_numpy(codes: Any) -> None:
    params, rotations = codes["params"], codes["constants"]["rotations"]
    logits, seen = hashed(codes, TARGET, LONG, SHORT, FEATURES, AGES)
    slots, found = (np.asarray(x) for x in seen["found"][0])
    for row in range(B):
        item = vectors(params["items"], {n: c[row] for n, c in TARGET.items()})
        events = vectors(params["items"], {n: c[row] for n, c in LONG.items()})
        short = {n: c[row][SHORT["item"][row] != 0] for n, c in SHORT.items()}
        distance = ((events @ rotations > 0) != (item @ rotations > 0)).sum(axis=1)
        chosen = sorted(sorted(np.flatnonzero(REAL[row]), key=lambda s: (distance[s], -s))[:4])
        assert slots[row][found[row]].tolist() == chosen
        buckets = 1 + np.floor(np.log2(1 + AGES[row][chosen])).astype(int)
        read = np.concatenate([events[chosen], params["age"]["embedding"][buckets]], axis=1)
        parts = [
            attention_by_hand(params["short_attention"], item, vectors(params["items"], short), 2, False),
            attention_by_hand(params["long_attention"], item, read, 2, False),
        ]
        close(logits[row], tower(params["tower"], np.concatenate([FEATURES[row], item, *parts])))


def test_rotations_change_the_selection_alone(codes: Any) -> None:
    turned = {**codes, "constants": {"rotations": codes["constants"]["rotations"][:, ::-1] ** 3}}
    before, seen = hashed(codes, TARGET, LONG, SHORT, FEATURES, AGES)
    after, others = hashed(turned, TARGET, LONG, SHORT, FEATURES, AGES)
    same = (seen["found"][0][0] == others["found"][0][0]).all(axis=1)
    few = REAL.sum(axis=1) <= 4
    assert few.tolist() == [False, True, True, True, False]
    assert not same[~few].all()
    close(after[few | same], before[few | same])


def test_rotations_are_drawn_by_the_key_and_no_parameters() -> None:
    module = ETA(ITEMS, dims=())
    init = jax.jit(lambda seed: module.init(jax.random.key(seed), TARGET, LONG, SHORT)["constants"])
    first, again, other = (init(seed)["rotations"] for seed in (0, 0, 1))
    assert first.shape == (D, 2 * D)
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


# --- BST -------------------------------------------------------------------------------------------

MEAN = BST(ITEMS, age_dim=2, num_heads=2, inner_dim=5, concatenate=False, dims=())
read_results = applied(MEAN)


def test_bst_reads_sets_of_behaviours_and_no_padding() -> None:
    weights = drawn(MEAN, TARGET, LONG, FEATURES, AGES)
    logits, seen = read_results(weights, TARGET, LONG, FEATURES, AGES)
    order = rng.permutation(L)
    permuted, _ = read_results(
        weights, TARGET, {n: c[:, order] for n, c in LONG.items()}, FEATURES, AGES[:, order]
    )
    close(permuted, logits)
    covered, _ = read_results(
        weights,
        TARGET,
        {**LONG, "category": np.where(REAL, LONG["category"], 4)},
        FEATURES,
        AGES * REAL - 7 * ~REAL,
    )
    close(covered, logits)
    tokens = np.asarray(seen["tokens"][0])
    assert ((tokens != 0).any(axis=-1) == np.pad(REAL, ((0, 0), (0, 1)), constant_values=True)).all()

    params = weights["params"]  # the target alone attends to itself
    x = vectors(params["items"], {n: c[1] for n, c in TARGET.items()})
    x = np.concatenate([x, params["age"]["embedding"][1]])

    def dense(p: Any, x: np.ndarray) -> np.ndarray:
        return x @ p["kernel"] + p["bias"]

    def norm(p: Any, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]

    attention = params["attention_0"]
    value = x @ attention["value_kernel"] + attention["value_bias"]
    x = norm(params["norm_a_0"], x + dense(attention["output"], value))
    inner = dense(params["inner_0"], x)
    x = norm(params["norm_b_0"], x + dense(params["outer_0"], np.where(inner > 0, inner, 0.01 * inner)))
    close(tokens[1, -1], x)
    close(logits[1], tower(params["tower"], np.concatenate([FEATURES[1], x])))


def test_bst_without_blocks_is_an_mlp_of_all_vectors() -> None:
    module = BST(ITEMS, age_dim=None, num_blocks=0, dims=())
    weights = drawn(module, TARGET, LONG)
    logits = jax.jit(module.apply)(weights, TARGET, LONG)
    params = weights["params"]
    events = np.where(REAL[..., None], vectors(params["items"], LONG), 0.0).reshape(B, -1)
    x = np.concatenate([events, vectors(params["items"], TARGET)], axis=1)
    close(logits, [tower(params["tower"], row) for row in x])


# --- histories too long to hold --------------------------------------------------------------------


@pytest.mark.parametrize("model", [SOFT.clone(padding_score=0.0), HASHED], ids=["sim", "eta"])
def test_a_history_read_in_blocks_gives_the_same_and_is_never_held_whole(model: Any) -> None:
    inputs = (TARGET, LONG, SHORT, FEATURES, AGES)
    variables = drawn(model, *inputs)

    def loss(params: Any, block: int | None) -> Any:
        logits = model.clone(block=block).apply({**variables, "params": params}, *inputs)
        return sum(jnp.tanh(x).sum() for x in jax.tree.leaves(logits))

    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    whole = both(variables["params"], None)
    for block in (4, 11):  # in three, the first of them padded, and all at once
        for ours, theirs in zip(
            jax.tree.leaves(both(variables["params"], block)), jax.tree.leaves(whole), strict=True
        ):
            close(ours, theirs)
    held = [
        shapes_with(jax.grad(lambda p, n=block: loss(p, n)), (variables["params"],), *sizes)
        for block, sizes in ((None, (L, D)), (4, (L, D)), (4, (12, D)), (4, (3, 4, D)))
    ]
    assert held[0]
    assert held[1:] == [[], [], []]


def test_a_block_holds_at_least_one_event() -> None:
    with pytest.raises(ValueError, match="block=0: must be at least 1 event"):
        drawn(HASHED.clone(block=0), TARGET, LONG, SHORT, FEATURES, AGES)
