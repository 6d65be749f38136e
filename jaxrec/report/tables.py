"""Results as Markdown tables, next to published numbers, in `results/README.md` and README.md."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from jaxrec import provenance
from jaxrec.provenance import FOLDER_FIELDS
from jaxrec.report.marks import COLUMN, IN_README, Marks, find_marks
from jaxrec.report.published import NOT_COMPARABLE, RULE, WITHIN, as_published
from jaxrec.report.results import Record, mean_and_std, read_results, write_atomically
from jaxrec.report.sentences import grouped_lines, model_label, sentence
from jaxrec.report.sentences import protocol_line as protocol_line
from jaxrec.report.sentences import selection_line as selection_line
from jaxrec.report.settings import differing
from jaxrec.report.words import lower_is_better

HEADLINES = 8  # largest number of results in the README's table
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
BASELINES = ("random", "popularity")  # not trained; the first rows of every table
GENERATED_FROM_RESULTS = "<!-- Made from the result files by `make tables`; edit those, not this. -->"


def all_tables(records: Sequence[Record]) -> str:
    """All results: a section per experiment, a table per data set, every metric; "" without results."""
    sections: list[str] = []
    by_experiment = _group_by(records, lambda record: record.result.experiment)
    for experiment, experiment_records in by_experiment:
        sections.append(f"## {experiment}")
        for dataset, rows in _group_by(experiment_records, lambda record: record.result.dataset):
            parts = [f"### {dataset}", results_table(rows), settings_table(rows), footnotes(rows)]
            sections += [part for part in parts if part]
    return "\n\n".join(sections)


def results_table(records: Sequence[Record]) -> str:
    """The table of results on one data set: untrained baselines first, then models by name.

    A row has mean ± standard deviation over the seeds. If the paper or its code publishes the number, the
    next row has it, and if ours is measured in the same way, the row after that has the difference
    of our mean from it. Whether they agree is the column "as published", see `report.published`; which
    rows beat the best baseline is a column too, see `report.marks`.
    """
    rows: list[list[str]] = []
    records = sorted(records, key=_baselines_first)
    marks = _marks(records).cells
    names = list(dict.fromkeys(name for record in records for name in _metric_names(record)))
    marked = [COLUMN] if marks else []
    blank = ["", "", *["" for _ in marked]]
    for number, record in enumerate(records):
        result = record.result
        mark = [marks[number]] if marks else []
        ours = [_format_mean(result.metrics[name]) if name in result.metrics else "" for name in names]
        seeds = str(len(result.seeds))
        times = [f"{result.steps:,}", _minutes(result.seconds), f"{result.compile_seconds:.1f}"]
        rest = [as_published(result), *times, _device(record)]
        rows.append([model_label(record), result.protocol.loss, seeds, *mark, *ours, *rest])
        if result.published:
            values = [_format_number(result.published.get(name)) for name in names]
            rows.append(["· published", *blank, *values, *[""] * 5])
        if result.published and not result.incomparable:
            values = [_format_difference(record, name) for name in names]
            rows.append(["· difference", *blank, *values, *[""] * 5])
    rest = ["as published", "steps", "minutes", "compile s", "device"]
    return _markdown(["model", "loss", "seeds", *marked, *names, *rest], rows)


def settings_table(records: Sequence[Record]) -> str:
    """The settings in which rows of a table differ, and no others; "" if none does."""
    records = sorted(records, key=_baselines_first)
    columns = differing([record.result.config for record in records])
    rows = [
        list(row) for row in zip(map(model_label, records), *columns.values(), strict=True) if any(row[1:])
    ]
    return "Settings that differ:\n\n" + _markdown(["model", *columns], rows) if columns else ""


def footnotes(records: Sequence[Record]) -> str:
    """Notes on a table: marks, protocol, sources, variants, remarks, and the device."""
    records = sorted(records, key=_baselines_first)
    lines = list(_marks(records).lines)
    lines += grouped_lines(records, lambda record: protocol_line(record.result.protocol))
    lines += grouped_lines(records, lambda record: selection_line(record.result))
    sourced = [record for record in records if record.result.published]
    lines += grouped_lines(sourced, lambda record: f"Published numbers: {sentence(record.result.source)}")
    lines += [RULE] if any(as_published(record.result) for record in sourced) else []
    lines += _incomparable_lines(records)
    plain = {record.result.model: record for record in records if not record.variant}
    for record in records:
        if record.variant:
            usual = plain.get(record.result.model)
            what = _setting_differences(record, usual) if usual else "its own configuration"
            lines.append(f"{model_label(record)}: {what}.")
        if record.result.note:
            lines.append(f"{model_label(record)}: {sentence(record.result.note)}")
    lines += grouped_lines([record for record in records if record.manifest], _measured_on_line)
    return "\n".join(f"- {line}" for line in lines)


def headline_table(records: Sequence[Record]) -> str:
    """The README's table: at most HEADLINES results that have a published number; "" if none has.

    If there are more, comparable ones are preferred, of each experiment in turn, so that none takes all
    rows, and of an experiment those that are trained, the best published number first. The metric of an
    experiment on a data set is the first published one.
    """
    shown = _headline_records(records)
    rows: list[list[str]] = []
    lines: list[str] = []
    for (experiment, dataset), same in _group_by(shown, lambda r: (r.result.experiment, r.result.dataset)):
        metric = _headline_metric(same)
        table = [r for r in records if (r.result.experiment, r.result.dataset) == (experiment, dataset)]
        marks = dict(zip(map(model_label, table), find_marks(table, metric).cells, strict=False))
        for record in sorted(same, key=_baselines_first):
            result = record.result
            values, published = (
                _format_mean(result.metrics[metric]),
                _format_number(result.published.get(metric)),
            )
            row = [experiment, dataset, model_label(record), metric, values, published]
            rest = [_format_difference(record, metric), as_published(result, metric), str(len(result.seeds))]
            rows.append([*row, *rest, marks.get(model_label(record), "")])
        lines += [f"- {experiment}, {dataset}: {reason}" for reason in _incomparable_lines(same, metric)]
    for line, same in _group_by(shown, lambda r: protocol_line(r.result.protocol)):
        groups = _group_by(same, lambda r: (r.result.experiment, r.result.dataset))
        models = (
            f"{' '.join(name)}: {', '.join(map(model_label, sorted(found, key=_baselines_first)))}"
            for name, found in groups
        )
        lines.append(f"- {line} ({'; '.join(models)})")
    names = ["experiment", "data set", "model", "metric", "ours", "published", "difference"]
    columns = [*names, WITHIN, "seeds", COLUMN]
    if any(row[-1] for row in rows):
        lines.insert(0, f"- {IN_README}")
    else:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return "\n\n".join([_markdown(columns, rows), "\n".join(lines)]) if rows else ""


def _headline_records(records: Sequence[Record]) -> list[Record]:
    """The results of `headline_table`: comparable ones first, of each experiment in turn, and of each of its
    data sets in turn; of these trained ones first, by how good the published numbers are."""
    turns: list[tuple[bool, int, int, Record]] = []
    for place, (_, experiment) in enumerate(_group_by(records, lambda r: r.result.experiment)):
        own: list[tuple[bool, bool, int, int, Record]] = []
        for group, (_, same) in enumerate(_group_by(experiment, lambda r: r.result.dataset)):
            metric = _headline_metric(same)
            having = [r for r in same if metric in r.result.published and metric in r.result.metrics]
            having.sort(key=functools.partial(_headline_order, metric=metric))
            own += [(*_headline_order(r, metric)[:2], turn, group, r) for turn, r in enumerate(having)]
        own.sort(key=lambda turn: turn[:4])
        turns += [(apart, turn, place, r) for turn, (apart, *_, r) in enumerate(own)]
    return [record for *_, record in sorted(turns, key=lambda turn: turn[:3])[:HEADLINES]]


def _headline_order(record: Record, metric: str) -> tuple[bool, bool, float, tuple[Any, ...]]:
    """Comparable and trained rows first, then those of the best published numbers."""
    result = record.result
    published = result.published[metric] * (1 if lower_is_better(metric) else -1)
    return bool(result.incomparable), not result.steps, published, _baselines_first(record)


def generated_pages(results: str | Path, readme: str | Path | None) -> dict[Path, str]:
    """The text of each generated file: `<results>/README.md` and, if given, the README.

    Raises:
      ValueError: a corrupt result file, or a README that is absent or has not exactly one pair of markers.
    """
    records = read_results(results)
    texts: dict[Path, str] = {}
    own = Path(results) / "README.md"
    if records or own.exists():
        intro = (
            "Every number is the mean ± sample standard deviation over seeds. Minutes are the wall time "
            "of the whole run (all seeds) without compilation, which has its own column in seconds. The "
            'column "best baseline" and the lines on it are explained in '
            "[docs/comparing.md](../docs/comparing.md#the-best-baseline-of-a-table)."
        )
        texts[own] = (
            "\n\n".join(
                ["# Results", GENERATED_FROM_RESULTS, intro, all_tables(records) or "No results yet."]
            )
            + "\n"
        )
    if readme:
        texts[Path(readme)] = _with_block(Path(readme), headline_table(records))
    return texts


def update_pages(results: str | Path, readme: str | Path | None) -> list[Path]:
    """Writes the generated files that are stale and returns them."""
    changed = _changed(generated_pages(results, readme))
    for path, text in changed.items():
        write_atomically(path, text)
    return list(changed)


def stale_pages(results: str | Path, readme: str | Path | None) -> list[Path]:
    """Generated files whose text does not agree with the result files."""
    return list(_changed(generated_pages(results, readme)))


def _changed(texts: Mapping[Path, str]) -> dict[Path, str]:
    return {
        path: text
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def _with_block(readme: Path, block: str) -> str:
    if not readme.exists():
        raise ValueError(f"{readme}: no such file: name the README with --readme, or none with --readme ''")
    text = readme.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise ValueError(f"{readme}: needs one line {BEGIN} and after it one line {END}: put them back")
    middle = f"\n{GENERATED_FROM_RESULTS}\n\n{block}\n\n" if block else "\n"
    return text[:begin] + BEGIN + middle + text[end:]


def _group_by(records: Iterable[Record], key: Any) -> list[tuple[Any, list[Record]]]:
    ordered = sorted(records, key=key)
    return [(name, list(rows)) for name, rows in groupby(ordered, key=key)]


def _baselines_first(record: Record) -> tuple[int, str, str]:
    name = record.result.model
    kind = re.split("[-+]", name)[0]
    first = BASELINES.index(kind) if kind in BASELINES else len(BASELINES)
    return first, name, record.variant


def _metric_names(record: Record) -> list[str]:
    return list(dict.fromkeys([*record.result.metrics, *record.result.published]))


def _marks(records: Sequence[Record]) -> Marks:
    """Those of a table, by the metric that chose its parameters on validation, else that of the headline."""
    results = [record.result for record in records]
    selected = [r.protocol.selection for r in results if r.protocol.selection in r.metrics]
    return find_marks(records, [*selected, _headline_metric(records)][0])


def _headline_metric(records: Sequence[Record]) -> str:
    results = [record.result for record in sorted(records, key=_baselines_first)]
    published = [name for result in results for name in result.published if name in result.metrics]
    selected = [r.protocol.selection for r in results if r.protocol.selection in r.metrics]
    return [*published, *selected, *results[0].metrics][0]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds >= 600 else f"{seconds / 60:.2f}"


def _device(record: Record) -> str:
    """The accelerator or processor of a result, with its number if there are several; "" if unknown."""
    device = record.manifest.get("device", {})
    kind, count = device.get("kind", ""), device.get("count", 1)
    return kind if count == 1 else f"{count} × {kind}"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _format_mean(values: Sequence[float]) -> str:
    mean, std = mean_and_std(values)
    return _format_number(mean) if std is None else f"{mean:.4f} ± {std:.4f}"


def _format_difference(record: Record, metric: str) -> str:
    published, values = record.result.published.get(metric), record.result.metrics.get(metric)
    if published is None or values is None:
        return ""
    if record.result.incomparable:
        return NOT_COMPARABLE
    difference = mean_and_std(values).mean - published
    relative = f" ({100 * difference / abs(published):+.1f} %)" if published else ""
    return f"{difference:+.4f}{relative}"


def _incomparable_lines(records: Sequence[Record], metric: str = "") -> list[str]:
    """Why no difference from published numbers is printed: a sentence per reason, with its models.

    metric: only published numbers of this metric count; "" for any.
    """
    groups: dict[str, list[str]] = {}
    for record in sorted(records, key=_baselines_first):
        result = record.result
        if result.incomparable and (not metric or {metric} <= set(result.published) & set(result.metrics)):
            groups.setdefault(result.incomparable, []).append(model_label(record))
    return [f"No difference for {', '.join(models)}: {sentence(why)}" for why, models in groups.items()]


def _setting_differences(record: Record, usual: Record) -> str:
    """The settings in which a variant differs from the usual result."""
    theirs, ours = (
        {**r.result.config, **_protocol_and_seeds(r), **_non_default_jax_settings(r)} for r in (usual, record)
    )
    names = [
        name
        for name in {**theirs, **ours}
        if name not in FOLDER_FIELDS and ours.get(name) != theirs.get(name)
    ]
    return "; ".join(f"{name}={ours.get(name)} instead of {theirs.get(name)}" for name in names)


def _non_default_jax_settings(record: Record) -> Mapping[str, Any]:
    """The settings of JAX that change numbers and are not its defaults."""
    return provenance.non_default_settings(record.manifest.get("settings", {}))


def _protocol_and_seeds(record: Record) -> Mapping[str, Any]:
    protocol = {f"protocol {name}": value for name, value in record.result.protocol._asdict().items()}
    return {**protocol, "seeds": list(record.result.seeds)}


def _measured_on_line(record: Record) -> str:
    manifest = record.manifest
    device, versions = manifest.get("device", {}), manifest.get("versions", {})
    where = f"{device.get('count', '?')} × {device.get('kind', 'unknown device')}"
    host = manifest.get("host", {}).get("processor")
    host = f", host {host} ({manifest['host'].get('cores', '?')} cores)" if host else ""
    with_ = "".join(f", {name} {versions[name]}" for name in ("jax", "flax") if name in versions)
    commit = str(manifest.get("commit") or "unknown")
    commit = commit[:10] + "-dirty" * commit.endswith("-dirty")
    return f"Measured on {where}{host}{with_}, Python {manifest.get('python', '?')}, commit {commit}."


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    align = ["left" if name in _TEXT_COLUMNS else "right" for name in columns]
    return tabulate(cells, headers=columns, tablefmt="pipe", colalign=align, disable_numparse=True)


_TEXT_COLUMNS = (
    "experiment",
    "data set",
    "model",
    "loss",
    "metric",
    "as published",
    WITHIN,
    COLUMN,
    "device",
)
