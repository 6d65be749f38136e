"""Amazon and Yelp sequences with times, as TiCoSeRec distributes them (Dang et al., AAAI 2023, 2212.08262).

Users have the order of the item file. `gap_variance_rank` is the authors' rank of users by the variance of
their time gaps, which cannot be recomputed from these files: they computed it before sorting the events.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sequence_files import add_times, parse_lines, parse_sequences
from jaxrec.data.sources.dataset import Dataset, Expected, check_statistics, find_by_name
from jaxrec.data.store import File, Source, find_file, github, read_file, show_terms
from jaxrec.data.vocab import Vocabulary

SOURCE = Source(
    "ticoserec",
    title="TiCoSeRec Amazon and Yelp sequences",
    homepage="https://github.com/KingGugu/TiCoSeRec",
    licence="Apache-2.0 (repository)",
    terms="Underlying data: Amazon reviews 2014 (McAuley, research use) and the Yelp open data set "
    "(academic use).",
)
_COMMIT = "302b2959f27bb16bb77acae5a471de82819bd1bd"


def _file(folder: str, name: str, sha256: str, size: int) -> File:
    route = github("KingGugu/TiCoSeRec", _COMMIT, f"data/{folder}/{name}")
    return File(f"ticoserec/{folder}/{name}", sha256=sha256, size=size, routes=(route,))


def _dataset(
    folder: str,
    expected: Expected,
    items: tuple[str, int],
    times: tuple[str, int] | None,
    order: tuple[str, int],
    packed_order: tuple[str, int],
) -> Dataset:
    """A data set whose files are given by sha256 and size. The order of users by variance is in one of two
    files: the order alone, which is never downloaded, or the source's item file in that order.
    """
    stem = folder.removesuffix("-A")
    orders = (
        File(f"ticoserec/{folder}/var_rank_user_order.npz", *packed_order),
        _file(folder, f"{stem}_item_var_rank.txt", *order),
    )
    stamps = () if times is None else ((_file(folder, f"{stem}_time_org_rank.txt", *times),),)
    return Dataset(folder, ((_file(folder, f"{stem}_item_org_rank.txt", *items),), orders, *stamps), expected)


DATASETS = (
    _dataset(
        "Beauty",
        Expected(users=22363, items=12101, interactions=198502, first="2002-06-12", last="2014-07-23"),
        items=("b95614189df525e1eb69dad579e84c6086468f2bb42dab894038949240307c4f", 1141495),
        times=("4e6a6e30f9dba1985ad9adae79a891df6b403e2132f0422a6f6e88f67d1fcc75", 2306594),
        order=("164b19ef3138f0ded51f751e98b424c4a811f8d59472781fcd1d7107233dac4d", 1141495),
        packed_order=("8005c54c484248720ea841dcbbac46d93ce2dc3c9de84494ca03b8946578b2dc", 54960),
    ),
    _dataset(
        "Sports",
        Expected(users=35598, items=18357, interactions=296337, first="2002-03-07", last="2014-07-23"),
        items=("f4891c83d23c7cdc2981098230d8831fdb1f45b3fc4ec24f3b199310287745e5", 1783816),
        times=("c442ed4744f1de95b00744861bbaa503fcc98380d8b7ec08d52231450356c3a2", 3462189),
        order=("4bb97cce782709535849ca0491627bfa2a122e7acb91a2c949b7c330d68dca90", 1783816),
        packed_order=("e0068deb9a042a8d8f0ac7b59082811531def14853856749cd918a71eb919371", 89029),
    ),
    _dataset(
        "Home",
        Expected(users=66519, items=28237, interactions=551682),
        items=("4e472251e8bcd204fc3421c51ab7d10611a69da8e7cf313c327e0cd003a5f0dd", 3440439),
        times=None,  # the source has times, in a file whose checksum is not known here
        order=("418c9e47c1c38103774785a3d9607bb9f7f8a99ed85a8d59c785a933a688d9b2", 3440439),
        packed_order=("f97401ab531fd0e01645bfc8db925bbf98da549f6a04d96b7931266c21e04e79", 173397),
    ),
    _dataset(
        "Yelp-A",
        Expected(
            users=30431,
            items=20033,
            interactions=316354,
            first="2019-01-01",
            last="2019-12-13",
            repeat_users=7102,
        ),
        items=("c192f158659e118070bf0cd2dfe4c01c15295a09ef2ada1ccadf0bab06e4c19e", 1883261),
        times=("79b0f02a3dcbbc8799fe79725ccbba55735212e81247f7595385cb359fd95de0", 3651374),
        order=("94267a14e817b68b571d43a26390ebdc019098a5d637baa520b2e6c17c1113aa", 1883261),
        packed_order=("f9f85976c3596db663d5eb7941771e2448e606b8de5ee1289c861c062df7d66f", 79283),
    ),
)


def load(name: str) -> Sequences:
    """Sequences with times (Home: without) and `gap_variance_rank`; item ids are those of the file."""
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    (items,), order, *stamps = dataset.files
    sequences = parse_sequences(f"ticoserec/{name}", read_file(items), items.path)
    if stamps:
        ((times,),) = stamps
        sequences = add_times(sequences, read_file(times), times.path)
    sequences = dataclasses.replace(
        sequences, gap_variance_rank=_gap_variance_rank(sequences.user_ids, order)
    )
    check_statistics(sequences.name, sequences.statistics(), dataset.expected)
    return sequences


def _gap_variance_rank(users: np.ndarray, order: tuple[File, ...]) -> np.ndarray:
    packed, original = order
    if find_file(packed) is not None:
        ranked = np.load(io.BytesIO(read_file(packed)))[
            "user_order"
        ]  # the user of each line of the re-ordered file
    else:
        ranked = parse_lines(read_file(original), original.path)[0]
    index = Vocabulary("user", users).encode(ranked) - 1
    rank = np.empty(users.size, np.int32)
    rank[index] = np.arange(index.size, dtype=np.int32)
    return rank
