"""Writes the metrics of every --tiny run, or compares them with those of a file written before.

For a change that must not change results: write the numbers before it, compare after it. Rows, seeds, names
of metrics and numbers of epochs have to be equal, metrics to one part in a million. Numbers depend on the
machine and the version of JAX, so make both runs on one machine.

Run:     python -m experiments.benchmarks.tiny_numbers --write before.json
Then:    python -m experiments.benchmarks.tiny_numbers --compare before.json
Also:    --only sasrec/default stamp/file-order
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.config import cli

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6  # relative
TINY = ("--tiny",)
# The runs: experiment/variant -> the arguments after --tiny.
RUNS: Mapping[str, tuple[str, ...]] = {
    "sasrec/default": (),
    "sasrec/permuted": ("--rows", "sasrec-bce", "--no-replacement"),
    "ticoserec/default": (),
    "ticoserec/official": (
        "--rows", "ticoserec-bce", "coserec-bce", "--form", "flat", "--official-bug", "--inverted-similarity",
        "--seen", "zero", "--reject", "all",
    ),
    "ticoserec/opposite": ("--rows", "ticoserec-bce", "--opposite", "--operators", "SIM", "--form", "last"),
    "hstu/default": (),
    "hstu/large": ("--rows", "hstu-large-ssm", "--no-times"),
    "hstu/short": ("--rows", "hstu-ssm", "--alpha", "1.6"),
    "hstu/shared": ("--rows", "sasrec-ssm", "hstu-ssm", "--shared", "--select", "test"),
    "hstu_generative/default": (),
    "hstu_generative/no-times": ("--no-times", "--rows", "generative"),
    "stamp/default": (),
    "stamp/sigmoid": ("--rows", "stamp-sigmoid"),
    "stamp/file-order": ("--rows", "item-knn", "stamp-ce", "--order", "file"),
    "stamp/test": ("--rows", "popularity", "stamp-ce", "gru4rec-ce", "--select", "test"),
    "gru4rec/default": (),
    "peterrec/default": (),
    "peterrec/norms": ("--rows", "peterrec-serial", "peterrec-parallel", "--norms"),
    "peterrec/profile": ("--attribute", "age"),
    "lifelong/default": ("--timed",),
    "din/default": (),
    "din/users": ("--rows", "base", "din-dice-mba", "--split", "user"),
    "feature_interaction/ml-100k": (),
    "feature_interaction/census": ("--dataset", "census"),
    "census/income": (),
    "pareto/default": (),
    "missing_values/large": ("--mechanism", "large"),
    "dupn/default": (),
    "latent_cross/default": (),
    "census_columns/default": (),
    "funnel/default": (),
    "scenarios/default": (),
    "loss_weighting/default": (),
    "mmoe_synthetic/default": (),
    "kuaishou_ebr/default": (),
    "feedback/default": (),
    "multi_interest/default": ("--rows", "co-visitation", "comirec-sa-ce"),
    "lightgcn/default": ("--rows", "ease", "slim", "rp3beta", "matrix-item-knn", "bpr-mf"),
    "multivae/default": (),
    "ncf/default": (),
    "melu/default": (),
    "two_tower/default": ("--rows", "ease-selected", "batch-softmax-logq"),
    "popularity_bias/default": (),
    "calibration/default": (),
    "delayed_feedback/default": (),
    "position_bias/default": (),
    "distillation/default": (),
    "off_policy/default": (),
    "published_checkpoints/tiny": (),
    "published_checkpoints/published": (),
}  # fmt: skip

# Experiments whose module has another name than their results.
MODULES: Mapping[str, str] = {
    "peterrec/default": "peterrec_cold_items",
    "peterrec/norms": "peterrec_cold_items",
    "peterrec/profile": "peterrec_attributes",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """One of `write` and `compare` has to be given."""

    write: str = ""  # file to write the numbers to
    compare: str = ""  # file written before, to compare the numbers with
    only: tuple[str, ...] = ()  # runs; none: all


def module_of(experiment: str, root: Path = ROOT) -> str:
    """The module of an experiment, in any folder of experiments/ of a checkout."""
    everywhere = (root / "experiments").rglob(f"{experiment}.py")
    found = [path for path in everywhere if path.parent.name != "benchmarks"]
    if len(found) != 1:
        raise ValueError(f"{experiment}: {len(found)} files of this name in experiments/")
    return ".".join(found[0].relative_to(root).with_suffix("").parts)


def numbers(run: str, folder: Path, root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Runs an experiment of a checkout in a process of its own: {data set/model: {seeds, metrics}}.

    Raises:
      RuntimeError: the run failed; the message has its last lines.
    """
    experiment, variant = run.split("/")
    tiny = () if variant == "published" else TINY
    seeds = () if experiment == "published_checkpoints" else ("--seeds", "0", "1")
    works = ("workdir",) if experiment != "census_columns" else ()
    folders = [part for name in (*works, "results") for part in (f"--{name}", str(folder / name))]
    command = [
        sys.executable,
        "-m",
        module_of(MODULES.get(run, experiment), root),
        *tiny,
        *RUNS[run],
        *seeds,
        *folders,
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=_environment(root))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-3000:]}")
    found = {}
    for path in sorted((folder / "results").rglob("*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and "metrics" in stored:
            name = f"{stored['dataset']}/{stored['model']}"
            found[name] = {"seeds": stored["seeds"], "metrics": stored["metrics"], "steps": stored["steps"]}
    return found


def _environment(root: Path) -> dict[str, str]:
    """Environment without XLA's optimisations, which take most of the time of a tiny run."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip(), "PYTHONPATH": str(root)}


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """The differences of two JSON values: floats by more than TOLERANCE of the larger, others if not equal.

    >>> differences({"a": [1.0, 2]}, {"a": [1.0 + 1e-9, 3]})
    ['/a/1: 2 became 3']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(before.keys() | after.keys())
        pairs = [(before.get(name, "nothing"), after.get(name, "nothing"), name) for name in names]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(*pair, i) for i, pair in enumerate(zip(before, after, strict=True))]
    elif isinstance(before, float) and isinstance(after, float):
        same = math.isclose(before, after, rel_tol=TOLERANCE) or before == after
        return (
            []
            if same or (math.isnan(before) and math.isnan(after))
            else [f"{where}: {before} became {after}"]
        )
    else:
        return [] if before == after else [f"{where}: {before} became {after}"]
    return [line for old, new, name in pairs for line in differences(old, new, f"{where}/{name}")]


def main(arguments: Arguments) -> int:
    """Makes all runs, prints differences or writes the file; returns how many runs differ or fail."""
    chosen = arguments.only or tuple(RUNS)
    found: dict[str, Any] = {}
    failed = 0
    before = json.loads(Path(arguments.compare).read_text(encoding="utf-8")) if arguments.compare else {}
    for run in chosen:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[run] = numbers(run, Path(folder))
            except RuntimeError as error:
                failed += 1
                print(f"{run}: failed\n{error}", flush=True)
                continue
        if arguments.compare:
            wrong = differences(before.get(run, {}), found[run])
            failed += bool(wrong)
            print(
                f"{run}: {len(found[run])} rows, {len(wrong)} differences",
                *wrong[:20],
                sep="\n  ",
                flush=True,
            )
        else:
            print(f"{run}: {len(found[run])} rows", flush=True)
    if arguments.write:
        Path(arguments.write).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(cli(Arguments, description=__doc__)), 1))
