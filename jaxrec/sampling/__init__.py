"""Negative sampling: samplers return ids and the log-probability with which each was drawn.

Samples are drawn inside a compiled step, from tables that are built and checked once, on the host. Draws are
with replacement unless a sampler says otherwise. Online hard negatives are chosen by scores, in
`losses.hardest_negatives`.
"""

from jaxrec.sampling.by_frequency import (
    PopularityTable,
    first_occurrences,
    in_batch,
    log_expected_count,
    log_prob,
    log_uniform_table,
    mixed,
    popularity,
    popularity_table,
)
from jaxrec.sampling.display_ads import (
    choose_spies,
    fuzzy_positives,
    keep_probability,
    reliable_negatives,
    split_popularity_table,
    subsample,
)
from jaxrec.sampling.hard import rank_window
from jaxrec.sampling.pretraining import (
    PretrainingPairs,
    body_first,
    inverse_cloze,
    linked_lists,
    mixed_pairs,
    pair_columns,
    split_words,
    word_columns,
)
from jaxrec.sampling.streaming import Stream, StreamingFrequency, streaming_frequency
from jaxrec.sampling.uniform_items import (
    EXCLUSION_PADDING,
    exclusion_table,
    uniform,
    uniform_excluding,
    uniform_excluding_flat,
)

__all__ = [
    "EXCLUSION_PADDING",
    "PopularityTable",
    "PretrainingPairs",
    "Stream",
    "StreamingFrequency",
    "body_first",
    "choose_spies",
    "exclusion_table",
    "first_occurrences",
    "fuzzy_positives",
    "in_batch",
    "inverse_cloze",
    "keep_probability",
    "linked_lists",
    "log_expected_count",
    "log_prob",
    "log_uniform_table",
    "mixed",
    "mixed_pairs",
    "pair_columns",
    "popularity",
    "popularity_table",
    "rank_window",
    "reliable_negatives",
    "split_popularity_table",
    "split_words",
    "streaming_frequency",
    "subsample",
    "uniform",
    "uniform_excluding",
    "uniform_excluding_flat",
    "word_columns",
]
