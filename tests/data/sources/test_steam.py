"""Hours of Steam: the counts of the file, its repeated pairs, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrec.data.sources import steam

HEADER = b"User_ID\tGame_ID\tHours\n"


def test_of_a_repeated_pair_the_longer_hours_stay() -> None:
    found = steam.parse(HEADER + b"7\t3\t0.2\n2\t3\t5.0\n7\t3\t1.5\n", "file")
    assert found.user_ids.tolist() == [2, 7] and found.item_ids.tolist() == [3]
    assert found.value is not None
    assert dict(zip(found.user.tolist(), found.value.tolist(), strict=True)) == {1: 5.0, 2: 1.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\t2\t3\n", "file: starts with b'1"),
        (HEADER, "line 2: expected positive"),
        (HEADER + b"1\t2\n", "expected lines `user game hours`"),
        (HEADER + b"1\tx\t3\n", "expected lines `user game hours`"),
        (HEADER + b"1_0\t2\t3\n", "expected lines `user game hours` of numbers: '1_0' is not"),  # int: 10
        (HEADER + b"1\t02\t3\n", "expected lines `user game hours` of numbers: '02' is not"),
        (HEADER + b"1\t2\t1_0\n", "of numbers: hours '1_0' is not a number"),
        (HEADER + b"1\t2\t3\n1\t3\t0\n", "line 3: expected positive ids and hours"),
    ],
)
def test_a_file_of_another_form_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steam.parse(content, "file")


def test_the_public_file_has_its_counts(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if not (data_dir / "steam-caserec/steam.zip").exists():
        pytest.skip("steam-caserec/steam.zip is not in the data folder")
    found = steam.load_interactions()
    assert (found.num_users, found.num_items, len(found.user)) == (11_350, 3_600, 70_477)
    assert found.value is not None
    assert np.float32(0.1) == found.value.min() and found.value.max() == 11754.0
