"""Pairs for pre-training: what query and document share, their chances, and that two towers learn them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.optim.loss_weighting import static
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
from jaxrec.tasks.two_tower import two_tower
from jaxrec.train.state import create
from jaxrec.train.step import make_step

LISTS: tuple[list[int], ...] = ([3, 1, 4, 1, 5], [2], [6, 5], [], [4, 4], [7, 2, 6], [8, 9])
ITEMS = np.concatenate([np.array(one, np.int64) for one in LISTS])
OFFSETS = np.cumsum([0, *(len(one) for one in LISTS)])
WITH_TWO = [0, 2, 5, 6]
SEEDS = range(300)


def test_the_cloze_of_a_list_is_an_item_and_the_rest() -> None:
    for seed in range(20):
        pairs = inverse_cloze(ITEMS, OFFSETS, seed=seed)
        assert pairs.page.tolist() == WITH_TWO == pairs.other.tolist()
        for p, page in enumerate(WITH_TWO):
            query, item = pairs.query(p).tolist(), int(pairs.item[p])
            assert item not in query
            assert query == [i for i in LISTS[page] if i != item]  # in their order
            assert {*query, item} == set(LISTS[page])


def test_the_item_of_a_cloze_is_any_event_and_may_stay() -> None:
    drawn = Counter(int(inverse_cloze(ITEMS, OFFSETS, seed=seed).item[0]) for seed in SEEDS)
    assert drawn[1] / len(SEEDS) == pytest.approx(2 / 5, abs=0.09)
    stays = inverse_cloze(ITEMS, OFFSETS, keep=1.0)
    assert [len(stays.query(p)) for p in range(4)] == [5 - (stays.item[0] == 1), 2, 3, 2]
    assert all(stays.item[p] in stays.query(p) for p in range(4))
    some = [inverse_cloze(ITEMS, OFFSETS, keep=0.1, seed=seed) for seed in SEEDS]
    share = np.mean([one.item[1] in one.query(1) for one in some])
    assert share == pytest.approx(0.1, abs=0.06)


def test_the_body_is_another_item_of_the_list() -> None:
    drawn: Counter[int] = Counter()
    for seed in SEEDS:
        pairs = body_first(ITEMS, OFFSETS, seed=seed)
        assert pairs.page.tolist() == WITH_TWO == pairs.other.tolist()
        for p, page in enumerate(WITH_TWO):
            assert pairs.query(p).tolist() == LISTS[page][:1]
            assert pairs.item[p] in set(LISTS[page]) - {LISTS[page][0]}
        drawn[int(pairs.item[0])] += 1
    assert drawn[1] / len(SEEDS) == pytest.approx(0.5, abs=0.1)  # of 1, 4, 1, 5


def test_linked_lists_share_an_item() -> None:
    others: Counter[int] = Counter()
    for seed in SEEDS:
        pairs = linked_lists(ITEMS, OFFSETS, seed=seed)
        assert set(pairs.page) <= {0, 1, 2, 4, 5}  # list 6 has no item of another
        for p, (page, other) in enumerate(zip(pairs.page, pairs.other, strict=True)):
            assert page != other and set(LISTS[page]) & set(LISTS[other])
            query = pairs.query(p).tolist()
            assert query == LISTS[page][:1]
            assert pairs.item[p] in set(LISTS[other]) - set(query)
        others[int(pairs.other[0])] += 1
    # list 0 has the links 4, of two events in list 4, and 5, of one in list 2
    assert others[4] / len(SEEDS) == pytest.approx(0.5, abs=0.1) and set(others) == {2, 4}


def test_a_link_that_leads_to_the_query_alone_is_no_pair() -> None:
    items, offsets = np.array([2, 3, 2]), np.array([0, 2, 3])
    pairs = linked_lists(items, offsets)
    assert pairs.page.tolist() == [1] and pairs.item.tolist() == [3] and pairs.other.tolist() == [0]


def test_equal_seeds_give_equal_pairs() -> None:
    for sampler in (inverse_cloze, body_first, linked_lists):
        one, same, other = (sampler(ITEMS, OFFSETS, seed=seed) for seed in (3, 3, 4))
        jax.tree.map(np.testing.assert_array_equal, one, same)
        assert any(len(a) != len(b) or (a != b).any() for a, b in zip(one, other, strict=True))


def test_mixed_pairs_keep_their_queries() -> None:
    parts = [inverse_cloze(ITEMS, OFFSETS), body_first(ITEMS, OFFSETS), linked_lists(ITEMS, OFFSETS)]
    whole = mixed_pairs(*parts)
    queries = [part.query(p).tolist() for part in parts for p in range(len(part.item))]
    assert [whole.query(p).tolist() for p in range(len(whole.item))] == queries
    assert whole.item.tolist() == [int(i) for part in parts for i in part.item]
    with pytest.raises(ValueError, match="was given no pairs"):
        mixed_pairs()


@pytest.mark.parametrize(
    ("items", "offsets", "message"),
    [
        ([1, 2], [0, 1], "must ascend from 0 to 2"),
        ([1, 2], [0, 2, 1, 2], "must ascend from 0 to 2"),
        ([0, 2], [0, 2], "items: 0: ids start at 1"),
        ([1, 1, 2], [0, 2, 3], "none has two different items"),
        ([], [0], "none has two different items"),
    ],
)
def test_lists_without_pairs_are_refused(items: list[int], offsets: list[int], message: str) -> None:
    for sampler in (inverse_cloze, body_first, linked_lists):
        with pytest.raises(ValueError, match=message):
            sampler(np.array(items, np.int64), np.array(offsets))


def test_lists_without_a_link_and_a_wrong_chance_are_refused() -> None:
    with pytest.raises(ValueError, match="no item is in two of them"):
        linked_lists(np.array([1, 2, 3]), np.array([0, 2, 3]))
    with pytest.raises(ValueError, match="no other item than the query"):
        linked_lists(np.array([1, 1, 2, 3]), np.array([0, 1, 2, 4]))
    with pytest.raises(ValueError, match=r"keep=1.5: must be in 0\.\.1"):
        inverse_cloze(ITEMS, OFFSETS, keep=1.5)


# --- words -----------------------------------------------------------------------------------------

WORDS = np.array([[0, 0, 0, 0], [5, 2, 0, 9], [0, 7, 0, 0], [1, 2, 3, 4], [8, 0, 9, 0]])


def test_words_are_divided_into_query_and_document() -> None:
    for seed in range(20):
        query, document = split_words(WORDS, number=2, seed=seed)
        for i, words in enumerate(WORDS):
            q, d = ({*row.tolist()} - {0} for row in (query[i], document[i]))
            known = {*words.tolist()} - {0}
            if len(known) <= 2:
                assert not q and not d
                continue
            assert len(q) == 2 and not q & d and q | d == known
    query, document = split_words(WORDS, number=1, keep=1.0)
    np.testing.assert_array_equal(document, np.where(np.array([0, 1, 0, 1, 1])[:, None], WORDS, 0))


def test_every_word_is_in_the_query_as_often() -> None:
    drawn = np.concatenate([split_words(WORDS, number=2, seed=seed)[0][3] for seed in SEEDS])
    np.testing.assert_allclose(np.bincount(drawn)[1:] / len(SEEDS), 0.5, atol=0.1)


@pytest.mark.parametrize(
    ("words", "number", "message"),
    [
        (WORDS, 4, "number=4: must be at least 1, and below"),
        (WORDS, 0, "number=0: must be at least 1"),
        (WORDS[1:], 1, "with row 0 of 0"),
        (np.array([[0, 0], [3, 3]]), 1, "item 1 has a word twice"),
    ],
)
def test_words_that_cannot_be_divided_are_refused(words: Any, number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_words(words, number=number)


# --- two towers ------------------------------------------------------------------------------------


def towers(num_items: int) -> TwoTower:
    history = Categorical("history_id", num_items + 1, 8, vocabulary="item_id")
    return TwoTower(
        (history,), (Categorical("item_id", num_items + 1, 8),), (), (), temperature=0.2, max_history=12
    )


def losses_of(model: TwoTower, columns: Any, count: int, batch: int = 64, start: Any = None) -> Any:
    """Losses of steps of the softmax over the batch, and the parameters."""
    task, tx, weighting = two_tower(model), optax.adam(0.03), static()
    context = {name: jnp.asarray(column) for name, column in columns.items()}
    size = len(columns["pair_item"])

    def examples(key: Any) -> Any:
        return {"example": jax.random.randint(key, (batch,), 0, size), "mask": jnp.ones(batch, bool)}

    state = create(task, tx, weighting, jax.random.key(0), examples(jax.random.key(1)), context, start)
    step = make_step(task, tx, weighting)

    @jax.jit
    def run(state: Any) -> Any:
        def one(state: Any, key: Any) -> Any:
            state, logs = step(state, examples(key), context)
            return state, logs["pairs"]

        return jax.lax.scan(one, state, jax.random.split(jax.random.key(2), count))

    state, found = run(state)
    return np.asarray(found), state.variables


def test_two_towers_that_were_pretrained_begin_ahead() -> None:
    """On users' own pairs, without a step on them: items of a group are alike already."""
    lists = group_tastes(120, 6, 8, num_items=6)
    items, offsets, num_items = lists.items, np.asarray(lists.offsets), lists.num_items
    pairs = mixed_pairs(
        *(
            sampler(items, offsets, seed=s)
            for s in range(4)
            for sampler in (inverse_cloze, body_first, linked_lists)
        )
    )
    model = towers(num_items)
    _, variables = losses_of(model, pair_columns(pairs, num_items=num_items), 60)
    own = pair_columns(inverse_cloze(items, offsets, seed=99), num_items=num_items)
    given = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    after, _ = losses_of(model, own, 1, start=given)
    before, _ = losses_of(model, own, 1)
    assert after[0] < before[0] - 0.1


