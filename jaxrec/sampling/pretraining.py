"""Pairs to pre-train two towers on, from lists of items or bags of words alone (Chang et al., ICLR 2020).

arXiv:2002.03932, section 3. There a page of Wikipedia has passages of sentences; a query is a sentence, its
document a passage. Here a page is the list of a user or a session and an item stands for a passage, or an
item is a page and its words are the sentences:

    inverse_cloze   the rest of a list, and one of its items (ICT)
    body_first      the first item of a list, and another one of it (BFS)
    linked_lists    the first item of a list, and one of a list that shares an item with it (WLP)
    split_words     some words of an item, and its other words (ICT)

The pairs are what `tasks.two_tower` reads (`pair_columns`), so that a tower of histories and a tower of items
are trained by the softmax over the batch, and go on with users' own pairs by `fit(initial=…)`.

Departs from the paper: a tower of histories reads the longer side of ICT, and that of items the shorter one,
as the towers of users and items do; a list without an order has no first item, and any is taken. Draws are
made on the host, once: give each epoch's pairs a seed of their own, or take several seeds together
(`mixed_pairs`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.side_features import SideFeatures, tower_columns


class PretrainingPairs(NamedTuple):
    """P pairs of a query, which is a list of items, and one item as its document.

    items [N], start, length [P]: query p is items[start[p] : start[p] + length[p]]. item: the documents, [P].
    page, other: the lists that query and document are of, [P].
    """

    items: np.ndarray
    start: np.ndarray
    length: np.ndarray
    item: np.ndarray
    page: np.ndarray
    other: np.ndarray

    def query(self, number: int) -> np.ndarray:
        """The items of a query."""
        return self.items[self.start[number] : self.start[number] + self.length[number]]


def inverse_cloze(
    items: np.ndarray, offsets: np.ndarray, *, keep: float = 0.0, seed: int = 0
) -> PretrainingPairs:
    """For each list of two different items or more, one of its items at random and all others.

    Args:
      items: of all lists, from 1, [N]. offsets: list u is items[offsets[u] : offsets[u + 1]], [U + 1].
      keep: the chance that the item stays in the query, in which its other occurrences never stay. The paper
        removes it always; ORQA keeps it in one of ten pairs.

    Raises:
      ValueError: no list has two items; the lists are not what offsets say; keep is outside 0..1.
    """
    if not 0.0 <= keep <= 1.0:
        raise ValueError(f"keep={keep}: must be in 0..1")
    items, offsets = _checked(items, offsets)
    rng = np.random.default_rng(seed)
    page = _lists_of_two(items, offsets)
    first, size = offsets[page], np.diff(offsets)[page]
    place = first + (rng.random(len(page)) * size).astype(np.int64)
    item, kept = items[place], rng.random(len(page)) < keep
    at = _ranges(first, size)
    pair = np.repeat(np.arange(len(page)), size)
    stays = (items[at] != item[pair]) | ((at == place[pair]) & kept[pair])
    length = np.bincount(pair[stays], minlength=len(page))
    return PretrainingPairs(items[at[stays]], np.cumsum(length) - length, length, item, page, page)


def body_first(items: np.ndarray, offsets: np.ndarray, *, seed: int = 0) -> PretrainingPairs:
    """For each list of two different items or more, its first item and another one of it, at random.

    Arguments and errors as of `inverse_cloze`.
    """
    items, offsets = _checked(items, offsets)
    rng = np.random.default_rng(seed)
    page = _lists_of_two(items, offsets)
    query = items[offsets[page]]
    item = _draw(items, offsets, page, query, rng)
    return _of_single_items(query, item, page, page)


def linked_lists(items: np.ndarray, offsets: np.ndarray, *, seed: int = 0) -> PretrainingPairs:
    """For each list with a link, its first item and one of a linked list, both at random.

    Two lists are linked by an item that both have. One of the list's items that others have is drawn, then
    one of these others, by its events of the item, then an item of it that is not the query.

    Arguments as of `inverse_cloze`.

    Raises:
      ValueError: as `inverse_cloze`; no two lists share an item.
    """
    items, offsets = _checked(items, offsets)
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((owner, items))  # events of an item, by list
    sorted_items, sorted_owner = items[order], owner[order]
    begin = np.searchsorted(sorted_items, items, side="left")
    count = np.searchsorted(sorted_items, items, side="right") - begin
    _, pair, times = np.unique(items * len(offsets) + owner, return_inverse=True, return_counts=True)
    own = times[pair]  # events of the item in the list itself
    two = np.isin(np.arange(len(offsets) - 1), _lists_of_two(items, offsets))
    shared = np.flatnonzero(count > own)
    if not shared.size:
        raise ValueError("lists: no item is in two of them, so that none is linked to another")
    pick = _one_of_each(owner[shared], rng)
    link = shared[pick]
    page = owner[link]
    # events of the linking item that are of another list lie before and behind the list's own
    before = np.searchsorted(
        sorted_items * len(offsets) + sorted_owner, items[link] * len(offsets) + page, side="left"
    )
    drawn = begin[link] + (rng.random(len(link)) * (count - own)[link]).astype(np.int64)
    other = sorted_owner[np.where(drawn >= before, drawn + own[link], drawn)]
    query = items[offsets[page]]
    real = two[other] | (items[offsets[:-1][other]] != query)
    if not real.any():
        raise ValueError("lists: those that are linked have no other item than the query")
    page, other, query = page[real], other[real], query[real]
    item = _draw(items, offsets, other, query, rng)
    return _of_single_items(query, item, page, other)


def mixed_pairs(*pairs: PretrainingPairs) -> PretrainingPairs:
    """The pairs of several samplers, or seeds, one after the other.

    Raises:
      ValueError: none is given.
    """
    if not pairs:
        raise ValueError("mixed_pairs() was given no pairs")
    shift = np.cumsum([0, *(len(one.items) for one in pairs[:-1])])
    start = [one.start + by for one, by in zip(pairs, shift, strict=True)]
    joined = PretrainingPairs(*(np.concatenate(columns) for columns in zip(*pairs, strict=True)))
    return joined._replace(start=np.concatenate(start))


def split_words(
    words: np.ndarray, *, number: int, keep: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Some words of each item, and its other words: ids [I + 1, W] → [I + 1, number] and [I + 1, W].

    Both are padded with 0; an item without more words than `number` has none in either. Give them to
    `pair_columns` as features of queries and of documents.

    Args:
      words: different ids from 1 of each item, 0 where there is none; row 0 is 0.
      number: words of a query. keep: the chance that an item's words stay in its document.

    Raises:
      ValueError: no item has more words; a word stands twice in an item; keep is outside 0..1.
    """
    words = np.asarray(words)
    if words.ndim != 2 or words[0].any() or not 0.0 <= keep <= 1.0:
        raise ValueError(
            f"words {list(words.shape)}, keep={keep}: must be [I + 1, W] with row 0 of 0, and in 0..1"
        )
    ordered = np.sort(words, axis=1)
    twice = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(axis=1))
    if twice.size:
        raise ValueError(f"words: item {twice[0]} has a word twice; give each once")
    enough = (words > 0).sum(axis=1) > number
    if number < 1 or not enough.any():
        raise ValueError(f"number={number}: must be at least 1, and below the number of words of some item")
    rng = np.random.default_rng(seed)
    chance = np.where(words > 0, rng.random(words.shape), 2.0)
    place = np.argsort(chance, axis=1)[:, :number]
    query = np.where(enough[:, None], np.take_along_axis(words, place, axis=1), 0)
    rest = words.copy()
    np.put_along_axis(rest, place, 0, axis=1)
    kept = rng.random(len(words)) < keep
    return query, np.where(enough[:, None], np.where(kept[:, None], words, rest), 0)


