"""Generated queries and ads: who sees what, what is clicked, and what the words tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.sponsored_search import sponsored_search

DATA = sponsored_search(40_000, num_queries=60, num_ads=50, num_topics=5)


def test_ads_are_shown_for_relevance_but_few() -> None:
    relevant = DATA.relevance[DATA.query, DATA.ad]
    assert set(np.unique(relevant)) == {0.0, 1.0}
    by_chance = DATA.relevance[:, 1:].mean(axis=1)[DATA.query].mean()
    assert relevant.mean() == pytest.approx(0.95 + 0.05 * by_chance, abs=0.01)
    assert DATA.ad.min() == 1 and DATA.ad.max() == 50 and not DATA.relevance[:, 0].any()


def test_clicks_have_their_rates_whatever_the_relevance() -> None:
    p = DATA.click_rate[DATA.query, DATA.ad]
    assert DATA.click.mean() == pytest.approx(p.mean(), abs=0.01)
    high = p > np.quantile(p, 0.9)
    assert DATA.click[high].mean() == pytest.approx(p[high].mean(), abs=0.03)
    rates, relevant = DATA.click_rate[:, 1:], DATA.relevance[:, 1:] > 0
    assert rates[relevant].mean() == pytest.approx(rates[~relevant].mean(), rel=0.15)


def test_words_tell_relevance_but_not_all_of_it() -> None:
    words = [side.vectors["words"][1:] for side in (DATA.queries, DATA.ads)]
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in words]
    cosine, relevant = unit[0] @ unit[1].T, DATA.relevance[:, 1:] > 0
    assert cosine[relevant].mean() > cosine[~relevant].mean() + 0.3
    assert 0.85 < np.mean(np.sort(cosine[relevant])[:, None] > np.sort(cosine[~relevant])[None, :]) < 1.0


def test_every_impression_is_in_one_part() -> None:
    parts = np.concatenate(DATA.split[:3])
    assert sorted(parts.tolist()) == list(range(40_000))


@pytest.mark.parametrize(
    "change",
    [
        {"num_impressions": 0},
        {"num_ads": 4, "num_topics": 5},
        {"rate": 0.0},
        {"irrelevant": 1.5},
        {"word_noise": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"{name}={change[name]}"):
        sponsored_search(**change)
