"""SASRec under prompts: what they change, what they leave alone, and the model of the user's intent."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.retrieval.kuaishou_ebr import KuaishouEBR
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.types import Variables
from tests.nn.drawn import drawn

NUM_ITEMS, DIM, LENGTH, K = 20, 8, 6, 3
SIZES: dict[str, Any] = {
    "num_items": NUM_ITEMS, "dim": DIM, "num_layers": 1, "num_heads": 2, "inner_dim": 12, "max_len": LENGTH,
}  # fmt: skip
INTENT = SASRec(**{**SIZES, "dim": 4})
MODEL = KuaishouEBR(SASRec(**SIZES), INTENT, num_clusters=K)
ITEMS = np.array([[0, 0, 0, 4, 9, 2], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 20]], np.int32)
CLUSTERS = np.array([[2], [0], [1]], np.int32)  # of each row


@pytest.fixture(scope="module")
def variables() -> Variables:
    """Weights that are all drawn, prompts too."""
    return drawn(MODEL, ITEMS, train=False)


RUN = jax.jit(lambda variables, items, **parts: MODEL.apply(variables, items, train=False, **parts))
PLAIN = jax.jit(lambda variables, items: SASRec(**SIZES).apply(variables, items, train=False))


def with_prompts(variables: Variables, prompts: np.ndarray) -> Variables:
    return {"params": {**variables["params"], "prompts": prompts}}


def backbone(variables: Variables) -> Variables:
    """The parameters that SASRec has too."""
    own = ("prompts", "intent_encoder", "intent_head")
    return {"params": {name: leaf for name, leaf in variables["params"].items() if name not in own}}


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_parameters_and_first_values() -> None:
    params = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), ITEMS, train=False))["params"]
    assert params["prompts"].shape == (K, DIM)
    assert params["intent_encoder"]["item_embedding"].shape == (NUM_ITEMS + 1, 4)
    assert jax.tree.map(np.shape, params["intent_head"]) == {"kernel": (4, K), "bias": (K,)}
    plain = jax.eval_shape(lambda: SASRec(**SIZES).init(jax.random.key(0), ITEMS, train=False))["params"]
    assert jax.tree.map(np.shape, backbone({"params": params})["params"]) == jax.tree.map(np.shape, plain)
    first = jax.jit(lambda key: MODEL.init(key, ITEMS[:1], train=False)["params"]["prompts"])
    assert (np.asarray(first(jax.random.key(0))) == 1.0).all()


def test_prompts_of_one_are_plain_sasrec_for_every_cluster(variables: Variables) -> None:
    ones = with_prompts(variables, np.ones((K, DIM), np.float32))
    plain = PLAIN(backbone(variables), ITEMS)
    for clusters in (CLUSTERS, np.roll(CLUSTERS, 1)):
        close(RUN(ones, ITEMS, clusters=clusters), plain)
    close(RUN(variables, ITEMS), plain)  # and so is leaving them out


@pytest.mark.parametrize("cluster", range(K))
def test_a_prompt_scales_every_token_that_enters_the_blocks(variables: Variables, cluster: int) -> None:
    """Its twin: the scale and bias of the normalisation before the blocks, times the prompt."""
    prompt = variables["params"]["prompts"][cluster]
    twin = backbone(variables)["params"]
    twin = {"params": {**twin, "norm": {name: leaf * prompt for name, leaf in twin["norm"].items()}}}
    ours = RUN(variables, ITEMS, clusters=np.full((3, 1), cluster, np.int32))
    close(ours, PLAIN(twin, ITEMS))
    assert np.abs(ours - PLAIN(backbone(variables), ITEMS))[ITEMS > 0].max() > 1e-2


def test_the_item_table_has_no_prompt(variables: Variables) -> None:
    table = MODEL.apply(variables, method="item_table")
    assert table is variables["params"]["item_embedding"]


def test_renumbered_clusters_with_their_prompts_give_the_same(variables: Variables) -> None:
    order = np.array([2, 0, 1])  # new number of each cluster
    moved = np.empty_like(variables["params"]["prompts"])
    moved[order] = variables["params"]["prompts"]
    ours = RUN(with_prompts(variables, moved), ITEMS, clusters=order[CLUSTERS].astype(np.int32))
    np.testing.assert_array_equal(ours, RUN(variables, ITEMS, clusters=CLUSTERS))


def test_users_that_share_a_row_have_their_own_cluster(variables: Variables) -> None:
    """Rows 2 and 0 of ITEMS, packed into one row of six slots."""
    items = np.array([[20, 4, 9, 2, 0, 0]], np.int32)
    segments = np.array([[1, 2, 2, 2, 0, 0]], np.int32)
    positions = np.array([[5, 3, 4, 5, 0, 0]], np.int32)
    clusters = np.array([[1, 2, 2, 2, 0, 0]], np.int32)
    packed = RUN(variables, items, clusters=clusters, segments=segments, positions=positions)[0]
    alone = RUN(variables, ITEMS, clusters=CLUSTERS)
    close(packed[:4], np.concatenate([alone[2, 5:], alone[0, 3:]]))
    assert np.isfinite(packed).all()


def test_more_padding_changes_no_real_slot(variables: Variables) -> None:
    short = RUN(variables, ITEMS[[0, 2], 3:], clusters=CLUSTERS[[0, 2]])
    real = ITEMS[[0, 2], 3:] > 0
    close(short[real], RUN(variables, ITEMS, clusters=CLUSTERS)[[0, 2], 3:][real])


def test_a_cluster_that_is_none_gives_nan(variables: Variables) -> None:
    found = RUN(variables, ITEMS, clusters=np.array([[0], [K], [1]], np.int32))
    assert [bool(np.isnan(row).any()) for row in found] == [False, True, False]


def test_intent_is_causal_and_has_a_logit_a_cluster(variables: Variables) -> None:
    run = jax.jit(lambda items: MODEL.apply(variables, items, train=False, method="intent"))
    changed = ITEMS.copy()
    changed[1, 4:] = 17
    before, after = np.asarray(run(ITEMS)), np.asarray(run(changed))
    assert before.shape == (3, LENGTH, K)
    close(after[1, :4], before[1, :4])
    assert np.abs(after[1, 4:] - before[1, 4:]).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_clusters": 0}, "num_clusters"),
        ({"intent_encoder": INTENT.clone(dim=0)}, "dim"),
        ({"encoder": SASRec(0)}, "num_items"),
    ],
)
def test_sizes_below_one_are_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
        jax.eval_shape(lambda: MODEL.clone(**change).init(jax.random.key(0), ITEMS, train=False))


def test_the_encoder_starts_from_the_values_that_it_has_alone() -> None:
    def first(model: Any) -> Any:
        return jax.jit(lambda key: model.init(key, ITEMS[:1], train=False))(jax.random.key(0))

    jax.tree.map(np.testing.assert_array_equal, backbone(first(MODEL)), first(SASRec(**SIZES)))


def test_the_model_reads_what_both_encoders_read() -> None:
    assert MODEL.max_len == LENGTH
    assert MODEL.clone(intent_encoder=INTENT.clone(max_len=4)).max_len == 4
