"""`jaxrec train hstu-generative`: events with stars, lists, and probabilities of positive actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import config, serve
from jaxrec.commands import recommend
from jaxrec.commands.train import train
from jaxrec.report.results import read_results
from jaxrec.serve import run_folder
from jaxrec.serve.export import export
from jaxrec.serve.readers import items as items_reader
from tests.commands.small_data import EVENTS, ITEMS, write_actions

SMALL: dict[str, Any] = {
    **EVENTS, "value": "stars", "positive": (4, 5), "dim": 4, "key_dim": 2, "num_layers": 1, "max_len": 6,
    "batch_size": 8, "num_samples": 5, "epochs": 2, "every": 1,
}  # fmt: skip
HISTORIES, STARS = [["sku3", "sku4"], [f"sku{item}" for item in range(7)]], [[5, 2], [2, 5, 2, 5, 2, 5, 2]]
TIMES, AT = [[1_000_000, 1_000_900], list(range(1_000_000, 1_007_000, 1000))], 1_009_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("actions")
    write_actions(folder / "events.csv")
    train("hstu-generative", folder / "events.csv", run=folder / "run", seeds=(0, 1), **SMALL)
    return folder


def by_hand(run: serve.Run, items: list[list[Any]], stars: list[list[int]], now: int) -> dict[str, Any]:
    """Outputs of the module for whole histories, and for them with a last item whose star is not known."""
    number = {raw: at for at, raw in enumerate(run.vocabulary["item"].tolist(), 1)}
    found: dict[str, Any] = {"hidden": [], "table": run.module.apply(run.variables, method="item_table")}
    for history, of, times in zip(items, stars, TIMES, strict=True):
        read = [number[raw] for raw in history[-5:]], of[-5:], times[-5:]
        window, acted, when = (np.array([[0] * (5 - len(part)) + [*part]]) for part in read)
        after = np.append(when[:, 1:], [[now]], axis=1)
        shifted, target = (np.where(window, part - TIMES[0][0], 0) for part in (when, after))
        outputs = run.module.apply(
            run.variables, window, acted, times=shifted, target_times=target, train=False
        )
        found["hidden"].append(outputs["hidden"][0, -1])
    return found


def test_a_run_is_measured_on_both_questions(folder: Path) -> None:
    run = serve.load(folder / "run")
    assert (run.kept.kind, run.protocol.selection) == ("actions", "ndcg@10")
    records = [record.result for record in read_results(folder / "run" / "results")]
    found = {(result.dataset, result.model): result for result in records}
    assert set(found) == {
        ("events.csv", "hstu-generative"), ("events.csv", "random"), ("events.csv", "popularity"),
        ("events.csv-actions", "hstu-generative"), ("events.csv-actions", "rates"),
    }  # fmt: skip
    for name in ("hstu-generative", "rates"):
        result = found["events.csv-actions", name]
        assert result.protocol.candidates == "impressions" and {"auc", "log_loss"} <= set(result.metrics)
        assert result.baseline == (name == "rates")
    assert found["events.csv", "hstu-generative"].protocol.candidates == "all"
    histories = run.kept.histories
    assert histories is not None and histories.actions is not None
    assert set(histories.actions.tolist()) == {2, 5}


def test_lists_are_those_of_the_trained_module(folder: Path) -> None:
    run = serve.load(folder / "run")
    asked: dict[str, Any] = {"times": TIMES, "actions": STARS, "at": AT, "k": ITEMS}
    found = run.recommend(histories=HISTORIES, **asked)
    expected = by_hand(run, HISTORIES, STARS, AT)
    ids = run.vocabulary["item"].tolist()
    for answer, hidden, history in zip(found, expected["hidden"], HISTORIES, strict=True):
        scores = np.asarray(expected["table"] @ hidden)[1:]
        left = [at for at in np.argsort(-scores, kind="stable") if ids[at] not in history]
        assert answer.items.tolist() == [ids[at] for at in left]
        np.testing.assert_allclose(answer.scores, scores[left], rtol=1e-4, atol=1e-5)
    other = run.recommend(histories=HISTORIES, **{**asked, "actions": [[2, 2], STARS[1]]})
    assert other[0].scores.tolist() != found[0].scores.tolist()
    np.testing.assert_array_equal(other[1].scores, found[1].scores)


def test_a_user_is_answered_as_their_history(folder: Path) -> None:
    run = serve.load(folder / "run")
    histories, user = run.kept.histories, run.vocabulary["user"][0]
    assert histories is not None and histories.times is not None and histories.actions is not None
    end = histories.offsets[1]
    own: dict[str, Any] = {
        "histories": [run.vocabulary["item"][histories.items[:end] - 1].tolist()],
        "times": [histories.times[:end].tolist()],
        "actions": [histories.actions[:end].tolist()],
        "at": int(histories.times.max()),
    }
    (by_user,), (by_history,) = run.recommend([user], k=3), run.recommend(**own, k=3)
    assert by_user.items.tolist() == by_history.items.tolist()
    np.testing.assert_allclose(by_user.scores, by_history.scores, rtol=1e-5, atol=1e-6)
    everybody = run.recommend("all", k=2)
    assert len(everybody) == 24
    users, items = run.embed("users"), run.embed("items")
    at = [items.ids.tolist().index(item) for item in by_user.items.tolist()]
    np.testing.assert_allclose(items.vectors[at] @ users.vectors[0], by_user.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, "mean"])
def test_pairs_are_scored_by_the_ranking_head(folder: Path, seed: Any) -> None:
    """P(4 or 5) = softmax of the logits at a candidate whose action is not known, after the last events."""
    run = serve.load(folder / "run", seed=seed)
    histories = run.kept.histories
    assert histories is not None and histories.times is not None and histories.actions is not None
    rows = {"uid": ["u0", "u3", "u0"], "sku": ["sku1", "sku2", "sku11"]}
    found = run.score(rows)
    assert list(found) == ["positive"]
    number = {raw: at for at, raw in enumerate(run.vocabulary["item"].tolist(), 1)}
    place = {raw: at for at, raw in enumerate(run.vocabulary["user"].tolist())}
    module, now = run.module, histories.times.max()
    for user, item, probability in zip(rows["uid"], rows["sku"], found["positive"], strict=True):
        start, end = histories.offsets[place[user]], histories.offsets[place[user] + 1]
        last = slice(max(end - 5, start), end)
        items = np.array([[*histories.items[last], number[item]]])
        acted = np.array([[*histories.actions[last], 0]])
        times = np.array([[*histories.times[last], now]]) - histories.times[start]

        def logits(variables: Any, items: Any = items, acted: Any = acted, times: Any = times) -> Any:
            return module.apply(variables, items, acted, times=times, train=False)["action"][0, -1]

        of_seeds = jax.vmap(logits)(run.variables) if seed == "mean" else logits(run.variables)[None]
        expected = np.asarray(jax.nn.softmax(of_seeds))[:, 3:].sum(axis=1).mean()
        np.testing.assert_allclose(probability, expected, rtol=1e-4)


def test_an_export_gives_the_lists_of_the_run(folder: Path) -> None:
    run = serve.load(folder / "run")
    export(run, folder / "exported", k=4)
    reader = items_reader.Reader(folder / "exported")
    found = reader.recommend(HISTORIES, k=4, times=TIMES, now=AT, actions=STARS)
    expected = run.recommend(histories=HISTORIES, times=TIMES, actions=STARS, at=AT, k=4)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["items"] == theirs.items.tolist()
        np.testing.assert_allclose(ours["scores"], theirs.scores, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="reads actions: give that of each event"):
        reader.recommend(HISTORIES, k=4, times=TIMES, now=AT)
    with pytest.raises(ValueError, match="actions must be whole numbers from 1 to 5"):
        reader.recommend(HISTORIES, k=4, times=TIMES, now=AT, actions=[[5, 6], STARS[1]])
    with pytest.raises(ValueError, match="actions has no ONNX form"):
        export(run, folder / "onnx", onnx=True)


def test_the_command_line_takes_actions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder / "run"), "--history", "sku3,sku4", "--times", "1000000,1000900", "--at", str(AT)]
    for actions, message in (
        ((), "the model reads actions: give that of each event, a whole number from 1 to 5"),
        (("--actions", "5,x"), "actions='5,x': must be whole numbers with commas between them"),
        (("--actions", "5"), "actions: must be one number for each event of each history"),
        (("--actions", "5,6"), r"actions: 6 \(1 such\): the model knows those from 1 to 5"),
    ):
        with pytest.raises(ValueError, match=message):
            recommend.run(config.cli(recommend.Options, prog="jaxrec", args=[*words, *actions]))
    recommend.run(config.cli(recommend.Options, prog="jaxrec", args=[*words, "--actions", "5,2", "--json"]))
    assert '"items": [' in capsys.readouterr().out


def test_unknown_ids_and_actions_elsewhere_are_refused(folder: Path) -> None:
    run = serve.load(folder / "run")
    for asked, message in (
        ({"histories": [["sku99"]], "times": [[5]], "actions": [[1]]}, "sku99"),
        ({"users": ["u99"]}, "u99"),
        ({"users": ["u0"], "actions": [[1]]}, "actions: belong to histories"),
        ({"histories": [["sku1"]], "actions": [[1]]}, "the model reads times"),
    ):
        with pytest.raises(ValueError, match=message):
            run.recommend(**asked)
    with pytest.raises(ValueError, match="sku99"):
        run.score({"uid": ["u0"], "sku": ["sku99"]})


def test_a_run_goes_on_with_new_items(folder: Path) -> None:
    write_actions(folder / "later.csv", first_item=3)
    given = {**SMALL, "epochs": 1, "learning_rate": 1e-30, "warm_start": str(folder / "run")}
    kept = train("hstu-generative", folder / "later.csv", run=folder / "warm", seeds=(0, 1), **given)
    before = run_folder.read(folder / "run")
    tables = [
        dict(
            zip(
                run.vocabulary["item"].tolist(), run.variables["params"]["item_embedding"][0][1:], strict=True
            )
        )
        for run in (before, kept)
    ]
    for item in ("sku3", "sku11"):
        np.testing.assert_array_equal(tables[0][item], tables[1][item])


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    none = tmp_path / "none.csv"  # later stars are all 2
    lines = [
        f"u{u},sku{(u + s) % ITEMS},{1000 * s + u},{5 if s < 3 else 2}" for u in range(9) for s in range(9)
    ]
    none.write_text("\n".join(["uid,sku,ts,stars", *lines]) + "\n")
    events, many = folder / "events.csv", tmp_path / "many.csv"
    many.write_text(none.read_text().replace(",5\n", ",1234\n"))
    for file, changes, message in (
        (events, {"positive": ()}, r"positive=\(\): name the actions of the column 'stars'"),
        (events, {"positive": (6,)}, r"positive=\(6,\): must be actions, of which there are 1 to 5"),
        (events, {"positive": (2, 5)}, "are all actions that occur, so there is nothing to tell apart"),
        (many, {}, "value='stars': has .*; actions are whole numbers from 1 to 1000"),
        (events, {"value": "rating"}, "no value column 'rating'"),
        (events, {"time": ""}, "time='': the events are split by time"),
        (events, {"split": "last"}, "split='last'"),
        (events, {"every": 0}, "every=0: must be at least 1"),
        (events, {"max_len": 1}, "max_len=1: must be at least 2"),
        (none, {}, r"of rating 4 or 5\): it is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            train("hstu-generative", file, run=tmp_path / "run", **{**SMALL, **changes})
    with pytest.raises(ValueError, match="positive=.*: no such option"):
        train("hstu", events, run=tmp_path / "run", positive=(5,), **EVENTS)
    assert not (tmp_path / "run").exists()
