"""Features from raw columns, the labelled table, its splits and batches."""

from typing import Any

import numpy as np
import pytest

from jaxrec.data.tables.columns import Coded, Ragged
from jaxrec.data.tables.features import (
    Buckets,
    Category,
    Encoders,
    Field,
    Number,
    Tags,
    decode,
    encode,
    fit_encoders,
)
from jaxrec.data.tables.impressions import (
    Impressions,
    split_at_random,
    split_in_time_order,
)
from jaxrec.data.tables.summary import format_impressions, label_correlation
from jaxrec.data.tables.unobserved_pairs import add_unobserved

ALL = np.arange(4)


def one(spec: Any, column: Any, train: np.ndarray = ALL) -> tuple[Encoders, np.ndarray]:
    raw = {spec.column or spec.name: column}
    encoders = fit_encoders((spec,), raw, train)
    return encoders, encode(encoders, raw)[spec.name]


# Categories


@pytest.mark.parametrize(
    "column",
    [np.array(["b", "a", "b", "z"]), Coded(np.array([1, 0, 1, 2], np.uint8), np.array(["a", "b", "z"]))],
    ids=["text", "coded"],
)
def test_values_unseen_in_training_are_out_of_vocabulary(column: Any) -> None:
    encoders, ids = one(Category("city"), column, np.array([0, 1, 2]))
    assert ids.dtype == np.int32
    assert ids.tolist() == [4, 3, 4, 2]
    (field,) = encoders.fields
    assert (field.kind, field.vocab_size, field.vocabulary) == ("categorical", 3 + 2, "city")
    assert decode(field, ids).tolist() == ["b", "a", "b", "<unknown>"]


def test_missing_values_have_an_id_of_their_own() -> None:
    encoders, ids = one(
        Category("city", missing=("?",)), np.array(["", "?", "a", "long"]), np.array([0, 1, 2])
    )
    assert ids.tolist() == [1, 1, 3, 2]
    assert decode(encoders.fields[0], ids).tolist() == ["<missing>", "<missing>", "a", "<unknown>"]
    _, ids = one(Category("city"), Coded(np.array([0, -1, 0, 0]), np.array(["a"])))
    assert ids.tolist() == [3, 1, 3, 3]


def test_a_missing_value_longer_than_the_others_matches_whole_values_only() -> None:
    _, ids = one(Category("city", missing=("none known",)), np.array(["none", "a", "none", "a"]))
    assert ids.tolist() == [4, 3, 4, 3]


def test_integers_can_stand_for_missing() -> None:
    _, ids = one(Category("year", missing=(0,)), np.array([1990, 0, 1980, 1990]))
    assert ids.tolist() == [4, 1, 3, 4]


def test_values_below_min_count_are_out_of_vocabulary() -> None:
    _, ids = one(Category("city", min_count=2), np.array(["a", "a", "b", "c"]))
    assert ids.tolist() == [3, 3, 2, 2]


def test_only_training_rows_count() -> None:
    _, ids = one(Category("city", min_count=2), np.array(["a", "b", "b", "a"]), np.array([0, 1, 2]))
    assert ids.tolist() == [2, 3, 3, 2]


def test_features_of_one_vocabulary_share_ids_and_counts() -> None:
    raw = {"seen": Ragged(np.array([7, 8, 9, 7]), np.array([0, 1, 3, 4])), "item": np.array([8, 7, 5])}
    specs = (Tags("seen", vocabulary="item", min_count=2), Category("item", min_count=2))
    encoders = fit_encoders(specs, raw, np.arange(3))
    columns = encode(encoders, raw)
    assert columns["seen"].tolist() == [[3, 0], [4, 2], [3, 0]]  # 7 and 8 occur twice over both columns
    assert columns["item"].tolist() == [4, 3, 2]
    assert [field.vocabulary for field in encoders.fields] == ["item", "item"]
    assert encoders.fields[0].vocab_size == encoders.fields[1].vocab_size == 5


# Several values per row


