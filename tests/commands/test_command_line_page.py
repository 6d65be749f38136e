"""docs/command_line.md: every command that it prints runs, in its order, on small files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jaxrec import __main__ as program
from jaxrec.commands.train import train
from jaxrec.serve import run_folder
from tests.commands import own_models
from tests.commands.small_data import write_attributes, write_events, write_rows

PAGE = Path(__file__).parents[2] / "docs/command_line.md"
SMALL = {  # settings that make the printed runs fast; the page's own words come first
    "sasrec": "--dim 4 --num-layers 1 --max-len 6 --batch-size 8 --epochs 1",
    "gru4rec": "--dim 4 --batch-size 4 --epochs 1",
    "din": "--dim 4 --length 6",
    "lightgcn": "--dim 4 --batch-size 64 --evaluate-every 5",
    "ease": "",
    "co-visitation": "",
    "pinsage": "--dim 4 --hidden-dim 4 --neighbours 3 --walks 5 --negatives 4 --batch-size 32",
    "rcf": "--dim 4 --attention-dim 2 --hidden-dim 4 --max-history 4 --batch-size 64 --epochs 1",
    "sim-hard": "--dim 4 --length 6 --recent 2 --k 2 --epochs 1",
    "kuaishou-ebr": "--clusters 3 --dim 4 --num-layers 0 --num-heads 1 --intent-dim 2 --epochs 1",
    "hstu-generative": "--dim 4 --key-dim 2 --num-layers 1 --max-len 6 --num-samples 4 --epochs 1",
    "biased-mf": "--factors 2 --epochs 2",
    "tiger": "--num-codes 4 --levels 1 --dim 8 --num-heads 2 --head-dim 4 --inner-dim 8 --num-layers 1",
    "nextitnet": "--dim 8 --dilations 1 --max-len 6 --batch-size 8 --epochs 1",
    "peterrec": "--max-len 6 --epochs 1",
    "two-tower": "--dim 4 --hidden-dims 4 --batch-size 64 --epochs 1",
    "mmoe": "--expert-dims 4 --tower-dims 4 --num-experts 2 --batch-size 64 --epochs 1",
    "my_models:LastItems": "--epochs 1",
}


def commands() -> list[str]:
    """What stands in the page's blocks of shell commands."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.long
def test_every_printed_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_events(tmp_path / "events.csv")
    write_events(tmp_path / "later.csv", first_item=3)
    write_rows(tmp_path / "rows.csv")
    write_attributes(tmp_path / "attributes.csv")
    events = (tmp_path / "events.csv").read_text().splitlines()
    rated = [f"{line},{number % 5 + 1}" for number, line in enumerate(events[1:])]
    (tmp_path / "ratings.csv").write_text("\n".join([f"{events[0]},stars", *rated]) + "\n")
    lines = ["sku,a,b", *(f"sku{item},{item},{-item}" for item in range(12))]
    (tmp_path / "vectors.csv").write_text("\n".join(lines) + "\n")
    lines = ["sku,kind", *(f"sku{item},{'a|b' if item % 2 else 'c'}" for item in range(12))]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    lines = ["uid,plan", *(f"u{user},{'free' if user % 2 else 'paid'}" for user in range(20))]
    (tmp_path / "users.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "my_models.py").write_text(Path(own_models.__file__).read_text())
    found = commands()
    assert len(found) >= 11
    for command in found:
        program_name, *words = shlex.split(command)
        assert program_name == "jaxrec"
        small = SMALL[words[1]].split() if words[0] == "train" else []
        assert program.main([*words, *small]) == 0, command
    runs = {path.parent.name for path in tmp_path.glob("runs/*/run.json")}
    assert runs == {word for line in found for word in re.findall(r"--run runs/(\S+)", line)}
    assert run_folder.read("runs/seeds").seeds == (0, 1)


def test_the_python_call_of_the_page_is_the_function_that_exists() -> None:
    assert "jaxrec.commands.train.train(" in PAGE.read_text(encoding="utf-8")
    assert train.__module__ == "jaxrec.commands.train"
