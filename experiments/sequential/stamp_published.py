"""Numbers of the STAMP paper, and remarks on their comparison with ours."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.common import Published, published

PREPARATION = (
    "the paper's preparation has 375,073 training examples where this one has 369,859 before validation is "
    "taken out, and the same 55,898 for test"
)
NOTES = {
    "validation": f"the paper trains on all sessions, and its epoch is the one best on test; {PREPARATION}",
    "test": f"trained on all sessions, parameters of the epoch best on test, as in the paper; {PREPARATION}",
}
BASELINE_NOTES: Mapping[str, str] = {  # recall@20 with other training sessions
    "popularity": "counts 90 % of the training sessions, drawn at random; with all of them recall@20 is "
    "0.0731 too, with the first 90 % 0.0542, so the tenth left out does not lift it above the paper's",
    "item-knn": "counts 90 % of the training sessions, drawn at random; with all of them recall@20 is "
    "0.5273, with the first 90 % 0.5193",
}
TABLE = "comparison of methods in the STAMP paper"
OTHER_GRU4REC = (
    "the paper's GRU4Rec is that of 2016, with another loss (ranking losses over the other targets of the "
    "batch), one-hot inputs and sessions in parallel"
)
NAMES = ("recall@20", "mrr@20")
SIX = ("recall@5", "mrr@5", "recall@10", "mrr@10", *NAMES)

RESORTED: Mapping[tuple[str, str], Published] = {  # beside rows in the order of time, whatever their settings
    ("diginetica", "stamp-ce"): Published(
        {"recall@20": 0.4564},
        "SR-GNN (AAAI 2019), whose authors measured STAMP on sessions that they sorted by their times "
        "(github.com/CRIPAC-DIG/SR-GNN, issue 31)",
        "a third party's run, read in that issue, which gives neither settings nor the choice of the epoch",
    ),
}
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("yoochoose1_64", "popularity"): published(NAMES, f"{TABLE} (POP)", 0.0671, 0.0165),
    ("yoochoose1_64", "item-knn"): published(NAMES, f"{TABLE} (Item-KNN)", 0.5160, 0.2181),
    ("yoochoose1_64", "gru4rec-ce"): published(NAMES, f"{TABLE} (GRU4Rec)", 0.6064, 0.2289)._replace(
        incomparable=OTHER_GRU4REC
    ),
    ("yoochoose1_64", "stmp-ce"): published(NAMES, f"{TABLE} (STMP)", 0.6779, 0.2863),
    ("yoochoose1_64", "stamp-ce"): published(SIX, TABLE, 0.4569, 0.2726, 0.5807, 0.2892, 0.6874, 0.2967),
}


def note_of(row: str, select: str) -> str:
    """Remarks on a row with numbers of the paper. select: the part that chose the epoch."""
    if row not in BASELINE_NOTES:
        return NOTES[select]
    return PREPARATION if select == "test" else f"{BASELINE_NOTES[row]}; {PREPARATION}"
