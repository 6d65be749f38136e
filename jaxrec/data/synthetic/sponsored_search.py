"""Queries and ads of known relevance and click rates, logged where ads were matched by relevance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.side_features import SideFeatures
from jaxrec.data.tables.impressions import SplitIndices, split_at_random


class SponsoredSearch(NamedTuple):
    """Impressions of ads after queries, with the truth about every pair.

    query: from 0, ad: from 1, int32 [N]; click: float32 [N]. split: of the impressions. queries, ads: their
    features, the vectors `words`. relevance: whether a pair is relevant, and click_rate: the true probability
    of a click, both float32 [Q, A + 1], row q of query q and column a of ad a; column 0 is 0.
    """

    query: np.ndarray
    ad: np.ndarray
    click: np.ndarray
    split: SplitIndices
    queries: SideFeatures
    ads: SideFeatures
    relevance: np.ndarray
    click_rate: np.ndarray


def sponsored_search(
    num_impressions: int = 60_000,
    *,
    num_queries: int = 400,
    num_ads: int = 400,
    num_topics: int = 20,
    num_words: int = 32,
    word_noise: float = 0.6,
    irrelevant: float = 0.05,
    rate: float = 0.1,
    seed: int = 0,
) -> SponsoredSearch:
    """A pair is relevant if query and ad have the same topic; clicks depend on the ad's appeal and on taste.

    The logit of a click is that of `rate`, the appeal of the ad, N(0, 1), and a product of vectors of query
    and ad; relevance is no part of it: people click on what has nothing to do with their query, too. An ad is
    shown for relevance, but by the chance `irrelevant` it is any one. Queries are drawn by popularity,
    1 / (5 + rank).

    Args:
      num_words: width of the vectors of words, which are that of the topic and noise of the deviation
        word_noise, so that their cosine is a fallible teacher of relevance.

    The impressions are split at random, 80/10/10.

    Raises:
      ValueError: a setting out of range, naming it and its rule.
    """
    counts = {"num_impressions": num_impressions, "num_topics": num_topics, "num_words": num_words}
    for name, count in (*counts.items(), ("num_queries", num_queries), ("num_ads", num_ads)):
        least = num_topics if name == "num_ads" else 1
        if count < least:
            raise ValueError(f"{name}={count}: must be at least {least}")
    if not (word_noise >= 0 and 0 <= irrelevant <= 1 and 0 < rate < 1):
        raise ValueError(
            f"word_noise={word_noise}, irrelevant={irrelevant}, rate={rate}: must be at least 0, in 0..1, "
            "and in (0, 1)"
        )
    rng = np.random.default_rng(seed)
    topics = [rng.integers(0, num_topics, num_queries), rng.permutation(np.arange(num_ads) % num_topics)]
    relevance = topics[0][:, None] == topics[1]
    taste = [rng.normal(0.0, 0.7, (count, 3)) for count in (num_queries, num_ads)]
    logits = np.log(rate) - np.log1p(-rate) + rng.standard_normal(num_ads) + taste[0] @ taste[1].T
    click_rate = 1.0 / (1.0 + np.exp(-logits))
    weight = 1.0 / (5.0 + np.arange(num_queries))
    query = rng.choice(num_queries, num_impressions, p=weight / weight.sum())
    # the k-th ad of a topic, for k below the number of its ads
    by_topic = np.argsort(topics[1], kind="stable")
    size = np.bincount(topics[1], minlength=num_topics)
    first = np.cumsum(size) - size
    drawn = first[topics[0][query]] + (rng.random(num_impressions) * size[topics[0][query]]).astype(np.int64)
    ad = np.where(
        rng.random(num_impressions) < irrelevant, rng.integers(0, num_ads, num_impressions), by_topic[drawn]
    )
    click = rng.random(num_impressions) < click_rate[query, ad]
    centres = rng.standard_normal((num_topics, num_words)) / np.sqrt(num_words)
    words = [_words(centres[of], word_noise, rng) for of in topics]

    def truth(values: np.ndarray) -> np.ndarray:
        return np.pad(values.astype(np.float32), ((0, 0), (1, 0)))

    return SponsoredSearch(
        query.astype(np.int32),
        (ad + 1).astype(np.int32),
        click.astype(np.float32),
        split_at_random(num_impressions, seed=seed),
        words[0],
        words[1],
        truth(relevance),
        truth(click_rate),
    )


def _words(centres: np.ndarray, noise: float, rng: np.random.Generator) -> SideFeatures:
    """Vectors near those of the topics, [E, W], as features."""
    vectors = centres + noise * rng.standard_normal(centres.shape) / np.sqrt(centres.shape[1])
    return SideFeatures({}, {}, {"words": np.pad(vectors, ((1, 0), (0, 0))).astype(np.float32)})
