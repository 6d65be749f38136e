"""Tables from results: what a reader sees, and that a stale file is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrec.report import published, settings, tables
from jaxrec.report.__main__ import main
from jaxrec.report.results import Record, write_result
from jaxrec.types import Protocol
from tests.report.results_for_tests import MANIFEST, example

FRAME = f"# A project\n\n{tables.BEGIN}\n{tables.END}\n\nThe end.\n"


def floor(name: str) -> Record:
    return Record(example(model=name, published={}, source="", metrics={"ndcg@10": (0.1, 0.1)}), {})


def cells(markdown: str) -> list[list[str]]:
    """Rows of a Markdown table without the line below the heading."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    parsed = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [parsed[0], *parsed[2:]]


def test_row_gives_mean_deviation_published_and_difference() -> None:
    heading, ours, published, difference = cells(tables.results_table([Record(example(), {})]))
    metric = heading.index("ndcg@10")
    assert ours[metric] == "0.3000 ± 0.0707"
    assert published[metric] == "0.4000"
    assert difference[metric] == "-0.1000 (-25.0 %)"
    assert ours[heading.index("seeds")] == "2"
    assert ours[heading.index("loss")] == "bce"


def test_metric_without_a_published_value_has_no_difference() -> None:
    heading, ours, published, difference = cells(tables.results_table([Record(example(), {})]))
    metric = heading.index("hit@10")
    assert (ours[metric], published[metric], difference[metric]) == ("0.5000 ± 0.0000", "", "")


@pytest.mark.parametrize(
    ("metric", "printed", "mean", "incomparable", "mark"),
    [
        ("ndcg@10", 0.1, 0.1019, "", "yes"),
        ("ndcg@10", 0.1, 0.102, "", "yes"),  # the tolerance itself
        ("ndcg@10", 0.1, 0.1021, "", "no"),  # better is no match either
        ("ndcg@10", 0.1, 0.0979, "", "no"),
        ("auc/click", 0.8, 0.7941, "", "yes"),
        ("auc/click", 0.8, 0.7939, "", "no"),  # 2 % of 0.3
        ("gauc/click", 0.8, 0.7939, "", "no"),
        ("log_loss/click", 0.5, 0.509, "", "yes"),
        ("ndcg@10", 0.0, 0.0, "", "yes"),
        ("ndcg@10", 0.1, 0.1, "other columns", "not comparable"),
    ],
)
def test_a_row_says_whether_it_is_as_published(
    metric: str, printed: float, mean: float, incomparable: str, mark: str
) -> None:
    result = example(metrics={metric: (mean, mean)}, published={metric: printed}, incomparable=incomparable)
    heading, ours, *_ = cells(tables.results_table([Record(result, {})]))
    assert ours[heading.index("as published")] == mark
    assert published.RULE in tables.footnotes([Record(result, {})])
    heading, ours = cells(tables.headline_table([Record(result, {})]))
    assert ours[heading.index("within 2 %")] == mark


def test_every_published_metric_counts_in_the_table_and_one_in_the_headline() -> None:
    result = example(metrics={"a": (1.0, 1.0), "b": (1.0, 1.0)}, published={"a": 1.0, "b": 2.0})
    heading, ours, *_ = cells(tables.results_table([Record(result, {})]))
    assert ours[heading.index("as published")] == "no"
    heading, ours = cells(tables.headline_table([Record(result, {})]))
    assert (ours[heading.index("metric")], ours[heading.index(published.WITHIN)]) == ("a", "yes")


def test_without_published_numbers_there_is_no_mark_and_no_rule() -> None:
    heading, ours = cells(tables.results_table([floor("random")]))
    assert ours[heading.index("as published")] == ""
    assert published.RULE not in tables.footnotes([floor("random")])


def test_row_gives_minutes_and_device() -> None:
    heading, ours, *_ = cells(tables.results_table([Record(example(seconds=90.0), MANIFEST)]))
    assert ours[heading.index("minutes")] == "1.50"
    assert ours[heading.index("device")] == "2 × abacus"


def test_only_settings_that_differ_are_shown() -> None:
    configs = {
        "a": {"dim": 8, "recipe": {"dropout": 0.1}, "workdir": "x"},
        "b": {"dim": 8, "recipe": {"dropout": 0.25}, "workdir": "y"},
        "random": {},
    }
    records = [Record(example(model=name, config=config), {}) for name, config in configs.items()]
    text = tables.settings_table(records)
    assert cells(text) == [["model", "recipe.dropout"], ["a", "0.1"], ["b", "0.25"]]
    assert text in tables.all_tables(records)
    assert tables.settings_table(records[:1]) == ""


