"""DFN: three sequences of feedback, against the formulas, empty and padded ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.retrieval.dfn import DFN
from jaxrec.types import Array
from tests.nn.drawn import applied, drawn

B, L, M, D = 4, 5, 2, 4
MODEL = DFN(num_heads=2, max_len=L + 2, attention_dim=3, deep_dims=(4,))
RNG = np.random.default_rng(2)
FIELDS, TARGET = (RNG.normal(size=shape).astype(np.float32) for shape in ((B, M, D), (B, D)))
WIDE = RNG.normal(size=(B, 3)).astype(np.float32)
LENGTHS = {"clicks": [5, 2, 1, 3], "dislikes": [0, 1, 2, 0], "unclicked": [3, 5, 0, 1]}
SEQUENCES: dict[str, Any] = {
    name: (RNG.normal(size=(B, L, D)).astype(np.float32), np.arange(L) >= L - np.array(lengths)[:, None])
    for name, lengths in LENGTHS.items()
}
ORDER = ("clicks", "dislikes", "unclicked")
VARIABLES = drawn(MODEL, FIELDS, TARGET, *SEQUENCES.values(), wide=WIDE)
NAMES = ("f_c", "f_d", "f_u", "f_uc", "f_ud")


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def logit(**changed: Any) -> np.ndarray:
    sequences = {**SEQUENCES, **changed}
    return np.asarray(applied(MODEL, VARIABLES, FIELDS, TARGET, *(sequences[n] for n in ORDER), wide=WIDE))


def feedback(**changed: Any) -> dict[str, np.ndarray]:
    sequences = {**SEQUENCES, **changed}
    found = applied(MODEL, VARIABLES, TARGET, *(sequences[name] for name in ORDER), method="feedback")
    return dict(zip(NAMES, map(np.asarray, found), strict=True))


def softmax(x: np.ndarray) -> np.ndarray:
    mass = np.exp(x - x.max(axis=-1, keepdims=True))
    return mass / mass.sum(axis=-1, keepdims=True)


def by_hand(name: str, example: int) -> np.ndarray:
    """Self-attention of the target and the real items, each head for itself, and the mean of its outputs."""
    params = VARIABLES["params"][f"inner_{name}"]
    vectors, mask = SEQUENCES[name]
    items = vectors[example][mask[example]]
    places = [0, *range(len(items), 0, -1)]
    tokens = np.concatenate([TARGET[example][None], items]) + params["positions"][places]
    part = params["attention"]
    query, key, value = (tokens @ part[f"{k}_kernel"] + part[f"{k}_bias"] for k in ("query", "key", "value"))
    heads = []
    for head in (slice(0, 2), slice(2, 4)):
        weights = softmax(query[:, head] @ key[:, head].T / np.sqrt(2))
        heads.append(weights @ value[:, head])
    mixed = np.concatenate(heads, axis=1) @ part["output"]["kernel"] + part["output"]["bias"]
    return mixed.mean(axis=0)


def test_internal_and_external_feedback_are_the_formulas() -> None:
    found = feedback()
    items, mask = SEQUENCES["unclicked"]
    for example in range(B):
        close(found["f_c"][example], by_hand("clicks", example))
        close(found["f_d"][example], by_hand("dislikes", example))
        for name, query in (("like_clicks", "f_c"), ("like_dislikes", "f_d")):
            params = VARIABLES["params"][name]
            real = items[example][mask[example]]
            expected = np.zeros(D)
            if len(real):
                a = np.broadcast_to(found[query][example], real.shape)
                inputs = np.concatenate([a, real, a - real, a * real], axis=1)
                hidden = np.maximum(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
                expected = softmax((hidden @ params["score"]["kernel"])[:, 0]) @ real
            close(found["f_uc" if name == "like_clicks" else "f_ud"][example], expected)


def test_the_logit_is_linear_fm_and_deep_parts() -> None:
    vectors = np.concatenate([FIELDS, np.stack(list(feedback().values()), axis=1)], axis=1)
    pairwise = np.zeros((B, D))
    for i in range(M + 5):
        for j in range(i):
            pairwise += vectors[:, i] * vectors[:, j]
    params = VARIABLES["params"]
    layer = params["deep"]["layer_0"]
    deep = np.maximum(vectors.reshape(B, -1) @ layer["kernel"] + layer["bias"], 0)
    output = params["output"]["logit"]
    expected = np.concatenate([WIDE, pairwise, deep], axis=1) @ output["kernel"][:, 0] + output["bias"]
    close(logit(), expected)


def test_an_empty_list_leaves_the_target_alone() -> None:
    found = feedback()
    empty = (SEQUENCES["dislikes"][0], np.zeros((B, L), bool))
    close(feedback(dislikes=empty)["f_d"][[0, 3]], found["f_d"][[0, 3]])  # whose list is empty anyway
    assert not found["f_ud"][2].any()
    assert not found["f_uc"][2].any()
    assert np.isfinite(logit()).all()


@pytest.mark.parametrize("name", ORDER)
def test_padding_changes_nothing(name: str) -> None:
    vectors, mask = SEQUENCES[name]
    longer = (
        np.pad(np.where(mask[..., None], vectors, 7.0), ((0, 0), (2, 0), (0, 0)), constant_values=3.0),
        np.pad(mask, ((0, 0), (2, 0))),
    )
    close(logit(**{name: longer}), logit())


def test_the_order_of_unclicked_items_matters_inside_alone() -> None:
    vectors, mask = SEQUENCES["unclicked"]
    turned = feedback(unclicked=(vectors[:, ::-1].copy(), mask[:, ::-1].copy()))
    found = feedback()
    close(turned["f_ud"], found["f_ud"])
    close(turned["f_uc"], found["f_uc"])
    assert not np.allclose(turned["f_u"][1], found["f_u"][1], atol=1e-3)


def test_gradients_are_finite_and_do_not_reach_padding() -> None:
    def total(params: Any, clicks: Any, unclicked: Any) -> Array:
        found = MODEL.apply(
            params,
            FIELDS,
            TARGET,
            (clicks, SEQUENCES["clicks"][1]),
            SEQUENCES["dislikes"],
            (unclicked, SEQUENCES["unclicked"][1]),
            wide=WIDE,
        )
        return jnp.sum(jnp.sin(found))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(
        VARIABLES, SEQUENCES["clicks"][0], SEQUENCES["unclicked"][0]
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for name, leaf in (("clicks", gradient[1]), ("unclicked", gradient[2])):
        assert not np.asarray(leaf)[~SEQUENCES[name][1]].any()
        assert np.asarray(leaf)[SEQUENCES[name][1]].any()


def test_a_list_that_is_too_long_is_refused() -> None:
    long = (np.zeros((B, L + 3, D), np.float32), np.ones((B, L + 3), bool))
    with pytest.raises(ValueError, match="items: 8 of them, but max_len=7; cut off the oldest"):
        jax.eval_shape(
            lambda: MODEL.init(
                jax.random.key(0), FIELDS, TARGET, long, SEQUENCES["dislikes"], SEQUENCES["unclicked"]
            )
        )
