"""Generated impressions follow their truth, block by block."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.synthetic import impressions
from jaxrec.data.tables.shards import write_shards


def blocks(rows: int = 2500, block: int = 1000, first: int = 0) -> list[dict[str, np.ndarray]]:
    truth = impressions.draw_truth(50, 30)
    return list(impressions.impression_blocks(truth, rows, block=block, first=first))


def test_blocks_are_those_of_their_numbers() -> None:
    found = blocks()
    assert [len(block["user"]) for block in found] == [1000, 1000, 500]
    for name, column in blocks(1000, first=1)[0].items():
        np.testing.assert_array_equal(column, found[1][name])
    assert (found[0]["user"] != found[1]["user"]).any()


def test_labels_are_drawn_from_the_truth() -> None:
    (rows,) = blocks(100_000, block=100_000)
    chance = 1 / (1 + np.exp(-impressions.draw_truth(50, 30).logits(rows)))
    for at, name in enumerate(impressions.LABELS):
        for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
            inside = (chance[:, at] >= low) & (chance[:, at] < high)
            error = np.sqrt(0.25 / inside.sum())
            assert abs(rows[name][inside].mean() - chance[inside, at].mean()) < 4 * error
    assert np.bincount(rows["item"]).argmax() == 1  # a power law
    for name, size in impressions.vocabularies(50, 30).items():
        assert rows[name].min() == 1 and rows[name].max() == size - 1


def test_shards_take_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows") / "shards"
    columns = impressions.shard_columns(50, 30)
    assert write_shards(folder, blocks(), columns, rows_per_group=300).rows == (2500,)


@pytest.mark.parametrize("changes", [{"rows": 0}, {"block": 0}])
def test_sizes_are_checked(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must both be at least 1"):
        blocks(**changes)
