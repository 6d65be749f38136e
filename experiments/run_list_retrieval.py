"""The entries of `run_list` of experiments/retrieval."""

from __future__ import annotations

from experiments.run_entry import MATRIX, RANKING, Entry

STATES = " ".join(f"melu/ml-1m-{state}" for state in ("warm", "user-cold", "item-cold", "both-cold"))
TIGER = "tiger-kmeans-ce tiger-rqvae-ce tiger-random-ce"
SEARCHED = "{row}+all " + " ".join(
    f"{{row}}+{graph}-graph-{width}"
    for graph in ("nann", "rpg", "random")
    for width in (20, 50, 100, 200, 400)
)
INTERESTS = " ".join(
    f"{model}-ssm-logq"
    for model in ("comirec-sa", "comirec-dr", "mind", "mean-of-events", "sine", "sdm", "octopus")
)
BALANCED = " ".join(f"{{row}}+balance-{weight:g}" for weight in (0, 0.05, 0.1, 0.25, 0.5, 1))
TOWERS = (
    "uniform-softmax batch-softmax batch-softmax-logq mixed-softmax-logq uniform-hinge uniform-hard-hinge "
    "hard-hinge youtube-softmax"
)
COUNTED = "random popularity matrix-item-knn-selected"
THREE = "--seeds 0 1 2"
CDAN = "cdan-unbiased cdan-biased cdan-merged"
FEW = "--dataset synthetic --dim 16 --negatives 16 --learning-rate 0.003"

RETRIEVAL = (
    Entry(
        "retrieval.kuaishou_ebr", "", "kuaishou_ebr/ml-100k",
        f"{RANKING} sasrec-ssm naive-mtl-ssm prompts-ssm",
    ),
    Entry(
        "retrieval.multi_interest", THREE, "multi_interest/Beauty",
        f"{RANKING} {INTERESTS} poly-encoder-in-batch sasrec-ce",
    ),
    Entry(
        "retrieval.multi_interest", THREE, "multi_interest_diversity/Beauty",
        f"{INTERESTS} poly-encoder-in-batch sasrec-ce", BALANCED,
    ),
    Entry(
        "retrieval.melu", "", STATES,
        "mean-rating user-mean item-mean biases wide-deep no-adaptation melu-1 melu-5 poso",
    ),
    Entry(
        "retrieval.ncf", "", "ncf/ml-1m",
        "random popularity matrix-user-knn matrix-item-knn matrix-item-knn-tversky "
        "matrix-item-knn-asymmetric p3alpha rp3beta slim ease ials",
    ),
    Entry(
        "retrieval.ncf", "--factors 64 --mlp-layers 2 --finish sgd --seeds 0", "ncf/ml-1m",
        "neumf-pretrained gmf mlp", "{row}-64",
    ),
    Entry(
        "retrieval.lightgcn", "", "lightgcn/gowalla",
        f"{MATRIX} matrix-item-knn matrix-user-knn rp3beta slim ease",
    ),
    Entry(
        "retrieval.lightgcn", "--seeds 0 --epochs 100 --evaluate-every 10", "lightgcn/gowalla", "lightgcn",
        "{row}+epochs-100",
    ),
    Entry(
        "retrieval.lightgcn", "--seeds 0 --epochs 200", "lightgcn/gowalla", "bpr-mf", "{row}+epochs-200"
    ),
    Entry(
        "retrieval.lightgcn", "--dataset lastfm", "lightgcn/lastfm",
        f"{MATRIX} matrix-item-knn matrix-user-knn-selected ease rp3beta rp3beta-selected slim",
    ),
    Entry(
        "retrieval.lightgcn", "--dataset amazon-book", "lightgcn/amazon-book",
        f"{MATRIX} matrix-item-knn matrix-user-knn rp3beta ease",
    ),
    Entry(
        "retrieval.lightgcn", "--dataset ml-100k", "lightgcn/ml-100k",
        f"{MATRIX} matrix-item-knn matrix-user-knn item-cf item-cf-iuf swing rp3beta rp3beta-selected slim "
        "ease bpr-mf",
    ),
    Entry(
        "retrieval.multivae", "", "multivae/ml-100k",
        "random popularity item-knn ease slim ials mult-vae mult-dae macridvae",
    ),
    *(
        Entry("retrieval.two_tower", f"--dataset {name}", f"two_tower/{stored}", f"{MATRIX} {TOWERS}")
        for name, stored in (("ml-1m", "ml-1m"), ("beauty", "Beauty"))
    ),
    Entry(
        "retrieval.popularity_bias", "", "popularity_bias/ncf-ml-1m",
        f"{MATRIX} two-tower-softmax two-tower-softmax-ips {CDAN}",
    ),
    Entry(
        "retrieval.popularity_bias", FEW, "popularity_bias/exposure-3000x400",
        f"{MATRIX} two-tower-softmax two-tower-softmax-ips {CDAN}",
    ),
    Entry(
        "retrieval.popularity_bias", f"{FEW} --no-weighted", "popularity_bias/exposure-3000x400", CDAN,
        "{row}+unweighted",
    ),
    Entry(
        "retrieval.popularity_bias", f"{FEW} --head-gradient --alignment 10",
        "popularity_bias/exposure-3000x400", CDAN, "{row}+head-gradient",
    ),
    *(
        Entry(
            "retrieval.learned_index", f"--dataset {name} {THREE} --epochs 5", f"learned_index/{name}",
            f"{COUNTED} two-tower", SEARCHED,
        )
        for name in ("gowalla", "amazon-book")
    ),
    Entry(
        "retrieval.learned_index", "--dataset Beauty", "learned_index/Beauty",
        f"{RANKING} two-tower sasrec", SEARCHED,
    ),
    Entry(
        "retrieval.learned_index", "--dataset Beauty --seeds 0 --epochs 5 --rows two-tower tdm jtm",
        "learned_index/Beauty", "tdm jtm",
        "{row}+all " + " ".join(f"{{row}}+tree-{width}" for width in (20, 50, 100, 200, 400)), whole=True,
    ),
    *(
        Entry(
            "retrieval.learned_index", f"--dataset {name} --seeds 0 --epochs 5", f"learned_index/{name}",
            "deep-retrieval",
            "{row}+all " + " ".join(f"{{row}}+paths-{width}" for width in (5, 10, 20, 50, 100, 200, 400)),
        )
        for name in ("Beauty", "gowalla", "amazon-book")
    ),
    *(
        Entry("retrieval.tiger", f"--dataset {name}", f"tiger/{folder}", f"{RANKING} {TIGER}")
        for name, folder in (
            ("Beauty", "Beauty"), ("Sports", "Sports_and_Outdoors"), ("Toys", "Toys_and_Games"),
        )
    ),
    Entry(
        "retrieval.cold_items", "", "cold_items/coserec-Beauty-cold-only cold_items/coserec-Beauty-among-all",
        "random popularity content-knn ials content-ridge linear-prior cb2cf cb2cf-scores cb2cf-shuffled "
        "dropoutnet eges",
    ),
    Entry(
        "retrieval.dropoutnet", "",
        "dropoutnet/citeulike-a-cold-only dropoutnet/citeulike-a-among-all",
        "random popularity content-knn ials dropoutnet-0 dropoutnet-0.25 dropoutnet-0.5 dropoutnet-0.75 "
        "dropoutnet-1 dropoutnet-0.5-transform",
    ),
    Entry(
        "retrieval.mobius", "", "mobius/generated",
        "random popularity teacher clicks random-cases mobius truth",
    ),
)  # fmt: skip
