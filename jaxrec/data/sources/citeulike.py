"""CiteULike-a and CiteULike-t: which researchers have which articles in their collections, and their content.

Wang, Chen and Li, IJCAI 2013; CiteULike-a is the set of Wang and Blei, KDD 2011. The users' lists have no
order. `load_content` gives what articles are about: the tags of CiteULike-a, whose bag of words is not read,
and the bag of words of CiteULike-t.

`a-cold` is CiteULike-a divided by items, as recohut/coldstart-recsys distributes it: no user has an item of
validation or test in training. Its file test_item_ids.csv counts items from 1 and lists those of validation
and test together; it is not read, since both parts say which items they have.
"""

from __future__ import annotations

import io
import lzma

import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.events.interactions import Sequences, offsets_of_lengths
from jaxrec.data.sources.dataset import Dataset, Expected, check_statistics, find_by_name
from jaxrec.data.sources.matrix_files import check_counts
from jaxrec.data.store import File, Source, find_file, github, read_file, show_terms

SOURCE = Source(
    "citeulike",
    title="CiteULike-a and CiteULike-t",
    homepage="https://github.com/js05212/citeulike-a",
    licence="no licence file",
    terms="Its authors ask to cite Wang, Chen and Li, IJCAI 2013.",
)
_A = ("js05212/citeulike-a", "91b603922d7f2d3db18071d4798bf78c9c5d1680")
_T = ("js05212/citeulike-t", "4f103c6ea0fe407b23be230837b65517e613c34a")
_PACKED = File(
    "citeulike-t/mult.dat.xz",
    sha256="3e1692c56ddd45aaf040309817891db71bc2fe1365049d7353b12bd20ebd6209",
    size=1123956,
)


def _split(part: str, sha256: str, size: int) -> tuple[File, ...]:
    """Of the division by items, which lies in an archive without an address of its own."""
    return (File(f"citeulike-a/coldstart-split/{part}.csv", sha256=sha256, size=size),)


_USERS_A = File(
    "citeulike-a/users.dat",
    sha256="53211d82c14ff261e595634d285ed9fbf8049cf81dcb751d924d695b9612a02c",
    size=1094785,
    routes=(github(*_A, "users.dat"),),
)
_TAGS_A = File(
    "citeulike-a/item-tag.dat",
    sha256="0f7b432796a5038ed2631c02b99d70e636123673afc11bf9e051de5b49467890",
    size=1423307,
    routes=(github(*_A, "item-tag.dat"),),
)
_USERS_T = File(
    "citeulike-t/users.dat",
    sha256="02d5d429b2c0362e0ed79f6ef204666b4092563d21493abf4dfb521e8a7078bf",
    size=770649,
    routes=(github(*_T, "users.dat"),),
)
_WORDS_T = File(
    "citeulike-t/mult.dat",
    sha256="5ed81e6fdbf8d475122d4a18d622202571ac80f27be017e194a1957da585283d",
    size=3722706,
    routes=(github(*_T, "mult.dat"),),
)
DATASETS = (
    Dataset("a", ((_USERS_A,), (_TAGS_A,)), Expected(users=5551, items=16980, interactions=204986)),
    Dataset("t", ((_USERS_T,), (_PACKED, _WORDS_T)), Expected(users=7947, items=25584, interactions=134860)),
)
MATRICES = (
    Dataset(
        "a-cold",
        (
            _split("train", "73d55a5b2781925ea31ce8ccb5c7d74891d3c25bf6747ec2e3d2d625e0e51d15", 1651559),
            _split("vali", "f118e2c3c5702e2be67d20996b77036778b53784459695cafd154cb8ee37ffd9", 131301),
            _split("test", "1bd729ca010d3e72da3e06e7a2622c1b8c3d5615d6c8cd72ccbbaaba31040c7f", 278481),
            (_TAGS_A,),
        ),
        Expected(users=5551, items=16980, interactions=204986),
    ),
)
_ARTICLES = {"a": 16980, "t": 25975}  # 391 of CiteULike-t are in no collection
_WORDS = {"a": 46391, "t": 20000}
_ENTRIES = {"a": 239253, "t": 490708}  # of the content: tags of articles, different words of articles


def load(name: str) -> Sequences:
    """Each user's articles, in the order of the file, which means nothing; raw ids are the file's, from 0."""
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    (file,), _ = dataset.files
    counts, values = parse_counted_lines(read_file(file), file.path)
    sequences = Sequences(
        f"citeulike/{name}",
        items=(values + 1).astype(np.int32),
        times=None,
        offsets=offsets_of_lengths(counts),
        user_ids=np.arange(len(counts)),
        item_ids=np.arange(_ARTICLES[name]),
        num_items=_ARTICLES[name],
    )
    check_statistics(sequences.name, sequences.statistics(), dataset.expected)
    return sequences


