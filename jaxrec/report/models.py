"""Generates docs/models.md, the table of models, from docstrings, imports of experiments, golden fixtures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

MODELS_PAGE = Path("docs/models.md")
GENERATED_FROM_SOURCE = (
    "<!-- Made from the source by `make tables`; edit docstrings and tests/golden/README.md, not this. -->"
)
FOLDERS = (
    ("nn/sequential", "Encoders of item sequences"),
    ("nn/multitask", "Models of several tasks"),
    ("nn/ranking", "Models that score one example at a time"),
    ("nn/retrieval", "Models of retrieval"),
    ("nn/layers", "Layers that models share"),
    ("augment", "Augmentation of sequences"),
    ("index", "Indexes"),
    ("baselines", "Baselines"),
    ("losses", "Losses"),
    ("optim", "Weightings of several losses"),
    ("metrics", "Metrics"),
    ("calibration", "Calibration"),
)
# The modules of fixtures whose name does not start with that of a module.
FIXTURE_MODULES: Mapping[str, str] = {
    "apg": "nn/ranking/apg.py",
    "bpr": "nn/retrieval/mf.py",
    "neumf": "nn/retrieval/ncf.py",
    "can_coaction": "nn/layers/co_action.py",
    "contrastive_losses": "losses/metric_learning.py",
    "coserec_beauty": "nn/sequential/sasrec.py",
    "ctr_metrics": "metrics/classification.py",
    "dcnv2": "nn/ranking/dcn_v2.py",
    "hard_concrete": "nn/multitask/snr.py",
    "itemknn": "baselines/matrix_knn.py",
    "hidasi_gru4rec": "nn/sequential/gru4rec.py",
    "mtl_weighting": "optim/gradient_balancing.py",
    "ple_all_experts": "nn/multitask/ple.py",
    "ranking_metrics": "metrics/ranking.py",
    "retrieval_inbatch": "losses/in_batch.py",
    "sampled_softmax": "losses/noise_contrastive.py",
    "sasrec_pmixer": "nn/sequential/sasrec_original.py",
    "skipgram_walks": "augment/random_walks.py",
    "facebook_dssm": "nn/retrieval/facebook_ebr.py",
    "youtube_sbc": "nn/retrieval/two_tower.py",
    "ticoserec_augment": "augment/operators.py",
    "ticoserec_metrics": "metrics/ranking.py",
    "ticoserec_sasrec": "nn/sequential/sasrec.py",
    "ticoserec_similarity": "augment/similarity.py",
}
# What stands in tables of many experiments, by files below experiments/.
FLOORS = ("floors.py", "sequential/session_floors.py")
_PAPER = re.compile(
    r"[A-Z][^.]*?(?: et al\.)?,[^.]*?(?:\d{4}(?:, arXiv:[\d.]+\d)?|arXiv:[\d.]+\d)"
)  # starting at the authors


def models_page(root: str | Path = ".") -> str:
    """The text of docs/models.md for the checkout at `root`.

    Raises:
      ValueError: a golden fixture belongs to no module.
    """
    package = Path(root) / "jaxrec"
    modules = [path for folder, _ in FOLDERS for path in _files(package / folder)]
    names = {path: path.relative_to(package).as_posix() for path in modules}
    fixtures = _fixtures(Path(root), list(names.values()))
    experiments = _experiments(Path(root))
    results = _results(Path(root))
    parts = ["# Models", GENERATED_FROM_SOURCE, _INTRODUCTION]
    for folder, heading in FOLDERS:
        rows = []
        for path in _files(package / folder):
            where = experiments.get(f"jaxrec.{names[path].removesuffix('.py').replace('/', '.')}", [])
            links = ", ".join(f"[{Path(name).stem}](../experiments/{name})" for name in where)
            stored = sorted({found for name in where if (found := results.get(name))})
            tables = ", ".join(f"[{name}](../results/{name})" for name in stored)
            if not stored and any(name in FLOORS for name in where):
                tables = "[many](../results/README.md)"
            elif not stored and any(name in results for name in where):
                tables = "none yet"
            golden = ", ".join(f"`{name}`" for name in fixtures.get(names[path], []))
            module = f"[{_title(path)}](../jaxrec/{names[path]})"
            rows.append(f"| {module} | {_description(path)} | {links} | {tables} | {golden} |")
        if rows:
            head = "| module | what it is | experiments | results | golden fixtures |\n" + "| --- " * 5 + "|"
            parts += [f"## {heading}", "\n".join([head, *rows])]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """\
