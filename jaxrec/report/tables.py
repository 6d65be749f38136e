"""Results as Markdown tables, ours beside the published numbers, in `results/README.md` and README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from jaxrec import provenance
from jaxrec.report.results import PLACES, Record, read_all, summary, write_whole
from jaxrec.types import Protocol, Result

NOT_COMPARABLE = "not comparable"
HEADLINES = 12  # most rows of the README's table
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
FLOORS = ("random", "popularity")  # models that learn nothing: any number is read against these rows
GENERATED = "<!-- Made from the result files by `make tables`; edit those, not this. -->"

_CANDIDATES = {"all": "all items are candidates", "impressions": "labelled impressions as they are"}
_SEEN = {
    "exclude": "items of the history are taken out, and a target among them is a miss",
    "zero": "items of the history stay in with score 0",
    "keep": "items of the history stay in",
}
_TIES = {
    "pessimistic": "ties rank the target last",
    "optimistic": "ties rank the target first",
    "half": "a tied pair counts half in an area under a curve",
}


_ABBREVIATIONS = ("auc", "gauc", "mrr", "mse", "ndcg")
_ERRORS = ("log_loss", "mse")  # the lower, the better


def protocol_line(protocol: Protocol) -> str:
    """How a number was measured, as a sentence; the loss stands in its own column.

    >>> protocol_line(Protocol(candidates="sampled-100"))
    'Protocol: leave-one-out split; sampled-100 candidates; items of the history are taken out, and a target \
among them is a miss; \
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
    """Which parameters a number belongs to, as a sentence."""
    metric = result.protocol.selection
    if metric == "none":
        return "Selection: none, there is nothing to choose."
    if metric.endswith(", by the authors"):
        return "Selection: parameters as their authors chose them."
    if metric == "each task's auc":
        text = "for each task the parameters of its model's best validation AUC"
    elif metric.endswith(" on test"):
        text = f"parameters of the best test {_metric(metric.removesuffix(' on test'))}, so chosen on test"
    else:
        best = "lowest" if metric in _ERRORS else "best"
        text = f"parameters of the {best} validation {_metric(metric)}"
    every = _epochs_between_evaluations(result.config)
    return f"Selection: {text}{f', evaluated every {every} epochs' if every > 1 else ''}."


def full(records: Sequence[Record]) -> str:
    """All results: a section an experiment, a table a data set, every metric; "" for no results."""
    sections: list[str] = []
    by_experiment = _grouped(records, lambda record: record.result.experiment)
    for experiment, of_experiment in by_experiment:
        sections.append(f"## {experiment}")
        for dataset, rows in _grouped(of_experiment, lambda record: record.result.dataset):
            sections += [f"### {dataset}", table(rows), footnotes(rows)]
    return "\n\n".join(sections)


def table(records: Sequence[Record]) -> str:
    """One table of results on one data set: floors first, then models by name.

    A row gives mean ± standard deviation over the seeds. Where the paper or its code publishes the number, it
    stands in the row below, and, if ours is measured alike, the difference of our mean from it below that.
    """
    rows: list[list[str]] = []
    records = sorted(records, key=_floors_first)
    names = list(dict.fromkeys(name for record in records for name in _metric_names(record)))
    for record in records:
        result = record.result
        ours = [_measured(result.metrics[name]) if name in result.metrics else "" for name in names]
        seeds = str(len(result.seeds))
        times = [f"{result.steps:,}", f"{result.seconds:.1f}", f"{result.compile_seconds:.1f}"]
        rows.append([_model(record), result.protocol.loss, seeds, *ours, *times])
        if result.published:
            values = [_number(result.published.get(name)) for name in names]
            rows.append(["· published", "", "", *values, "", "", ""])
        if result.published and not result.incomparable:
            rows.append(["· difference", "", "", *(_difference(record, name) for name in names), "", "", ""])
    return _markdown(["model", "loss", "seeds", *names, "steps", "seconds", "compile s"], rows)


def footnotes(records: Sequence[Record]) -> str:
    """What a table needs to mean something: protocol, sources, variants, notes, where it was measured."""
    records = sorted(records, key=_floors_first)
    lines = _shared(records, lambda record: protocol_line(record.result.protocol))
    lines += _shared(records, lambda record: selection_line(record.result))
    sourced = [record for record in records if record.result.published]
    lines += _shared(sourced, lambda record: f"Published numbers: {_sentence(record.result.source)}")
    lines += _reasons(records)
    plain = {record.result.model: record for record in records if not record.variant}
    for record in records:
        if record.variant:
            usual = plain.get(record.result.model)
            what = _differences(record, usual) if usual else "its own configuration"
            lines.append(f"{_model(record)}: {what}.")
        if record.result.note:
            lines.append(f"{_model(record)}: {_sentence(record.result.note)}")
    lines += _shared([record for record in records if record.manifest], _measured_on)
    return "\n".join(f"- {line}" for line in lines)


