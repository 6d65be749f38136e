"""Published numbers of HSTU's research code (arXiv:2402.17152), and why they are not comparable with ours."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.common import Published, published

README = "README of the official code (15 April 2024): no validation split, best of the test curve"
OTHER_CANDIDATES: Mapping[str, str] = {
    name: f"the published ranking is among {movies} and takes out the last {inputs} inputs alone; this one "
    f"takes out all earlier items of the user, {ours}"
    for name, movies, inputs, ours in (
        ("ml-1m", "all 3,883 movies of the file", 200, "among the 3,706 that have ratings"),
        ("ml-20m", "all 27,278 movies of the file", 200, "among the 26,744 that have ratings"),
        ("Books", "all items", 50, "however long ago"),
    )
}
SIX = ("hit@10", "ndcg@10", "hit@50", "ndcg@50", "hit@200", "ndcg@200")
PUBLISHED: Mapping[tuple[str, str], Published] = {
    (dataset, row): published(SIX, README, *values)._replace(incomparable=OTHER_CANDIDATES[dataset])
    for (dataset, row), values in {
        ("ml-1m", "sasrec-ssm"): (0.2853, 0.1603, 0.5474, 0.2185, 0.7528, 0.2498),
        ("ml-1m", "hstu-ssm"): (0.3097, 0.1720, 0.5754, 0.2307, 0.7716, 0.2606),
        ("ml-1m", "hstu-large-ssm"): (0.3294, 0.1893, 0.5935, 0.2481, 0.7839, 0.2771),
        ("ml-20m", "sasrec-ssm"): (0.2889, 0.1621, 0.5503, 0.2199, 0.7661, 0.2527),
        ("ml-20m", "hstu-ssm"): (0.3273, 0.1895, 0.5889, 0.2473, 0.7952, 0.2787),
        ("ml-20m", "hstu-large-ssm"): (0.3556, 0.2098, 0.6143, 0.2671, 0.8074, 0.2965),
        ("Books", "sasrec-ssm"): (0.0306, 0.0164, 0.0754, 0.0260, 0.1431, 0.0362),
        ("Books", "hstu-ssm"): (0.0416, 0.0227, 0.0957, 0.0344, 0.1735, 0.0461),
        ("Books", "hstu-large-ssm"): (0.0478, 0.0262, 0.1082, 0.0393, 0.1908, 0.0517),
    }.items()
}
