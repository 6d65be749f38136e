"""A page of one run: one HTML file with inline SVG and CSS, which needs no script, library or network.

It shows what the run's folder holds (`report.run_parts`) and names what it lacks. It is the same for the same
folder, and no path of the machine is in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jaxrec.report.charts import line_chart
from jaxrec.report.curves import best_points, curve_of, loss_names
from jaxrec.report.html import bar, duration, mapping_table, mean_and_std, table
from jaxrec.report.results import write_atomically
from jaxrec.report.run_parts import RunParts, read_run
from jaxrec.report.run_style import STYLE
from jaxrec.report.slices import Slice
from jaxrec.report.words import capital, in_words, short

PAGE = "report.html"  # in the run's folder, where no file is named
TABLE_ROWS = 200  # of the table of epochs; more are thinned out
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is loaded, nothing runs


def write_page(folder: str | Path, path: str | Path | None = None) -> Path:
    """Writes the page of the run in a folder and returns its path. path: None: `report.html` in the folder.

    Raises:
      ValueError: the folder holds no run, see `run_parts.read_run`.
      OSError: a file can't be read or written.
    """
    path = Path(folder) / PAGE if path is None else Path(path)
    text = page(read_run(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


def page(run: RunParts) -> str:
    """The page's HTML."""
    title = f"{run.name} on {run.dataset}" if run.dataset else run.name
    sections = [
        _section("Result", _result(run)),
        _section("Curves", _curves(run)),
        _section("Weights of the losses", _weights(run)),
        _section("Use of the experts", _gates(run)),
        _section("Parts of the test queries", _slices(run)),
        _section("Settings", mapping_table(run.settings, "Setting", "Settings")),
        _section("Protocol", mapping_table(run.protocol, "Part", "Protocol")),
        _section("Provenance", _provenance(run)),
        _section("What this page lacks", [f"<ul>{''.join(f'<li>{escape(m)}</li>' for m in run.missing)}</ul>"]
                 if run.missing else []),
    ]  # fmt: skip
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(title)} – jaxrec</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#content">To the content</a>',
            f"<header><h1>{escape(title)}</h1>{_summary(run)}</header>",
            f'<main id="content">{"".join(sections)}</main>',
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(heading: str, parts: Sequence[str]) -> str:
    """A section with its heading, "" if it is empty."""
    if not parts:
        return ""
    name = heading.lower().replace(" ", "-")
    return f'\n<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>{"".join(parts)}</section>'


# --- result ----------------------------------------------------------------------------------------


def _summary(run: RunParts) -> str:
    """One sentence on what was trained."""
    done = len(run.history)
    planned = sum(epochs for _, epochs in run.phases)
    seeds = f"{len(run.seeds)} seeds ({', '.join(map(str, run.seeds))})" if len(run.seeds) != 1 else (
        f"one seed ({run.seeds[0]})"
    )  # fmt: skip
    parts = [f"Trained with {seeds}" if run.history or run.made_by else f"With {seeds}"]
    if done:
        parts.append(f"for {done} of {planned} epochs" if planned else f"for {done} epochs")
    if run.seconds:
        parts.append(f"in {duration(run.seconds)} without compilation")
    text = " ".join(parts) + "."
    if run.complete is False:
        text += " It is not complete: the same command goes on with it."
    elif planned > done > 0 and run.complete:
        text += " It ended when no seed improved any more."
    return f"<p>{escape(text)}</p>"


