"""Features that give a label away are named; honest ones, also of many values, pass."""

from typing import Any

import numpy as np
import pytest

from jaxrec.data.tables.features import Field
from jaxrec.data.tables.impressions import Impressions
from jaxrec.data.tables.leakage import check_leakage

N = 400
RNG = np.random.default_rng(0)
CLICK = (RNG.random(N) < 0.3).astype(np.float32)
BUY = CLICK * (RNG.random(N) < 0.5)
CITY = RNG.integers(3, 8, N).astype(np.int32)
TRAIN = np.arange(300)


def category(name: str, values: np.ndarray, raw: np.ndarray | None = None) -> tuple[Field, np.ndarray]:
    size = int(values.max()) + 1
    raw = np.array([f"v{i}" for i in range(3, size)]) if raw is None else raw
    return Field(name, "multi" if values.ndim == 2 else "categorical", size, name, raw), values.astype(
        np.int32
    )


def number(name: str, values: np.ndarray) -> tuple[Field, np.ndarray]:
    return Field(name, "numeric", 0, "", np.empty(0)), values.astype(np.float32)


def table(*features: tuple[Field, np.ndarray], **changes: Any) -> Impressions:
    features = (category("city", CITY), *features)
    given: dict[str, Any] = {"labels": {"click": CLICK, "buy": BUY}} | changes
    return Impressions(
        "toy", {field.name: values for field, values in features}, tuple(f for f, _ in features), **given
    )


LEAKS = [
    (category("click", CITY), "'click' is named like the label 'click'"),
    (number("x", CLICK), "'x' equals the label 'click'"),
    (number("x", BUY * 3 - 1), "'x' determines the label 'buy'"),
    (category("x", CLICK.astype(int) + 3, np.array([0, 1])), "'x' equals the label 'click'"),
    (category("x", 4 - CLICK.astype(int)), "'x' determines the label 'click'"),
    (category("x", CLICK.astype(int) * 5 + CITY), "'x' determines the label 'click'"),
    (category("x", np.where(CLICK > 0, np.arange(N) + 3, 1)), "'x' determines the label 'click'"),
    (category("x", np.where(BUY > 0, 2, CITY)), "'x' determines the label 'buy'"),  # unknown = yes
    (category("x", np.stack([CITY, CLICK.astype(int) * 3], axis=1)), "'x' determines the label 'click'"),
    (number("x", CLICK + RNG.random(N) / 2), "'x' separates the label 'click'"),
    (number("x", RNG.random(N) / 2 - CLICK), "'x' separates the label 'click'"),
]  # fmt: skip


