"""The experiment on sessions runs to its end on tiny data, and its floors are what they say."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sequential import stamp
from jaxrec.data.events.sessions import Sessions, split_sessions
from jaxrec.data.sources import session_logs as source
from jaxrec.data.sources.session_logs import arrays_from_lists
from jaxrec.protocols import sessions
from jaxrec.report.results import read_results
from jaxrec.train.evaluate import evaluate
from tests.experiments.test_tiny import call

LEARNED = {"stamp-ce": "ce", "gru4rec-ce": "ce"}


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    results = tmp_path / "results"
    rows = ("--rows", "random", "item-knn", *LEARNED)
    places = ("--results", results, "--workdir", tmp_path / "work", "--seeds", 3, 4)
    call(stamp, monkeypatch, "--tiny", *rows, *places)
    records = {record.result.model: record.result for record in read_results(results)}
    assert set(records) == {"random", "item-knn", *LEARNED}
    for model, result in records.items():
        assert (result.experiment, result.dataset) == ("stamp", "tiny")
        assert bool(result.steps) == (model in LEARNED)
        assert result.protocol.loss == LEARNED.get(model, "")
        assert (result.protocol.candidates, result.protocol.seen) == ("all", "keep")
        assert result.protocol.selection == ("recall@20" if model in LEARNED else "none")
        assert set(result.metrics) == {f"{m}@{k}" for m in ("recall", "mrr") for k in sessions.KS}
        assert all(len(values) == 2 for values in result.metrics.values())
        assert not result.published  # nothing was published about made-up data
    assert records["item-knn"].metrics["recall@5"][0] > 2 * np.mean(records["random"].metrics["recall@5"])


def test_epochs_chosen_on_test_are_labelled_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 3)
    call(stamp, monkeypatch, "--tiny", "--rows", "popularity", "stamp-ce", "--select", "test", *places)
    records = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(records) == {"popularity+all-sessions", "stamp-ce+test-selected"}
    assert records["popularity+all-sessions"].protocol.selection == "none"
    result = records["stamp-ce+test-selected"]
    assert result.protocol.selection == "recall@20 on test"
    assert result.protocol.split == "later sessions tested, all others trained on"
    assert result.config["share"] == 0
    whole = stamp.effective(stamp.Config(select="test"))
    assert stamp.published_numbers("stamp-ce", whole).values["mrr@20"] == 0.2967
    assert "best on test" in stamp.note_of("stamp-ce", whole)
    assert stamp.note_of("item-knn", whole) == stamp.PREPARATION  # nothing of it was chosen


def test_repeated_views_stand_together_in_file_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    call(stamp, monkeypatch, "--tiny", "--rows", "markov", "--order", "file", "--results", tmp_path)
    (record,) = read_results(tmp_path)
    assert (record.result.model, record.result.config["order"]) == ("markov+file-order", "file")
    assert not stamp.published_numbers("markov", stamp.effective(stamp.Config(order="file"))).values
    assert not stamp.published_numbers("item-knn", stamp.effective(stamp.Config(order="file"))).values


def grouped(row: list[int]) -> bool:
    """Whether equal items stand side by side."""
    return len(list(itertools.groupby(row))) == len(set(row))


def test_reordered_sessions_hold_the_same_clicks_and_ask_every_prefix() -> None:
    lists_of = [[1, 2, 1, 3, 2, 1], [4, 4, 5, 4], [2, 3], [6, 1, 6, 5, 1]]
    asked = [(row[:cut], row[cut]) for row in lists_of for cut in range(len(row) - 1, 0, -1)]
    lists = arrays_from_lists(lists_of, ([p for p, _ in asked], [t for _, t in asked]), "made")
    before = Sessions.from_arrays("made", **lists)
    firsts = set()
    for seed in range(20):
        found = sessions.repeats_together(before, seed)
        assert found.test.lengths.tolist() == before.test.lengths.tolist()
        at = 0
        for row, session in enumerate(lists_of):
            for part in (found.train.user_items(row), found.test.user_items(at)):
                assert sorted(part.tolist()) == sorted(session)
                assert grouped(part.tolist())
            whole = found.test.user_items(at).tolist()
            for cut in range(len(session), 1, -1):  # a prefix and its target
                assert found.test.user_items(at).tolist() == whole[:cut]
                at += 1
        firsts.add(int(found.train.user_items(0)[0]))
    assert firsts == {1, 2, 3}  # items come in random order
    for seed in range(5):
        found = sessions.repeats_together(before, seed, fixed=True)
        rows = [found.train.user_items(row).tolist() for row in range(len(lists_of))]
        rows += [found.test.user_items(at).tolist() for at in range(found.test.num_users)]
        assert all(grouped(row) for row in rows)
        pairs = {(a, b) for row in rows for a, b in itertools.combinations(row, 2) if a != b}
        assert not any((b, a) in pairs for a, b in pairs)  # 1 and 2, 1 and 3, ... stand in one order in all


@pytest.mark.parametrize("prefixes", [[[1, 2], [3, 4]], [[1], [3, 4]]])
def test_sessions_whose_prefixes_are_not_all_there_are_refused(prefixes: list[list[int]]) -> None:
    """The second prefix is cut from another session, or shorter ones of its session are missing."""
    found = Sessions.from_arrays("made", **arrays_from_lists([[1, 2, 3, 4, 5]], (prefixes, [3, 5]), "made"))
    with pytest.raises(ValueError, match="not all prefixes"):
        sessions.repeats_together(found)


def test_rows_of_two_sessions_are_not_taken_for_one() -> None:
    """Lengths go down by one as those of one session do, the clicks are another's."""
    prefixes = ([[1, 2], [3]], [4, 5])
    found = Sessions.from_arrays("made", **arrays_from_lists([[1, 2, 3, 4, 5]], prefixes, "made"))
    with pytest.raises(ValueError, match="is no prefix of the longer one"):
        sessions.repeats_together(found)


