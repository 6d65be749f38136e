"""Gives stored results the labels that today's experiments give: names, notes, published numbers, the loss.

What was measured is never touched: metrics, seeds, settings, steps, times and manifest (with the commit of
the run) stay. A file that is changed says so in its note; one whose labels are today's is not written, so a
second call changes nothing.

Run:     python -m experiments.relabel --results results      (then `make tables`)
Also:    --check (write nothing; exit with 1 if a label is not today's)
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import published_checkpoints
from experiments.multitask import census
from experiments.published import NONE, Published
from experiments.sequential import hstu_generative, peterrec, stamp, ticoserec
from jaxrec import config as command_line
from jaxrec.report import results
from jaxrec.report.results import Record
from jaxrec.types import Result

MARK = "relabelled after the run"
LABELS = ("dataset", "model", "protocol", "published", "source", "note", "incomparable")


@dataclasses.dataclass(frozen=True)
class Config:
    """Labels of all files of a folder."""

    results: str = "results"  # folder of result files
    check: bool = False  # write nothing; exit with 1 and name the files whose labels are not today's


def settings_of(kind: type[Any], stored: Mapping[str, Any], **changes: Any) -> Any:
    """A configuration from the settings of a result, those it does not have being the defaults."""
    names = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in {**stored, **changes}.items() if name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def with_numbers(result: Result, numbers: Published, note: str) -> Result:
    """The result with these published numbers and this note."""
    return result._replace(note=note, **numbers.fields())


def of_census(result: Result) -> Result:
    """Published models had more columns."""
    row: Any = result.model
    config = settings_of(census.Config, result.config)
    return with_numbers(result, census.published_numbers(row, config), result.note)


def of_generative(result: Result) -> Result:
    """Names end in the losses."""
    row: Any = re.sub(r"(-bce|-ssm)+$", "", result.model)
    return result._replace(model=hstu_generative.model_name(row))


def of_peterrec(result: Result) -> Result:
    """Names end in the loss; who knows the shares of the classes is popularity."""
    row: Any = result.model.removesuffix("-ce").removesuffix("-norms")
    row = "popularity" if row == "majority" else row
    return result._replace(model=peterrec.name_of(row, settings_of(peterrec.Config, result.config)))


def of_checkpoints(result: Result) -> Result:
    """Names end in the loss, data sets say whose files they are, and what was not published is a note."""
    source = result.config.get("source", "coserec")
    dataset = result.dataset if result.dataset.startswith(source) else f"{source}-{result.dataset}"
    result = result._replace(dataset=dataset)
    name, plus, ending = result.model.partition("+")
    paper = next((p for p in published_checkpoints.PUBLISHED if name in (p.model, p.row)), None)
    if paper is None or "file" in result.config:
        return result
    values = dict(zip(published_checkpoints.METRICS, paper.metrics, strict=True)) if paper.metrics else {}
    numbers = Published(values, paper.source) if values and not ending else NONE
    note = published_checkpoints.note_of(paper, alike=not ending)
    return with_numbers(result._replace(model=paper.row + plus + ending), numbers, note)


def of_stamp(result: Result) -> Result:
    """Rows that learn nothing have chosen no epoch, and the paper's GRU4Rec is another model."""
    row: Any = result.model.split("+")[0]
    whole = {"select": "test"} if result.model.endswith("+all-sessions") else {}
    config = settings_of(stamp.Config, {"dataset": result.dataset, **result.config, **whole})
    numbers = stamp.published_numbers(row, stamp.effective(config))
    return with_numbers(result, numbers, stamp.note_of(row, config) if numbers.values else "")


def of_ticoserec(result: Result) -> Result:
    """Names say loss and ranking, and published numbers which files they are of."""
    old = result.model.split("+")[0]
    row: Any = f"{old}-bce" if old in ("coserec", "ticoserec") else old
    given = {"dataset": result.dataset, "seen": result.protocol.seen, **result.config}
    config = settings_of(ticoserec.Config, given)
    result = result._replace(model=ticoserec.model_name(row, config))
    if row in ticoserec.FLOORS:
        return result
    recipe = ticoserec.recipe_of(config, row)
    if dataclasses.asdict(recipe) != result.config["recipe"]:
        return result  # of another recipe than today's: what departs from it is not known here
    loss = "bce + contrastive" if recipe.weight else "bce"
    result = result._replace(protocol=result.protocol._replace(loss=loss))
    return with_numbers(result, ticoserec.published_numbers(row, config), ticoserec.note_of(row, config))


OF: Mapping[str, Callable[[Result], Result]] = {
    census.EXPERIMENT: of_census,
    hstu_generative.EXPERIMENT: of_generative,
    peterrec.EXPERIMENT: of_peterrec,
    published_checkpoints.EXPERIMENT: of_checkpoints,
    stamp.EXPERIMENT: of_stamp,
    ticoserec.EXPERIMENT: of_ticoserec,
}


def relabelled(result: Result) -> Result:
    """The result with today's labels; itself where it has them."""
    if result.experiment not in OF:
        return result
    note, _, mark = result.note.partition(MARK)
    bare = result._replace(note=note.removesuffix("; "))
    found = OF[result.experiment](bare)
    kept = [name for name in Result._fields if name not in LABELS]
    assert all(getattr(found, name) == getattr(result, name) for name in kept), "labels only"
    if found == bare:
        return result
    was = "" if found.dataset == result.dataset else f", when its data set was called {result.dataset}"
    was = was if found.model == result.model else f", when it was called {result.dataset}/{result.model}"
    return found._replace(note="; ".join(part for part in (found.note, MARK + (was or mark)) if part))


def relabel(path: Path, record: Record, folder: str) -> Path:
    """Writes a file under its new labels, with the plot beside it, and returns where it is."""
    path.unlink()
    moved = results.write_result(relabelled(record.result), folder, manifest=record.manifest)
    if path.with_suffix(".png").exists():
        path.with_suffix(".png").rename(moved.with_suffix(".png"))
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return moved


def stale(folder: str | Path) -> list[tuple[Path, Record]]:
    """Files whose labels are not today's."""
    read = [(path, results.read_result(path)) for path in sorted(Path(folder).glob("*/*/*.json"))]
    return [(path, record) for path, record in read if relabelled(record.result) != record.result]


def main() -> int:
    config = command_line.cli(Config, description=__doc__)
    found = stale(config.results)
    for path, record in found:
        print(f"{path}: not today's labels" if config.check else relabel(path, record, config.results))
    return 1 if config.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