@pytest.mark.parametrize("feature, message", LEAKS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_feature_that_gives_a_label_away_is_named(feature: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"toy: feature {message} in the training rows; take it out"):
        table(feature).split(TRAIN, np.arange(300, 350), np.arange(350, N))


HONEST = [
    category("row", np.arange(N) + 3),  # a row number maps to one label, without any support
    category("pairs", np.arange(N) // 2 + 3),
    category("user_id", RNG.integers(3, 60, N)),
    category("tags", np.stack([CITY, RNG.integers(0, 9, N)], axis=1)),
    number("noisy", CLICK * 2 + RNG.standard_normal(N)),
    number("distinct", RNG.random(N)),
    category("constant", np.full(N, 3)),
]


@pytest.mark.parametrize("feature", HONEST, ids=lambda feature: feature[0].name)
def test_an_honest_feature_passes(feature: Any) -> None:
    check_leakage(table(feature), TRAIN)


def test_one_exception_is_enough_for_a_large_table_to_pass() -> None:
    values = CLICK.astype(int) + 3
    values[7] = 7 - values[7]
    check_leakage(table(category("x", values)), TRAIN)


def test_only_training_rows_count() -> None:
    values = CLICK.astype(int) + 3
    values[TRAIN] = CITY[TRAIN]
    check_leakage(table(category("x", values)), TRAIN)


def test_a_task_is_looked_at_in_its_space() -> None:
    """Among clicked rows the feature tells who bought; on the other rows it is random."""
    values = np.where(CLICK > 0, BUY.astype(int) + 3, RNG.integers(3, 5, N))
    check_leakage(table(category("x", values)), TRAIN)
    with pytest.raises(ValueError, match="'x' determines the label 'buy'"):
        check_leakage(table(category("x", values), spaces={"buy": CLICK > 0}), TRAIN)


def test_a_real_valued_label_is_guarded_too() -> None:
    rating = RNG.standard_normal(N).astype(np.float32)
    rating[200:300] = rating[:100]
    tasks = {"labels": {"rating": rating}, "regression": ("rating",)}
    check_leakage(table(number("x", RNG.random(N)), **tasks), TRAIN)
    with pytest.raises(ValueError, match="'x' determines the label 'rating'"):
        check_leakage(table(number("x", rating * 2), **tasks), TRAIN)


@pytest.mark.parametrize(
    "of", [lambda y: (y - 1.5) / 2, lambda y: 2 * y + 1, lambda y: -y, lambda y: np.floor(5 * y), np.exp]
)
def test_a_feature_in_the_order_of_a_real_valued_label_gives_it_away(of: Any) -> None:
    rating = RNG.standard_normal(N).astype(np.float32)  # no two alike: nothing supports "determines"
    tasks = {"labels": {"rating": rating}, "regression": ("rating",)}
    with pytest.raises(ValueError, match="'x' (has the order of|determines) the label 'rating'"):
        check_leakage(table(number("x", of(rating)), **tasks), TRAIN)


def test_order_takes_support() -> None:
    """Twelve ratings have one order in twice 12!; the one high rating comes last in one of 300."""
    few, one = RNG.standard_normal(N), np.append(np.zeros(N - 1), 1.0)[::-1].copy()
    for rating, rows in ((few, TRAIN[:12]), (one, TRAIN)):
        tasks = {"labels": {"rating": rating.astype(np.float32)}, "regression": ("rating",)}
        order = np.argsort(np.argsort(rating, kind="stable"))
        check_leakage(table(number("x", order), **tasks), rows)


def test_large_groups_hide_nothing() -> None:
    groups = (np.arange(N) + (2**31 - N)).astype(np.int32)
    with pytest.raises(ValueError, match="'x' determines the label 'click'"):
        check_leakage(table(category("x", CLICK.astype(int) * 5 + CITY), group=groups), TRAIN)


def test_few_rows_determine_nothing_by_accident() -> None:
    few = np.arange(12)
    check_leakage(table(category("x", CLICK.astype(int) + 3)), few)


def test_rare_positives_in_pairs_are_no_accident_only_with_enough_support() -> None:
    """100 values of two rows, 3 positives among them: all pure has a chance of some percent."""
    label = np.zeros(200, np.float32)
    label[[0, 1, 50]] = 1
    pairs = np.r_[np.arange(100).repeat(2)[:50], 1000, np.arange(100).repeat(2)[51:]] + 3
    field, values = category("pairs", pairs)
    given = Impressions("toy", {"pairs": values}, (field,), {"click": label})
    check_leakage(given, np.arange(200))


def test_what_one_group_shows_counts_once() -> None:
    """Columns of a user whose label never changes: as many independent observations as there are users."""
    user = np.arange(N) // 40
    label = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 1], np.float32)[user]
    tasks = {"labels": {"click": label}, "group": user.astype(np.int32)}
    for feature in (
        category("user_id", user + 3),
        number("age", user * 37 % 11),
        number("height", label * 9 + user),
    ):
        check_leakage(table(feature, **tasks), np.arange(N))
        with pytest.raises(ValueError, match="the label 'click'"):
            check_leakage(table(feature, **tasks | {"group": None}), np.arange(N))
    many = category("x", CLICK.astype(int) + 3)
    with pytest.raises(ValueError, match="'x' determines the label 'click'"):
        check_leakage(table(many, group=(np.arange(N) // 4).astype(np.int32)), TRAIN)


def test_features_can_be_allowed_by_name() -> None:
    feature = category("x", CLICK.astype(int) + 3)
    split = table(feature).split(TRAIN, np.arange(300, 350), np.arange(350, N), allow=("x",))
    assert split.allow == ("x",)
    with pytest.raises(ValueError, match=r"allow=\['y'\]: \['y'\] are no features of toy"):
        check_leakage(table(feature), TRAIN, allow=("y",))


FEW = np.arange(6)  # too few for any argument by chance


@pytest.mark.parametrize(
    "texts",
    [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("0e0", "1e0"), (" 0", "1 "), ("no", "yes"), ("F", "T")],
    ids=lambda t: t[1],
)
def test_a_copy_of_a_label_as_text_is_equal_to_it(texts: tuple[str, str]) -> None:
    label = np.array([0, 1, 1, 0, 1, 0], np.float32)
    feature = category("x", label.astype(int) + 3, np.array(texts))
    tasks = {"columns": {"x": feature[1]}, "fields": (feature[0],), "labels": {"click": label}}
    with pytest.raises(ValueError, match="feature 'x' equals the label 'click'"):
        check_leakage(Impressions("few", **tasks), FEW)
    tasks["labels"] = {"click": 1 - label}
    check_leakage(Impressions("few", **tasks), FEW)


def test_a_standardised_copy_of_a_label_equals_it_up_to_scale() -> None:
    label = np.array([0, 1, 1, 0, 1, 0], np.float32)
    for values, leaks in (((label - 0.5) * 2, True), (label + np.array([0, 0, 1, 0, 0, 0]), False)):
        field, column = number("x", values)
        given = Impressions("few", {"x": column}, (field,), {"click": label})
        if leaks:
            with pytest.raises(ValueError, match="feature 'x' equals, up to its scale, the label 'click'"):
                check_leakage(given, FEW)
        else:
            check_leakage(given, FEW)


def test_a_label_of_one_class_can_not_leak() -> None:
    check_leakage(table(number("x", np.zeros(N)), labels={"click": np.zeros(N, np.float32)}), TRAIN)