def test_a_setting_that_a_row_lacks_does_not_differ() -> None:
    assert settings.differing([{"dim": 8}, {}]) == {}


def test_published_zero_has_no_percentage() -> None:
    rows = cells(tables.results_table([Record(example(published={"ndcg@10": 0.0}), {})]))
    assert rows[3][rows[0].index("ndcg@10")] == "+0.3000"


def test_one_seed_shows_no_deviation() -> None:
    rows = cells(tables.results_table([Record(example(seeds=(0,), metrics={"ndcg@10": (0.25,)}), {})]))
    assert rows[1][rows[0].index("ndcg@10")] == "0.2500"


def test_floors_come_first() -> None:
    names = ("popularity+exclude", "random", "zeta")
    records = [Record(example(model="alpha"), {}), *map(floor, names)]
    models = [row[0] for row in cells(tables.results_table(records))[1:] if not row[0].startswith("·")]
    assert models == ["random", "popularity+exclude", "alpha", "zeta"]


def test_protocol_stands_under_the_table_once_if_all_agree() -> None:
    notes = tables.footnotes([Record(example(), {}), floor("random")])
    assert notes.count("Protocol:") == 1
    assert tables.protocol_line(example().protocol) in notes


def test_each_protocol_names_its_models() -> None:
    other = example(model="other", protocol=example().protocol._replace(seen="zero"))
    notes = tables.footnotes([Record(example(), {}), Record(other, {})])
    assert "stay in with score 0; ties rank the target last. (other)" in notes
    assert "(sasrec-bce)" in notes


@pytest.mark.parametrize(
    ("selection", "config", "sentence"),
    [
        ("ndcg@20", {}, "parameters of the best validation NDCG@20."),
        ("ndcg@20", {"evaluate_every": 1}, "parameters of the best validation NDCG@20."),
        ("mrr@5", {"every": 2}, "parameters of the best validation MRR@5, evaluated every 2 epochs."),
        ("auc/income", {}, "parameters of the best validation AUC of income."),
        ("log_loss", {}, "parameters of the lowest validation log loss."),
        ("mae", {}, "parameters of the lowest validation MAE."),
        ("each task's auc", {}, "for each task the parameters of its model's best validation AUC."),
        ("metrics, by the authors", {}, "parameters as their authors chose them."),
        ("none", {"evaluate_every": 5}, "none, there is nothing to choose."),
        ("last epoch", {"evaluate_every": 5}, "none, parameters of the last epoch."),
        (
            "recall@20 on test",
            {"recipe": {"evaluate_every": 5}},
            "parameters of the best test recall@20, so chosen on test, evaluated every 5 epochs.",
        ),
    ],
)
def test_selection_reads_as_a_sentence(selection: str, config: dict[str, object], sentence: str) -> None:
    result = example(protocol=example().protocol._replace(selection=selection), config=config)
    assert tables.selection_line(result) == f"Selection: {sentence}"
    assert f"Selection: {sentence}" in tables.footnotes([Record(result, {})])


def test_selection_tells_rows_of_one_protocol_apart() -> None:
    floor_ = floor("random")
    floor_ = floor_._replace(
        result=floor_.result._replace(protocol=example().protocol._replace(selection="none"))
    )
    notes = tables.footnotes([Record(example(), {}), floor_])
    assert notes.count("Protocol:") == 1
    assert "Selection: none, there is nothing to choose. (random)" in notes


def test_numbers_that_do_not_compare_stand_without_a_difference_and_with_the_reason() -> None:
    records = [Record(example(incomparable="other columns"), {}), Record(example(model="bpr"), {})]
    rows = cells(tables.results_table(records))
    assert [row[0] for row in rows[1:]] == ["bpr", "· published", "· difference", "sasrec-bce", "· published"]
    assert "No difference for sasrec-bce: other columns." in tables.footnotes(records)
    text = tables.headline_table(records)
    assert [row[6] for row in cells(text)[1:]] == ["-0.1000 (-25.0 %)", published.NOT_COMPARABLE]
    assert "ticoserec, Beauty: No difference for sasrec-bce: other columns." in text


def test_a_reason_stands_once_for_all_its_models() -> None:
    records = [Record(example(model=name, incomparable="other columns"), {}) for name in ("a", "b")]
    assert tables.footnotes(records).count("other columns") == 1
    assert "No difference for a, b: other columns." in tables.footnotes(records)


def test_footnotes_name_source_note_commit_and_device() -> None:
    notes = tables.footnotes([Record(example(note="half the epochs"), MANIFEST)])
    assert "Published numbers: a paper, table 2." in notes
    assert "sasrec-bce: half the epochs." in notes
    assert "Measured on 2 × abacus, jax 9.9.9, Python 3.99, commit 0123456789." in notes