def test_a_batch_of_one_pair_has_loss_zero_and_copies_are_no_negatives() -> None:
    pairs = PretrainingPairs(*(np.array(x) for x in ([1, 1], [0, 1], [1, 1], [2, 2], [0, 1], [0, 1])))
    columns = pair_columns(pairs, num_items=3)
    found, _ = losses_of(towers(3), columns, 1, batch=1)
    assert found[0] == 0.0
    found, _ = losses_of(towers(3), columns, 1, batch=8)  # all of the same document
    assert found[0] == 0.0


def test_words_of_query_and_document_are_towers_of_their_own() -> None:
    query, document = split_words(WORDS, number=1)
    columns = word_columns(query, document)
    assert columns["pair_item"].tolist() == [1, 3, 4] and columns["pair_user"].tolist() == [0, 2, 3]
    words = [Categorical(f"{side}_words", 10, 4, vocabulary="words") for side in ("user", "item")]
    model = TwoTower((words[0],), (words[1],), (5, 4), (5, 4))
    found, variables = losses_of(model, columns, 20, batch=8)
    assert found[-1] < found[0]
    context = {name: jnp.asarray(column) for name, column in columns.items()}
    users, items = model.apply(variables, context, method="vectors")
    other = {**context, "item_words": context["item_words"][::-1]}
    same, changed = model.apply(variables, other, method="vectors")
    np.testing.assert_array_equal(users, same)
    assert not np.allclose(items, changed)
