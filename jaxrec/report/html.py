"""Pieces of HTML: tables, numbers with bars, and values of settings as text without paths of the machine."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Cells = Sequence[str]  # HTML


def mapping_table(values: Mapping[str, Any], head: str, label: str) -> list[str]:
    """A table of names and values, nested ones as `outer.inner`."""
    rows = [
        [f'<span class="name">{escape(name)}</span>', f"<code>{escape(value)}</code>" if value else "none"]
        for name, value in flat(values)
    ]
    return [table(label, [head, "Value"], rows)] if rows else []


def bar(value: float, top: float, text: str = "") -> str:
    """A number with a bar behind it, as long as its share of `top`."""
    width = 100 * max(0.0, min(1.0, value / top)) if top > 0 else 0.0
    return f'<span class="bar" style="--w:{width:.1f}%">{escape(text or f"{value:.2f}")}</span>'


def table(label: str, head: Cells, rows: Sequence[Cells], *, caption: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page. The first cell heads its row."""
    top = "".join(f'<th scope="col">{cell}</th>' if cell else "<td></td>" for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    name = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table>{name}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def flat(values: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested mappings as text, without paths of the machine.

    >>> list(flat({"recipe": {"dim": 8}, "data": "/data/me/rows.csv"}))
    [('recipe.dim', '8'), ('data', 'rows.csv')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{outer}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{outer}{name}", without_paths(shown)


def without_paths(text: str) -> str:
    """The text with each absolute path replaced by its last name.

    >>> without_paths("--xla_dump_to=/a/b/dump ml-1m/ratings.dat https://a.org/b C:\\\\data\\\\x.csv")
    '--xla_dump_to=dump ml-1m/ratings.dat https://a.org/b x.csv'
    """
    text = re.sub(r"(?<![\w./:~<-])(?:~|/)[^\s\"',;]*/([^\s\"',;/]+)/?", r"\1", text)
    text = re.sub(r"(?<![\w./:<-])/([^\s\"',;/]+)", r"\1", text)
    return re.sub(r"(?<!\w)[A-Za-z]:[\\/](?:[^\s\"',;\\/]+[\\/])*([^\s\"',;\\/]+)", r"\1", text)


def mean_and_std(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else f"{mean:.4f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(12.34), duration(754), duration(7384)
    ('12.3 s', '12 min 34 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
