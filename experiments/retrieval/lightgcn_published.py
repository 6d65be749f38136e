"""Numbers that BARS and NGCF's paper publish for LightGCN's split of Gowalla."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.common import Published, published

TWO = ("recall@20", "ndcg@20")
BARS = "BARS, Gowalla"
ANOTHER_PINSAGE = "that is a graph of users and items trained by BPR, another model under this name"

PUBLISHED: Mapping[str, Published] = {
    "popularity": published(TWO, BARS, 0.0416, 0.0317),
    "matrix-item-knn": published(TWO, BARS, 0.1570, 0.1214),
    "bpr-mf": published(TWO, BARS, 0.1627, 0.1378),
    "slim": published(TWO, BARS, 0.1699, 0.1382),
    "ease": published(TWO, BARS, 0.1765, 0.1467),
    "ngcf": published(TWO, BARS, 0.1570, 0.1327),
    "lightgcn": published(TWO, BARS, 0.1820, 0.1547),
    "ultragcn": published(TWO, BARS, 0.1862, 0.1580),
    "simplex": published(TWO, BARS, 0.1872, 0.1557),
    "mf-ccl": published(TWO, BARS, 0.1837, 0.1493),
    "pinsage": published(TWO, "table of the NGCF paper", 0.1380, 0.1196)._replace(
        incomparable=ANOTHER_PINSAGE
    ),
}