def test_tags_are_padded_and_a_row_without_any_is_missing() -> None:
    tags = Ragged(np.array(["x", "y", "y"]), np.array([0, 2, 2, 3]))
    _, ids = one(Tags("tags"), tags, np.arange(3))
    assert ids.dtype == np.int32
    assert ids.tolist() == [[3, 4], [1, 0], [4, 0]]


def test_tags_of_other_rows_are_out_of_vocabulary() -> None:
    _, ids = one(Tags("tags"), Ragged(np.array(["x", "y", "z", "y"]), np.array([0, 2, 4])), np.array([0]))
    assert ids.tolist() == [[3, 4], [2, 4]]


def test_tags_keep_the_first_max_values() -> None:
    _, ids = one(
        Tags("tags", max_values=1), Ragged(np.array(["x", "y", "y"]), np.array([0, 2, 3])), np.arange(2)
    )
    assert ids.tolist() == [[3], [4]]


def test_a_row_longer_than_any_of_training_is_refused() -> None:
    tags = Ragged(np.array(["x", "y", "y"]), np.array([0, 1, 3]))
    with pytest.raises(
        ValueError, match="tags: row 1 has 2 values, the longest training row 1; give max_values"
    ):
        one(Tags("tags"), tags, np.array([0]))


# Numbers


def test_numbers_are_standardised_by_training_rows() -> None:
    x = np.array([1.0, 3.0, 5.0, 100.0])
    _, column = one(Number("x"), x, np.array([0, 1, 2]))
    assert column.dtype == np.float32
    assert np.allclose(column, (x - 3) / np.std([1, 3, 5]))


def test_the_logarithm_keeps_the_sign() -> None:
    _, column = one(Number("x", log=True, standardise=False), np.array([-1, 0, 1, 9]))
    assert np.allclose(column, [-np.log(2), 0, np.log(2), np.log(10)])


@pytest.mark.parametrize("value", [7.0, 0.1, -0.7, 1e9 / 3])
def test_a_constant_number_becomes_0_and_another_its_distance(value: float) -> None:
    raw = {"x": np.append(np.full(1000, value), value + 0.5)}
    encoders = fit_encoders((Number("x"),), raw, np.arange(1000))
    found = encode(encoders, raw)["x"]
    assert (found[:-1] == 0).all()
    assert found[-1] == np.float32(0.5)


def test_missing_numbers_are_refused_or_indicated() -> None:
    raw = {"x": np.array([1.0, np.nan, 3.0, 2.0])}
    with pytest.raises(
        ValueError, match=r"x: missing \(NaN\) at row 1 \(1 such rows\); use Number\(missing="
    ):
        fit_encoders((Number("x"),), raw, np.array([0, 2]))
    encoders = fit_encoders((Number("x", missing="indicator"),), raw, np.array([0, 2]))
    columns = encode(encoders, raw)
    assert [field.name for field in encoders.fields] == ["x", "x_missing"]
    assert columns["x_missing"].tolist() == [0, 1, 0, 0]
    assert columns["x"].tolist() == [-1, 0, 1, 0]  # the training mean is 2, its deviation 1


def test_buckets_hold_equal_shares_and_missing_is_its_own() -> None:
    x = np.append(np.arange(8.0), np.nan)
    encoders, ids = one(Buckets("x", num_buckets=4), x, np.arange(9))
    assert ids.dtype == np.int32
    assert ids.tolist() == [3, 3, 4, 4, 5, 5, 6, 6, 1]
    assert encoders.fields[0].vocab_size == 3 + 4
    assert (decode(encoders.fields[0], ids[2:8]) <= x[2:8]).all()  # the lower end of each bucket


def test_buckets_are_cut_by_training_rows() -> None:
    _, ids = one(Buckets("x", num_buckets=2), np.array([0.0, 1.0, 2.0, 3.0, 1e6, 1e6, 7.0]), np.arange(4))
    assert ids.tolist() == [3, 3, 4, 4, 4, 4, 4]