def pair_columns(
    pairs: PretrainingPairs, *, num_items: int, items: SideFeatures | None = None
) -> dict[str, np.ndarray]:
    """The resident columns of pairs for `tasks.two_tower` and a `TwoTower` whose users are histories.

    Query p is the history of user p. Documents with the id of a pair's own are no negatives of it, as the
    task masks them. items: features of the items, as of `tower_columns`.
    """
    number = np.arange(len(pairs.item), dtype=np.int32)
    found = tower_columns(number, pairs.item, num_users=len(number), num_items=num_items, items=items)
    return found | {
        "pair_user": number,
        "pair_item": pairs.item.astype(np.int32),
        "items": pairs.items.astype(np.int32),
        "start": pairs.start.astype(np.int32),
        "length": pairs.length.astype(np.int32),
    }


def word_columns(query: np.ndarray, document: np.ndarray) -> dict[str, np.ndarray]:
    """The resident columns of pairs of bags of words, for fields "user_words" and "item_words".

    query, document: of `split_words`, [I + 1, Q] and [I + 1, W]. User and item i are those of item i.
    """
    real = np.flatnonzero((query != 0).any(axis=1))
    columns = tower_columns(real - 1, real, num_users=len(query) - 1, num_items=len(document) - 1)
    none = np.zeros(len(query) - 1, np.int32)
    return columns | {
        "pair_user": (real - 1).astype(np.int32),
        "pair_item": real.astype(np.int32),
        "user_words": query.astype(np.int32),
        "item_words": document.astype(np.int32),
        "items": np.zeros(1, np.int32),
        "start": none,
        "length": none,
    }


def _of_single_items(
    query: np.ndarray, item: np.ndarray, page: np.ndarray, other: np.ndarray
) -> PretrainingPairs:
    number = np.arange(len(query))
    return PretrainingPairs(query, number, np.ones_like(number), item, page, other)


def _checked(items: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    items, offsets = np.asarray(items, np.int64), np.asarray(offsets, np.int64)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"offsets: must ascend from 0 to {len(items):,}, the number of items, one entry more than lists"
        )
    if items.size and items.min() < 1:
        raise ValueError(f"items: {items.min()}: ids start at 1")
    return items, offsets


def _lists_of_two(items: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The numbers of lists with two different items. Raises ValueError if there is none."""
    size = np.diff(offsets)
    owner = np.repeat(np.arange(len(size)), size)
    differs = items != items[np.minimum(offsets[:-1], max(len(items) - 1, 0))[owner]]
    found = np.flatnonzero(np.bincount(owner[differs], minlength=len(size)))
    if not found.size:
        raise ValueError("lists: none has two different items, so that there is no pair")
    return found


def _draw(
    items: np.ndarray, offsets: np.ndarray, lists: np.ndarray, excluded: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """An item of each list that is not the excluded one, which each has, by its events: [P]."""
    size = np.diff(offsets)[lists]
    at, pair = _ranges(offsets[lists], size), np.repeat(np.arange(len(lists)), size)
    allowed = np.flatnonzero(items[at] != excluded[pair])
    return items[at[allowed[_one_of_each(pair[allowed], rng)]]]


def _ranges(first: np.ndarray, size: np.ndarray) -> np.ndarray:
    """first[0] .. first[0] + size[0] - 1, first[1] .. , one after the other."""
    begin = np.cumsum(size) - size
    return np.arange(size.sum()) + np.repeat(first - begin, size)


def _one_of_each(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place of each number of an ascending array, at random."""
    _, first, count = np.unique(group, return_index=True, return_counts=True)
    return first + (rng.random(len(first)) * count).astype(np.int64)
