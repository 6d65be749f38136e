"""Lists that trade accuracy for diversity: rows of results for each balance, and a plot of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from jaxrec.protocols import diversity, next_item
from jaxrec.report.results import read_results
from jaxrec.report.tradeoff import tradeoff_curve
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Protocol, Variables

DIVERSITY = "_diversity"  # ends the name of the experiment
ENDING = "+balance-"  # of a row, before λ


def measure(
    config: Any,
    model: Any,
    columns: next_item.Data,
    protocol: Protocol,
    variables: Variables,
    categories: np.ndarray,
    stored: Mapping[str, Any],
) -> None:
    """Stores the metrics of test lists at each of `config.balances`, a row <model>+balance-λ each.

    They are an experiment of their own, whose name ends in _diversity. categories: see
    `diversity.evaluation`. stored: what is stored of the model itself, as of `common.save`.
    """
    asked = diversity.evaluation(
        model,
        columns,
        protocol,
        categories=categories,
        balances=config.balances,
        candidates=config.num_candidates,
    )
    found = evaluate(asked, variables, columns.columns, num_devices=config.num_devices)
    if (fitted := stored.get("fitted")) is not None:  # its curve is drawn beside the model's own result
        stored = {**stored, "fitted": fitted._replace(history=[{} for _ in fitted.history])}
    for balance in config.balances:
        of_balance = [diversity.at_balance(of_seed, balance) for of_seed in found]
        settings = {**stored["config"], "balance": balance, "num_candidates": config.num_candidates}
        name = f"{stored['model']}{ENDING}{balance:g}"
        of_row = {"model": name, "config": settings, "metrics": of_balance}
        of_row["experiment"] = stored["experiment"] + DIVERSITY
        common.save(config.results, protocol=protocol, **{**stored, **of_row})
        print(f"{name}: {common.means(of_balance)}", flush=True)


def draw(results: str, experiment: str, dataset: str, *, k: int) -> Path | None:
    """Draws recall@k against diversity@k of all stored rows with a balance, <dataset>.png.

    experiment: without the ending. With one target, recall is hit. None: matplotlib is not installed.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    name = experiment + DIVERSITY
    for record in read_results(Path(results)):
        found = record.result
        row, _, balance = found.model.partition(ENDING)
        if balance and (found.experiment, found.dataset) == (name, dataset):
            diverse, hit = (float(np.mean(found.metrics[f"{m}@{k}"])) for m in ("diversity", "hit"))
            lines.setdefault(row, []).append((diverse, hit))
    place = Path(results, name, f"{dataset}.png")
    labels = {"title": dataset, "cost": f"diversity@{k}", "value": f"recall@{k}"}
    try:
        return tradeoff_curve(lines, place, **labels, scale="linear")
    except ImportError:
        return None
