"""Recipes of Multi-View DSSM, PDN and DFN: views, fields, and that each learns what the items' groups say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import baselines
from jaxrec.data.events.feedback_lists import no_feedback
from jaxrec.data.events.held_out import split_items
from jaxrec.data.events.side_features import encode_features
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.nn.retrieval.dfn import DFNPairs
from jaxrec.nn.retrieval.mv_dssm import MultiViewDSSM
from jaxrec.nn.retrieval.pdn import PDNPairs
from jaxrec.protocols import retrieval
from jaxrec.recipes import dfn, mv_dssm, pdn
from jaxrec.types import Protocol
from tests.tasks import small_pairs

GROUPS, SIZE = 4, 8
MATRIX = retrieval.resident(split_items(group_tastes(60, GROUPS, SIZE, num_items=6)))
DATA = MATRIX._replace(items=encode_features({"group": [i // SIZE for i in range(MATRIX.num_items)]}))
SMALL: dict[str, dict[str, Any]] = {
    "mv-dssm": {"view": "group", "hidden_dims": (8,), "out_dim": 8, "feature_dim": 4, "epochs": 16},
    "pdn": {"hidden_dims": (8,), "direct_dims": (8,), "feature_dim": 4, "max_history": 6, "epochs": 6},
    "dfn": {"num_heads": 2, "attention_dim": 4, "deep_dims": (8,), "max_len": 4, "epochs": 4},
}
ENTRIES = {**mv_dssm.MODELS, **pdn.MODELS, **dfn.MODELS}
PROTOCOL = Protocol(ks=(5,), selection="ndcg@5")


@pytest.mark.parametrize("name", SMALL)
def test_a_model_beats_popularity(name: str, tmp_path: Path) -> None:
    entry = ENTRIES[name]
    recipe = entry.recipe(**SMALL[name], dim=8, batch_size=64, learning_rate=0.02, evaluate_every=2)
    model = entry.module(DATA, recipe)
    columns = entry.columns(DATA, recipe)
    fitted = retrieval.train(
        entry.task(model, DATA, recipe),
        entry.plan(DATA, recipe),
        model,
        DATA,
        PROTOCOL,
        entry.optimiser(recipe),
        epochs=recipe.epochs,
        every=2,
        columns=columns,
        weighting=entry.weighting(DATA, recipe),
        seeds=(0,),
        workdir=tmp_path,
        description={},
        progress=False,
    )
    (found,) = retrieval.test(model, DATA, PROTOCOL, fitted.variables, columns=columns)
    popular = baselines.popularity(DATA)
    (floor,) = retrieval.test(popular, DATA, PROTOCOL, popular.for_seeds((0,)))
    assert found["ndcg@5"] > 1.5 * floor["ndcg@5"]


def test_views_are_the_first_values_of_a_feature() -> None:
    data = small_pairs.data()
    several = [["b", "a"], ["a"], ["a", "c"], ["b"], ["b"], ["a"], ["a"], ["b"], ["a"]]
    data = data._replace(items=encode_features({}, several={"kind": several}))
    assert mv_dssm.views_of(data, "kind").tolist() == [0, 2, 1, 1, 2, 2, 1, 1, 2, 1]
    assert mv_dssm.views_of(data, "").tolist() == [0] + [1] * 9
    model = mv_dssm.multi_view(data, mv_dssm.Recipe(view="kind"))
    assert isinstance(model, MultiViewDSSM)
    assert model.views == (("item_id",),) * 2  # nothing begins with "c"
    assert model.item_fields == model.item_fields[:1] and model.user_dims == (300, 300, 128)


@pytest.mark.parametrize(
    ("kinds", "view", "message"),
    [
        ("ababababa", "colour", r"view='colour': is no feature of items \(kind\)"),
        ("abab abab", "kind", r"view='kind': item 4 has no value of it \(1 such\)"),
        ("ababababc", "kind", "no item of the view of item 8 has a training pair"),
    ],
)
def test_views_that_nothing_trains_are_refused(kinds: str, view: str, message: str) -> None:
    features = encode_features({"kind": [kind.strip() for kind in kinds]}, allow_empty=True)
    with pytest.raises(ValueError, match=message):
        mv_dssm.views_of(small_pairs.data()._replace(items=features), view)


def test_a_feature_named_like_the_column_of_views_is_not_lost() -> None:
    """Towers would read the numbers of the views in its place."""
    kinds = {"kind": list("ababababa"), "view": list("xyyxxyyxx")}
    data = small_pairs.data()._replace(items=encode_features(kinds))
    with pytest.raises(ValueError, match="feature view: is the name of the column of items' views; rename"):
        mv_dssm.columns(data, mv_dssm.Recipe(view="kind"))
    found = mv_dssm.columns(data, mv_dssm.Recipe(view="view"))
    np.testing.assert_array_equal(found["item_view"], mv_dssm.views_of(data, "view"))


def test_pdn_starts_at_the_share_of_observed_pairs_and_relates_items_by_their_features() -> None:
    model: Any = pdn.pdn(DATA, pdn.Recipe(negatives=4, max_history=3))
    assert isinstance(model, PDNPairs) and model.same == ("item_group",)
    assert (model.max_history, model.model.max_paths) == (3, 3) and model.model.base_rate == pytest.approx(
        0.2
    )
    alone: Any = pdn.pdn(DATA._replace(items=None), pdn.Recipe(direct=False, max_history=10**6))
    assert alone.same == () and not alone.model.with_direct
    assert alone.max_history == DATA.most


def test_dfn_reads_lists_as_long_as_there_are() -> None:
    model: Any = dfn.dfn(DATA, dfn.Recipe())
    assert isinstance(model, DFNPairs) and model.max_feedback == 0
    lists = no_feedback(DATA.num_users)
    lists["shown_length"] = np.full(DATA.num_users, 7, np.int32)
    lists["shown"] = np.ones(7 * DATA.num_users, np.int32)
    data = DATA._replace(columns={**DATA.columns, **lists})
    for longest, expected in ((30, 7), (5, 5)):
        found: Any = dfn.dfn(data, dfn.Recipe(max_len=longest))
        assert found.max_feedback == expected
    assert not set(lists) & set(dfn.columns(data, dfn.Recipe()))  # which the data have already


@pytest.mark.parametrize(
    ("recipe", "fields", "message"),
    [
        (dfn.Recipe, {"dim": 6}, "dim=6: must be a multiple of num_heads=4"),
        (dfn.Recipe, {"disliked_weight": -1.0}, r"disliked_weight=-1\.0: must be at least 1, 0 and 0"),
        (pdn.Recipe, {"max_history": 0}, "max_history=0"),
        (pdn.Recipe, {"direct_dims": (0,)}, r"direct_dims=\(0,\): each must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(recipe: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**fields)