def test_buckets_of_given_edges_and_of_few_values() -> None:
    _, ids = one(Buckets("x", edges=(0.0, 10.0)), np.array([-1.0, 0.0, 9.0, 10.0]))
    assert ids.tolist() == [3, 4, 4, 5]
    encoders, ids = one(Buckets("x", num_buckets=10), np.array([0.0, 0.0, 0.0, 1.0]))
    assert ids.tolist() == [3, 3, 3, 4]
    assert encoders.fields[0].vocab_size == 5


@pytest.mark.parametrize(
    "specs, raw, message",
    [
        ((), {"x": ALL}, "features: none given"),
        ((Category("x"), Number("x")), {"x": ALL}, "features: x given; names must differ"),
        (
            (Number("x", missing="indicator"), Number("x_missing")),
            {"x": ALL, "x_missing": ALL},
            "x_missing given",
        ),
        ((Category("y"),), {"x": ALL}, "y: there is no raw column 'y' among 'x'"),
        ((Category("x"), Category("y")), {"x": ALL, "y": ALL[:2]}, "must have the same number"),
        ((Category("x"),), {"x": ALL / 2}, "x: raw ids of type float64"),
        (
            (Category("x"),),
            {"x": Ragged(ALL, np.array([0, 1, 2, 3, 4]))},
            "x: .*several values per row; use Tags",
        ),
        ((Tags("x"),), {"x": ALL}, "x: .*one value per row; use Category"),
        ((Tags("x"),), {"x": Ragged(ALL, np.array([0, 1, 2, 3, 3]))}, "x: offsets must ascend from 0 to 4"),
        ((Category("x"),), {"x": Coded(ALL, np.array(["a", "b"]))}, "x: codes must be integers within -1..1"),
        ((Category("x"),), {"x": Coded(ALL, np.array(list("aabc")))}, "x: values .* must be distinct"),
        ((Category("x", missing=("a",)),), {"x": ALL}, "x: missing=.* is not of the column's type int64"),
        ((Number("x", missing="mean"),), {"x": ALL}, "x: missing='mean': must be 'error' or 'indicator'"),  # type: ignore[arg-type]
        ((Category("x", min_count=0),), {"x": ALL}, "x: min_count=0"),
        ((Category("x", min_count=1.5),), {"x": ALL}, "x: min_count=1.5: must be a whole number"),  # type: ignore[arg-type]
        ((Category("x", min_count=True),), {"x": ALL}, "x: min_count=True: must be a whole number"),
        ((Category("x", min_count=9),), {"x": ALL}, "vocabulary 'x': no value occurs 9 times"),
        (
            (Category("x", vocabulary="v"), Category("y", vocabulary="v", min_count=2)),
            {"x": ALL, "y": ALL},
            "y: min_count=2: .* the same",
        ),
        (
            (Category("x", vocabulary="v"), Category("y", vocabulary="v")),
            {"x": ALL, "y": np.array(list("abcd"))},
            "vocabulary 'v': some columns hold text",
        ),
        ((Number("x"),), {"x": np.array([0, 1, np.inf, 2])}, "x: inf at row 2 is not finite"),
        ((Number("x"),), {"x": np.array(list("abcd"))}, "x: expected an array of numbers"),
        ((Buckets("x"),), {"x": np.full(4, np.nan)}, "x: every training row is missing"),
        ((Buckets("x", edges=(1.0, 1.0)),), {"x": ALL}, "x: edges="),
        ((Buckets("x", num_buckets=1),), {"x": ALL}, "x: num_buckets=1"),
        ((Buckets("x", num_buckets=2.5),), {"x": ALL}, "x: num_buckets=2.5: must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_bad_raw_columns_are_refused(specs: Any, raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_encoders(specs, raw, ALL)


@pytest.mark.parametrize("rows", [np.array([], int), np.array([4]), np.array([-1]), np.array([True, False])])
def test_bad_training_rows_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="train_rows: expected at least one index, integers within 0..3"):
        fit_encoders((Category("x"),), {"x": ALL}, rows)


def test_an_id_outside_the_vocabulary_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="x: id 9 is outside 0..3"):
        decode(Field("x", "categorical", 4, "x", np.array(["a"])), [9])


# The table


def table(**changes: Any) -> Impressions:
    given: dict[str, Any] = {
        "name": "toy",
        "columns": {
            "city": np.array([3, 4, 1, 2, 3, 4], np.int32),
            "tags": np.array([[3, 0], [3, 4], [1, 0], [2, 0], [4, 3], [3, 0]], np.int32),
            "price": np.arange(6, dtype=np.float32),
        },
        "fields": (
            Field("city", "categorical", 5, "city", np.array(["a", "b"])),
            Field("tags", "multi", 5, "tags", np.array(["x", "y"])),
            Field("price", "numeric", 0, "", np.empty(0)),
        ),
        "labels": {
            "click": np.array([1, 1, 0, 0, 1, 0], np.float32),
            "buy": np.array([1, 0, 0, 0, 1, 0], np.float32),
        },
        "spaces": {"buy": np.array([1, 1, 0, 0, 1, 0], bool)},
        "group": np.array([0, 0, 1, 1, 2, 2], np.int32),
        "time": np.arange(6, dtype=np.int64),
    }
    return Impressions(**given | changes)


def column(name: str, value: Any) -> dict[str, Any]:
    return {"columns": {**table().columns, name: value}}


FIELDS = table().fields


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            column("price", np.array([0, 1, np.nan, 3, 4, 5], np.float32)),
            "price: nan at row 2 .1 such. is not finite",
        ),
        (column("price", np.array([0, 1, 2, 3, np.inf, 5], np.float32)), "price: inf at row 4"),
        (column("price", np.arange(6.0)), "price: float64.*expected a NumPy array float32"),
        (column("city", np.array([3, 4, -1, 2, 3, 4], np.int32)), "city: id -1 at row 2 .* is outside 1..4"),
        (column("city", np.array([3, 4, 0, 2, 3, 4], np.int32)), "city: id 0 at row 2 .* is outside 1..4"),
        (column("city", np.array([3, 4, 5, 2, 3, 4], np.int32)), "city: id 5 at row 2 .* is outside 1..4"),
        (column("city", np.array([3, 4, 1, 2, 3, 4])), "city: int64.*expected a NumPy array int32"),
        (column("city", np.array([3, 4, 1], np.int32)), "city has 3 rows, the labels 6"),
        (
            column("tags", np.array([3, 4, 1, 2, 3, 4], np.int32)),
            "tags: .*expected a NumPy array int32 of rank 2",
        ),
        (column("tags", np.zeros((6, 2), np.int32)), "tags: row 0 is all padding; give it id 1"),
        (column("other", np.zeros(6, np.float32)), "one field for each column"),
        ({"fields": FIELDS[:2]}, "one field for each column"),
        (
            {"fields": (FIELDS[0], FIELDS[1]._replace(vocab_size=6, vocabulary="city"), FIELDS[2])},
            "tags: vocab_size 6",
        ),
        ({"labels": {}}, "there is no label"),
        (
            {"labels": {"click": np.array([0, 1, 2, 0, 0, 0], np.float32)}, "spaces": {}},
            "label/click: 2.0 at row 2",
        ),
        (
            {"labels": {"click": np.array([0, 1, np.nan, 0, 0, 0], np.float32)}, "spaces": {}},
            "label/click: nan at row 2",
        ),
        (
            {"labels": {"click": np.zeros(6, int)}, "spaces": {}},
            "label/click: int64.*expected a NumPy array float32",
        ),
        (
            {"labels": {"mask": np.zeros(6, np.float32)}, "spaces": {}},
            "'mask' is a name that batches use for another column",
        ),
        ({"spaces": {"view": np.ones(6, bool)}}, "spaces of \\['view'\\]: no such task"),
        ({"spaces": {"buy": np.zeros(6, bool)}}, "space/buy: no row is in it"),
        ({"spaces": {"buy": np.ones(6, np.float32)}}, "space/buy: float32.*expected a NumPy array bool"),
        ({"regression": ("rating",)}, "regression of \\['rating'\\]: no such task"),
        ({"group": np.array([0, 0, 1, 1, 2, -2], np.int32)}, "group -2: must not be negative"),
        ({"time": np.full(6, 10**12)}, "looks like milliseconds"),
    ],
)
def test_bad_columns_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(**changes)


