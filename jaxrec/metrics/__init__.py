"""Metrics: of a ranking, one value an example (`ranking`), and of labelled impressions (`classification`)."""

from jaxrec.metrics.classification import (
    auc,
    calibration_ratio,
    expected_calibration_error,
    gauc,
    log_loss,
    relative_improvement,
    reliability,
)
from jaxrec.metrics.ranking import (
    apply_seen,
    count_above,
    hit,
    list_map,
    list_ndcg,
    list_precision,
    list_recall,
    mrr,
    ndcg,
    rank_of_target,
    recall,
    seen_mask,
)

__all__ = [
    "apply_seen",
    "auc",
    "calibration_ratio",
    "count_above",
    "expected_calibration_error",
    "gauc",
    "hit",
    "list_map",
    "list_ndcg",
    "list_precision",
    "list_recall",
    "log_loss",
    "mrr",
    "ndcg",
    "rank_of_target",
    "recall",
    "relative_improvement",
    "reliability",
    "seen_mask",
]
