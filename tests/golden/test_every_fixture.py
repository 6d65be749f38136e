"""No fixture is left out: each has a test, or its model is not built yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.golden.fixtures import FOLDER

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "jaxrec"
MODULES = {  # by the start of a fixture's name, what has to exist before it can be tested
    "aitm": "nn/multitask/aitm.py",
    "apg": "nn/ranking/apg.py",
    "bpr": "nn/retrieval/mf.py",
    "cgc": "nn/multitask/cgc.py",
    "comirec": "nn/retrieval/comirec.py",
    "dcnv2": "nn/ranking/dcn_v2.py",
    "dice": "nn/layers/dice.py",
    "dien": "nn/ranking/dien.py",
    "din": "nn/ranking/din.py",
    "dssm": "nn/retrieval/dssm.py",
    "epnet": "nn/ranking/epnet.py",
    "esmm": "nn/multitask/esmm.py",
    "eta": "nn/ranking/eta.py",
    "hstu": "nn/sequential/hstu.py",
    "lightgcn": "nn/retrieval/lightgcn.py",
    "mind": "nn/retrieval/mind.py",
    "mmoe": "nn/multitask/mmoe.py",
    "mtl_weighting": "optim/gradient_balancing.py",
    "neumf": "nn/retrieval/ncf.py",
    "nextitnet": "nn/sequential/nextitnet.py",
    "ngcf": "nn/retrieval/ngcf.py",
    "ple": "nn/multitask/ple.py",
    "shared_bottom": "nn/multitask/shared_bottom.py",
    "sim_soft": "nn/ranking/sim.py",
    "sine": "nn/retrieval/sine.py",
    "stamp": "nn/sequential/stamp.py",
    "star": "nn/ranking/star.py",
}
TESTED = sorted(
    {
        prefix
        for path in HERE.glob("test_*.py")
        for prefix in re.findall(r"golden_files\(\"(\w+)\"\)", path.read_text(encoding="utf-8"))
    }
)
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))


def kind(name: str, kinds: list[str]) -> str | None:
    """The longest of `kinds` that a fixture's name is, or starts with before an underscore."""
    found = [known for known in kinds if name == known or name.startswith(f"{known}_")]
    return max(found, key=len, default=None)


@pytest.mark.skipif(not NAMES, reason=f"no fixture in {FOLDER} (JAXREC_GOLDEN_DIR)")
@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_is_tested_or_its_model_is_not_built(name: str) -> None:
    if kind(name, TESTED):
        return
    module = MODULES.get(kind(name, list(MODULES)) or "")
    assert module is None or not (PACKAGE / module).is_file(), f"jaxrec/{module} exists: test {name} with it"
    pytest.skip(f"the model of {name} is not built yet")


def test_the_readme_lists_what_is_tested() -> None:
    table = re.findall(r"^\| `(\w+)` \| (\w[\w ]*) \|", (HERE / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(name for name, _ in table) == sorted(TESTED)
    assert {status for _, status in table} <= {"equal", "equal with an option", "equal in part"}


def test_names_are_told_apart() -> None:
    kinds = ["sasrec", "sasrec_recbole", "din"]
    assert kind("sasrec_recbole_bpr", kinds) == "sasrec_recbole"
    assert kind("din_2", kinds) == "din"
    assert kind("dino", kinds) is None
