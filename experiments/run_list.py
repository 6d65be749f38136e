"""The commands whose results are stored, or wanted, under results/: one entry for each table and setting.

Every stored result belongs to one entry, and every experiment has one at least (a test). An entry's rows are
those of its --rows; the results that a row makes are named by `name`, floors by `floor`.
"""

from __future__ import annotations

from experiments.run_entry import CLICKS, RANKING, Entry
from experiments.run_list_retrieval import RETRIEVAL


def sequential(
    module: str, arguments: str, dataset: str, rows: str, name: str = "{row}", floor: str = "{row}"
) -> Entry:
    """An entry of an experiment whose results have the module's name."""
    return Entry(f"sequential.{module}", arguments, f"{module}/{dataset}", rows, name, floor)


INTERACTION = "deep deepfm ipnn opnn pnn-star dcn-v2-stacked dcn-v2-parallel dcn-mix dlrm"
CENSUS = "single-task shared-bottom omoe mmoe attention-gated-mmoe cgc ple snr-trans snr-aver"
COLD = "scratch full head peterrec-serial peterrec-parallel"
POSITION = "base-rate click-rates no-position position-as-feature pal shallow-tower shallow-tower-all"
CHECKPOINTS = "coserec-bce iclrec-bce reppad-sasrec-bce tada-gru4rec-bce popularity random"
STRONG = "sasrec-bce sasrec-ssm sasrec-gbce ligr-ssm ligr-gbce"
FRONT = " ".join(f"{{row}}-{point:g}" for point in (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95))
BOTH = "{row} {row}-benchmark"
SHORT = "--shared --epochs 101"
OFFICIAL = "--official-bug --seen zero --reject all"
ZERO = "+official-bug+reject-all+seen-zero"