def headline(records: Sequence[Record]) -> str:
    """The README's table: results that have a published number, at most HEADLINES; "" where none has.

    Comparable ones come first where there are more: of each experiment and data set in turn, so that none
    takes all rows. The metric of an experiment on a data set is the first published one.
    """
    shown = _headlines(records)
    rows: list[list[str]] = []
    lines: list[str] = []
    for (experiment, dataset), same in _grouped(shown, lambda r: (r.result.experiment, r.result.dataset)):
        metric = _headline_metric(same)
        for record in sorted(same, key=_floors_first):
            result = record.result
            values, published = _measured(result.metrics[metric]), _number(result.published.get(metric))
            row = [experiment, dataset, _model(record), metric, values, published]
            rows.append([*row, _difference(record, metric), str(len(result.seeds))])
        lines += [f"- {experiment}, {dataset}: {reason}" for reason in _reasons(same, metric)]
    for line, same in _grouped(shown, lambda r: protocol_line(r.result.protocol)):
        groups = _grouped(same, lambda r: (r.result.experiment, r.result.dataset))
        of = (
            f"{' '.join(name)}: {', '.join(map(_model, sorted(found, key=_floors_first)))}"
            for name, found in groups
        )
        lines.append(f"- {line} ({'; '.join(of)})")
    columns = ["experiment", "data set", "model", "metric", "ours", "published", "difference", "seeds"]
    return "\n\n".join([_markdown(columns, rows), "\n".join(lines)]) if rows else ""


def _headlines(records: Sequence[Record]) -> list[Record]:
    """At most HEADLINES results: comparable ones before others, of each experiment and data set in turn."""
    turns: list[tuple[bool, int, int, Record]] = []
    groups = _grouped(records, lambda r: (r.result.experiment, r.result.dataset))
    for group, (_, same) in enumerate(groups):
        metric = _headline_metric(same)
        having = [r for r in same if metric in r.result.published and metric in r.result.metrics]
        having.sort(key=lambda record: (bool(record.result.incomparable), _floors_first(record)))
        turns += [(bool(r.result.incomparable), turn, group, r) for turn, r in enumerate(having)]
    return [record for *_, record in sorted(turns, key=lambda turn: turn[:3])[:HEADLINES]]


def pages(results: str | Path, readme: str | Path | None) -> dict[Path, str]:
    """Text that each generated file should have: `<results>/README.md` and, if given, the README.

    Raises:
      ValueError: a damaged result file, a README that is absent or has not one pair of markers.
    """
    records = read_all(results)
    texts: dict[Path, str] = {}
    own = Path(results) / "README.md"
    if records or own.exists():
        intro = (
            "Every number is the mean ± sample standard deviation over seeds. Seconds are the wall time "
            "of the whole run (all seeds) without compilation, which stands beside it."
        )
        texts[own] = "\n\n".join(["# Results", GENERATED, intro, full(records) or "No results yet."]) + "\n"
    if readme:
        texts[Path(readme)] = _with_block(Path(readme), headline(records))
    return texts


def update(results: str | Path, readme: str | Path | None) -> list[Path]:
    """Writes the generated files that are stale and returns them."""
    changed = stale(results, readme)
    texts = pages(results, readme)
    for path in changed:
        write_whole(path, texts[path])
    return changed


def stale(results: str | Path, readme: str | Path | None) -> list[Path]:
    """Generated files whose text is not what the result files give."""
    texts = pages(results, readme)
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
    middle = f"\n{GENERATED}\n\n{block}\n\n" if block else "\n"
    return text[:begin] + BEGIN + middle + text[end:]


def _grouped(records: Iterable[Record], key: Any) -> list[tuple[Any, list[Record]]]:
    ordered = sorted(records, key=key)
    return [(name, list(rows)) for name, rows in groupby(ordered, key=key)]


def _floors_first(record: Record) -> tuple[int, str, str]:
    name = record.result.model
    floor = next((i for i, prefix in enumerate(FLOORS) if re.split("[-+]", name)[0] == prefix), len(FLOORS))
    return floor, name, record.variant


def _model(record: Record) -> str:
    name = record.result.model
    return f"{name} [{record.variant}]" if record.variant else name


