"""Sentences under a table of results: how numbers were measured, and of which rows something holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrec.report.results import BY_AUTHORS, Record
from jaxrec.types import Protocol, Result

_CANDIDATES = {
    "all": "all items are candidates",
    "impressions": "labelled impressions as they are",
    "query": "a user's items of the query set are the candidates",
}
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
_ABBREVIATIONS = ("auc", "gauc", "mae", "mrr", "mse", "ndcg", "rmse")
_ERRORS = ("log_loss", "mae", "mse", "rmse")  # lower is better


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
    if metric == "last epoch":
        return "Selection: none, parameters of the last epoch."
    if metric.endswith(BY_AUTHORS):
        return "Selection: parameters as their authors chose them."
    if metric == "each task's auc":
        text = "for each task the parameters of its model's best validation AUC"
    elif metric.endswith(" on test"):
        best = metric_phrase(metric.removesuffix(" on test"))
        text = f"parameters of the best test {best}, so chosen on test"
    else:
        best = "lowest" if metric in _ERRORS else "best"
        text = f"parameters of the {best} validation {metric_phrase(metric)}"
    every = _epochs_between_evaluations(result.config)
    return f"Selection: {text}{f', evaluated every {every} epochs' if every > 1 else ''}."


def model_label(record: Record) -> str:
    """A row's name in a table: the model, with the variant if there is one."""
    name = record.result.model
    return f"{name} [{record.variant}]" if record.variant else name


def metric_phrase(name: str) -> str:
    """A metric's name in a sentence.

    >>> metric_phrase("ndcg@10"), metric_phrase("auc/income"), metric_phrase("recall@20")
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


def grouped_lines(records: Sequence[Record], line: Callable[[Record], str]) -> list[str]:
    """`line` of each record: once if all agree, else once per value, with its models."""
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(line(record), []).append(model_label(record))
    if len(groups) <= 1:
        return list(groups)
    return [f"{text} ({', '.join(models)})" for text, models in groups.items()]


def sentence(text: str) -> str:
    """The text with a full stop at its end."""
    return text if text.endswith(".") else f"{text}."
