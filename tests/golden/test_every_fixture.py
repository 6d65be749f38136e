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
    "bst": "nn/ranking/bst.py",
    "can": "nn/ranking/can.py",
    "cgc": "nn/multitask/cgc.py",
    "comirec": "nn/retrieval/comirec.py",
    "contrastive_losses": "losses/metric_learning.py",
    "cur": "index/cur.py",
    "dbmtl": "nn/multitask/dbmtl.py",
    "dcnv2": "nn/ranking/dcn_v2.py",
    "deepfm": "nn/ranking/deepfm.py",
    "delayed_feedback": "losses/delayed_feedback.py",
    "dice": "nn/layers/dice.py",
    "dien": "nn/ranking/dien.py",
    "din": "nn/ranking/din.py",
    "dlrm": "nn/ranking/dlrm.py",
    "dropoutnet": "nn/retrieval/dropoutnet.py",
    "dssm": "nn/retrieval/dssm.py",
    "ease": "baselines/ease.py",
    "eges": "nn/retrieval/eges.py",
    "epnet": "nn/ranking/epnet.py",
    "escm2": "nn/multitask/escm2.py",
    "esmm": "nn/multitask/esmm.py",
    "eta": "nn/ranking/eta.py",
    "facebook_dssm": "nn/retrieval/facebook_ebr.py",
    "gru4rec": "nn/sequential/gru4rec.py",
    "hard_concrete": "nn/multitask/snr.py",
    "hidasi_gru4rec": "nn/sequential/gru4rec.py",
    "hstu": "nn/sequential/hstu.py",
    "ials": "baselines/ials.py",
    "isotonic": "calibration/isotonic.py",
    "itemknn": "baselines/matrix_knn.py",
    "lightgcn": "nn/retrieval/lightgcn.py",
    "macridvae": "nn/retrieval/macridvae.py",
    "melu": "nn/retrieval/melu.py",
    "mimn": "nn/ranking/mimn.py",
    "mind": "nn/retrieval/mind.py",
    "mmoe": "nn/multitask/mmoe.py",
    "mtl_weighting": "optim/gradient_balancing.py",
    "multivae": "nn/retrieval/multivae.py",
    "neumf": "nn/retrieval/ncf.py",
    "nextitnet": "nn/sequential/nextitnet.py",
    "ngcf": "nn/retrieval/ngcf.py",
    "peterrec": "nn/sequential/peterrec.py",
    "pinsage": "nn/retrieval/pinsage.py",
    "ple": "nn/multitask/ple.py",
    "pnn": "nn/ranking/pnn.py",
    "poly_encoder": "nn/retrieval/poly_encoder.py",
    "poso": "nn/ranking/poso.py",
    "ranking_metrics": "metrics/lists.py",
    "retrieval_inbatch": "losses/in_batch.py",
    "rp3beta": "baselines/rp3beta.py",
    "sampled_softmax": "losses/noise_contrastive.py",
    "sasrec": "nn/sequential/sasrec.py",
    "sdm": "nn/retrieval/sdm.py",
    "shared_bottom": "nn/multitask/shared_bottom.py",
    "sim_soft": "nn/ranking/sim.py",
    "sine": "nn/retrieval/sine.py",
    "skipgram_walks": "nn/retrieval/eges.py",
    "slim": "baselines/slim.py",
    "snr_trans": "nn/multitask/snr.py",
    "stamp": "nn/sequential/stamp.py",
    "star": "nn/ranking/star.py",
    "swing": "baselines/swing.py",
    "tdm_beam_search": "index/trees.py",
    "tdm_din": "nn/retrieval/tdm.py",
    "youtube_dnn": "nn/retrieval/youtube_dnn.py",
    "youtube_sbc": "nn/retrieval/two_tower.py",
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
    model = kind(name, list(MODULES))
    assert model, f"{name}: say in MODULES which module has to exist before it can be tested"
    module = MODULES[model]
    assert not (PACKAGE / module).is_file(), f"jaxrec/{module} exists: test {name} with it"
    pytest.skip(f"the model of {name} is not built yet")


def test_every_module_that_is_built_is_tested() -> None:
    built = {name for name, module in MODULES.items() if (PACKAGE / module).is_file()}
    beginnings = {name for name in built if any(kind(tested, [name]) for tested in TESTED)}
    assert built - beginnings == set()


def test_the_readme_lists_what_is_tested() -> None:
    table = re.findall(r"^\| `(\w+)` \| (\w[\w ]*) \|", (HERE / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(name for name, _ in table) == sorted(TESTED)
    assert {status for _, status in table} <= {"equal", "equal with an option", "equal in part"}


def test_names_are_told_apart() -> None:
    kinds = ["sasrec", "sasrec_recbole", "din"]
    assert kind("sasrec_recbole_bpr", kinds) == "sasrec_recbole"
    assert kind("din_2", kinds) == "din"
    assert kind("dino", kinds) is None
