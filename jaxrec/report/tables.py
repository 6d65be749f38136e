"""Results as Markdown tables, next to published numbers, in `results/README.md` and README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from jaxrec import provenance
from jaxrec.provenance import FOLDER_FIELDS
from jaxrec.report.published import NOT_COMPARABLE, RULE, WITHIN, as_published
from jaxrec.report.results import Record, mean_and_std, read_results, write_atomically
from jaxrec.report.settings import differing
from jaxrec.types import Protocol, Result

HEADLINES = 12  # largest number of results in the README's table
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
BASELINES = ("random", "popularity")  # not trained; the first rows of every table
GENERATED_FROM_RESULTS = "<!-- Made from the result files by `make tables`; edit those, not this. -->"

_CANDIDATES = {"all": "all items are candidates", "impressions": "labelled impressions as they are"}
_SEEN = {
    "exclude": "items of the history are excluded, and a target that is one of them is a miss",
    "zero": "items of the history stay in with score 0",
    "keep": "items of the history stay in",
}
_TIES = {
    "pessimistic": "ties rank the target last",
    "optimistic": "ties rank the target first",
    "half": "a tied pair counts half in the AUC",
}


_ABBREVIATIONS = ("auc", "gauc", "mrr", "mse", "ndcg")
_ERRORS = ("log_loss", "mse")  # lower is better


def protocol_line(protocol: Protocol) -> str:
    """How a number was measured, as a sentence; the loss has its own column.

    >>> protocol_line(Protocol(candidates="sampled-100"))
    'Protocol: leave-one-out split; sampled-100 candidates; items of the history are excluded, and a target \
that is one of them is a miss; \
ties rank the target last.'
    """
    parts = [
        f"{protocol.split} split",
        _CANDIDATES.get(protocol.candidates, f"{protocol.candidates} candidates"),
        ""
        if protocol.candidates == "impressions"
        else _SEEN.get(protocol.seen, f"seen items: {protocol.seen}"),
        _TIES.get(protocol.ties, f"ties: {protocol.ties}"),
    ]
    return f"Protocol: {'; '.join(part for part in parts if part)}."


def selection_line(result: Result) -> str:
    """How the evaluated parameters were selected, as a sentence."""
    metric = result.protocol.selection
    if metric == "none":
        return "Selection: none, there is nothing to choose."
    if metric.endswith(", by the authors"):
        return "Selection: parameters as their authors chose them."
    if metric == "each task's auc":
        text = "for each task the parameters of its model's best validation AUC"
    elif metric.endswith(" on test"):
        best = _metric_phrase(metric.removesuffix(" on test"))
        text = f"parameters of the best test {best}, so chosen on test"
    else:
        best = "lowest" if metric in _ERRORS else "best"
        text = f"parameters of the {best} validation {_metric_phrase(metric)}"
    every = _epochs_between_evaluations(result.config)
    return f"Selection: {text}{f', evaluated every {every} epochs' if every > 1 else ''}."


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
    of our mean from it. Whether they agree is the column "as published", see `report.published`.
    """
    rows: list[list[str]] = []
    records = sorted(records, key=_baselines_first)
    names = list(dict.fromkeys(name for record in records for name in _metric_names(record)))
    for record in records:
        result = record.result
        ours = [_format_mean(result.metrics[name]) if name in result.metrics else "" for name in names]
        seeds = str(len(result.seeds))
        times = [f"{result.steps:,}", _minutes(result.seconds), f"{result.compile_seconds:.1f}"]
        rest = [as_published(result), *times, _device(record)]
        rows.append([_model_label(record), result.protocol.loss, seeds, *ours, *rest])
        if result.published:
            values = [_format_number(result.published.get(name)) for name in names]
            rows.append(["· published", "", "", *values, *[""] * 5])
        if result.published and not result.incomparable:
            values = [_format_difference(record, name) for name in names]
            rows.append(["· difference", "", "", *values, *[""] * 5])
    rest = ["as published", "steps", "minutes", "compile s", "device"]
    return _markdown(["model", "loss", "seeds", *names, *rest], rows)


def settings_table(records: Sequence[Record]) -> str:
    """The settings in which rows of a table differ, and no others; "" if none does."""
    records = sorted(records, key=_baselines_first)
    columns = differing([record.result.config for record in records])
    rows = [
        list(row) for row in zip(map(_model_label, records), *columns.values(), strict=True) if any(row[1:])
    ]
    return "Settings that differ:\n\n" + _markdown(["model", *columns], rows) if columns else ""


def footnotes(records: Sequence[Record]) -> str:
    """Notes on a table: protocol, sources, variants, remarks, and the device."""
    records = sorted(records, key=_baselines_first)
    lines = _grouped_lines(records, lambda record: protocol_line(record.result.protocol))
    lines += _grouped_lines(records, lambda record: selection_line(record.result))
    sourced = [record for record in records if record.result.published]
    lines += _grouped_lines(sourced, lambda record: f"Published numbers: {_sentence(record.result.source)}")
    lines += [RULE] if any(as_published(record.result) for record in sourced) else []
    lines += _incomparable_lines(records)
    plain = {record.result.model: record for record in records if not record.variant}
    for record in records:
        if record.variant:
            usual = plain.get(record.result.model)
            what = _setting_differences(record, usual) if usual else "its own configuration"
            lines.append(f"{_model_label(record)}: {what}.")
        if record.result.note:
            lines.append(f"{_model_label(record)}: {_sentence(record.result.note)}")
    lines += _grouped_lines([record for record in records if record.manifest], _measured_on_line)
    return "\n".join(f"- {line}" for line in lines)


