"""Where the tests find data and golden fixtures, and several virtual devices on a CPU.

JAXREC_DATA_DIR and JAXREC_GOLDEN_DIR name the folders; by default those beside the checkout, if they exist.
Tests that need a folder that is missing are skipped, with its name as the reason.
"""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests import long_tests

# Four devices; and most of the suite's time is compilation, of which the other flags leave a fifth.
FLAGS = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A program that several tests or processes run is compiled once; JAX reads these when it is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.mkdtemp(prefix="jaxrec-tests-compiled-")
    atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Tracing makes many objects that stay: with Python's own thresholds, a quarter of the time of collecting the
# tests and a fifth of that of tests that trace goes into searching them for cycles.
gc.set_threshold(100_000, 20, 20)

collect_ignore = ["planted_faults.py"]  # a program, which runs these tests
# Below tests/: folders whose tests train or compile whole models, and files there that do so in seconds.
SLOW = (
    *(
        "baselines",
        "commands",
        "convert",
        "data/sources",
        "experiments",
        "golden",
        "index",
        "nn",
        "protocols",
    ),
    *("recipes", "serve", "tasks", "train", "tuning"),
)
SLOW_FILES = (
    *(
        "augment/test_views",
        "data/test_catalogue",
        "metrics/test_exposure",
        "test_ablations",
        "test_add_a_model",
    ),
    *("test_documents", "test_notebooks", "test_provenance", "test_segments", "test_walks", "test_wheel"),
)
QUICK = (
    *("nn/test_dropout", "nn/test_experts", "nn/test_features", "nn/test_sasrec_hstu", "tasks/test_combine"),
    *(
        "commands/test_main",
        "train/test_arguments",
        "train/test_epoch",
        "train/test_identity",
    ),
    *("train/test_lock", "train/test_logs"),
)
TESTS = Path(__file__).resolve().parent
BESIDE = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what `make test-fast` leaves out, and as long what only `make test-all` runs."""
    listed = long_tests.read()
    for item in items:
        if long_tests.is_long(item.nodeid, listed):
            item.add_marker(pytest.mark.long)
        if TESTS in item.path.parents:
            place = item.path.relative_to(TESTS).with_suffix("").as_posix()
            in_folder = place.startswith(tuple(f"{folder}/" for folder in SLOW)) and place not in QUICK
            if in_folder or place in SLOW_FILES:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: no later search for cycles reads them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets; skips where there is none."""
    return _folder("JAXREC_DATA_DIR", BESIDE / "data")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of reference outputs; skips where there is none."""
    return _folder("JAXREC_GOLDEN_DIR", BESIDE / "golden")


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"{variable}: {folder} is not a folder")
    return folder