def test_footnotes_keep_the_mark_of_changed_code() -> None:
    notes = tables.footnotes([Record(example(), {**MANIFEST, "commit": "0123456789abcdef-dirty"})])
    assert "commit 0123456789-dirty." in notes


def test_a_variant_says_what_differs() -> None:
    other = example(config={"max_len": 20, "rates": (0.1, 0.2), "workdir": "runs/b"}, seeds=(0, 2))
    notes = tables.footnotes([Record(example(), {}), Record(other, {}, "abcd1234")])
    assert "sasrec-bce [abcd1234]: max_len=20 instead of 50; seeds=[0, 2] instead of [0, 1]." in notes


def test_full_has_a_section_for_each_experiment_and_data_set() -> None:
    records = [
        Record(example(), {}),
        Record(example(dataset="Sports"), {}),
        Record(example(experiment="din"), {}),
    ]
    headings = [line for line in tables.all_tables(records).splitlines() if line.startswith("#")]
    assert headings == ["## din", "### Beauty", "## ticoserec", "### Beauty", "### Sports"]


def test_headline_has_the_published_metric_and_a_line_for_each_protocol() -> None:
    other = example(dataset="Sports", protocol=example().protocol._replace(seen="zero"))
    text = tables.headline_table([Record(example(), {}), floor("random"), Record(other, {})])
    shown = [["Beauty", "sasrec-bce", "ndcg@10"], ["Sports", "sasrec-bce", "ndcg@10"]]
    assert [row[1:4] for row in cells(text)[1:]] == shown
    assert f"{tables.protocol_line(other.protocol)} (ticoserec Sports: sasrec-bce)" in text
    assert text.count("Protocol:") == 2


def test_headline_is_empty_where_nothing_was_published() -> None:
    assert tables.headline_table([floor("random"), floor("a")]) == ""


def test_headline_is_short_and_has_comparable_numbers_of_every_experiment_first() -> None:
    many = [Record(example(model=f"m{i:02}", incomparable="other columns"), {}) for i in range(20)]
    alike = [
        Record(example(model=f"z{i}", dataset=dataset), {}) for dataset in ("Toys", "Yelp") for i in range(4)
    ]
    rows = cells(tables.headline_table([*many, *alike]))[1:]
    assert len(rows) == tables.HEADLINES
    assert [row[1] for row in rows] == ["Beauty"] * (tables.HEADLINES - 8) + ["Toys"] * 4 + ["Yelp"] * 4
    assert tables.headline_table([*many, *alike]) == tables.headline_table(
        [*reversed(alike), *reversed(many)]
    )


@pytest.mark.parametrize(("metric", "best"), [("ndcg@10", "high"), ("mae", "low")])
def test_headlines_are_of_trained_models_by_their_published_numbers(metric: str, best: str) -> None:
    """So a counter's number, which anyone reproduces, is shown where no trained model has one."""
    values = {"low": 0.1, "high": 0.2}
    numbers = {name: {"metrics": {metric: (0.3,)}, "published": {metric: of}} for name, of in values.items()}
    models = [Record(example(model=name, seeds=(0,), **fields), {}) for name, fields in numbers.items()]
    counted = Record(example(model="a", seeds=(0,), steps=0, **numbers["high"]), {})
    others = [
        Record(example(experiment=f"e{i}", seeds=(0,), **numbers["low"]), {})
        for i in range(tables.HEADLINES - 1)
    ]
    rows = cells(tables.headline_table([counted, *models, *others]))[1:]
    assert [row[2] for row in rows if row[0] == example().experiment] == [best]