def test_published_numbers_stand_beside_official_settings_only() -> None:
    official = stamp.effective(stamp.Config())
    assert stamp.published_numbers("stamp-ce", official).values["recall@20"] == 0.6874
    assert not stamp.published_numbers("stamp-ce", dataclasses.replace(official, learning_rate=0.1)).values
    assert not stamp.published_numbers("stamp-ce", stamp.effective(stamp.Config(dataset="diginetica"))).values
    other_epochs = dataclasses.replace(official, epochs=1)
    assert stamp.published_numbers("item-knn", other_epochs).values["mrr@20"] == 0.2181
    assert not stamp.published_numbers("item-knn", dataclasses.replace(official, share=0.5)).values


def test_another_gru4rec_than_the_papers_has_no_difference_from_it() -> None:
    official = stamp.effective(stamp.Config())
    assert "GRU4Rec is that of 2016" in stamp.published_numbers("gru4rec-ce", official).incomparable
    for row in ("popularity", "item-knn", "stmp-ce", "stamp-ce"):
        assert stamp.published_numbers(row, official).incomparable == ""  # type: ignore[arg-type]


def test_the_note_on_popularity_says_what_other_training_sessions_give(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if not (data_dir / "yoochoose1_64/sessions.npz").exists():
        pytest.skip("yoochoose1_64/sessions.npz is not in the data folder")
    sessions = source.load("yoochoose1_64")

    def recall(share: float, by: Any) -> str:
        split = split_sessions(sessions, share=share, by=by)
        counts = np.bincount(split.training_clicks()[1], minlength=split.num_items + 1)[1:]
        target = counts[split.queries("test").target - 1]
        at_least = len(counts) - np.searchsorted(np.sort(counts), target)  # itself among them
        return f"{np.mean(at_least <= 20):.4f}"

    note = stamp.note_of("popularity", stamp.effective(stamp.Config()))
    assert recall(0.1, "random") == recall(0.0, "random") == "0.0731"
    assert recall(0.1, "last") == "0.0542"
    assert "recall@20 is 0.0731 too, with the first 90 % 0.0542" in note


def test_settings_of_the_authors_by_data_set() -> None:
    found = {
        name: (config.max_norm, config.clip)
        for name in ("yoochoose1_64", "diginetica", "tmall")
        if (config := stamp.effective(stamp.Config(dataset=name)))  # type: ignore[arg-type]
    }
    assert found == {"yoochoose1_64": (1.0, 150.0), "diginetica": (1.5, 110.0), "tmall": (1.0, 150.0)}
    assert stamp.effective(stamp.Config(dataset="diginetica", clip=7.0)).clip == 7.0


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"clip": -1.0}, {"learning_rate": 0.0}, {"dropout": 1.0}, {"seeds": (1, 1)}]
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}="):
        stamp.Config(**change)


def test_summed_gradients_are_cut_by_parameter() -> None:
    """3 examples: the mean gradient times 3, a norm of 15 cut to 6, one of 3 left; Adam starts by ± lr."""
    tx = stamp.summed(3, 6.0, 0.1)
    gradient = {"long": jnp.array([3.0, -4.0]), "short": jnp.array([1.0]), "none": jnp.zeros(2)}
    change, state = tx.update(gradient, tx.init(gradient), gradient)
    np.testing.assert_allclose(change["long"], [-0.1, 0.1], rtol=1e-4)
    first_moment = state[2][0].mu
    np.testing.assert_allclose(first_moment["long"], 0.1 * 6 / 5 * np.array([3.0, -4.0]), rtol=1e-6)
    np.testing.assert_allclose(first_moment["short"], [0.1 * 3.0], rtol=1e-6)
    assert not first_moment["none"].any()


# --- floors, against loops ---