Every module with the first paragraph of its docstring and its paper, the experiments that import it or a
recipe of it, the folders of their stored results, and the golden fixtures it is tested with: outputs of a
public reference implementation, which ours has to give with the same weights and inputs
([tests/golden](../tests/golden/README.md) says how far each agrees). A module without an experiment has its
tests only, one of a benchmark its figures in [speed.md](speed.md); "none yet" says that no full run of its
experiments is stored, for want of computing time, and `python -m experiments.all --list` what is missing.
CoSeRec and TiCoSeRec are [SASRec](../jaxrec/nn/sequential/sasrec.py) with the
[contrastive task](../jaxrec/tasks/contrastive.py) and the augmentations below."""


def _files(folder: Path, pattern: str = "*.py") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.name != "__init__.py")


def _title(path: Path) -> str:
    """The file's public Flax modules, or else its name."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    bases = {node.name: {ast.unparse(base) for base in node.bases} for node in classes}
    return ", ".join(name for name, parents in bases.items() if "nn.Module" in parents) or path.stem


def _description(path: Path) -> str:
    """The first paragraph of the docstring, and the paper if a later paragraph names it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first, _, rest = text.partition("\n\n")
    about = " ".join(first.split())
    paper = _PAPER.match(" ".join(rest.split()))
    if paper and not re.search(r"\d{4}|arXiv", about):
        about += f" {paper[0]}."
    return about.replace("|", "\\|")


def _experiments(root: Path) -> dict[str, list[str]]:
    """{module of the package: experiments that import it or a recipe of it, by their path}.

    What a part of an experiment imports (learned_index_rows.py of learned_index.py) the experiment does.
    """
    recipes = {
        f"jaxrec.recipes.{path.stem}": set(_imports(ast.parse(path.read_text(encoding="utf-8"))))
        for path in _files(root / "jaxrec/recipes")
    }
    users: dict[str, set[str]] = {}
    programs = [path for path in _files(root / "experiments", "**/*.py") if _folder(path) is not None]
    for path in _files(root / "experiments", "**/*.py"):
        names = set(_imports(ast.parse(path.read_text(encoding="utf-8"))))
        names = names.union(*(recipes[name] for name in names if name in recipes))
        begins = [own for own in programs if str(path).startswith(f"{own.with_suffix('')}_")]
        whole = path if path in programs or not begins else max(begins, key=lambda own: len(own.stem))
        for name in names:
            users.setdefault(name, set()).add(whole.relative_to(root / "experiments").as_posix())
    return {name: sorted(found) for name, found in users.items()}


def _folder(path: Path) -> str | None:
    """The folder of an experiment's results, as its EXPERIMENT says; None: the file has no such line."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXPERIMENT":
            return str(ast.literal_eval(node.value))
    return None


def _results(root: Path) -> dict[str, str]:
    """{experiment, by its path: its folder below results/, "" where nothing is stored}."""
    folders = {path: _folder(path) for path in _files(root / "experiments", "**/*.py")}
    return {
        path.relative_to(root / "experiments").as_posix(): (
            folder if (root / "results" / folder).is_dir() else ""
        )
        for path, folder in folders.items()
        if folder is not None
    }


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxrec"):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "baselines":
            yield f"jaxrec.baselines.{node.attr}"  # most have the name of their file


def _fixtures(root: Path, modules: list[str]) -> dict[str, list[str]]:
    """{module: its golden fixtures}, from the list in tests/golden/README.md."""
    text = (root / "tests/golden/README.md").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for name in re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE):
        stems = {Path(module).stem: module for module in modules}
        begins = [stem for stem in stems if name == stem or name.startswith(f"{stem}_")]
        module = FIXTURE_MODULES.get(name) or stems.get(max(begins, key=len, default=""), "")
        if module not in modules:
            raise ValueError(
                f"golden fixture {name}: belongs to no module; add it to FIXTURE_MODULES in report/models.py"
            )
        found.setdefault(module, []).append(name)
    return found