def _result(run: RunParts) -> list[str]:
    parts = []
    cards = []
    metric = run.metric if run.metric in run.metrics else next(iter(run.metrics), "")
    if metric:
        cards.append((f"{short(metric)}, test", mean_and_std(run.metrics[metric])))
    valid = f"valid/{run.metric}"
    kept = best_points(run.history, valid, run.best_epoch)
    if run.metric and kept:
        cards.append((f"{short(run.metric)}, validation", mean_and_std([value for _, value in kept])))
    if any(epoch >= 0 for epoch in run.best_epoch):
        shown = ", ".join(str(epoch) if epoch >= 0 else "none" for epoch in run.best_epoch)
        cards.append(("Best epoch" + (" of each seed" if len(run.seeds) > 1 else ""), shown))
    if run.compile_seconds is not None:
        cards.append(("Compilation", duration(run.compile_seconds)))
    if cards:
        parts.append(
            '<dl class="cards">'
            + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in cards)
            + "</dl>"
        )
    if run.metrics:
        others = list(run.baselines)
        head = ["Metric", run.name, *others]
        rows = []
        for name, values in run.metrics.items():
            if name.partition("/")[2] and f"share/{name.partition('/')[2]}" in run.metrics:
                continue  # of a slice, which has its own table
            if name.startswith("share/"):
                continue
            compared = [run.baselines[other].get(name) for other in others]
            rows.append([
                f"{escape(short(name))}<br><small class=name>{escape(in_words(name))}</small>",
                *[escape(mean_and_std(each)) if each else "–" for each in (values, *compared)],
            ])  # fmt: skip
        note = "Mean over seeds ± sample standard deviation." if len(run.seeds) > 1 else "One seed."
        versus = " The others are baselines that were measured in the same way." if others else ""
        parts.append(f"<p>Metrics of the test queries. {note}{versus}</p>")
        parts.append(table("Test metrics", head, rows))
    return parts


# --- curves ----------------------------------------------------------------------------------------


def _curves(run: RunParts) -> list[str]:
    """A chart for each loss and each validation metric, the metric that chose the epoch first."""
    if not run.history:
        return []
    names = dict.fromkeys(name for entry in run.history for name in entry)
    valid = [name for name in names if name.startswith("valid/")]
    chosen = f"valid/{run.metric}"
    valid.sort(key=lambda name: name != chosen)
    losses = loss_names(names)
    if losses == [name for name in losses if _same(run, name)]:
        losses = []  # one loss of weight 1, which is the total
    figures = [_figure(run, name, number) for number, name in enumerate([*valid, "loss", *losses])]
    seeds = (
        f"The line is the mean of {len(run.seeds)} seeds and the band goes from the lowest to the highest. "
        if len(run.seeds) > 1
        else ""
    )
    ring = "A ring marks the epoch whose parameters were kept. " if _has_best(run) else ""
    phases = "A dashed line divides phases of training. " if len(run.phases) > 1 else ""
    text = f"{seeds}{ring}{phases}Epochs are counted from 0."
    return [
        f"<p>{text}</p>",
        f'<div class="figures">{"".join(figures)}</div>',
        _epochs(run, [*valid, "loss"]),
    ]


def _same(run: RunParts, name: str) -> bool:
    return all(entry.get(name) == entry.get("loss") for entry in run.history)


def _has_best(run: RunParts) -> bool:
    return any(epoch >= 0 for epoch in run.best_epoch)


def _figure(run: RunParts, name: str, number: int) -> str:
    """A chart of one entry of the history, with its caption and a description in words."""
    curve = curve_of(run.history, name)
    if not curve.epoch:
        return ""
    best = best_points(run.history, name, run.best_epoch) if name.startswith("valid/") else []
    chosen = name == f"valid/{run.metric}"
    title = capital(in_words(name))
    described = (
        f"From {curve.mean[0]:.4g} in epoch {curve.epoch[0]} to {curve.mean[-1]:.4g} in epoch "
        f"{curve.epoch[-1]}; lowest {min(curve.mean):.4g}, highest {max(curve.mean):.4g}"
        + (f"; best epochs {', '.join(str(epoch) for epoch, _ in best)}" if best else "")
        + "."
    )
    svg = line_chart(
        {name: curve},
        identifier=f"curve-{number}",
        title=title,
        description=described,
        best=best,
        boundaries=_boundaries(run),
    )
    why = " <small>It chose the epochs.</small>" if chosen else ""
    if name.startswith("valid/"):
        label, words = short(name), in_words(name.removeprefix("valid/"))
    elif name == "loss":
        label, words = "Training loss", "weighted sum of the losses"
    else:
        label, words = f"Loss {name}", "before it is weighted"
    caption = f"<figcaption><b>{escape(label)}</b> {escape(words)}.{why}</figcaption>"
    return f"<figure>{caption}{svg}</figure>"


def _boundaries(run: RunParts) -> list[int]:
    """First epochs of the phases after the first, as far as they were trained."""
    found, start = [], 0
    for _, epochs in run.phases[:-1]:
        start += epochs
        if start < len(run.history):
            found.append(start)
    return found


