import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data import vocab


def test_order_of_first_appearance() -> None:
    assert vocab.build("item", [30, 10, 30, 20]).raw.tolist() == [30, 10, 20]


def test_sorted_order() -> None:
    assert vocab.build("item", ["b", "a", "b"], "sorted").raw.tolist() == ["a", "b"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=3), min_size=1), st.sampled_from(["appearance", "sorted"]))
def test_decode_inverts_encode(values: list[str], order: vocab.Order) -> None:
    values = [value.replace("\0", "0") for value in values]  # NumPy text can't end in NUL
    vocabulary = vocab.build("item", values, order)
    ids = vocabulary.encode(values)
    assert ids.dtype == np.int32
    assert set(ids.tolist()) == set(range(1, len(vocabulary) + 1))
    assert vocabulary.decode(ids).tolist() == values


def test_unknown_ids_are_named_and_counted() -> None:
    with pytest.raises(ValueError, match=r"item: unknown raw id 'z' at position 1 \(2 unknown of 3\)"):
        vocab.build("item", ["a", "b"]).encode(["a", "z", "zz"])


@pytest.mark.parametrize("ids", [[0], [3], [-1], [1.5]])
def test_ids_outside_the_vocabulary_do_not_decode(ids: list[float]) -> None:
    with pytest.raises(ValueError, match=r"is outside 1..2"):
        vocab.build("item", ["a", "b"]).decode(ids)


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [float("nan")], [None, "a"], [True, False], ["a", 1], [[1], [2]]]
)
def test_raw_ids_are_integers_or_text(values: list[object]) -> None:
    with pytest.raises(ValueError, match="item: raw ids"):
        vocab.build("item", values)


def test_text_and_integers_are_not_compared() -> None:
    with pytest.raises(ValueError, match="convert one to the other"):
        vocab.build("item", ["1", "2"]).encode([1])


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="item ids: there are none"):
        vocab.build("item", [])


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'appearance' or 'sorted'"):
        vocab.build("item", [1], "random")  # type: ignore[arg-type]


def test_repeated_raw_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        vocab.Vocabulary("item", np.array([5, 6, 5]))


# --- vocabularies that grow ----------------------------------------------------------------------------


@given(
    before=st.lists(st.integers(-9, 9), min_size=1, max_size=6, unique=True),
    values=st.lists(st.integers(-9, 9), max_size=9),
    text=st.booleans(),
)
def test_an_extended_vocabulary_keeps_its_ids(before: list[int], values: list[int], text: bool) -> None:
    old, new = ([str(v) for v in ids] if text else ids for ids in (before, values))
    vocabulary = vocab.build("item", old)
    grown = vocab.extend(vocabulary, new)
    assert grown.raw.tolist() == list(dict.fromkeys([*old, *new]))
    assert grown.encode(old).tolist() == vocabulary.encode(old).tolist()
    vocab.check_extends("item", vocabulary.raw, grown.raw)
    assert vocab.extend(grown, new).raw.tolist() == grown.raw.tolist()


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (["a", "b"], "item: 1 of 3 raw ids are lost, such as 'c'; a vocabulary only grows"),
        (["a", "d", "b", "c"], "item: id 2 was 'b' and is 'd'; ids stay"),
        (["b", "a", "c"], "item: id 1 was 'a' and is 'b'; ids stay"),
    ],
)
def test_a_vocabulary_that_lost_or_reordered_ids_is_refused(now: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vocab.check_extends("item", np.array(["a", "b", "c"]), np.array(now))


def test_ids_of_another_type_do_not_extend() -> None:
    with pytest.raises(ValueError, match="item: raw ids of type int64 given, the vocabulary holds <U1"):
        vocab.extend(vocab.build("item", ["a"]), [1, 2])
