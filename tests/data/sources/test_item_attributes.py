"""Attributes of the items of S3-Rec's data sets: the counts its paper prints, and files of another form."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data import store
from jaxrec.data.sources import coserec
from jaxrec.data.sources.dataset import pick
from jaxrec.data.tables.click_histories import SideInfo, next_clicks

PRINTED = {  # attributes, and how many an item has on average, as the files list them
    "Beauty": (637, 3.72),  # the paper: 1,221 and 5.1
    "Sports_and_Outdoors": (2277, 6.02),
    "Toys_and_Games": (1027, 4.28),
    "Yelp": (1001, 4.84),
}


@pytest.fixture
def data(cache: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    for dataset in coserec.DATASETS:
        for (file,) in dataset.files:
            if store.file_state(file) != "in JAXREC_DATA_DIR":
                pytest.skip(f"{file.path} is not in the data folder")
    return data_dir


@pytest.mark.parametrize("name", PRINTED)
def test_attributes_are_those_counted(data: Path, name: str) -> None:
    dataset = pick(coserec.DATASETS, name)
    _, (file,) = dataset.files
    lists = coserec.parse_attributes(store.read_file(file), dataset.expected.items, file.path)
    number, average = PRINTED[name]
    assert {a for row in lists for a in row} == set(range(1, number + 1))
    assert round(sum(map(len, lists)) / len(lists), 2) == average
    table = coserec.load_attributes(name)
    assert table.dtype == np.int32 and len(table) == dataset.expected.items + 1
    assert not table[0].any() and (table[1:, 0] > 0).all()
    assert table.max() == number + (name == "Yelp")  # one item of Yelp has none
    for item in (1, 77, len(lists)):
        assert table[item][table[item] > 0].tolist() == list(dict.fromkeys(lists[item - 1]))
    ordered = np.sort(table, axis=1)
    assert ((ordered[:, 1:] != ordered[:, :-1]) | (ordered[:, 1:] == 0)).all()  # none twice


def test_attributes_fit_the_items_of_the_sequences(data: Path) -> None:
    """Ids agree: items that follow each other share attributes more often than items drawn at random."""
    sequences, attributes = coserec.load("Beauty"), coserec.load_attributes("Beauty")
    clicks = next_clicks(sequences, side_info=SideInfo({"attributes": attributes}, {}))
    assert clicks.side_info.items["attributes"].shape[0] == sequences.num_items + 1
    rng = np.random.default_rng(0)
    within = np.setdiff1d(np.arange(1, len(sequences.items)), sequences.offsets)

    def share(one: np.ndarray, other: np.ndarray) -> float:
        a, b = attributes[one][:, :, None], attributes[other][:, None, :]
        return float(((a == b) & (a > 0)).sum(axis=(1, 2)).mean())

    following = share(sequences.items[within - 1], sequences.items[within])
    drawn = share(sequences.items[within], rng.permutation(sequences.items[within]))
    assert following > 1.5 * drawn


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "f.json: .*expected JSON {item: \\[attribute"),
        ("[1]", "f.json: a JSON list"),
        ({"1": [1]}, "f.json: item 2 \\(1 such\\) is missing of 1..2; give the file"),
        ({"1": [1], "2": [1], "3": [2]}, "f.json: item 3 \\(1 such\\) is no item of 1..2"),
        ({"1": [1], "2": 5}, "f.json: item 2 has 5; expected a list of integers from 1"),
        ({"1": [0], "2": [1]}, "item 1 has \\[0\\]"),
        ({"1": [1.0], "2": [1]}, "item 1 has \\[1.0\\]"),
        ({"1": [True], "2": [1]}, "item 1 has \\[True\\]"),
        ({"1": [2**31 - 1], "2": [1]}, "item 1 has"),
    ],
)
def test_files_of_another_form_are_refused(content: object, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ValueError, match=message):
        coserec.parse_attributes(text.encode(), 2, "f.json")
