"""Published numbers of SASRec, CoSeRec and TiCoSeRec, and remarks on our departures."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.common import NONE, Published, published
from jaxrec.recipes.ticoserec import COSEREC_FILES, Recipe

README = "README of the official code"
TABLE_MCLREC = "README of the MCLRec code (SIGIR 2023), a third party's table, on CoSeRec's files"
SIX = ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20")
FOUR = ("hit@5", "hit@20", "ndcg@5", "ndcg@20")

# users whose items can all be matched between the files (counted by a test of the experiment)
OTHER_ORDER: Mapping[str, str] = {
    name: (
        f"the published numbers are of CoSeRec's file and these rows of TiCoSeRec's, whose events of one day "
        f"stand in another order: {equal:,} of {matched:,} users have equal sequences"
    )
    for name, equal, matched in (("Beauty", 5_846, 22_287), ("Sports", 8_886, 35_578))
}
OTHER_RANKING = (
    "the published ranking leaves seen items in with score 0, where this one takes them out, which on Beauty "
    "lifts HIT@5 of the weights of CoSeRec's authors from 0.0504 to 0.0508 (--seen zero measures alike)"
)

PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("Beauty", "ticoserec-bce"): published(SIX, README, 0.0504, 0.0343, 0.0740, 0.0418, 0.1068, 0.0501),
    ("Sports", "ticoserec-bce"): published(SIX, README, 0.0334, 0.0227, 0.0514, 0.0284, 0.0768, 0.0348),
    ("coserec-Sports", "coserec-bce"): published(SIX, README, 0.0287, 0.0194, 0.0437, 0.0242, 0.0635, 0.0292),
    ("coserec-Beauty", "coserec-bce"): published(FOUR, TABLE_MCLREC, 0.0504, 0.1034, 0.0339, 0.0487),
    ("coserec-Yelp", "coserec-bce"): published(FOUR, TABLE_MCLREC, 0.0241, 0.0649, 0.0151, 0.0263),
    ("coserec-Beauty", "sasrec-bce"): published(FOUR, TABLE_MCLREC, 0.0377, 0.0894, 0.0241, 0.0386),
    ("coserec-Sports", "sasrec-bce"): published(FOUR, TABLE_MCLREC, 0.0214, 0.0500, 0.0144, 0.0224),
    ("coserec-Yelp", "sasrec-bce"): published(FOUR, TABLE_MCLREC, 0.0160, 0.0443, 0.0101, 0.0179),
}
SAME_EVENTS: Mapping[str, str] = {  # TiCoSeRec's files of the same events
    "Beauty": "coserec-Beauty",
    "Sports": "coserec-Sports",
    "Yelp-A": "coserec-Yelp",
}

# Options for departures from the official code: rows with or without them have published numbers.
OFFICIAL_WAYS = ("form", "official_bug", "inverted_similarity", "seen", "reject", "test_every")


def published_for(dataset: str, row: str, *, seen: str) -> Published:
    """The published numbers of a row on the events of a data set, and why they are not comparable, if so.

    seen: our rule for seen items.
    """
    reason = "" if seen == "zero" else OTHER_RANKING
    found = PUBLISHED.get((dataset, row))
    if found is None:
        found = PUBLISHED.get((SAME_EVENTS.get(dataset, ""), row), NONE)
        reason = OTHER_ORDER.get(dataset, reason)
    return found._replace(incomparable=reason) if found.values else NONE


def remarks(row: str, dataset: str, recipe: Recipe, *, form: str, reject: str) -> list[str]:
    """Remarks on a row: the source of its settings, if not in its name, and departures from that code.

    form, reject: of the experiment's settings.
    """
    found = []
    if row == "sasrec-bce":
        code = "CoSeRec" if dataset in COSEREC_FILES else "TiCoSeRec"
        found.append(f"settings of {code}'s code, without views")
    departures = ["negatives avoid training items only"] if reject == "train" else []
    if recipe.weight and form != "flat":
        views = {"mean": "means over their events", "last": "their last states"}.get(form, f"their {form}")
        departures.append(f"views are compared as {views}")
    if recipe.weight and recipe.by_gaps:
        if not recipe.official_bug:
            departures.append("the users left alone are those of the most even gaps")
        if not recipe.inverted_similarity and recipe.epochs > recipe.hybrid_after + 1:
            departures.append("similar items are the most similar ones")
    return found + ([f"departs from the official code: {', '.join(departures)}"] if departures else [])