def headline_table(records: Sequence[Record]) -> str:
    """The README's table: at most HEADLINES results that have a published number; "" if none has.

    If there are more, comparable ones are preferred, of each experiment and data set in turn, so that none
    takes all rows. The metric of an experiment on a data set is the first published one.
    """
    shown = _headline_records(records)
    rows: list[list[str]] = []
    lines: list[str] = []
    for (experiment, dataset), same in _group_by(shown, lambda r: (r.result.experiment, r.result.dataset)):
        metric = _headline_metric(same)
        for record in sorted(same, key=_baselines_first):
            result = record.result
            values, published = (
                _format_mean(result.metrics[metric]),
                _format_number(result.published.get(metric)),
            )
            row = [experiment, dataset, _model_label(record), metric, values, published]
            rest = [_format_difference(record, metric), as_published(result, metric), str(len(result.seeds))]
            rows.append([*row, *rest])
        lines += [f"- {experiment}, {dataset}: {reason}" for reason in _incomparable_lines(same, metric)]
    for line, same in _group_by(shown, lambda r: protocol_line(r.result.protocol)):
        groups = _group_by(same, lambda r: (r.result.experiment, r.result.dataset))
        models = (
            f"{' '.join(name)}: {', '.join(map(_model_label, sorted(found, key=_baselines_first)))}"
            for name, found in groups
        )
        lines.append(f"- {line} ({'; '.join(models)})")
    names = ["experiment", "data set", "model", "metric", "ours", "published", "difference"]
    columns = [*names, WITHIN, "seeds"]
    return "\n\n".join([_markdown(columns, rows), "\n".join(lines)]) if rows else ""


def _headline_records(records: Sequence[Record]) -> list[Record]:
    """The results of `headline_table`: comparable ones first, of each experiment and data set in turn."""
    turns: list[tuple[bool, int, int, Record]] = []
    groups = _group_by(records, lambda r: (r.result.experiment, r.result.dataset))
    for group, (_, same) in enumerate(groups):
        metric = _headline_metric(same)
        having = [r for r in same if metric in r.result.published and metric in r.result.metrics]
        having.sort(key=lambda record: (bool(record.result.incomparable), _baselines_first(record)))
        turns += [(bool(r.result.incomparable), turn, group, r) for turn, r in enumerate(having)]
    return [record for *_, record in sorted(turns, key=lambda turn: turn[:3])[:HEADLINES]]


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
            "of the whole run (all seeds) without compilation, which has its own column in seconds."
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
    changed = stale_pages(results, readme)
    texts = generated_pages(results, readme)
    for path in changed:
        write_atomically(path, texts[path])
    return changed


def stale_pages(results: str | Path, readme: str | Path | None) -> list[Path]:
    """Generated files whose text does not agree with the result files."""
    texts = generated_pages(results, readme)
    return [
        path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


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


def _model_label(record: Record) -> str:
    name = record.result.model
    return f"{name} [{record.variant}]" if record.variant else name


def _metric_names(record: Record) -> list[str]:
    return list(dict.fromkeys([*record.result.metrics, *record.result.published]))


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
            groups.setdefault(result.incomparable, []).append(_model_label(record))
    return [f"No difference for {', '.join(models)}: {_sentence(why)}" for why, models in groups.items()]


def _metric_phrase(name: str) -> str:
    """A metric's name in a sentence.

    >>> _metric_phrase("ndcg@10"), _metric_phrase("auc/income"), _metric_phrase("recall@20")
    ('NDCG@10', 'AUC of income', 'recall@20')
    """
    name, _, task = name.partition("/")
    short, at, k = name.partition("@")
    shown = (short.upper() if short in _ABBREVIATIONS else short.replace("_", " ")) + at + k
    return f"{shown} of {task}" if task else shown


def _epochs_between_evaluations(config: Mapping[str, Any]) -> int:
    """The setting `evaluate_every` or `every` of the run or of its recipe, else 1."""
    for settings in (config, config.get("recipe", {})):
        for name in ("evaluate_every", "every"):
            if settings.get(name):
                return int(settings[name])
    return 1


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


def _grouped_lines(records: Sequence[Record], line: Any) -> list[str]:
    """`line` of each record: once if all agree, else once per value, with its models."""
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(line(record), []).append(_model_label(record))
    if len(groups) <= 1:
        return list(groups)
    return [f"{text} ({', '.join(models)})" for text, models in groups.items()]


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    align = ["left" if name in _TEXT_COLUMNS else "right" for name in columns]
    return tabulate(cells, headers=columns, tablefmt="pipe", colalign=align, disable_numparse=True)


_TEXT_COLUMNS = ("experiment", "data set", "model", "loss", "metric", "as published", WITHIN, "device")