TRAIN = [[1, 2, 1], [2, 3], [1, 2, 4], [3, 4, 3, 2], [5, 1], [2, 1], [6, 2]]
TEST = [([2, 4, 2], 4), ([2, 4], 2), ([2], 4), ([7], 1), ([5, 6], 7)]  # 7 is in no training session
NUM_ITEMS = 7


@pytest.fixture(scope="module")
def data() -> sessions.Data:
    lists = arrays_from_lists(TRAIN, ([prefix for prefix, _ in TEST], [target for _, target in TEST]), "made")
    return sessions.resident(split_sessions(Sessions.from_arrays("made", **lists), share=0.2))


def training(data: sessions.Data) -> list[list[int]]:
    ends = data.split.offsets[: data.split.num_train + 1]
    return [data.split.items[a:b].tolist() for a, b in itertools.pairwise(ends)]


def scores(floor: sessions.Floor, data: sessions.Data) -> np.ndarray:
    queries = {n: c.reshape(-1) for n, c in data.split.batched("test", len(TEST)).items()}
    variables = {**floor.variables, "key": jax.random.key(0)}
    return np.asarray(jax.jit(floor.scores)(variables, queries, data.columns))[:, 1:]


def test_session_popularity_counts_the_session_then_all_clicks(data: sessions.Data) -> None:
    clicks = [item for row in training(data) for item in row]
    for (prefix, _), found in zip(TEST, scores(sessions.session_popularity(data), data), strict=True):
        keys = [(prefix.count(i), clicks.count(i)) for i in range(1, NUM_ITEMS + 1)]
        for a in range(NUM_ITEMS):
            for b in range(NUM_ITEMS):
                assert (found[a] > found[b]) == (keys[a] > keys[b])


def test_popularity_orders_by_training_clicks(data: sessions.Data) -> None:
    clicks = np.bincount([i for row in training(data) for i in row], minlength=NUM_ITEMS + 1)[1:]
    for found in scores(sessions.popularity(data), data):
        np.testing.assert_array_equal(np.sign(np.subtract.outer(found, found)),
                                      np.sign(np.subtract.outer(clicks, clicks)))  # fmt: skip


@pytest.mark.parametrize("neighbours", [2, 100])
def test_neighbours_are_the_cosines_of_sessions(data: sessions.Data, neighbours: int) -> None:
    held = np.array([[i in row for i in range(1, NUM_ITEMS + 1)] for row in training(data)], float)
    both, alone = held.T @ held, held.sum(axis=0)
    cosine = both / np.sqrt(np.outer(alone + 20, alone + 20))
    np.fill_diagonal(cosine, 0)
    for (prefix, _), found in zip(
        TEST, scores(sessions.item_knn(data, neighbours=neighbours), data), strict=True
    ):
        want = cosine[prefix[-1] - 1]
        kept = np.argsort(-want, kind="stable")[:neighbours]
        np.testing.assert_allclose(found[kept], want[kept], rtol=1e-6)
        assert not np.delete(found, kept).any()


def test_successors_are_counted_within_sessions(data: sessions.Data) -> None:
    pairs = [pair for row in training(data) for pair in itertools.pairwise(row)]
    for (prefix, _), found in zip(TEST, scores(sessions.markov(data), data), strict=True):
        assert found.tolist() == [pairs.count((prefix[-1], item)) for item in range(1, NUM_ITEMS + 1)]


def test_chance_is_chance_and_hangs_on_the_query(data: sessions.Data) -> None:
    """Each query has an order of its own; of items it knows nothing."""
    found = scores(sessions.random(data), data)
    assert len({tuple(np.argsort(row)) for row in found}) > 1
    assert len(np.unique(found)) == found.size


def test_ranks_of_scores_and_their_means(data: sessions.Data) -> None:
    """Equal scores rank the target last; of the masked tail nothing counts."""
    floor = sessions.item_knn(data)
    asked = sessions.floor_evaluation(floor, data, sessions.protocol(data.split, "", "none"))
    (found,) = evaluate(asked, sessions.floor_variables(floor, [0]), data.columns)
    every = scores(floor, data)
    ranks = np.array([(row >= row[target - 1]).sum() for row, (_, target) in zip(every, TEST, strict=True)])
    assert ranks[3] == NUM_ITEMS  # after an item that training never saw, all are equal
    assert found["recall@5"] == pytest.approx((ranks <= 5).mean())
    assert found["mrr@5"] == pytest.approx(np.where(ranks <= 5, 1 / ranks, 0).mean())


def test_metrics_by_hand() -> None:
    ranks, mask = np.array([[1, 4, 9], [21, 2, 1]]), np.array([[True, True, True], [True, False, False]])
    found = sessions.summarise((3, 10))(ranks, {"mask": mask})
    want = {"recall@3": 1 / 4, "mrr@3": 1 / 4, "recall@10": 3 / 4, "mrr@10": (1 + 1 / 4 + 1 / 9) / 4}
    assert found == pytest.approx(want)
