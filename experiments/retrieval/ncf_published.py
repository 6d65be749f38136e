"""Published numbers on NCF's split of MovieLens-1M, hit@10 and ndcg@10 among 99 given candidates."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.common import NONE, Published, published
from jaxrec.baselines.published import NCF_MOVIELENS_1M, TROUBLING

TWO = ("hit@10", "ndcg@10")
OTHERS: Mapping[str, Published] = {
    **{name: Published(setting.metrics, setting.source) for name, setting in NCF_MOVIELENS_1M.items()},
    "ials": published(TWO, "irspack's example on this split", 0.7310, 0.4521),
    "mf": published(TWO, "Rendle et al., RecSys 2020", 0.7294, 0.4523),
}
TABLE = "of the NCF paper"
BEST_TEST_EPOCH = "published: of the best test epoch"
NEUMF: Mapping[int, tuple[Published, Published]] = {  # by factors: from scratch, pre-trained
    8: (published(TWO, f"table 2 {TABLE}", 0.688, 0.410), published(TWO, f"table 2 {TABLE}", 0.684, 0.403)),
    16: (published(TWO, f"table 2 {TABLE}", 0.696, 0.420), published(TWO, f"table 2 {TABLE}", 0.707, 0.426)),
    32: (published(TWO, f"table 2 {TABLE}", 0.701, 0.425), published(TWO, f"table 2 {TABLE}", 0.726, 0.445)),
    64: (published(TWO, f"table 2 {TABLE}", 0.705, 0.426), published(TWO, f"table 2 {TABLE}", 0.730, 0.447)),
}
TABLE_4 = f"table 4 {TABLE} (three hidden layers)"
MLP: Mapping[int, Published] = {
    8: published(("ndcg@10",), TABLE_4, 0.399),
    64: published(("ndcg@10",), TABLE_4, 0.426),
}


def neural(name: str, *, factors: int, mlp_layers: int, finish: str) -> Published:
    """The numbers of MLP and NeuMF by predictive factors, layers of the MLP, and the optimiser that goes on
    with pre-trained halves."""
    if (name, factors, mlp_layers, finish) == ("neumf-pretrained", 64, 2, "sgd"):
        return published(TWO, TROUBLING, 0.7093, 0.4349)
    if (mlp_layers, finish) != (3, "adam"):
        return NONE
    if name in ("neumf", "neumf-pretrained"):
        return NEUMF.get(factors, (NONE, NONE))[name == "neumf-pretrained"]
    return MLP.get(factors, NONE) if name == "mlp" else NONE