RUNS = (
    *(
        sequential(
            "strong_recipe", f"--dataset {name} --seeds 0", name, f"{RANKING} {STRONG}", BOTH, floor=BOTH
        )
        for name in ("Beauty", "Sports", "Toys", "Video")
    ),
    sequential(
        "strong_recipe", "--dataset ml-100k --seeds 0 1 2", "ml-100k", f"{RANKING} {STRONG}", BOTH, floor=BOTH
    ),
    sequential(
        "strong_recipe", "--dataset Beauty --seeds 0 --table-dropout 0", "Beauty", "sasrec-ssm",
        "{row}+table-dropout-0 {row}+table-dropout-0-benchmark",
    ),
    # --- sequences -----------------------------------------------------------------------------------
    sequential(
        "ticoserec", "--preset reproduce", "ml-100k", f"{RANKING} sasrec-bce coserec-bce ticoserec-bce"
    ),
    sequential("ticoserec", "--dataset Beauty --seeds 0", "Beauty", f"{RANKING} sasrec-bce ticoserec-bce"),
    sequential(
        "ticoserec", "--dataset Beauty --seeds 0 --seen zero", "Beauty", RANKING, floor="{row}+seen-zero"
    ),
    sequential(
        "ticoserec", f"--dataset Beauty --seeds 0 {OFFICIAL} --epochs 130", "Beauty", "ticoserec-bce",
        "{row}" + ZERO,
    ),
    sequential(
        "ticoserec", f"--dataset Beauty --seeds 0 {OFFICIAL} --epochs 54 --form flat", "Beauty",
        "ticoserec-bce", "{row}+flat" + ZERO,
    ),
    *(
        sequential("ticoserec", f"--dataset {name} --seeds 0", name, RANKING)
        for name in ("Sports", "Yelp-A", "coserec-Beauty", "coserec-Sports", "coserec-Toys", "coserec-Yelp")
    ),
    sequential(
        "sasrec", "", "Video", f"{RANKING} sasrec-bce sasrec-bce-postnorm gru4rec-bce sasrec-ce",
        "{row} {row}-full", "{row} {row}-full",
    ),
    sequential(
        "hstu", "--seeds 0 1", "ml-100k", f"{RANKING} sasrec-bce sasrec-original-ssm sasrec-ssm hstu-ssm"
    ),
    sequential(
        "hstu", f"--dataset Beauty --seeds 0 1 {SHORT}", "Beauty",
        f"{RANKING} sasrec-original-ssm sasrec-ssm hstu-ssm", "{row}+shared",
    ),
    sequential(
        "hstu", f"--dataset Beauty --seeds 0 1 {SHORT} --num-layers 2", "Beauty", "sasrec-ssm",
        "{row}+shared+layers-2",
    ),
    sequential(
        "hstu", f"--dataset Beauty --seeds 0 {SHORT} --no-times", "Beauty", "hstu-ssm",
        "{row}+no-times+shared",
    ),
    sequential(
        "hstu", f"--dataset Sports --seeds 0 {SHORT}", "Sports", f"{RANKING} hstu-ssm", "{row}+shared"
    ),
    sequential(
        "hstu", f"--dataset Sports --seeds 0 {SHORT} --num-layers 2", "Sports", "sasrec-ssm",
        "{row}+shared+layers-2",
    ),
    sequential(
        "hstu", f"--dataset Video --no-times --seeds 0 {SHORT}", "Video",
        f"{RANKING} sasrec-original-ssm sasrec-ssm", "{row}+shared",
    ),
    sequential(
        "hstu", f"--dataset Video --no-times --seeds 0 {SHORT}", "Video", "hstu-ssm", "{row}+no-times+shared"
    ),
    sequential(
        "hstu", f"--dataset Video --no-times --seeds 0 {SHORT} --dropout 0.2", "Video",
        "sasrec-original-ssm", "{row}+shared+dropout-0.2",
    ),
    sequential("hstu_generative", "", "ml-100k-retrieval", RANKING),
    sequential("hstu_generative", "", "ml-100k-retrieval", "generative-retrieval", "{row}-ssm"),
    sequential("hstu_generative", "", "ml-100k-ranking", "rates"),
    sequential("hstu_generative", "", "ml-100k-ranking", "generative-ranking", "{row}-bce"),
    Entry(
        "sequential.hstu_generative", "", "hstu_generative/ml-100k-ranking hstu_generative/ml-100k-retrieval",
        "generative", "{row}-bce-ssm",
    ),
    sequential(
        "feedback", "", "ml-100k",
        f"{RANKING} sasrec-ce sasrec-ce-not-disliked sasrec-ce-liked sasrec-ce-pair sasrec-ce-margins "
        "sasrec-ce-reject sasrec-ce-pair-past",
    ),
    sequential(
        "latent_cross", "--seeds 0 1 2", "movielens-ml-100k",
        f"{RANKING} gru-ce concat-ce concat-wide-ce pre-ce post-ce pre-post-ce all-ce",
    ),
    *(
        Entry(
            "sequential.peterrec_cold_items", f"--seeds 0 1 2 --labels {labels}",
            f"peterrec/yoochoose1_64-cold-{labels}", f"{RANKING} {COLD}", "{row}-ce",
        )
        for labels in (300, 3000)
    ),
    Entry("sequential.peterrec_attributes", "", "peterrec/ml-100k-gender", f"{RANKING} {COLD}", "{row}-ce"),
    # --- sessions ------------------------------------------------------------------------------------
    sequential(
        "stamp", "", "yoochoose1_64", f"{RANKING} session-popularity item-knn markov stamp-ce"
    ),
    sequential("stamp", "--seeds 0 1", "yoochoose1_64", "stmp-ce"),
    sequential("stamp", "--seeds 0", "yoochoose1_64", "gru4rec-ce sasrec-ce"),
    sequential("stamp", "--seeds 0 --select test", "yoochoose1_64", "stamp-ce", "{row}+test-selected"),
    sequential(
        "stamp", "--seeds 0 --select test", "yoochoose1_64",
        "random popularity session-popularity item-knn markov", "{row}+all-sessions", "{row}+all-sessions",
    ),
    sequential(
        "stamp", "--dataset diginetica --seeds 0 --epochs 3", "diginetica",
        f"{RANKING} item-knn markov stamp-ce stmp-ce",
    ),
    sequential(
        "stamp", "--dataset diginetica --seeds 0 --epochs 3 --order file", "diginetica",
        "popularity item-knn markov stamp-ce", "{row}+file-order", "{row}+file-order",
    ),
    sequential(
        "stamp", "--dataset diginetica --seeds 0 --epochs 3 --order file-fixed", "diginetica",
        "item-knn markov stamp-ce", "{row}+file-fixed-order",
    ),
    sequential(
        "gru4rec", "--seeds 0", "yoochoose1_64",
        f"{RANKING} gru4rec-ssm gru4rec-ssm-parallel gru4rec-bpr-max-parallel gru4rec-top1-max-parallel",
    ),
    *RETRIEVAL,
    # --- labelled examples ---------------------------------------------------------------------------
    *(
        Entry("multitask.census", f"--group {group}", f"census/census-{group}", f"{CLICKS} {CENSUS}")
        for group in ("income", "education")
    ),
    *(
        Entry(
            "multitask.census", f"--group {group} --dtype bfloat16", f"census/census-{group}", "mmoe ple",
            "{row}+bf16",
        )
        for group in ("income", "education")
    ),
    Entry(
        "multitask.census_columns", "", "census_columns/census-income census_columns/census-education",
        "boosting-nominal boosting-all",
    ),
    Entry(
        "multitask.mmoe_synthetic", "", "mmoe_synthetic/p0.5 mmoe_synthetic/p0.9 mmoe_synthetic/p1",
        "shared-bottom omoe mmoe",
    ),
    Entry(
        "multitask.funnel", "", "funnel/retailrocket-funnel",
        f"{CLICKS} single-task shared-bottom mmoe esmm esm2 escm2-ips escm2-dr aitm nmtr dbmtl",
    ),
    Entry(
        "multitask.funnel", "--counterfactual 0", "funnel/retailrocket-funnel", "escm2-ips", "{row}+no-risk"
    ),
    Entry(
        "multitask.loss_weighting", "--group income", "loss_weighting/census-income",
        "static scheduled random uncertainty dwa gradnorm pcgrad mgda mgda-loss-norm mgda-ub pe-ltr",
        "shared-bottom+{row}", "shared-bottom+{row}",
    ),
    Entry("multitask.loss_weighting", "--group income", "loss_weighting/census-income", CLICKS),
    Entry(
        "multitask.scenarios", "", "scenarios/census-income-by-tax_filer_stat",
        f"{CLICKS} mlp star apg poso epnet ppnet",
    ),
    Entry(
        "multitask.dupn", "", "dupn/behaviours-20000",
        f"{CLICKS} dupn dupn-bplstm dupn-bpatt dupn-nobp dupn-single",
    ),
    Entry(
        "multitask.missing_values", "", "missing_values/missing-at-random-20000",
        f"{CLICKS} zero mean mean-flags learned learned-esmm",
    ),
    Entry(
        "multitask.missing_values", "", "missing_values/missing-at-random-20000", "learned-kl", "{row}-0.1"
    ),
    Entry(
        "multitask.pareto", "", "pareto/two-objectives-20000",
        f"{CLICKS} single-task mgda personal paperec paperec-raw",
    ),
    Entry("multitask.pareto", "", "pareto/two-objectives-20000", "static pe-ltr", FRONT),
    Entry(
        "ranking.din", "", "din/ml-100k", f"{CLICKS} base din din-dice din-mba din-dice-mba dien"
    ),
    *(
        Entry("ranking.din", f"--dataset {name}", f"din/coserec-{name}", f"{CLICKS} base din din-dice dien")
        for name in ("Beauty", "Sports", "Toys", "Yelp")
    ),
    Entry(
        "ranking.feature_interaction", "", "feature_interaction/ml-100k",
        f"{CLICKS} {INTERACTION} base din can can-din bst",
    ),
    Entry(
        "ranking.feature_interaction", "--dataset census", "feature_interaction/census-income",
        f"{CLICKS} {INTERACTION}",
    ),
    Entry(
        "ranking.lifelong", "--timed", "lifelong/lifelong-1000x200",
        f"{CLICKS} sim-soft-pretrained",
    ),
    Entry(
        "ranking.lifelong", "", "lifelong/lifelong-1000x200 lifelong/milliseconds-of-8-users",
        "din-recent base din sim-hard sim-soft eta mimn",
    ),
    Entry(
        "ranking.lifelong", "--length 1000 --timed", "lifelong/lifelong-1000x1000",
        f"{CLICKS} din-recent base sim-hard sim-soft eta",
    ),
    Entry(
        "ranking.calibration", "", "calibration/census-income",
        f"{CLICKS} uncalibrated corrected platt histogram isotonic smooth-isotonic by-field unsampled",
    ),
    Entry(
        "ranking.delayed_feedback", "", "delayed_feedback/generated-drift0",
        "base-rate oracle naive window vanilla fnw fnc fsiw es-dfm dfm",
    ),
    Entry("ranking.position_bias", "", "position_bias/examination-10000", POSITION),
    Entry("ranking.position_bias", "--world logit", "position_bias/logit-10000", POSITION),
    Entry(
        "ranking.off_policy", "--campaigns all men women",
        "off_policy/open-bandit-all off_policy/open-bandit-men off_policy/open-bandit-women",
        "logged on-policy direct ips snips dr", whole=True,
    ),
    Entry(
        "ranking.distillation", "", "distillation/generated",
        "base-rate logistic teacher student student-smoothed student-large kd pfd pfd-shared pfd-frozen "
        "pfd-large",
    ),
    Entry("ranking.preranking", "", "preranking/generated", "cold-all cold-3"),
    Entry(
        "ranking.watch_time", "", "watch_time/synthetic-100000",
        "mean duration-mean item-mean vr wlr wlr-exact d2q-1 d2q res-d2q",
    ),
    Entry(
        "ranking.watch_time", "--dataset steam", "watch_time/steam-hours",
        "mean duration-mean item-mean vr wlr wlr-exact d2q-1 d2q res-d2q",
    ),
    Entry(
        "published_checkpoints", "", "published_checkpoints/coserec-Beauty", CHECKPOINTS,
        "{row} {row}+exclude", "{row} {row}+exclude", whole=True,
    ),
    Entry(
        "published_checkpoints", "", "published_checkpoints/coserec-Beauty", "tada-gru4rec-bce",
        "{row}+skip-padding {row}+skip-padding+exclude", whole=True,
    ),
)  # fmt: skip
