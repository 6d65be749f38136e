"""Interaction matrices as LightGCN-PyTorch distributes them: Gowalla, with NGCF's split, and LastFM.

Wang et al., SIGIR 2019, arXiv:1905.08108; He et al., SIGIR 2020, arXiv:2002.02126. Neither has a validation
part, so published settings were likely chosen on test: `held_out.hold_out_validation` takes one out of
training. Training items of Gowalla are read from one compressed copy, or else from the adjacency matrix in
the authors' repository. 12 of LastFM's 1,892 users have no interaction and are left out.
"""

from __future__ import annotations

import io

import numpy as np
import scipy.sparse

from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.sources.dataset import Dataset, Expected, find_by_name
from jaxrec.data.sources.matrix_files import check_counts, parse_user_lines
from jaxrec.data.store import File, Source, find_file, github, read_file, show_terms

SOURCE = Source(
    "lightgcn",
    title="Gowalla and LastFM as LightGCN-PyTorch distributes them",
    homepage="https://github.com/gusye1234/LightGCN-PyTorch",
    licence="no licence file",
    terms="Underlying data: SNAP Gowalla (research) and HetRec 2011 LastFM (research use).",
)


def _file(path: str, sha256: str, size: int, route: str = "") -> File:
    commit = "947ca2b3b1d2d3545b114145710cb06c4e57b3d2"
    routes = (github("gusye1234/LightGCN-PyTorch", commit, route),) if route else ()
    return File(path, sha256=sha256, size=size, routes=routes)


MATRICES = (
    Dataset(
        "gowalla",
        (
            (
                _file(
                    "gowalla/train.npz",
                    "3f87cce1ebefb0b259608100456dd9c1ab428f5f5332fc42b19dff1232b813c7",
                    1873429,
                ),
                _file(
                    "gowalla/s_adj_mat.npz",
                    "6ab3ab7aa1278da3717054c60258d88d2d2d78914fa62db2b13da9321e397cab",
                    3635865,
                    "data/gowalla/s_adj_mat.npz",
                ),
            ),
            (
                _file(
                    "gowalla/test.txt",
                    "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
                    1372559,
                    "data/gowalla/test.txt",
                ),
            ),
        ),
        Expected(users=29858, items=40981, interactions=1027370),
    ),
    Dataset(
        "lastfm",
        (
            (
                _file(
                    "lastfm-lightgcn/data1.txt",
                    "c82af3228cbbda2f55a39244de09ed93292894f1d0d9f1908ebb57e27598fded",
                    579727,
                    "data/lastfm/data1.txt",
                ),
            ),
            (
                _file(
                    "lastfm-lightgcn/test1.txt",
                    "de4417c0e6123284ce59a0934bcf5288ec1ec8774a18a1eef453c9952dfa48f9",
                    144867,
                    "data/lastfm/test1.txt",
                ),
            ),
        ),
        Expected(users=1880, items=4489, interactions=52668),
    ),
)
_TEST = {"gowalla": 217_242, "lastfm": 10_533}


def load_matrix(name: str) -> HeldOut:
    """Training and test items of each user; raw ids are those of the files, from 0 (LastFM: from 1)."""
    dataset = find_by_name(MATRICES, name)
    show_terms(SOURCE)
    train, test = _gowalla(dataset) if name == "gowalla" else _lastfm(dataset)
    first = 1 if name == "lastfm" else 0
    users = 1 + max(int(train[0].max()), int(test[0].max()))
    empty = np.zeros(0, np.int64)
    split = from_parts(
        f"lightgcn/{name}",
        ((train[0] - first, train[1] + 1 - first), (empty, empty), (test[0] - first, test[1] + 1 - first)),
        num_items=dataset.expected.items,
        rule="the files' training and test items",
        user_ids=np.arange(first, users),
        item_ids=np.arange(first, first + dataset.expected.items),
    )
    check_counts(split, dataset.expected, test=_TEST[name])
    return split


def _gowalla(dataset: Dataset) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    (packed, adjacency), (test,) = dataset.files
    users, items = dataset.expected.users, dataset.expected.items
    if find_file(packed) is not None:
        with np.load(io.BytesIO(read_file(packed))) as archive:
            matrix = scipy.sparse.csr_matrix(
                (np.ones(len(archive["indices"]), bool), archive["indices"], archive["indptr"]),
                shape=(users, items),
            )
    else:
        matrix = scipy.sparse.load_npz(io.BytesIO(read_file(adjacency))).tocsr()[:users, users:]
    pairs = matrix.tocoo()
    train = (pairs.row.astype(np.int64), pairs.col.astype(np.int64))
    return train, parse_user_lines(read_file(test), test.path)


def _lastfm(dataset: Dataset) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Lines of user, item and number of times listened, which is not read."""
    found = []
    for (file,) in dataset.files:
        table = np.loadtxt(io.BytesIO(read_file(file)), dtype=np.int64, usecols=(0, 1), ndmin=2)
        found.append((table[:, 0], table[:, 1]))
    return tuple(found)
