"""Base rate, logistic regression and boosted trees of labelled rows."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from jaxrec.baselines import click_tables, trees
from jaxrec.baselines.click_tables import TINY
from jaxrec.baselines.labelled_rows import EVENTS, MATCHES, Parts, Rows, parts_of
from jaxrec.baselines.logistic import Logistic, fit_logistic, fit_path, fit_scale, sparse_matrix
from jaxrec.baselines.trees import find_leaves, fit_columns, fit_trees
from jaxrec.data.synthetic.multitask import funnel
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import SideInfo, next_clicks
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.protocols import impressions

RNG = np.random.default_rng(0)
N = 300


def make_rows(count: int = N, *, seed: int = 0, size: int = 6) -> Rows:
    """Rows with a column of one value, one of several, two numbers (one constant), and a label of them."""
    rng = np.random.default_rng(seed)
    one, several = rng.integers(1, size, count), rng.integers(0, 4, (count, 3))
    number = rng.normal(size=count)
    label = rng.random(count) < expit(number + (one == 2) - (several == 3).sum(axis=1))
    return Rows(
        ids={"one": one.astype(np.int32), "several": several.astype(np.int32)},
        sizes={"one": size, "several": 4},
        numbers={"number": number.astype(np.float32), "constant": np.ones(count, np.float32)},
        labels={"click": label.astype(np.float32)},
        spaces={"click": np.ones(count, bool)},
    )


ROWS = make_rows()
LABEL = ROWS.labels["click"]
MATRIX = sparse_matrix(ROWS, fit_scale(ROWS))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they save on so few rows."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def boosted() -> trees.Trees:
    return fit_trees(ROWS, LABEL, leaves=5, trees=8)


# --- columns -----------------------------------------------------------------------------------------


def test_several_values_share_one_and_numbers_are_standard() -> None:
    dense = MATRIX.toarray()
    assert dense.shape == (N, 6 + 4 + 2)
    np.testing.assert_array_equal(dense[:, :6], np.eye(6)[ROWS.ids["one"]])
    real = (ROWS.ids["several"] != 0).sum(axis=1)
    np.testing.assert_allclose(dense[:, 6:10].sum(axis=1), real > 0)
    assert (dense[:, 6] == 0).all()  # padding
    np.testing.assert_allclose([dense[:, 10].mean(), dense[:, 10].std()], [0, 1], atol=1e-6)
    assert (dense[:, 11] == 0).all()  # a constant column


@pytest.mark.parametrize("several", [False, True])
def test_counts_of_a_history_are_those_of_a_loop(several: bool) -> None:
    kinds = np.append(0, np.arange(20) % 3 + 1).astype(np.int32)
    if several:
        kinds = np.stack([kinds, np.where(kinds == 1, 2, 0)], axis=1).astype(np.int32)
    sequences = markov_chain(15, 20, min_length=4, max_length=9).sequences
    clicks = next_clicks(sequences, side_info=SideInfo({"kind": kinds}, {}))
    data = impressions.resident_clicks(clicks, length=4)
    parts = parts_of(data, (Categorical("item", 21, 1), Categorical("kind", 4, 1)))
    for rows, examples in zip(parts, (clicks.train, clicks.validation, clicks.test), strict=True):
        np.testing.assert_array_equal(rows.ids["item"], clicks.item[examples])
        for i, m in enumerate(examples):
            events = clicks.events[max(clicks.start[m], clicks.end[m] - 4) : clicks.end[m]]
            own = set(np.ravel(kinds[clicks.item[m]])) - {0}
            same = sum(bool(own & set(np.ravel(kinds[event]))) for event in events)
            assert np.isclose(rows.numbers[f"{MATCHES}kind"][i], np.log1p(same))
            assert np.isclose(rows.numbers[f"{MATCHES}item"][i], np.log1p((events == clicks.item[m]).sum()))
            assert np.isclose(rows.numbers[EVENTS][i], np.log1p(len(events)))


def test_parts_are_those_of_the_split() -> None:
    split = funnel(200, num_users=5, num_items=4).split
    data, table = impressions.resident(split), split.impressions
    parts = parts_of(data, impressions.features(table, 1).fields)
    for rows, examples in zip(parts, (split.train, split.validation, split.test), strict=True):
        np.testing.assert_array_equal(rows.ids["user_id"], table.columns["user_id"][examples])
        np.testing.assert_array_equal(rows.numbers["price"], table.columns["price"][examples])
        np.testing.assert_array_equal(rows.labels["ctcvr"], table.labels["ctcvr"][examples])
        np.testing.assert_array_equal(rows.spaces["cvr"], table.labels["ctr"][examples] > 0)


def test_columns_of_a_table_are_read_whatever_their_names() -> None:
    split = funnel(200, num_users=5, num_items=4).split
    data, names = impressions.resident(split), {"user_id": "events", "price": "history_price"}

    def renamed(columns: Any) -> Any:
        return {names.get(name, name): column for name, column in columns.items()}

    parts = (renamed(part) for part in (data.columns, data.validation, data.test))
    data = data._replace(**dict(zip(("columns", "validation", "test"), parts, strict=True)))
    rows = parts_of(data, (Categorical("events", 7, 1), Numeric("history_price"))).train
    assert (list(rows.ids), list(rows.numbers)) == (["events"], ["history_price"])
    np.testing.assert_array_equal(
        rows.numbers["history_price"], split.impressions.columns["price"][split.train]
    )


def test_fields_that_are_no_columns_and_regressions_are_refused() -> None:
    data = impressions.resident(funnel(200, num_users=5, num_items=4).split)
    with pytest.raises(ValueError, match=r"fields \['city'\] are no columns"):
        parts_of(data, (Categorical("city", 3, 1),))
    with pytest.raises(ValueError, match=r"tasks \['ctr'\] are numbers"):
        parts_of(data._replace(regression=("ctr",)), (Categorical("user_id", 9, 1),))


# --- logistic regression -----------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.1, 2.0, 50.0])
def test_the_optimum_is_that_of_scikit_learn(l2: float) -> None:
    theirs = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=2000).fit(MATRIX, LABEL)
    ours = fit_logistic(MATRIX, LABEL, l2=l2, tolerance=1e-14)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=2e-4)
    np.testing.assert_allclose(ours.bias, theirs.intercept_[0], atol=2e-4)


def test_at_the_optimum_mean_prediction_is_the_base_rate() -> None:
    found = fit_logistic(MATRIX, LABEL, l2=3.0, tolerance=1e-12)
    np.testing.assert_allclose(expit(found.logits(MATRIX)).mean(), LABEL.mean(), atol=1e-5)


def test_a_strong_penalty_leaves_the_base_rate() -> None:
    found = fit_logistic(MATRIX, LABEL, l2=1e9)
    np.testing.assert_allclose(expit(found.logits(MATRIX)), LABEL.mean(), atol=1e-4)


def test_values_without_a_row_and_constant_columns_have_no_weight() -> None:
    found = fit_logistic(MATRIX, LABEL, l2=1.0)
    assert found.weights[0] == found.weights[11] == 0


def test_two_equal_columns_share_the_weight() -> None:
    twice = Rows({"a": ROWS.ids["one"], "b": ROWS.ids["one"]}, {"a": 6, "b": 6}, {}, ROWS.labels, {})
    found = fit_logistic(sparse_matrix(twice, fit_scale(twice)), LABEL, l2=1.0, tolerance=1e-12)
    np.testing.assert_allclose(found.weights[:6], found.weights[6:], atol=1e-4)


def test_the_path_has_the_solutions_of_each_penalty() -> None:
    path = fit_path(MATRIX, LABEL, (0.5, 5.0))
    assert list(path) == [5.0, 0.5]
    for l2, (found, _) in path.items():
        np.testing.assert_allclose(found.weights, fit_logistic(MATRIX, LABEL, l2=l2).weights, atol=3e-3)


@pytest.mark.parametrize(
    ("scores", "tried"), [((0.5, 0.6, 0.6, 0.7), 4), ((0.5, 0.6, 0.4, 0.7), 3), ((0.5, 0.4, 0.6, 0.7), 2)]
)
def test_the_path_ends_behind_the_first_worse_penalty(scores: tuple[float, ...], tried: int) -> None:
    left = iter(scores)
    path = fit_path(MATRIX, LABEL, (1.0, 10.0, 100.0, 1000.0), score=lambda model: next(left))
    assert list(path) == [1000.0, 100.0, 10.0, 1.0][:tried]
    assert [reached for _, reached in path.values()] == list(scores[:tried])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (LABEL, {"l2": 0.0}, "l2=0.0: must be above 0"),
        (np.ones(N), {"l2": 1.0}, "single class"),
        (LABEL, {"l2": 1e-6, "max_steps": 1}, "1 steps do not reach"),
    ],
)
def test_what_has_no_solution_is_refused(labels: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_logistic(MATRIX, labels, **options)


# --- what trees read ---------------------------------------------------------------------------------


def test_a_rate_reads_no_label_of_its_own_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_CATEGORIES", 3)
    columns, own = fit_columns(ROWS, LABEL, seed=1)
    flipped = LABEL.copy()
    flipped[7] = 1 - flipped[7]
    other, changed = fit_columns(ROWS, flipped, seed=1)
    fold = np.random.default_rng(1).permutation(N) % trees.FOLDS
    base = (flipped.mean() - LABEL.mean()) * trees.PRIOR  # the prior moves all rates a little
    moved = np.abs(changed - own)[:, 0]
    assert moved[fold == fold[7]].max() <= abs(base) / trees.PRIOR + 1e-12
    same = (ROWS.ids["one"] == ROWS.ids["one"][7]) & (fold != fold[7])
    assert (moved[same] > abs(base) / trees.PRIOR).all()
    assert set(columns.rates) == set(other.rates) == {"one", "several"}
    assert columns.categorical == (False,) * 6


def test_a_value_that_no_row_has_is_at_the_base_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_CATEGORIES", 3)
    columns, _ = fit_columns(ROWS, LABEL)
    assert np.isclose(columns.rates["one"][0], LABEL.mean())
    ones = LABEL[ROWS.ids["one"] == 2]
    expected = (ones.sum() + trees.PRIOR * LABEL.mean()) / (len(ones) + trees.PRIOR)
    assert np.isclose(columns.rates["one"][2], expected)


def test_few_categories_are_codes() -> None:
    columns, matrix = fit_columns(ROWS, LABEL)
    assert columns.categorical == (True, False, False, False, False)
    np.testing.assert_array_equal(matrix[:, 0], ROWS.ids["one"])
    np.testing.assert_array_equal(columns.matrix(ROWS)[:, 0], ROWS.ids["one"])


# --- trees and leaves --------------------------------------------------------------------------------


def test_steps_add_up_to_the_logit(boosted: trees.Trees) -> None:
    other = make_rows(50, seed=1)
    np.testing.assert_allclose(boosted.steps(other).sum(axis=1), boosted.logits(other), atol=1e-9)
    theirs = boosted.model.decision_function(boosted.columns.matrix(other))
    np.testing.assert_allclose(boosted.logits(other), theirs, atol=1e-9)


def test_each_row_is_in_one_leaf_of_each_tree(boosted: trees.Trees) -> None:
    steps = boosted.steps(ROWS)
    leaves = find_leaves(steps)
    one_hot = leaves.one_hot(steps)
    assert one_hot.shape == (N, leaves.first[-1])
    sizes = np.diff(leaves.first)
    assert (sizes >= 1).all() and (sizes <= 5).all() and sizes.max() > 2
    for first, last in zip(leaves.first[:-1], leaves.first[1:], strict=True):
        assert (one_hot[:, first:last].sum(axis=1) == 1).all()


def test_leaves_weighted_by_their_values_are_the_trees(boosted: trees.Trees) -> None:
    leaves = find_leaves(boosted.steps(ROWS))
    other = make_rows(50, seed=1)
    logits = Logistic(leaves.weights, 0.0).logits(leaves.one_hot(boosted.steps(other)))
    np.testing.assert_allclose(logits, boosted.logits(other), atol=1e-8)


def test_a_tree_without_a_split_is_one_leaf() -> None:
    constant = Rows({}, {}, {"x": np.ones(60, np.float32)}, {"y": LABEL[:60]}, {"y": np.ones(60, bool)})
    found = fit_trees(constant, constant.labels["y"], trees=3)
    leaves = find_leaves(found.steps(constant))
    assert leaves.first.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.logits(constant), found.logits(constant)[0])
    assert leaves.one_hot(found.steps(constant)).sum() == 180


def test_a_monotone_map_of_a_number_leaves_the_trees_alone(boosted: trees.Trees) -> None:
    mapped = ROWS._replace(numbers={**ROWS.numbers, "number": np.exp(ROWS.numbers["number"])})
    found = fit_trees(mapped, LABEL, leaves=5, trees=8)
    np.testing.assert_allclose(found.logits(mapped), boosted.logits(ROWS), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leaves": 1}, "leaves=1: must be at least 2"),
        ({"trees": 0}, "trees=0: must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: must be above 0"),
    ],
)
def test_settings_of_trees_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_trees(ROWS, LABEL, **options)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError("no such library")
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    click_tables.check_installed(["base-rate", "logistic-regression"])
    with pytest.raises(ImportError, match=r"pip install 'jaxrec\[trees\]'"):
        click_tables.check_installed(["gbdt-lr"])


# --- rows of a table ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> tuple[impressions.Data, Any]:
    split = funnel(600, num_users=10, num_items=8, conversion_rate=0.5).split
    return impressions.resident(split), impressions.features(split.impressions, 1).fields


@pytest.mark.parametrize("name", click_tables.METHODS)
def test_every_baseline_is_tested_as_a_trained_model_is(
    name: str, table: tuple[impressions.Data, Any]
) -> None:
    data, fields = table
    targets = impressions.targets(data)
    found = click_tables.measure(name, data, fields, targets, seeds=(3, 4), grid=TINY, calibration=True)
    assert len(found.tested.metrics) == 2
    for metrics in found.tested.metrics:
        kinds = ("auc", "log_loss", "ece", "calibration_ratio")
        assert {f"{kind}/{task}" for kind in kinds for task in ("ctr", "cvr", "ctcvr")} <= set(metrics)
        assert (metrics["auc/ctr"] == 0.5) == (name == "base-rate")
        assert name == "base-rate" or metrics["auc/ctr"] > 0.55
    kept: Any = found.tested.values
    assert np.isclose(
        kept.sums["auc/cvr"][0].sum() / kept.weights["auc/cvr"].sum(), found.tested.metrics[0]["auc/cvr"]
    )
    assert set(found.settings) == (set() if name == "base-rate" else {"ctr", "cvr", "ctcvr"})


def test_the_base_rate_has_the_log_loss_of_its_share(table: tuple[impressions.Data, Any]) -> None:
    data, fields = table
    targets = impressions.targets(data)[1:2]  # cvr, of clicked rows
    found = click_tables.measure("base-rate", data, fields, targets, seeds=(0,))
    space = data.columns["space/cvr"]
    rate = data.columns["label/cvr"][space].mean()
    real = data.test["mask"] & data.test["space/cvr"]
    share = data.test["label/cvr"][real].mean()
    expected = -share * np.log(rate) - (1 - share) * np.log(1 - rate)
    assert np.isclose(found.tested.metrics[0]["log_loss/cvr"], expected, atol=1e-5)


def test_a_second_space_of_a_label_has_the_scores_of_the_first(table: tuple[impressions.Data, Any]) -> None:
    data, fields = table
    whole = impressions.targets(data)[2]
    inside = whole._replace(name="later", space="space/cvr")
    data = data._replace(
        test=data.test | {"label/later": data.test["label/ctcvr"], "space/later": data.test["space/cvr"]}
    )
    inside = inside._replace(space="space/later")
    found = click_tables.measure("logistic-regression", data, fields, [whole, inside], seeds=(0,), grid=TINY)
    assert set(found.settings) == {"ctcvr"}
    assert found.tested.metrics[0]["auc/later"] != found.tested.metrics[0]["auc/ctcvr"]


def test_settings_are_the_best_on_validation(table: tuple[impressions.Data, Any]) -> None:
    data, fields = table
    parts = parts_of(data, fields)
    found = click_tables.logistic_regression(parts, "ctr", TINY, 0, None)
    train, validation = (sparse_matrix(rows, fit_scale(parts.train)) for rows in parts[:2])
    by_penalty = {
        l2: click_tables.auc(model.logits(validation), parts.validation.labels["ctr"])
        for l2, (model, _) in fit_path(train, parts.train.labels["ctr"], TINY.l2).items()
    }
    assert found.auc == max(by_penalty.values()) == by_penalty[found.settings["l2"]]
    chosen = click_tables.gbdt(parts, "ctr", TINY, 0, None)
    model = fit_trees(parts.train, parts.train.labels["ctr"], leaves=7, trees=chosen.settings["trees"])
    np.testing.assert_allclose(model.logits(parts.test), chosen.logits(parts.test), atol=1e-9)


@pytest.mark.parametrize("rates", [False, True])
def test_later_seeds_have_the_settings_of_the_first(
    rates: bool, table: tuple[impressions.Data, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, fields = table
    if rates:
        monkeypatch.setattr(trees, "MAX_CATEGORIES", 3)  # rates depend on folds, which are drawn
    made: list[dict[str, Any]] = []

    def counted(*args: Any, **options: Any) -> Any:
        made.append(options)
        return fit_trees(*args, **options)

    monkeypatch.setattr(click_tables, "fit_trees", counted)
    targets = impressions.targets(data)[:1]
    found = click_tables.measure("gbdt", data, fields, targets, seeds=(3, 4, 5), grid=TINY)
    chosen = found.settings["ctr"]
    assert [options["seed"] for options in made] == ([3, 4, 5] if rates else [3])
    for later in made[1:]:
        assert {name: later[name] for name in chosen} == chosen and later["validation"] is None
    first, *others = (metrics["auc/ctr"] for metrics in found.tested.metrics)
    assert len(others) == 2 and any(other != first for other in others) == rates


def test_the_first_trees_of_many_are_those_of_a_fit_of_few() -> None:
    """So that a later seed need not fit more trees than it uses."""
    parts = Parts(ROWS, make_rows(80, seed=1), make_rows(80, seed=2))
    chosen = click_tables.gbdt(parts, "click", TINY, 0, None)
    again = click_tables.gbdt(parts, "click", TINY, 0, chosen.settings)
    np.testing.assert_allclose(again.logits(parts.test), chosen.logits(parts.test), atol=1e-12)
    assert again.settings == chosen.settings and np.isclose(again.auc, chosen.auc)


def test_trees_say_whether_a_seed_changes_them(boosted: trees.Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    assert boosted.seeded  # a column of several values has rates
    plain = Rows({"one": ROWS.ids["one"]}, {"one": 6}, ROWS.numbers, ROWS.labels, ROWS.spaces)
    first, other = (fit_trees(plain, LABEL, leaves=5, trees=3, seed=seed) for seed in (0, 1))
    assert not first.seeded
    np.testing.assert_array_equal(first.logits(plain), other.logits(plain))
    monkeypatch.setattr(trees, "BINNED", N - 1)
    assert fit_trees(plain, LABEL, leaves=5, trees=1).seeded


def test_trees_and_the_linear_model_on_them_read_different_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[float]] = []
    fit, path = fit_trees, fit_path

    def trees_of(rows: Rows, *args: Any, **options: Any) -> Any:
        seen.append(set(rows.numbers["number"].tolist()))
        return fit(rows, *args, **options)

    def path_of(matrix: Any, labels: Any, *args: Any, **options: Any) -> Any:
        seen.append(set(range(len(labels))))
        return path(matrix, labels, *args, **options)

    monkeypatch.setattr(click_tables, "fit_trees", trees_of)
    monkeypatch.setattr(click_tables, "fit_path", path_of)
    parts = Parts(ROWS, make_rows(80, seed=1), make_rows(80, seed=2))
    click_tables.gbdt_lr(parts, "click", TINY, 0, None)
    assert len(seen[0]) + len(seen[1]) == N and 0 < len(seen[0]) < N


@pytest.mark.parametrize("shape", [(1, 59, 1), (1, 60, 2)])
def test_logits_of_other_shapes_are_refused(
    shape: tuple[int, ...], table: tuple[impressions.Data, Any]
) -> None:
    data, _ = table
    with pytest.raises(ValueError, match="expected"):
        impressions.measure_scores(data, impressions.targets(data)[:1], np.zeros(shape))