def test_an_experiment_of_many_data_sets_has_no_more_headlines_than_another() -> None:
    wide = [Record(example(experiment="a", dataset=f"d{i}"), {}) for i in range(20)]
    deep = [Record(example(experiment="b", model=f"m{i}"), {}) for i in range(20)]
    rows = cells(tables.headline_table([*wide, *deep]))[1:]
    assert sorted(row[0] for row in rows) == ["a"] * (tables.HEADLINES // 2) + ["b"] * (tables.HEADLINES // 2)


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    result = example(protocol=example().protocol._replace(loss="a|b"))
    assert "a\\|b" in tables.results_table([Record(result, {})])


def test_no_results_give_no_text() -> None:
    assert tables.all_tables([]) == ""
    assert tables.headline_table([]) == ""


# --- generated files ----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a README and one result, tables not made yet."""
    (tmp_path / "README.md").write_text(FRAME)
    write_result(example(), tmp_path / "results", manifest=MANIFEST)
    return tmp_path


def run(project: Path, *args: str) -> int:
    return main(["--results", str(project / "results"), "--readme", str(project / "README.md"), *args])


def test_update_fills_both_files_and_keeps_the_text_around(project: Path) -> None:
    assert run(project) == 0
    text = (project / "README.md").read_text()
    assert text.startswith(f"# A project\n\n{tables.BEGIN}\n")
    assert text.endswith(f"{tables.END}\n\nThe end.\n")
    assert "0.3000 ± 0.0707" in text
    assert "0.5000 ± 0.0000" in (project / "results/README.md").read_text()


def test_check_passes_after_update_and_update_changes_nothing_then(project: Path) -> None:
    assert run(project) == 0
    assert run(project, "--check") == 0
    assert tables.update_pages(project / "results", project / "README.md") == []


def test_check_names_the_stale_files_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, "--check") == 1
    message = capsys.readouterr().err
    assert f"{project / 'README.md'}: stale" in message
    assert f"{project / 'results/README.md'}: stale" in message
    assert (project / "README.md").read_text() == FRAME
    assert not (project / "results/README.md").exists()


def test_a_new_result_makes_the_files_stale(project: Path) -> None:
    run(project)
    write_result(example(model="gru4rec"), project / "results")
    both = [project / "results/README.md", project / "README.md"]
    assert tables.stale_pages(project / "results", project / "README.md") == both


def test_an_edited_number_is_stale(project: Path) -> None:
    run(project)
    readme = project / "README.md"
    readme.write_text(readme.read_text().replace("0.3000", "0.9000"))
    assert tables.stale_pages(project / "results", readme) == [readme]


@pytest.mark.parametrize("there", [True, False])
def test_no_results_are_an_error_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    """A wrong name of the folder must not empty the tables."""
    (tmp_path / "README.md").write_text(FRAME)
    if there:
        (tmp_path / "results").mkdir()
    for options in ((), ("--check",)):
        assert run(tmp_path, *options) == 2
        said = "holds no result file" if there else "no such folder"
        assert f"{tmp_path / 'results'}: {said}; name the folder of results" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == FRAME
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", *(["results"] if there else [])]


def test_a_removed_result_leaves_the_tables_to_the_others(project: Path) -> None:
    write_result(example(dataset="Sports"), project / "results", manifest=MANIFEST)
    run(project)
    (project / "results/ticoserec/Beauty/sasrec-bce.json").unlink()
    assert run(project) == 0
    assert "Beauty" not in (project / "README.md").read_text() + (project / "results/README.md").read_text()


def test_trials_are_printed_and_written_nowhere(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(example(), project / "runs/results", manifest=MANIFEST)
    monkeypatch.chdir(project)
    before = {path: path.read_text() for path in project.rglob("*") if path.is_file()}
    assert main(["--results", "runs/results"]) == 0
    assert "0.3000 ± 0.0707" in capsys.readouterr().out
    assert {path: path.read_text() for path in project.rglob("*") if path.is_file()} == before
    assert main([]) == 0  # the kept results
    assert "0.3000 ± 0.0707" in (project / "README.md").read_text()


def test_no_readme_writes_the_folder_only(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(project / "results"), "--readme", ""]) == 0
    assert (project / "README.md").read_text() == FRAME
    assert "0.3000 ± 0.0707" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["no markers\n", tables.BEGIN, f"{tables.END}\n{tables.BEGIN}\n", FRAME + FRAME],
    ids=["none", "one", "reversed", "two pairs"],
)
def test_readme_without_one_pair_of_markers_is_an_error(
    project: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (project / "README.md").write_text(text)
    assert run(project) == 2
    assert "README.md: needs one line" in capsys.readouterr().err
    assert (project / "README.md").read_text() == text


def test_absent_readme_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "README.md").unlink()
    assert run(project) == 2
    assert "no such file" in capsys.readouterr().err


def test_damaged_result_is_an_error_naming_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "results/ticoserec/Beauty/sasrec-bce.json").write_text("{")
    assert run(project, "--check") == 2
    assert "sasrec-bce.json: not a complete JSON file" in capsys.readouterr().err


def test_a_variant_under_other_settings_of_jax_names_them() -> None:
    usual = Record(example(), MANIFEST)
    other = Record(example(), {**MANIFEST, "settings": {"jax_enable_x64": True}}, "0123abcd")
    assert "jax_enable_x64=True instead of None" in tables.footnotes([usual, other])


def test_labelled_impressions_have_no_rule_for_seen_items() -> None:
    line = tables.protocol_line(Protocol(split="random", candidates="impressions", seen="keep", ties="half"))
    assert line == (
        "Protocol: random split; labelled impressions as they are; a tied pair counts half in the AUC."
    )
