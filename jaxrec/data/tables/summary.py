"""Statistics of labelled tables, as text."""

from __future__ import annotations

import numpy as np

from jaxrec.data.tables.impressions import Impressions, ImpressionSplit


def label_correlation(
    impressions: Impressions, first: str, second: str, rows: np.ndarray | None = None
) -> float:
    """Pearson correlation of two tasks' labels over table rows (default: all) in both sample spaces.

    NaN where a label is constant.
    """
    inside = np.ones(impressions.num_rows, bool)
    for task in (first, second):
        inside &= impressions.spaces.get(task, inside)
    chosen = np.flatnonzero(inside) if rows is None else rows[inside[rows]]
    a, b = (impressions.labels[task][chosen].astype(np.float64) for task in (first, second))
    varied = chosen.size and np.ptp(a) and np.ptp(b)
    return float(np.corrcoef(a, b)[0, 1]) if varied else float("nan")


def format_impressions(split: ImpressionSplit) -> str:
    """Table rows, share of positives (of regression labels the mean) per task and part, and features."""
    table = split.impressions
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    sizes = ", ".join(f"{part} {len(rows):,}" for part, rows in parts.items())
    lines = [f"{table.name}: {table.num_rows:,} rows, {len(table.fields)} features; {sizes} ({split.rule})"]
    for task in table.tasks:
        lines.append(
            f"  {task:<14} " + ", ".join(f"{p} {_describe_labels(table, task, r)}" for p, r in parts.items())
        )
    for i, first in enumerate(table.tasks):
        for second in table.tasks[i + 1 :]:
            found = label_correlation(table, first=first, second=second, rows=split.train)
            if not np.isnan(found):
                lines.append(f"  correlation of {first} and {second}: {found:.4f}")
    sized = [
        f"{f.name} ({'number' if f.kind == 'numeric' else f'{f.vocab_size:,} ids'})" for f in table.fields
    ]
    return "\n".join([*lines, f"  features: {', '.join(sized)}"])


def _describe_labels(table: Impressions, task: str, rows: np.ndarray) -> str:
    """The share of positives, or the mean, of one task in its sample space."""
    space = table.spaces.get(task)
    rows = rows if space is None else rows[space[rows]]
    if not rows.size:
        return "no rows"
    mean = float(table.labels[task][rows].mean(dtype=np.float64))
    if task not in table.regression and mean in (0, 1):
        return f"one class, {mean:g} in every row"
    what = f"mean {mean:.4f}" if task in table.regression else f"{mean:.3%}"
    return what if space is None else f"{what} of {rows.size:,}"
