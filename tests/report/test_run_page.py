"""The page of a run: what it shows, what it leaves out, that it is one safe file, and how it looks."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jaxrec.report import run_page, run_style
from jaxrec.report.__main__ import main
from jaxrec.report.results import write_result
from tests.report import browser
from tests.report.results_for_tests import example
from tests.report.runs_for_tests import history, write_finished, write_training

VOID = ("meta", "br", "line", "circle", "polyline", "polygon", "link", "img", "hr")


class Document(html.parser.HTMLParser):
    """Elements, headings, text and addresses of a page; fails on tags that are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.headings: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] = (self.headings[-1][0], data)
        if "style" not in self.open:
            self.words += data + " "

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def document(folder: Path) -> Document:
    return Document(run_page.write_page(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def shown(finished: Path) -> Document:
    return document(finished)


# --- what it shows ---------------------------------------------------------------------------------


def test_headings_are_in_order_and_name_every_part(shown: Document) -> None:
    assert shown.headings == [
        ("h1", "mmoe on rows.csv"),
        ("h2", "Result"),
        ("h2", "Curves"),
        ("h2", "Weights of the losses"),
        ("h2", "Use of the experts"),
        ("h2", "Parts of the test queries"),
        ("h2", "Settings"),
        ("h2", "Protocol"),
        ("h2", "Provenance"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Trained with 3 seeds (0, 1, 2) for 12 of 12 epochs in 24.0 s without compilation.",
        "0.1200 ± 0.0100",  # NDCG@10 of the test
        "6, 5, 6",  # best epochs
        "head: the most popular items",
        "21 events or more",
        "400 validation examples",
        "leave-one-out",
        "recipe.expert_dims",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_it_says(shown: Document, text: str) -> None:
    assert text in shown.words


def test_every_chart_has_a_title_and_a_description(shown: Document) -> None:
    charts = [attributes for attributes in shown.attributes("svg") if attributes.get("role") == "img"]
    named = {
        attributes["id"] for tag in ("title", "desc") for attributes in shown.attributes(tag) if attributes
    }
    assert len(charts) == 6  # two metrics, the total, two losses, the weights
    assert all(set(attributes["aria-labelledby"].split()) <= named for attributes in charts)
    assert "best epochs 6, 5, 6" in shown.words


def test_each_seeds_best_epoch_has_a_ring_on_validation_metrics_alone(shown: Document) -> None:
    rings = [attributes for attributes in shown.attributes("circle") if attributes["class"] == "best"]
    assert len(rings) == 2 * 3


def test_seeds_are_a_band(shown: Document) -> None:
    bands = [attributes for attributes in shown.attributes("polygon") if "band" in attributes["class"]]
    assert len(bands) == 5 + 2  # of five charts with one curve, and of two weights


def test_tables_have_heads(shown: Document) -> None:
    assert {attributes.get("scope") for attributes in shown.attributes("th")} == {"col", "row"}
    regions = [attributes for attributes in shown.attributes("div") if attributes.get("role") == "region"]
    assert all(attributes["aria-label"] and attributes["tabindex"] == "0" for attributes in regions)


def test_the_shares_of_experts_are_means_over_seeds(shown: Document) -> None:
    rows = re.findall(r"(click|buy) +((?:0\.\d\d +){3})", shown.words)
    assert [(row, values.split()) for row, values in rows] == [
        ("click", ["0.70", "0.20", "0.10"]),
        ("buy", ["0.20", "0.30", "0.50"]),
    ]


def test_baselines_stand_beside_the_model(tmp_path: Path) -> None:
    folder = write_finished(tmp_path / "mine")
    values: dict[str, Any] = {"metrics": {"hit@10": (0.1, 0.1, 0.1)}, "published": {}, "source": ""}
    write_result(example(model="popularity", seeds=(0, 1, 2), **values), folder / "results")
    found = document(folder)
    assert re.search(r"mmoe +popularity", found.words)
    assert "0.1000 ± 0.0000" in found.words


# --- what it leaves out ----------------------------------------------------------------------------


def test_a_folder_of_training_has_no_test_metrics_and_says_so(tmp_path: Path) -> None:
    found = document(write_training(tmp_path / "training"))
    assert [text for _, text in found.headings][1:] == [
        "Result", "Curves", "Weights of the losses", "Settings", "Provenance", "What this page lacks",
    ]  # fmt: skip
    assert "Test metrics: this is a folder of training" in found.words


def test_without_training_json_no_epoch_is_marked(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "mine")
    (folder / "training.json").unlink()
    found = document(folder)
    assert not [attributes for attributes in found.attributes("circle") if attributes["class"] == "best"]
    assert "the folder has no training.json" in found.words


def test_without_slices_and_gates_their_sections_are_absent(tmp_path: Path) -> None:
    found = document(write_finished(tmp_path / "mine", gates=False, slices=False))
    names = [text for _, text in found.headings]
    assert "Use of the experts" not in names
    assert "Parts of the test queries" not in names
    assert "Slices by history length and item popularity: they were not measured." in found.words


def test_a_run_that_goes_on_is_shown_up_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "mine", complete=False, epochs=12)
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"epoch": 12, "pha')
    words = document(folder).words
    assert "for 12 of 12 epochs" in words
    assert "It is not complete: the same command goes on with it." in words


def test_one_epoch_of_one_seed_is_a_page(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "mine", seeds=[7], best_epoch=[0], phases=[["train", 1]])
    entry = {name: value[:1] if isinstance(value, list) else value for name, value in history(1)[0].items()}
    (folder / "history.jsonl").write_text(json.dumps(entry) + "\n")
    found = document(folder)
    assert "Trained with one seed (7) for 1 of 1 epochs" in found.words
    assert "±" not in found.words
    assert found.attributes("polygon") == []


def test_many_epochs_are_thinned_out_in_the_table_alone(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "mine", phases=[["train", 500]])
    entries = [{**history(1)[0], "epoch": epoch} for epoch in range(500)]
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    words = document(folder).words
    assert "One epoch in 3; history.jsonl has all." in words


# --- errors ----------------------------------------------------------------------------------------


def damaged(folder: Path, name: str, text: str) -> Path:
    write_training(folder)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("history.jsonl", '{"epoch": 0}\n{"epo\n', r"history\.jsonl: line 2 is damaged"),
        ("history.jsonl", '{"loss": [1, 2]}\n', r"line 1 is no epoch of a run"),
        ("history.jsonl", '{"epoch": 0, "loss": [1.0]}\n', r"has 1 values of 'loss' in epoch 0 for 3 seeds"),
        ("training.json", "{", r"training\.json: is damaged"),
        ("run.json", "[]", r"run\.json: is no JSON object"),
        ("run.json", "{}", r"run\.json: lacks 'protocol'"),
        ("gates.json", "{}", r"gates\.json: lacks 'of'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_page.write_page(damaged(tmp_path / "mine", name, text))
    assert not (tmp_path / "mine" / run_page.PAGE).exists()


def test_folders_that_hold_no_run_or_several_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        run_page.write_page(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds neither history\.jsonl nor run\.json"):
        run_page.write_page(tmp_path)
    for name in ("a", "b"):
        write_training(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds 2 runs \(a, b\); name one of them with --run"):
        run_page.write_page(tmp_path)


# --- one safe file ---------------------------------------------------------------------------------


def test_nothing_is_loaded_and_nothing_runs(shown: Document) -> None:
    tags = {tag for tag, _ in shown.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "form"}
    addresses = [value for _, attributes in shown.elements for name, value in attributes.items()
                 if name in ("src", "href", "action") or name.startswith("on")]  # fmt: skip
    assert addresses == ["#content"]
    assert "url(" not in run_style.STYLE
    assert "default-src 'none'" in shown.attributes("meta")[2]["content"]


def test_no_path_of_the_machine_is_in_it(finished: Path) -> None:
    text = run_page.write_page(finished).read_text(encoding="utf-8")
    assert "/srv" not in text
    assert str(finished.parent) not in text
    assert "--xla_dump_to=dump" in text


def test_what_a_folder_says_is_text_and_no_markup(tmp_path: Path) -> None:
    settings = {"model": "<script>alert(1)</script>", "x": "</table><b>&amp;"}
    found = document(write_training(tmp_path / "mine", settings=settings))
    assert "script" not in {tag for tag, _ in found.elements}
    assert "<script>alert(1)</script>" in found.words
    assert "</table><b>&amp;" in found.words


def test_the_page_is_the_same_for_the_same_folder(finished: Path) -> None:
    pages = {run_page.write_page(finished).read_bytes() for _ in range(2)}
    assert len(pages) == 1


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [run_style.LIGHT, run_style.DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_their_ground(colours: dict[str, str]) -> None:
    def contrast(a: str, b: str) -> float:
        low, high = sorted([luminance(colours[a]), luminance(colours[b])])
        return (high + 0.05) / (low + 0.05)

    for ground in ("ground", "panel"):
        assert all(contrast(name, ground) >= 4.5 for name in ("ink", "quiet", "link"))  # WCAG 1.4.3, AA
        assert all(contrast(f"s{i}", ground) >= 3 for i in range(6))  # WCAG 1.4.11
    assert contrast("ink", "bar") >= 4.5


# --- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[], ["pages/mine.html"]])
def test_the_command_writes_the_page(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_training(Path("mine"))
    assert main(["--run", "mine", "--html", *names]) == 0
    path = names[0] if names else "mine/report.html"
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert Path(path).is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--html"], "name its folder with --run"),
        (["--run", "mine"], "--html is missing"),
        (["--run", "mine", "--html", "a", "b"], "--html has 2 names"),
        (["--run", "mine", "--html"], "mine: no such folder"),
    ],
)
def test_a_wrong_command_is_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- in a browser ----------------------------------------------------------------------------------


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed, so no page is opened")
@pytest.mark.parametrize("width", [360, 1440])
def test_a_browser_shows_it_without_scrolling_sideways_and_without_errors(
    finished: Path, tmp_path: Path, width: int
) -> None:
    pytest.importorskip("tornado", reason="tornado is not installed: it comes with the extra `dev`")
    page = run_page.write_page(finished)
    opened = browser.open_page(page, tmp_path, width=width)
    assert width - 20 <= opened.width <= width  # a scroll bar takes the rest
    assert opened.scroll_width <= opened.width
    assert opened.wider == []
    assert opened.errors == []
    assert opened.requests == [page.as_uri()]
