"""Word hashing: texts as counts of letter trigrams (Huang et al., CIKM 2013, section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

MARK = "#"  # the beginning and the end of a word


def letter_ngrams(text: str, n: int = 3) -> Counter[str]:
    """The n-grams of a text's words, each with a mark at its beginning and end, and how often each occurs.

    Words are what white space separates, in lower case. A word of w letters has w + 3 - n of them; one that
    is too short for any is an n-gram by itself, with its marks.

    Raises:
      ValueError: n is below 1.

    >>> sorted(letter_ngrams("good"))
    ['#go', 'goo', 'od#', 'ood']
    """
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1")
    found: Counter[str] = Counter()
    for word in text.lower().split():
        marked = f"{MARK}{word}{MARK}"
        found.update(marked[i : i + n] for i in range(max(1, len(marked) - n + 1)))
    return found


def count_ngrams(
    texts: Sequence[str], *, n: int = 3, vocabulary: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Counts of n-grams of each text, float32 [N, V], and the n-grams that the columns count.

    Such counts are features that are not trained: `SideFeatures(vectors=…)`, behind a row of zeros.

    vocabulary: n-grams to count, those of a model that is trained; others are left out. None: all, sorted.

    Raises:
      ValueError: there is no text or no n-gram to count; an n-gram is given twice.

    >>> counts, ngrams = count_ngrams(["to", "to to"])
    >>> ngrams, counts.tolist()
    (['#to', 'to#'], [[1.0, 1.0], [2.0, 2.0]])
    """
    rows = [letter_ngrams(text, n) for text in texts]
    known = sorted(set().union(*rows)) if vocabulary is None else list(vocabulary)
    if not rows or not known:
        raise ValueError(f"texts: {len(rows):,}, n-grams: {len(known):,}; give a word at least")
    place = {ngram: column for column, ngram in enumerate(known)}
    if len(place) < len(known):
        twice = next(ngram for ngram, count in Counter(known).items() if count > 1)
        raise ValueError(f"vocabulary: {twice!r} is given twice; keep each n-gram once")
    counts = np.zeros((len(rows), len(known)), np.float32)
    for number, row in enumerate(rows):
        for ngram, count in row.items():
            if ngram in place:
                counts[number, place[ngram]] = count
    return counts, known