def _metric_names(record: Record) -> list[str]:
    return list(dict.fromkeys([*record.result.metrics, *record.result.published]))


def _headline_metric(records: Sequence[Record]) -> str:
    results = [record.result for record in sorted(records, key=_floors_first)]
    published = [name for result in results for name in result.published if name in result.metrics]
    selected = [r.protocol.selection for r in results if r.protocol.selection in r.metrics]
    return [*published, *selected, *results[0].metrics][0]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _measured(values: Sequence[float]) -> str:
    mean, std = summary(values)
    return _number(mean) if std is None else f"{mean:.4f} ± {std:.4f}"


def _difference(record: Record, metric: str) -> str:
    published, values = record.result.published.get(metric), record.result.metrics.get(metric)
    if published is None or values is None:
        return ""
    if record.result.incomparable:
        return NOT_COMPARABLE
    difference = summary(values).mean - published
    relative = f" ({100 * difference / abs(published):+.1f} %)" if published else ""
    return f"{difference:+.4f}{relative}"


def _reasons(records: Sequence[Record], metric: str = "") -> list[str]:
    """Why no difference from published numbers is printed, a sentence a reason with the models it is for.

    metric: what a published number must be of to count; "" for any.
    """
    groups: dict[str, list[str]] = {}
    for record in sorted(records, key=_floors_first):
        result = record.result
        if result.incomparable and (not metric or {metric} <= set(result.published) & set(result.metrics)):
            groups.setdefault(result.incomparable, []).append(_model(record))
    return [f"No difference for {', '.join(models)}: {_sentence(why)}" for why, models in groups.items()]


def _metric(name: str) -> str:
    """A metric's name in a sentence.

    >>> _metric("ndcg@10"), _metric("auc/income"), _metric("recall@20")
    ('NDCG@10', 'AUC of income', 'recall@20')
    """
    name, _, task = name.partition("/")
    short, at, k = name.partition("@")
    shown = (short.upper() if short in _ABBREVIATIONS else short.replace("_", " ")) + at + k
    return f"{shown} of {task}" if task else shown


def _epochs_between_evaluations(config: Mapping[str, Any]) -> int:
    """As the settings of a run name it: `evaluate_every` or `every`, of the run or of its recipe."""
    for settings in (config, config.get("recipe", {})):
        for name in ("evaluate_every", "every"):
            if settings.get(name):
                return int(settings[name])
    return 1


def _differences(record: Record, usual: Record) -> str:
    """What a variant was measured with where the usual result was not."""
    theirs, ours = (
        {**r.result.config, **_protocol_and_seeds(r), **_jax_settings(r)} for r in (usual, record)
    )
    names = [name for name in {**theirs, **ours} if name not in PLACES and ours.get(name) != theirs.get(name)]
    return "; ".join(f"{name}={ours.get(name)} instead of {theirs.get(name)}" for name in names)


def _jax_settings(record: Record) -> Mapping[str, Any]:
    """Those that change numbers, where they are not JAX's defaults."""
    return provenance.changed_settings(record.manifest.get("settings", {}))


def _protocol_and_seeds(record: Record) -> Mapping[str, Any]:
    protocol = {f"protocol {name}": value for name, value in record.result.protocol._asdict().items()}
    return {**protocol, "seeds": list(record.result.seeds)}


def _measured_on(record: Record) -> str:
    manifest = record.manifest
    device, versions = manifest.get("device", {}), manifest.get("versions", {})
    where = f"{device.get('count', '?')} × {device.get('kind', 'unknown device')}"
    host = manifest.get("host", {}).get("processor")
    host = f", host {host} ({manifest['host'].get('cores', '?')} cores)" if host else ""
    with_ = "".join(f", {name} {versions[name]}" for name in ("jax", "flax") if name in versions)
    commit = str(manifest.get("commit") or "unknown")
    commit = commit[:10] + "-dirty" * commit.endswith("-dirty")
    return f"Measured on {where}{host}{with_}, Python {manifest.get('python', '?')}, commit {commit}."


def _shared(records: Sequence[Record], line: Any) -> list[str]:
    """`line` of each record: once if all agree, else once a value with the models it belongs to."""
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(line(record), []).append(_model(record))
    if len(groups) <= 1:
        return list(groups)
    return [f"{text} ({', '.join(models)})" for text, models in groups.items()]


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    align = ["left" if name in _TEXT_COLUMNS else "right" for name in columns]
    return tabulate(cells, headers=columns, tablefmt="pipe", colalign=align, disable_numparse=True)


_TEXT_COLUMNS = ("experiment", "data set", "model", "loss", "metric")