def _epochs(run: RunParts, names: Sequence[str]) -> str:
    """A folded table of means over seeds by epoch."""
    step = -(-len(run.history) // TABLE_ROWS)
    entries = list(run.history)[::step]
    rows = []
    for entry in entries:
        means = [curve_of([entry], name).mean for name in names]
        rows.append([str(entry["epoch"]), *[f"{mean[0]:.4g}" if mean else "–" for mean in means]])
    thinned = f"<p>One epoch in {step}; history.jsonl has all.</p>" if step > 1 else ""
    head = ["Epoch", *[escape(short(name)) for name in names]]
    folded = table("Values by epoch", head, rows)
    return f"<details><summary>Values by epoch, means over seeds</summary>{thinned}{folded}</details>"


def _weights(run: RunParts) -> list[str]:
    """The factor of each loss by epoch, in one chart; empty where weights do not change."""
    names = dict.fromkeys(name for entry in run.history for name in entry if name.startswith("weight/"))
    curves = {name.removeprefix("weight/"): curve_of(run.history, name) for name in names}
    if not curves:
        return []
    ends = "; ".join(f"{name} from {c.mean[0]:.3g} to {c.mean[-1]:.3g}" for name, c in curves.items())
    svg = line_chart(
        curves,
        identifier="weights",
        title="Weights of the losses by epoch",
        description=f"{capital(ends)}.",
        boundaries=_boundaries(run),
    )
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        f'<line class="line s{i % 6}" x1="1" y1="5" x2="27" y2="5"/></svg> {escape(name)}</li>'
        for i, name in enumerate(curves)
    )
    return [
        "<p>The factor of each loss's gradient, mean over the steps of an epoch.</p>",
        f'<div class="figures"><figure><figcaption><b>Weights</b> by loss</figcaption>{svg}'
        f'<ul class="legend">{legend}</ul></figure></div>',
    ]


# --- tables ----------------------------------------------------------------------------------------


def _gates(run: RunParts) -> list[str]:
    """How much each gate uses each expert, a table a gate."""
    if run.gates is None:
        return []
    parts = [
        f"<p>Mean weight of each expert over {escape(run.gates.of)}, mean over seeds; rows add up to 1.</p>"
    ]
    for gate, rows in run.gates.shares.items():
        shares = {
            row: [statistics.fmean(column) for column in zip(*of, strict=True)] for row, of in rows.items()
        }
        number = max(len(values) for values in shares.values())
        head = ["", *[f"expert {i}" for i in range(number)]]
        cells = [[escape(row), *[bar(value, 1.0) for value in values]] for row, values in shares.items()]
        parts.append(table(f"Gate {gate}", head, cells, caption=f"<code>{escape(gate)}</code>"))
    return parts


def _slices(run: RunParts) -> list[str]:
    if run.slices is None:
        return []
    metric = run.slices.metric()
    top = max(
        (statistics.fmean(part.metrics[metric]) for group in run.slices.groups.values() for part in group
         if metric in part.metrics), default=1.0,
    )  # fmt: skip
    whole = f" Of all queries it is {mean_and_std(run.metrics[metric])}." if metric in run.metrics else ""
    parts = [
        f"<p>{escape(capital(in_words(metric)))}, by part of the test queries with its share of them."
        f"{escape(whole)}</p>"
    ]
    for name, group in run.slices.groups.items():
        rows = [_slice_row(part, metric, top) for part in group]
        parts.append(table(name, [name, "share", escape(short(metric))], rows))
    return parts


def _slice_row(part: Slice, metric: str, top: float) -> list[str]:
    values = part.metrics.get(metric)
    share = "–" if part.share is None else f"{part.share:.1%}"
    if not values:
        return [escape(part.name), share, "no queries"]
    return [escape(part.name), share, bar(statistics.fmean(values), top, mean_and_std(values))]


def _provenance(run: RunParts) -> list[str]:
    parts = []
    for entry in run.made_by:
        if len(run.made_by) > 1:
            parts.append(f"<h3>From epoch {entry.get('first_epoch', 0)}</h3>")
        kept = {name: value for name, value in entry.items() if name != "first_epoch"}
        parts += mapping_table(kept, "Part", "Provenance")
    return parts
