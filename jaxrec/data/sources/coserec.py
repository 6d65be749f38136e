"""Amazon and Yelp sequences without times, as S3-Rec and CoSeRec distribute them (5-core, one line a user).

Zhou et al., CIKM 2020, doi:10.1145/3340531.3411954; Liu et al., 2021, arXiv:2108.06479.
"""

from __future__ import annotations

from jaxrec.data.interactions import Sequences
from jaxrec.data.lines import rows_to_sequences
from jaxrec.data.sources.dataset import Dataset, Expected, check, pick
from jaxrec.data.store import File, Source, github, read, show_terms

SOURCE = Source(
    "coserec",
    "S3-Rec / CoSeRec Amazon and Yelp sequences",
    "https://github.com/YChen1993/CoSeRec",
    "no licence file",
    "Underlying data: Amazon reviews (McAuley, research use) and the Yelp open data set (academic use).",
)
_COMMIT = "692cb4108c458bfb60c1bcd0daa5f2a12e0b362d"


def _dataset(name: str, sha256: str, size: int, expected: Expected) -> Dataset:
    route = github("YChen1993/CoSeRec", _COMMIT, f"data/{name}.txt")
    return Dataset(name, ((File(f"coserec/{name}.txt", sha256, size, (route,)),),), expected)


DATASETS = (
    _dataset(
        "Beauty",
        "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        1090094,
        Expected(22363, 12101, 198502),
    ),
    _dataset(
        "Sports_and_Outdoors",
        "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        1707483,
        Expected(35598, 18357, 296337),
    ),
    _dataset(
        "Toys_and_Games",
        "176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
        922166,
        Expected(19412, 11924, 167597),
    ),
    _dataset(
        "Yelp",
        "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
        1814224,
        Expected(30431, 20033, 316354, repeat_users=7102),
    ),
)


def load(name: str) -> Sequences:
    """Sequences without times; item ids are those of the file, so published item tables fit as they are."""
    dataset = pick(DATASETS, name)
    show_terms(SOURCE)
    ((file,),) = dataset.files
    sequences = rows_to_sequences(f"coserec/{name}", read(file), file.path)
    check(sequences.name, sequences.statistics(), dataset.expected)
    return sequences
