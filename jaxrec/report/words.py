"""Names of losses and metrics in words, as titles of plots and pages."""

from __future__ import annotations

import re

_METRICS = {
    "ndcg": "NDCG",
    "ndcg_linear": "NDCG with linear gain",
    "hit": "hit rate",
    "recall": "recall",
    "precision": "precision",
    "mrr": "mean reciprocal rank",
    "map": "mean average precision",
    "auc": "area under the ROC curve",
    "auc_pr": "area under the precision-recall curve",
    "gauc": "AUC within groups",
    "log_loss": "log loss in nats",
    "mse": "mean squared error",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "xauc": "share of pairs of watch times in order",
    "xgauc": "share of pairs of watch times in order, within users",
    "xauc_within": "share of pairs of watch times in order, within durations",
    "curve_error": "largest error of the log curve of positions",
    "curve_outside": "positions outside the interval of their curve",
    "quantile_shift": "largest shift of quantiles within durations",
    "quantile_outside": "durations outside the interval of their quantiles",
    "ece": "expected calibration error",
    "calibration_ratio": "mean prediction over mean label",
    "normalized_entropy": "normalised entropy",
    "rela_impr": "relative improvement of AUC",
    "coverage": "share of items in the lists",
    "gini": "Gini index of the items in the lists",
    "novelty": "novelty in bits",
    "popularity": "popularity of the listed items",
    "tail_share": "share of tail items",
    "diversity": "diversity within a list",
    "serendipity": "serendipity",
    "popularity_lift": "popularity lift",
    "recall_of_exact": "share of the exhaustive list that is found",
    "scored": "items or nodes scored for a query",
    "scored_share": "items or nodes scored for a query, of the number of items",
    "build_seconds": "seconds to build the index",
    "search_ms": "milliseconds of a search for a query",
    "seen_targets": "share of targets that are no candidates: the history has them, or training has not",
}
_LOWER = (  # smaller is better
    "log_loss", "mse", "rmse", "mae", "prob_mae", "ece", "normalized_entropy", "gini", "loss", "curve_error",
    "curve_outside", "quantile_shift", "quantile_outside", "standard_error", "off", "scored", "scored_share",
    "build_seconds", "search_ms",
)  # fmt: skip
_NEITHER = ("calibration_ratio", "bias", "value", "low", "high")  # best at a number in between


def in_words(name: str) -> str:
    """A metric, a loss or a weight in words; the name itself where there are none for it.

    >>> in_words("valid/ndcg@10")
    'NDCG of the 10 best items, validation'
    >>> in_words("auc/click")
    'area under the ROC curve, click'
    >>> in_words("weight/click")
    'weight of the loss click'
    """
    kind, _, rest = name.partition("/")
    if kind == "valid":
        return f"{in_words(rest)}, validation"
    if kind == "weight":
        return f"weight of the loss {rest}"
    if kind == "gradient_norm":
        return f"gradient norm of the loss {rest}"
    if name == "loss":
        return "weighted sum of the losses, training"
    metric, _, cut = kind.partition("@")
    words = _METRICS.get(metric)
    if words is None:
        return name
    words += f" of the {cut} best items" if cut else ""
    return f"{words}, {rest.replace('_', ' ')}" if rest else words


def short(name: str) -> str:
    """A metric as tables of papers have it.

    >>> short("valid/ndcg@10"), short("hit@5"), short("mse/y1")
    ('NDCG@10', 'hit@5', 'MSE y1')
    """
    name = name.removeprefix("valid/")
    upper = re.sub(r"^(ndcg|mrr|map|auc|gauc|mse|rmse|mae|ece)(?=[@/_]|$)", lambda m: m[0].upper(), name)
    return upper.replace("/", " ")


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of a metric or loss is the better one.

    >>> lower_is_better("valid/mse/y1"), lower_is_better("ndcg@10")
    (True, False)
    """
    of = re.split(r"[@/]", name.removeprefix("valid/"))[0]
    return of in _LOWER or of.startswith("ece_by_")


def has_direction(name: str) -> bool:
    """Whether a larger value of a metric is always the better one, or always the worse one.

    >>> has_direction("auc/click"), has_direction("calibration_ratio/click")
    (True, False)
    """
    return re.split(r"[@/]", name.removeprefix("valid/"))[0] not in _NEITHER


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