def test_a_real_valued_task_is_named() -> None:
    rating = np.array([3, 4.5, -1, 2, 5, 0], np.float32)
    assert table(labels={"rating": rating}, spaces={}, regression=("rating",)).tasks == ("rating",)


def test_training_columns_carry_the_names_of_a_batch() -> None:
    columns = table().columns_for_training()
    assert list(columns) == ["city", "tags", "price", "label/click", "label/buy", "space/buy", "group"]
    assert columns["space/buy"].dtype == bool
    assert "group" not in table(group=None).columns_for_training()


def test_batches_hold_each_row_once_and_pad_with_zeros() -> None:
    rows = np.array([5, 0, 1])
    whole = table()
    batches = whole.batched(rows, 2, multiple=4)
    assert batches["mask"].shape == (4, 2)
    assert batches["tags"].shape == (4, 2, 2)
    assert batches["mask"].reshape(-1).tolist() == [True] * 3 + [False] * 5
    for name, values in whole.columns_for_training().items():
        flat = batches[name].reshape(8, *values.shape[1:])
        assert flat.dtype == values.dtype
        assert np.array_equal(flat[:3], values[rows])
        assert not flat[3:].any()


@pytest.mark.parametrize("size, multiple", [(0, 1), (2, 0)])
def test_bad_batch_sizes_are_refused(size: int, multiple: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        table().batched(ALL, size, multiple=multiple)


def test_a_funnel_gives_the_tasks_of_esmm() -> None:
    whole = table(spaces={})
    funnel = whole.as_ctr_cvr("click", "buy")
    assert funnel.tasks == ("ctr", "cvr", "ctcvr")
    assert np.array_equal(funnel.labels["ctcvr"], whole.labels["buy"])
    assert np.array_equal(funnel.spaces["cvr"], whole.labels["click"] == 1)
    assert list(funnel.spaces) == ["cvr"]
    split = whole.split(np.array([0, 1, 2]), np.array([3]), np.array([4, 5])).as_ctr_cvr("click", "buy")
    assert split.impressions.tasks == funnel.tasks
    assert split.test.tolist() == [4, 5]


def test_a_conversion_without_a_click_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 1 \(1 such\) has click = 1 and buy = 0"):
        table(spaces={}).as_ctr_cvr("buy", "click")
    with pytest.raises(ValueError, match="'buy' is no task with labels 0 and 1 on every row"):
        table().as_ctr_cvr("click", "buy")  # it has a space


def test_ids_turn_back_into_raw_values() -> None:
    assert table().raw_values("city", np.array([0, 2])).tolist() == ["a", "<missing>"]
    with pytest.raises(ValueError, match="'town' is no feature; features: city, tags, price"):
        table().raw_values("town", np.array([0]))


# Splits


@pytest.mark.parametrize(
    "train, validation, test, message",
    [
        ([0, 1], [2], [], "test: it is empty"),
        ([], [2], [3], "train: it is empty"),
        ([0, 1], [1], [2], "row 1 is in validation and in train"),
        ([0, 1], [2], [3, 0], "row 0 is in test and in train"),
        ([0, 0], [2], [3], "train holds a row twice"),
        ([0, 6], [2], [3], "train: expected integer row indices of rank 1 within 0..5"),
        ([0, -1], [2], [3], "train: expected integer row indices"),
        ([0.5], [2], [3], "train: expected integer row indices"),
    ],
)
def test_bad_splits_are_refused(
    train: list[int], validation: list[int], test: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"toy \(given rows\): {message}"):
        table().split(np.array(train), np.array(validation), np.array(test))


def test_random_rows_are_shares_of_all_and_follow_the_seed() -> None:
    rows = split_at_random(1000, validation=0.1, test=0.2, seed=3)
    assert [len(part) for part in rows[:3]] == [700, 100, 200]
    assert np.array_equal(np.sort(np.concatenate(rows[:3])), np.arange(1000))
    assert np.array_equal(rows.test, split_at_random(1000, validation=0.1, test=0.2, seed=3).test)
    assert not np.array_equal(rows.test, split_at_random(1000, validation=0.1, test=0.2, seed=4).test)


@pytest.mark.parametrize(
    "validation, test, sizes", [(0.1, 0, (90, 10, 0)), (0, 0.1, (90, 0, 10)), (0, 0, (100, 0, 0))]
)
def test_time_rows_of_a_share_of_0_are_none(validation: float, test: float, sizes: tuple[int, ...]) -> None:
    rows = split_in_time_order(np.arange(100) * 7, validation=validation, test=test)
    assert tuple(map(len, rows[:3])) == sizes


def test_time_rows_keep_equal_times_together() -> None:
    time = np.array([5, 1, 2, 2, 2, 2, 3, 4, 9, 9])
    rows = split_in_time_order(time, validation=0.2, test=0.1)
    assert (
        time[rows.train].max()
        < time[rows.validation].min()
        <= time[rows.validation].max()
        < time[rows.test].min()
    )
    assert np.array_equal(np.sort(np.concatenate(rows[:3])), np.arange(10))
    assert len(rows.test) == 2  # both of time 9, though a tenth would be one


@pytest.mark.parametrize("validation, test", [(0.5, 0.5), (-0.1, 0.1), (float("nan"), 0.1)])
def test_bad_shares_are_refused(validation: float, test: float) -> None:
    for split in (
        lambda **shares: split_at_random(10, **shares),
        lambda **shares: split_in_time_order(np.arange(10), **shares),
    ):
        with pytest.raises(ValueError, match="shares must not be negative"):
            split(validation=validation, test=test)


def test_a_split_is_described() -> None:
    text = format_impressions(table().split(np.array([0, 1, 2, 3]), np.array([4]), np.array([5])))
    assert "toy: 6 rows, 3 features; train 4, validation 1, test 1 (given rows)" in text
    assert "train 50.000%" in text
    assert "train 50.000% of 2" in text  # buy, of the clicked rows
    assert "test no rows" in text
    assert "city (5 ids)" in text
    assert "price (number)" in text


def test_correlation_is_taken_where_both_tasks_have_labels() -> None:
    whole = table(spaces={})
    click, buy = whole.labels["click"], whole.labels["buy"]
    assert np.isclose(label_correlation(whole, "click", "buy"), np.corrcoef(click, buy)[0, 1])
    rows = np.array([0, 1, 2, 5])
    assert np.isclose(
        label_correlation(whole, "click", "buy", rows), np.corrcoef(click[rows], buy[rows])[0, 1]
    )


# Unobserved pairs


def test_sampled_pairs_avoid_what_was_seen_up_to_their_part() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.permutation(5 * 8)[:25]
    user, item = pairs // 8, pairs % 8
    parts = split_at_random(25, validation=0.2, test=0.2, seed=1)
    sampled = add_unobserved(user, item, 8, parts, negatives_per_pair=40, seed=2)
    assert np.array_equal(sampled.user[:25], user)
    assert np.array_equal(sampled.item[:25], item)
    assert sampled.observed.tolist() == [True] * 25 + [False] * 25 * 40
    assert np.array_equal(sampled.user, user[sampled.origin])
    seen: set[tuple[int, int]] = set()
    for part, rows in zip(parts[:3], sampled.split[:3], strict=True):
        seen |= {(int(user[row]), int(item[row])) for row in part}
        assert np.array_equal(np.unique(sampled.origin[rows]), part)
        drawn = {
            (int(sampled.user[row]), int(sampled.item[row])) for row in rows if not sampled.observed[row]
        }
        users = {u for u, _ in drawn}
        assert drawn == {(u, i) for u in users for i in range(8)} - seen  # none that was seen, and all others


def test_a_user_of_every_item_has_no_negative() -> None:
    parts = split_at_random(3, validation=0, test=0)
    with pytest.raises(ValueError, match="user 0 has been seen with all 2 items"):
        add_unobserved(np.array([0, 0, 1]), np.array([0, 1, 0]), 2, parts, negatives_per_pair=1, seed=0)