def load_matrix(name: str) -> HeldOut:
    """The division of CiteULike-a by items; ids of users and items as of `load("a")`."""
    dataset = find_by_name(MATRICES, name)
    show_terms(SOURCE)
    parts = [parse_pairs(read_file(file), file.path) for (file,) in dataset.files[:3]]
    split = from_parts(
        f"citeulike/{name}",
        tuple((pairs[:, 0], pairs[:, 1] + 1) for pairs in parts),
        num_items=dataset.expected.items,
        rule="the files' parts, divided by items",
        user_ids=np.arange(dataset.expected.users),
        item_ids=np.arange(dataset.expected.items),
    )
    check_counts(split, dataset.expected, test=13_037 + 27_739)
    return split


def load_content(name: str) -> csr_matrix:
    """How often each article has each tag (of "a", then 1) or word (of "t"): float64 [V + 1, words].

    Row i is article i of `load`, row 0 is empty. 3,461 articles of CiteULike-a have no tag.

    Raises:
      ValueError: another name; the file has other counts than the published one.
    """
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    if name == "a":
        counts, words = parse_counted_lines(read_file(_TAGS_A), _TAGS_A.path)
        number = np.ones(len(words))
    else:
        packed = find_file(_PACKED) is not None
        content = lzma.decompress(read_file(_PACKED)) if packed else read_file(_WORDS_T)
        counts, words, number = parse_bags(content, _WORDS_T.path)
    row = np.repeat(np.arange(1, len(counts) + 1), counts)
    found = csr_matrix((number, (row, words)), shape=(len(counts) + 1, _WORDS[name]))
    if (len(counts), found.nnz) != (_ARTICLES[name], _ENTRIES[name]):
        raise ValueError(
            f"citeulike/{dataset.name}: content of {len(counts):,} articles with {found.nnz:,} entries, "
            f"expected {_ARTICLES[name]:,} with {_ENTRIES[name]:,}; the parser or file is wrong"
        )
    return found


def parse_counted_lines(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Lines `n value …` with n values each: n of every line [L], and all values, one after the other.

    Raises:
      ValueError: there is no line, one has something that is no number, or another number of values.
    """
    lines = content.splitlines()
    if not lines:
        raise ValueError(f"{where}: has no line; expected `number value …`")
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if line.translate(None, b"0123456789 ") or not words or int(words[0]) != len(words) - 1:
            raise ValueError(
                f"{where}, line {number}: {line[:60]!r}: expected how many values follow, and those"
            )
    numbers = np.array(content.split(), np.int64)
    count = np.array([len(line.split()) - 1 for line in lines])
    return count, np.delete(numbers, np.cumsum(count + 1) - count - 1)


def parse_bags(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines `n word:count …`: n of every line [L], and words and counts, one after the other, [N] twice.

    Raises:
      ValueError: there is no line, or one of another form.
    """
    count, flat = [], []
    for number, line in enumerate(content.splitlines(), start=1):
        first, *pairs = line.split() or [b""]
        parts = [part for pair in pairs for part in pair.split(b":")]
        colons = all(pair.count(b":") == 1 for pair in pairs)
        if not colons or not all(map(bytes.isdigit, [first, *parts])) or int(first) != len(pairs):
            raise ValueError(f"{where}, line {number}: {line[:60]!r}: expected `number word:count …`")
        count.append(len(pairs))
        flat += parts
    if not count:
        raise ValueError(f"{where}: has no line; expected `number word:count …`")
    table = np.array(flat, np.int64).reshape(-1, 2)
    return np.array(count), table[:, 0], table[:, 1].astype(np.float64)


def parse_pairs(content: bytes, where: str) -> np.ndarray:
    """Lines `uid,iid` after a header of these names: int64 [N, 2].

    Raises:
      ValueError: another header, no pair, or a line that is no pair of numbers.
    """
    header, _, body = content.partition(b"\n")
    if header.strip() != b"uid,iid":
        raise ValueError(f"{where}, line 1: {header[:60]!r}: expected the header uid,iid")
    try:
        pairs = np.loadtxt(io.BytesIO(body), dtype=np.int64, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; expected lines `user,item`") from None
    if not pairs.size or pairs.shape[1] != 2 or pairs.min() < 0:
        raise ValueError(f"{where}: expected lines `user,item` of numbers from 0, at least one")
    return pairs
