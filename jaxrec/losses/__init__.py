"""Losses: plain functions of scores (or vectors) that return one scalar in nats; leading axes are free.

Every loss takes `where`, True where an example is real, and `axis_name`. With an axis name (inside
`jax.pmap`, `jax.shard_map` or `jax.vmap(..., axis_name=...)`) it returns this device's share: the shares of
all devices add up to the loss of the global batch, whatever their number. With no real example it is 0.

An id outside its table, or padding where an example is real, makes the loss NaN.
"""

from jaxrec.losses.contrastive import info_nce, nt_xent
from jaxrec.losses.delayed_feedback import (
    delayed_feedback,
    delayed_feedback_of_each,
    elapsed_time_weights,
    fake_negative_calibrated,
    fake_negative_weighted,
    observation_weights,
)
from jaxrec.losses.distillation import (
    logit_error,
    margin_error,
    soft_sigmoid_cross_entropy,
    soft_softmax_cross_entropy,
    softmax_entropy,
)
from jaxrec.losses.entire_space import (
    clipped_propensity,
    doubly_robust_risk,
    imputation_risk,
    inverse_propensity_risk,
    order_violation,
    product_divergence,
)
from jaxrec.losses.example_weights import reweighted
from jaxrec.losses.feedback import (
    check_cosine_margins,
    feedback_margins,
    feedback_pair,
    list_cosines,
    not_to_recommend,
)
from jaxrec.losses.ids import is_item, nan_outside
from jaxrec.losses.in_batch import Extra, InBatch, hardest_negatives, in_batch_scores, in_batch_softmax
from jaxrec.losses.labels import (
    binary_cross_entropy,
    categorical_cross_entropy,
    class_weights,
    f_beta_weights,
    focal,
    hardest,
    sigmoid_cross_entropy,
    smooth_labels,
    softmax_focal,
    squared_error,
)
from jaxrec.losses.margins import ccl, gbce, hinge
from jaxrec.losses.metric_learning import (
    circle,
    cosine_distances,
    euclidean_distances,
    q_align,
    siamese,
    supcon,
    supervised_nt_xent,
    triplet,
)
from jaxrec.losses.multinomial import multinomial
from jaxrec.losses.next_behaviour import memory_utilisation, mini_batch_aware, next_behaviour
from jaxrec.losses.noise_contrastive import nce
from jaxrec.losses.popularity import (
    direction_distance,
    inverse_popularity,
    mean_discrepancy,
    squared_cosine,
)
from jaxrec.losses.ranking import (
    bce,
    bpr,
    bpr_max,
    dot_products,
    sampled_cosine_softmax,
    sampled_softmax,
    softmax_cross_entropy,
    top1,
    top1_max,
)
from jaxrec.losses.reduce import fullness, masked_mean, weighted_mean
from jaxrec.losses.sigmoid_softmax import sigmoid_softmax
from jaxrec.losses.watch_time import quantile_error, watch_time

__all__ = [
    "Extra",
    "InBatch",
    "bce",
    "binary_cross_entropy",
    "bpr",
    "bpr_max",
    "categorical_cross_entropy",
    "ccl",
    "check_cosine_margins",
    "circle",
    "class_weights",
    "clipped_propensity",
    "cosine_distances",
    "delayed_feedback",
    "delayed_feedback_of_each",
    "direction_distance",
    "dot_products",
    "doubly_robust_risk",
    "elapsed_time_weights",
    "euclidean_distances",
    "f_beta_weights",
    "fake_negative_calibrated",
    "fake_negative_weighted",
    "feedback_margins",
    "feedback_pair",
    "focal",
    "fullness",
    "gbce",
    "hardest",
    "hardest_negatives",
    "hinge",
    "imputation_risk",
    "in_batch_scores",
    "in_batch_softmax",
    "info_nce",
    "inverse_popularity",
    "inverse_propensity_risk",
    "is_item",
    "list_cosines",
    "logit_error",
    "margin_error",
    "masked_mean",
    "mean_discrepancy",
    "memory_utilisation",
    "mini_batch_aware",
    "multinomial",
    "nan_outside",
    "nce",
    "next_behaviour",
    "not_to_recommend",
    "nt_xent",
    "observation_weights",
    "order_violation",
    "product_divergence",
    "q_align",
    "quantile_error",
    "reweighted",
    "sampled_cosine_softmax",
    "sampled_softmax",
    "siamese",
    "sigmoid_cross_entropy",
    "sigmoid_softmax",
    "smooth_labels",
    "soft_sigmoid_cross_entropy",
    "soft_softmax_cross_entropy",
    "softmax_cross_entropy",
    "softmax_entropy",
    "softmax_focal",
    "squared_cosine",
    "squared_error",
    "supcon",
    "supervised_nt_xent",
    "top1",
    "top1_max",
    "triplet",
    "watch_time",
    "weighted_mean",
]
