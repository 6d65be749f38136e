"""Formats of behaviour histories that no public address gives: Amazon reviews, Taobao, FuxiCTR's tables."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data.__main__ import main
from jaxrec.data.events.event_files import read_csv
from jaxrec.data.sources import aliexpress, amazon, fuxictr, taobao
from jaxrec.data.tables import table_reader
from jaxrec.data.tables.click_histories import next_clicks
from jaxrec.data.tables.columns import Coded, Ragged

Write = Callable[[str, str | bytes], Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def arrow() -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")


def sample(data_dir: Path, name: str) -> Path:
    path = data_dir / "samples" / name
    if not path.exists():
        pytest.skip(f"{path.name} is not in the data folder")
    return path


# Amazon

REVIEWS: list[dict[str, object]] = [
    {"reviewerID": "B", "asin": "P2", "unixReviewTime": 300, "overall": 5.0, "reviewText": 'a "b" é'},
    {"reviewerID": "A", "asin": "P3", "unixReviewTime": 200},
    {"reviewerID": "B", "asin": "P1", "unixReviewTime": 100},
    {"reviewerID": "A", "asin": "P1", "unixReviewTime": 200},
]
METADATA: list[dict[str, object]] = [
    {"asin": "P0", "categories": [["Toys"]]},
    {"asin": "P1", "title": "it's", "categories": [["Audio", "Cables"], ["Audio", "Leads"]]},
    {"asin": "P2", "price": 1.5, "categories": [["Audio", "Cables"]]},
    {"categories": [["Zoom"]], "asin": "P3", "related": {"also_bought": ["P1"]}},
]


def json_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def python_lines(rows: list[dict[str, object]]) -> str:
    return "".join(f"{row!r}\n" for row in rows)


@pytest.mark.parametrize("text", [python_lines, json_lines])
def test_amazon_reviews_and_categories(write: Write, text: Callable[[list[dict[str, object]]], str]) -> None:
    reviews = write("reviews.json.gz", gzip.compress(json_lines(REVIEWS).encode()))
    metadata = write("meta.json.gz", gzip.compress(text(METADATA).encode()))
    sequences, side_info = amazon.load(reviews, metadata)
    assert sequences.user_ids.tolist() == ["A", "B"] and sequences.item_ids.tolist() == ["P1", "P2", "P3"]
    assert sequences.offsets.tolist() == [0, 2, 4]
    assert sequences.items.tolist() == [3, 1, 1, 2]  # equal times keep the order of the file
    assert np.asarray(sequences.times).tolist() == [200, 200, 100, 300]
    assert side_info.items["category"].tolist() == [0, 2, 1, 3]  # Leads, Cables, Zoom
    _, first = amazon.load(reviews, metadata, path="first")
    assert first.items["category"].tolist() == [0, 1, 1, 2]


def test_amazon_products_without_a_category_can_share_one(write: Write) -> None:
    reviews = write("reviews.json", json_lines(REVIEWS))
    metadata = write("meta.json", python_lines([METADATA[2], {"asin": "P3", "categories": []}]))
    with pytest.raises(ValueError, match=r"meta.json: no category of product P1 \(2 such of 3\).*unlisted"):
        amazon.load(reviews, metadata)
    _, side_info = amazon.load(reviews, metadata, unlisted="unknown")
    assert side_info.items["category"].tolist() == [0, 2, 1, 2]


def test_amazon_metadata_is_never_run(write: Write, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    line = f"{{'categories': [['a']], 'asin': open({str(trap)!r}, 'w').name}}\n"
    metadata = write("meta.json", line)
    with pytest.raises(ValueError, match="meta.json, line 1: .* is neither JSON nor a Python dict"):
        amazon.load(write("reviews.json", json_lines(REVIEWS)), metadata)
    assert not trap.exists()


@pytest.mark.parametrize(
    "line, message",
    [
        ("{'reviewerID': 'A'}", r"r.json, line 2: .* is no JSON"),
        ("[1]", "r.json, line 2: reviewerID None: expected text"),
        ('{"reviewerID": "A", "asin": ""}', "r.json, line 2: asin '': expected text"),
        ('{"reviewerID": "A", "asin": "P"}', "line 2: unixReviewTime None: expected seconds"),
        ('{"reviewerID": "A", "asin": "P", "unixReviewTime": 1.5}', "unixReviewTime 1.5"),
        ('{"reviewerID": "A", "asin": "P", "unixReviewTime": true}', "unixReviewTime True"),
        ('{"reviewerID": "A", "asin": "P", "unixReviewTime": 1300000000000}', "looks like milliseconds"),
        ('{"reviewerID": "A", "asin": "P", "unixReviewTime": 99999999999999999999}', "unixReviewTime 9999"),
    ],
)
def test_bad_amazon_reviews_are_refused(write: Write, line: str, message: str) -> None:
    good = json_lines(REVIEWS[:1])
    with pytest.raises(ValueError, match=message):
        amazon.read_reviews(write("r.json", f"{good}{line}\n"))


@pytest.mark.parametrize(
    "line, message",
    [
        ("{'asin': 'P1', 'categories': ['Audio'", "m.json, line 2: .* is neither JSON nor a Python dict"),
        ("{'asin': 'P1', 'categories': [[]]}", r"m.json, line 2: categories \[\[\]\]: expected lists"),
        ("{'asin': 'P1', 'categories': {'a': 1}}", "line 2: categories .*expected lists of names"),
        ("{'asin': 'P1', 'categories': [[5]]}", r"categories \[\[5\]\]"),
        ("{'asin': 'P1', 'categories': [[5, 'Audio']]}", r"categories \[\[5, 'Audio'\]\]: expected lists"),
        ("{'asin': 'P1', 'categories': [['Audio', '']]}", "line 2: categories .*expected lists of names"),
        (
            "{'asin': 'P1', 'categories': ['Electronics', 'Cables']}",
            r"m.json, line 2: categories \['Electronics', 'Cables'\]: expected lists of names, such as "
            r"\[\['Electronics', 'Cables'\]\]; repair the line or take it out",
        ),
        ("{'asin': 'P1', 'categories': 'Cables'}", "line 2: categories 'Cables': expected lists of names"),
        ("{'asin': 'P1', 'categories': [['Audio'], 'Cables']}", "line 2: categories .*expected lists"),
        ("{'title': 'P1'}", "line 2: asin None: expected text"),
        (
            "{'asin': 'P2', 'categories': [['Zoom']]}",
            "line 2: product P2 is of category 'Zoom', and of 'Cables'",
        ),
        ("{'asin': " + "(" * 5000, "m.json, line 2: .* is neither JSON"),
    ],
)
def test_bad_amazon_metadata_is_refused(write: Write, line: str, message: str) -> None:
    path = write("m.json", python_lines(METADATA[2:3]) + line + "\n")
    with pytest.raises(ValueError, match=message):
        amazon.read_categories(path, {"P1", "P2"})


def test_only_the_path_that_is_read_has_to_be_a_list(write: Write) -> None:
    """Of ['Audio', ['Toys', 'Cubes']] the last is a path and the first is not."""
    metadata = write("m.json", python_lines([{"asin": "P1", "categories": ["Audio", ["Toys", "Cubes"]]}]))
    assert amazon.read_categories(metadata, {"P1"}, path_of="last") == {"P1": "Cubes"}
    with pytest.raises(ValueError, match="line 1: categories .*expected lists of names"):
        amazon.read_categories(metadata, {"P1"}, path_of="first")


def test_damaged_and_empty_amazon_files_are_refused(write: Write) -> None:
    whole = gzip.compress(json_lines(REVIEWS).encode())
    for content in (whole[:-12], b"no gzip"):
        with pytest.raises(ValueError, match="r.json.gz, after line .*the file is damaged"):
            amazon.read_reviews(write("r.json.gz", content))
    with pytest.raises(ValueError, match="r.json: the file is empty"):
        amazon.read_reviews(write("r.json", ""))
    with pytest.raises(ValueError, match="path='longest'"):
        amazon.load("r", "m", path="longest")  # type: ignore[arg-type]


def test_amazon_electronics_sample(arrow: None, data_dir: Path) -> None:
    path = sample(data_dir, "torch-rechub/amazon-electronics/amazon_electronics_sample.csv")
    sequences, side_info = amazon.load_table(path)
    rows = np.array([line.split(",") for line in path.read_text().splitlines()[1:]]).astype(int)
    assert len(rows) == len(sequences.items) == 100
    assert sequences.user_ids.tolist() == np.unique(rows[:, 0]).tolist()
    category = dict(rows[:, [1, 3]].tolist())
    names = sorted(set(category.values()))
    raw = sequences.item_ids[sequences.items - 1].tolist()
    assert sorted(raw) == sorted(rows[:, 1].tolist())
    found = side_info.items["category"][sequences.items]
    assert [names[i - 1] for i in found] == [category[item] for item in raw]
    clicks = next_clicks(sequences, side_info=side_info)
    assert clicks.side_info.items["category"] is side_info.items["category"]


@pytest.mark.parametrize("kind", ["books", "beauty"])
def test_amazon_samples_without_categories(arrow: None, data_dir: Path, kind: str) -> None:
    path = sample(data_dir, f"torch-rechub/amazon-{kind}/amazon_{kind}_sample.csv")
    with pytest.raises(ValueError, match="no column 'cate_id' in the header .*category=None"):
        amazon.load_table(path)
    sequences, side_info = amazon.load_table(path, category=None)
    assert not side_info.items and not side_info.users
    same = read_csv(path, user="user_id", item="item_id").to_sequences()
    assert sequences.statistics() == same.statistics()


@pytest.mark.parametrize(
    "rows, message",
    [
        ("1,5,9,7\n1,5,9,8\n", r"t.csv: cate_id: item 5 has 7 and in event 1 8 \(1 such"),
        ("1,5,9,7\n1,,9,7\n", "t.csv, line 3: item_id is missing"),
        ("1,5,9,7\n1,x,9,7\n", "t.csv: .*column #1: Row #3: .*'x'; repair"),
        ("1,5,9,7\n1,5\n", "t.csv: .*Row #3: Expected 4 columns, got 2"),
        ("", "t.csv: there are no rows"),
    ],
)
def test_bad_amazon_tables_are_refused(arrow: None, write: Write, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        amazon.load_table(write("t.csv", "user_id,item_id,time,cate_id\n" + rows))


# Taobao

START = taobao.WINDOW[0]
EVENTS = [
    (7, 50, 900, "pv", START + 5),
    (7, 40, 800, "buy", START + 6),
    (7, 40, 800, "pv", START + 4),
    (3, 50, 900, "pv", START),
    (3, 60, 900, "cart", START + 9),
]


def lines(events: list[tuple[object, ...]]) -> str:
    return "".join(",".join(map(str, event)) + "\n" for event in events)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_taobao_events(arrow: None, write: Write, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(taobao, "CHUNK", size)
    path = write("UserBehavior.csv", lines(EVENTS))  # type: ignore[arg-type]
    sequences, side_info = taobao.load(path)
    assert sequences.user_ids.tolist() == [3, 7] and sequences.item_ids.tolist() == [40, 50]
    assert [sequences.user_items(u).tolist() for u in range(2)] == [[2], [1, 2]]
    assert np.asarray(sequences.times).tolist() == [START, START + 4, START + 5]
    assert side_info.items["category"].tolist() == [0, 1, 2]
    sequences, side_info = taobao.load(path, behaviours=taobao.BEHAVIOURS)
    assert [sequences.user_items(u).tolist() for u in range(2)] == [[2, 3], [1, 2, 1]]
    assert side_info.items["category"].tolist() == [0, 1, 2, 2]


def test_taobao_blocks_of_any_size_give_the_same(
    arrow: None, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(1, 9, 300), rng.integers(1, 40, 300)
    kind = [taobao.BEHAVIOURS[k] for k in rng.integers(0, 4, 300)]
    time = START + rng.integers(0, 1000, 300)
    path = write("u.csv", lines(list(zip(user, item, item % 5, kind, time, strict=True))))
    whole, side_info = taobao.load(path, behaviours=("pv", "buy"))
    original = table_reader.read_blocks
    monkeypatch.setattr(taobao, "read_blocks", lambda *a, **k: original(*a, **k, block_bytes=200))
    again, same = taobao.load(path, behaviours=("pv", "buy"))
    for name in ("items", "times", "offsets", "user_ids", "item_ids"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))
    np.testing.assert_array_equal(side_info.items["category"], same.items["category"])
    kept = np.isin(kind, ["pv", "buy"])
    assert len(whole.items) == kept.sum()
    assert whole.item_ids.tolist() == np.unique(item[kept]).tolist()


def test_taobao_events_of_other_days_are_dropped_by_name_only(arrow: None, write: Write) -> None:
    stray = (3, 70, 900, "pv", 5)
    path = write("u.csv", lines([*EVENTS, stray]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"u.csv, line 6: time 5 is not in 1511539200..1512316799; outside="):
        taobao.load(path)
    assert taobao.load(path, outside="drop")[0].item_ids.tolist() == [40, 50]
    assert taobao.load(path, window=None)[0].item_ids.tolist() == [40, 50, 70]
    assert len(taobao.load(write("v.csv", lines([*EVENTS, (*stray[:3], "fav", 5)])))[0].items) == 3  # type: ignore[list-item]


def test_taobao_items_of_two_categories(arrow: None, write: Write) -> None:
    path = write("u.csv", lines([*EVENTS, (9, 40, 900, "pv", START)]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="u.csv: category: item 40 has 800 and in event 3 900"):
        taobao.load(path)
    assert taobao.load(path, inconsistent="first")[1].items["category"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "event, message",
    [
        ((1, 2, 3, "click", START), "u.csv, line 6: behaviour 'click': expected one of pv, cart, fav, buy"),
        ((1, 2, 3, "", START), "u.csv, line 6: behaviour ''"),
        ((1, "", 3, "pv", START), "u.csv, line 6: item is missing"),
        ((1, 2, 3, "pv", ""), "u.csv, line 6: time is missing"),
        ((1, 2, "x", "pv", START), "u.csv: .*Row #6: .*'x'; repair the file"),
        ((2**31, 2, 3, "pv", START), "u.csv, line 6: user 2147483648 is outside 0..2"),
        ((-1, 2, 3, "pv", START), "u.csv, line 6: user -1"),
        ((1, 2, 3, "pv"), "u.csv: .*Expected 5 columns, got 4"),
    ],
)
def test_bad_taobao_events_are_refused(
    arrow: None, write: Write, event: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        taobao.load(write("u.csv", lines([*EVENTS, event])))  # type: ignore[list-item]


def test_bad_taobao_settings_are_refused(arrow: None, write: Write) -> None:
    path = write("u.csv", lines(EVENTS))  # type: ignore[arg-type]
    for change, message in (
        ({"behaviours": ("view",)}, "behaviours=.'view',.: name some of pv"),
        ({"behaviours": ()}, "name some of"),
        ({"outside": "clip"}, "outside='clip'"),
        ({"behaviours": ("fav",)}, "none of 5 events is a fav in the window"),
    ):
        with pytest.raises(ValueError, match=message):
            taobao.load(path, **change)  # type: ignore[arg-type]


# FuxiCTR


def parts(data_dir: Path, folder: str, suffix: str, described: str) -> list[Path]:
    names = ("train", "valid", "test")
    tail = "_sample.csv" if suffix == "csv" else f".{suffix}"
    return [
        *(sample(data_dir, f"fuxictr/{folder}/{name}{tail}") for name in names),
        sample(data_dir, f"fuxictr/{described}/feature_map.json"),
    ]


def test_fuxictr_samples_of_both_forms_hold_the_same(arrow: None, data_dir: Path) -> None:
    """The packed sample was made from the CSV, padding at the end: rows agree up to the names of ids."""
    text = fuxictr.load(*parts(data_dir, "tiny_csv", "csv", "tiny_seq"), keep="first", group="userid")
    packed = fuxictr.load(*parts(data_dir, "tiny_seq", "npz", "tiny_seq"), group="userid")
    one, two = text.impressions, packed.impressions
    assert [len(part) for part in (text.train, text.validation, text.test)] == [100, 100, 100]
    assert one.name == "fuxictr/tiny_seq" and one.tasks == ("clk",) and len(one.fields) == 15
    assert one.columns["click_sequence"].shape == two.columns["click_sequence"].shape == (300, 5)
    sizes = [{field.name: field.vocabulary for field in table.fields} for table in (one, two)]
    assert sizes[0] == sizes[1] and sizes[0]["click_sequence"] == "adgroup_id"
    np.testing.assert_array_equal(one.labels["clk"], two.labels["clk"])
    rows = text.train
    for name in ("userid", "adgroup_id", "brand", "click_sequence"):
        pairs = {*zip(one.columns[name][rows].ravel(), two.columns[name][rows].ravel(), strict=True)}
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert one.group is not None and two.group is not None
    assert np.unique(one.group).size == np.unique(two.group).size == 24


def test_fuxictr_sequences_keep_their_last_values(arrow: None, data_dir: Path) -> None:
    split = fuxictr.load(*parts(data_dir, "tiny_csv", "csv", "tiny_seq"))
    found = split.impressions.raw_values("click_sequence", split.train[:4])
    assert found[0].tolist() == ["170301", "573514", *["<padding>"] * 3]
    assert found[2].tolist() == ["573514", "158525", "633154", "383937", "431258"]  # of six
    late = split.impressions.raw_values("click_sequence", split.test[0])
    assert late.tolist() == ["<missing>", *["<padding>"] * 4]


def test_fuxictr_sample_without_sequences(data_dir: Path) -> None:
    split = fuxictr.load(*parts(data_dir, "tiny_npz", "npz", "tiny_npz"), min_count=2)
    assert len(split.impressions.fields) == 14
    with np.load(sample(data_dir, "fuxictr/tiny_npz/train.npz")) as packed:
        raw = packed["pid"]
    found = split.impressions.raw_values("pid", split.train)
    assert found.tolist() == raw.tolist()


def test_fuxictr_multi_task_sample_is_of_the_form_of_aliexpress(arrow: None, data_dir: Path) -> None:
    train, test = (sample(data_dir, f"fuxictr/tiny_mtl/{part}.csv") for part in ("train", "test"))
    table = aliexpress.load(train, test, validation=0.2).impressions
    assert table.num_rows == 200 and table.tasks == ("click", "conversion")


MAP = {
    "dataset_id": "made",
    "labels": ["y"],
    "features": [
        {"user": {"type": "meta"}},
        {"item": {"type": "categorical", "vocab_size": 5}},
        {"price": {"type": "numeric"}},
        {"seen": {"type": "sequence", "vocab_size": 5, "max_len": 2, "share_embedding": "item"}},
    ],
}


def packed(write: Write, name: str, **change: np.ndarray) -> Path:
    columns: dict[str, np.ndarray] = {
        "y": np.array([0.0, 1, 0]),
        "item": np.array([1, 2, 0]),
        "price": np.array([0.5, 1, 2]),
        "seen": np.array([[0, 1], [3, 2], [0, 0]]),
    }
    path = write(name, b"")
    np.savez(path, **(columns | change))  # type: ignore[arg-type]
    return path


def test_fuxictr_columns_by_hand(write: Write) -> None:
    described = write("map.json", json.dumps(MAP))
    first, second, third = (packed(write, f"{part}.npz") for part in ("a", "b", "c"))
    table = fuxictr.load(first, second, third, described).impressions
    assert [(f.name, f.kind, f.vocab_size, f.vocabulary) for f in table.fields] == [
        ("item", "categorical", 6, "item"),  # 3 known values, 3 ids before them
        ("price", "numeric", 0, ""),
        ("seen", "multi", 6, "item"),
    ]
    assert table.columns["item"][:3].tolist() == [3, 4, 1]  # raw 1, 2, none
    assert table.columns["seen"][:3].tolist() == [[3, 0], [5, 4], [1, 0]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"item": np.array([1, 5, 2])}, r"b.npz: item: 5 at row 1 \(1 such\) is no id within 0..4"),
        ({"seen": np.array([[0, -1], [1, 1], [1, 1]])}, "b.npz: seen: -1 at row 0"),
        ({"item": np.array([1.5, 1, 2])}, "b.npz: item: 1.5 at row 0"),
        ({"item": np.array([np.nan, 1, 2])}, "b.npz: item: nan at row 0"),
        ({"seen": np.zeros((3, 3), int)}, r"b.npz: seen: int64\[3, 3\], expected numbers \[3, 2\]"),
        ({"item": np.array([1, 2])}, r"b.npz: item: int64\[2\], expected numbers \[3\]"),
        ({"item": np.array(["a", "b", "c"])}, "b.npz: item: <U1"),
        ({"item": np.array([None, 1, 2], object)}, "b.npz: Object arrays cannot be loaded"),
        ({"price": np.array([0.5, np.nan, 2])}, "price: missing .NaN. at row 4"),
        ({"y": np.array([0.0, 2, 0])}, "label/y: 2.0 at row 4"),
    ],
)
def test_bad_fuxictr_columns_are_refused(write: Write, change: dict[str, np.ndarray], message: str) -> None:
    described = write("map.json", json.dumps(MAP))
    good, other = packed(write, "a.npz"), packed(write, "b.npz", **change)
    with pytest.raises(ValueError, match=message):
        fuxictr.load(good, other, good, described)


def test_bad_fuxictr_files_are_refused(write: Write) -> None:
    described = write("map.json", json.dumps(MAP))
    good = packed(write, "a.npz")
    other = write("b.npz", b"PK no archive")
    with pytest.raises(ValueError, match="b.npz: .*expected an .npz file of the columns of the map"):
        fuxictr.load(good, other, good, described)
    np.savez(other, y=np.zeros(3))
    with pytest.raises(ValueError, match="b.npz: 'item' is not among the columns y"):
        fuxictr.load(good, other, good, described)
    with pytest.raises(ValueError, match="some are .npz and some not"):
        fuxictr.load(good, write("b.csv", "y\n1\n"), good, described)
    with pytest.raises(ValueError, match="group='user': name one of item"):
        fuxictr.load(good, good, good, described, group="user")
    with pytest.raises(ValueError, match="keep='all'"):
        fuxictr.load(good, good, good, described, keep="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", r"m.json: JSONDecodeError .*; expected JSON {'labels': .*{'type': ...}}, ...\]}$"),
        ([], "m.json: TypeError"),
        ({"labels": ["y"]}, "m.json: KeyError 'features'"),
        ({"labels": ["y"], "features": ["item"]}, "m.json: AttributeError"),
        ({"labels": [], "features": MAP["features"]}, "m.json: labels .., 3 features"),
        ({"labels": ["y"], "features": MAP["features"][:1]}, "0 features"),  # type: ignore[index]
        ({"labels": ["y"], "features": [{"e": {"type": "embedding"}}]}, "m.json: e: type 'embedding'"),
        ({"labels": ["y"], "features": [{"e": {"type": "categorical"}}]}, "m.json: e: vocab_size 0"),
        (
            {"labels": ["y"], "features": [{"e": {"type": "sequence", "vocab_size": 4, "max_len": "5"}}]},
            "m.json: e: max_len '5'",
        ),
        (
            {"labels": ["item"], "features": MAP["features"]},
            "m.json: item: is a label and among the features",
        ),
    ],
)
def test_bad_feature_maps_are_refused(write: Write, content: object, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ValueError, match=message):
        fuxictr.read_map(write("m.json", text))


@pytest.mark.parametrize("block_bytes", [40, 1 << 20])
def test_lists_are_the_same_in_blocks_of_any_size(arrow: None, write: Write, block_bytes: int) -> None:
    cells = ["a^b" if i % 3 == 0 else "" if i % 3 == 1 else f"c{i % 5}^a^^b" for i in range(40)]
    path = write("t.csv", "l,x\n" + "".join(f"{cell},{i}\n" for i, cell in enumerate(cells)))
    raw, _ = table_reader.read_table(
        [path], categories=[], numbers=["x"], lists={"l": "^"}, block_bytes=block_bytes
    )
    column = raw["l"]
    assert isinstance(column, Ragged) and isinstance(column.values, Coded)
    flat = column.values.values[column.values.codes]
    found = [flat[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
    assert found == [cell.split("^") if cell else [] for cell in cells]


# The command line


def test_event_formats_are_described(arrow: None, write: Write, capsys: Capture) -> None:
    assert main(["list"]) == 0
    assert "events taobao FILE" in capsys.readouterr().out
    path = str(write("u.csv", lines([*EVENTS, (3, 70, 900, "pv", 5)])))  # type: ignore[list-item]
    assert main(["events", "taobao", path]) == 2
    assert "line 6: time 5" in capsys.readouterr().err
    assert main(["events", "taobao", path, "--drop-outside"]) == 0
    printed = capsys.readouterr().out
    assert "2 users, 2 items, 3 interactions" in printed and "category of items: 2 values" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["books", "f"], "format 'books': unknown; one of amazon, amazon-din, taobao"),
        (["amazon", "f"], "amazon: 1 files given, expected REVIEWS METADATA"),
        (["amazon-din", "f", "--drop-outside"], "--drop-outside: is for taobao"),
    ],
)
def test_bad_event_commands_are_refused(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(["events", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_fuxictr_table_is_described(arrow: None, data_dir: Path, capsys: Capture) -> None:
    paths = map(str, parts(data_dir, "tiny_csv", "csv", "tiny_seq"))
    assert main(["table", "fuxictr", *paths]) == 0
    assert "fuxictr/tiny_seq: 300 rows, 15 features" in capsys.readouterr().out
