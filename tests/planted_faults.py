"""Faults that the tests have to notice: realistic slips, planted one at a time in a copy of the checkout.

    python -m tests.planted_faults [--only NAME ...] [--room ROOM ...] [--checkout FOLDER] [--list]

A fault is a text that occurs once in the sources of jaxrec/ and experiments/, what takes its place, and the
tests that should fail then (globs of their paths below tests/, without .py). A fault is caught if one of
them fails that passes without it. Exits with 1 if one survives or cannot be planted.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.planting import Fault, environment_of, location, outcome, planted_form

LEFT_OUT = (".*", "runs", "build", "dist", "*.egg-info", "__pycache__")  # of the copy


# fmt: off
FAULTS = tuple(Fault(*row) for row in (
    # --- types, packing, sampling ---
    ("packing-full-row", "packing", "(used + length <= width)", "(used + length < width)", "test_packing"),
    ("packing-position", "packing", "max_len - lengths[sequence] + event",
     "max_len - 1 - lengths[sequence] + event", "test_packing"),
    ("packing-last-event", "packing", '[user] + length <= len(context["items"])',
     '[user] + length < len(context["items"])', "test_packing train/test_evaluate"),
    ("types-default-ties", "types", 'ties: str = "pessimistic"\n    ks', 'ties: str = "optimistic"\n    ks',
     "train/test_evaluate experiments/test_sasrec"),
    ("sampling-skip", "sampling", "excluded - 1 - jnp.arange(", "excluded - jnp.arange(", "test_sampling"),
    ("sampling-last-item", "sampling", "shape, 1, num_items + 1, dtype", "shape, 1, num_items, dtype",
     "test_sampling"),
    # --- data: events ---
    ("events-least", "data/events", ">= min_history\n", "> min_history\n", "*test_split"),
    ("events-least", "data/events", "position[events] >= least", "position[events] > least", "*test_split"),
    ("events-seen-before", "data/events", "(first[place] < sequences.offsets[",
     "(first[place] <= sequences.offsets[", "*test_split"),
    ("events-leak-share", "data/events", 'searchsorted(training, target_times, side="right")',
     'searchsorted(training, target_times, side="left")', "*test_split"),
    ("events-leak-share", "data/events", 'searchsorted(training, asked, side="right")',
     'searchsorted(training, asked, side="left")', "*test_split"),
    ("events-core", "data/events", "[self.item] >= least_item)", "[self.item] > least_item)",
     "*test_interactions"),
    ("events-average", "data/events", "train * (train + 1) // 2 - 1", "train * (train - 1) // 2 - 1",
     "data/*test_sessions data/events/test_sessions"),
    ("events-lane-steps", "data/events", "(free[0][0] + count, free[0][1])",
     "(free[0][0] + count - 1, free[0][1])",
     "data/*test_parallel_sessions data/events/test_parallel_sessions"),
    ("events-negatives-reject", "data/events", "index < np.repeat(number, sequences.lengths)",
     "index <= np.repeat(number, sequences.lengths)",
     "tasks/test_next_item tasks/test_generative *test_split"),
    ("events-kmeans-nearest", "data/events", "nearest = np.minimum(nearest,",
     "nearest = np.maximum(nearest,", "data/test_clusters data/events/test_clusters"),
    # --- data: tables ---
    ("tables-min-count", "data/tables", "values[count >= least[name]]", "values[count > least[name]]",
     "data/test_impressions data/tables/test_impressions"),
    ("tables-bucket-edge", "data/tables", 'x, side="right") + FIRST', 'x, side="left") + FIRST',
     "data/test_impressions data/tables/test_impressions"),
    ("tables-leak-groups", "data/tables", "keys, target = keys[once], target[once]",
     "keys, target = keys, target", "*test_leakage"),
    ("tables-unclicked-cvr", "data/tables", '{"cvr": clicked > 0}', '{"cvr": clicked >= 0}',
     "data/test_impressions data/tables/test_impressions"),
    ("tables-seen-pairs", "data/tables", "np.sort(np.concatenate([seen, pairs[part]]))",
     "np.sort(pairs[part])", "data/test_impressions data/tables/test_impressions"),
    ("tables-padding-counted", "data/tables", "        counts[0] = 0\n", "",
     "data/test_behaviours data/tables/test_click_histories"),
    # --- data: cells, sources ---
    ("cells-fraction", "data/cells", " and number == number.to_integral_value()", "", "data/test_cells"),
    ("cells-decode", "data/vocab", "[array.astype(np.int64) - 1]", "[array.astype(np.int64) - 2]",
     "data/test_vocab"),
    ("sources-five-ratings", "data/sources", "(counts >= _MIN_RATINGS)[codes]",
     "(counts > _MIN_RATINGS)[codes]", "*test_rating_files"),
    ("sources-five-ratings", "data/sources", "(counts >= _LEAST)[codes]", "(counts > _LEAST)[codes]",
     "*test_rating_files"),
    ("sources-category-path", "data/sources", '-1 if path_of == "last" else 0]',
     '0 if path_of == "last" else -1]', "*test_item_attributes *test_behaviour_sources"),
    ("sources-liked", "data/sources", "(rating >= 4).astype", "(rating > 4).astype",
     "*test_impression_sources *test_sources"),
    # --- augment ---
    ("augment-largest-gap", "augment", "[:, None] - 1 - rank", "[:, None] - rank",
     "augment/test_operators"),
    ("augment-start", "augment", "(word % jnp.maximum(length - size, 1)",
     "(word % jnp.maximum(length - size + 1, 1)", "augment/test_operators golden/test_augment"),
    ("augment-item-cf-norm", "augment", "value / np.sqrt((count[i] * count[j]).astype(np.float64))",
     "value / (count[i] * count[j]).astype(np.float64)", "augment/test_similarity"),
    ("augment-padding-similar", "augment", "lowest = 0 if inverted else 1", "lowest = 0",
     "augment/test_similarity"),
    ("augment-threshold", "augment", "length > self.threshold", "length >= self.threshold",
     "augment/test_views"),
    ("augment-chance-of-whole", "augment", "chance = whole_up_to**2 / jnp", "chance = whole_up_to / jnp",
     "augment/test_stochastic_length"),
    # --- losses ---
    ("losses-masked-mean", "losses",
     "count = jax.lax.psum(count, axis_name)\n    return total / jnp.maximum(count, 1.0)",
     "count = jax.lax.psum(count, axis_name)\n    return total / where.size", "test_losses* losses/*"),
    ("losses-own-view", "losses", "_masked_logsumexp(within, all_real & ~itself)",
     "_masked_logsumexp(within, all_real)",
     "test_losses losses/test_ranking"),
    ("losses-propensity-gradient", "losses",
     "return jax.lax.stop_gradient(jnp.maximum(jax.nn.sigmoid(logit) * scale, minimum))",
     "return jnp.maximum(jax.nn.sigmoid(logit) * scale, minimum)",
     "test_entire_space_losses losses/test_entire_space"),
    ("losses-doubly-robust", "losses", "jnp.where(observed, errors - imputed, 0.0)",
     "jnp.where(observed, imputed - errors, 0.0)", "test_entire_space_losses losses/test_entire_space"),
    ("losses-logq-sign", "losses", "neg - neg_log_prob", "neg + neg_log_prob",
     "test_losses test_losses_sampled losses/test_ranking losses/test_sampled"),
    ("losses-padding-in-softmax", "losses", "first = 0 if include_padding else 1\n    flat",
     "first = 0\n    flat", "test_losses test_losses_sampled losses/test_ranking losses/test_sampled"),
    ("losses-hardest", "losses", "jnp.maximum(kept - 1, 0)]", "jnp.maximum(kept, 0)]",
     "test_losses_multitask losses/test_multitask"),
    # --- metrics ---
    ("metrics-ndcg-discount", "metrics", "1.0 / jnp.log2(1.0 + rank), 0.0)",
     "1.0 / jnp.log2(2.0 + rank), 0.0)", "test_metrics metrics/test_ranking"),
    ("metrics-ties", "metrics", "above = ~(scores < target_score)", "above = ~(scores <= target_score)",
     "test_metrics metrics/test_ranking"),
    ("metrics-auc-ties", "metrics", "2 * below + ties[tie_index]", "2 * below + 0 * ties[tie_index]",
     "test_metrics_classification metrics/test_classification"),
    ("metrics-gauc-weight", "metrics", "found.size if weighted else 1", "1 if weighted else found.size",
     "test_metrics_* metrics/test_gauc metrics/test_classification"),
    ("metrics-bins-mask", "metrics", "real & (bins == b)", "bins == b",
     "test_metrics_classification metrics/test_classification"),
    ("metrics-ideal-list", "metrics", 'places = num_relevant[..., None] if ideal == "relevant"',
     'places = hits.sum(axis=-1)[..., None] if ideal == "relevant"', "metrics/test_ranking"),
    ("metrics-coverage", "metrics", "return (shown > 0).mean(axis=-1)",
     "return (shown >= 0).mean(axis=-1)", "metrics/test_exposure"),
    ("metrics-co-visits-twice", "metrics", "    met.data[:] = 1.0", "    met.data[:] += 0.0",
     "metrics/test_exposure"),
    # --- nn: layers ---
    ("layers-segments", "nn/layers", " & (segments[:, :, None] == segments[:, None, :])", "",
     "nn/test_encoders"),
    ("layers-dropout-scale", "nn/layers", "jnp.where(kept, x / (1.0 - self.rate)", "jnp.where(kept, x",
     "nn/test_dropout"),
    ("layers-padding-row", "nn/layers", "init(key, shape, dtype).at[0].set(0.0)", "init(key, shape, dtype)",
     "nn/test_encoders nn/test_features"),
    ("layers-average", "nn/layers", "total / jnp.maximum(jnp.sum(real, axis=1), 1) if average",
     "total / ids.shape[1] if average", "nn/test_features"),
    ("layers-dice-mask", "nn/layers",
     "mean = total(weight * x) / size\n    var = total(weight * (x - mean) ** 2)",
     "mean = total(weight * x) / size\n    var = total((x - mean) ** 2)", "nn/test_dice nn/test_din"),
    ("layers-dice-gradient", "nn/layers", "(shift + z * stretch)", "(shift - z * stretch)",
     "nn/test_dice nn/test_din"),
    ("layers-reset", "nn/layers", "state = jnp.where(resets[:, None], 0.0, state)",
     "state = jnp.where(resets[:, None], state, state)", "nn/test_encoders"),
    ("layers-gru-keep", "nn/layers", "(1.0 - keep) * new + keep * state",
     "keep * new + (1.0 - keep) * state", "nn/test_mimn golden/test_mimn"),
    ("layers-pointwise-causal", "nn/layers", "(jnp.arange(length) <= slots[:, :, None])",
     "(jnp.arange(length) < slots[:, :, None])", "nn/test_hstu"),
    ("layers-next-time", "nn/layers", "jnp.where(goes_on, after, times)", "after", "nn/test_hstu"),
    ("layers-product-logit", "nn/layers", "jnp.logaddexp(-a, -b), -(a + b))",
     "jnp.logaddexp(-a, -b), a + b)", "nn/test_multitask_entire_space"),
    # --- nn: ranking, multitask, sequential ---
    ("ranking-star-variance", "nn/ranking", "(count / jnp.maximum(count - 1.0, 1.0))",
     "jnp.ones_like(count)", "nn/test_star_batches nn/test_star_poso"),
    ("ranking-ppnet-gradient", "nn/ranking", "[jax.lax.stop_gradient(x), prior]", "[x, prior]",
     "nn/test_apg nn/test_poso nn/test_star_poso golden/test_fuxictr_multitask"),
    ("ranking-pal-position", "nn/ranking", "known, position - 1,", "known, position,", "nn/test_interaction"),
    ("ranking-bst-mean", "nn/ranking", "total / mask.sum(axis=1, keepdims=True)", "total / mask.shape[1]",
     "nn/test_bst convert/test_bst"),
    ("ranking-hard-search", "nn/ranking", "mask & same, self.k", "same, self.k", "nn/test_search"),
    ("multitask-snr-open", "nn/multitask", "self.logits - self.beta * math.log",
     "self.logits + self.beta * math.log", "nn/test_snr"),
    ("multitask-aitm-scale", "nn/multitask", "jnp.sum(query * key, axis=-1) / math.sqrt(dim)",
     "jnp.sum(query * key, axis=-1) / dim", "nn/test_multitask_entire_space golden/test_entire_space"),
    ("multitask-shared-gates", "nn/multitask", "gates[..., self.num_specific :], common",
     "gates[..., : self.num_shared], common", "nn/test_multitask_experts golden/test_entire_space"),
    ("sequential-event-number", "nn/sequential", "jnp.where(items != 0, slot - first, 0)",
     "jnp.where(items != 0, slot, 0)", "nn/test_hstu"),
    ("sequential-tokens", "nn/sequential", "content, action = x[:, ::2], x[:, 1::2]",
     "action, content = x[:, ::2], x[:, 1::2]", "nn/test_hstu_generative"),
    ("sequential-stamp-mean", "nn/sequential",
     "count = jnp.maximum(visible.sum(axis=-1, keepdims=True), 1)", "count = jnp.full_like(newest, length)",
     "nn/test_session_models"),
    # --- optim ---
    ("optim-pcgrad-sign", "optim", "jnp.where(inner < 0, -inner", "jnp.where(inner < 0, inner",
     "optim/test_gradient_balancing"),
    ("optim-uncertainty-sign", "optim", "+ 0.5 * sum(s.values())", "- 0.5 * sum(s.values())",
     "optim/test_loss_weighting"),
    ("optim-dwa-epoch-ends", "optim", "ends = (step + 1) % steps_per_epoch == 0",
     "ends = step % steps_per_epoch == 0", "optim/test_loss_weighting"),
    ("optim-frank-wolfe", "optim", "jnp.minimum(best, weights[away])", "best",
     "optim/test_gradient_balancing"),
    # --- tasks ---
    ("tasks-validation-item", "tasks",
     'user = examples["example"]\n        inputs = jnp.maximum(context["length"][user] - 1, 0)',
     'user = examples["example"]\n        inputs = jnp.maximum(context["length"][user], 0)',
     "tasks/test_next_item"),
    ("tasks-target-of-other-user", "tasks", "wanted & (after(segments) == segments)", "wanted",
     "tasks/test_generative"),
    ("tasks-space-mask", "tasks",
     "where = where & column(batch, target.space, target.name)\n    extra",
     "where = column(batch, target.space, target.name)\n    extra", "tasks/test_multitask"),
    ("tasks-penalty-per-device", "tasks", "module.apply(variables, method=penalty) / devices",
     "module.apply(variables, method=penalty)",
     "tasks/test_multitask train/test_devices_multitask nn/test_snr"),
    ("tasks-view-key", "tasks", "views.plans[1], keys[1])", "views.plans[1], keys[0])",
     "tasks/test_contrastive"),
    ("tasks-state-gradient", "tasks", "jnp.where(keep, jax.lax.stop_gradient(state), 0.0)",
     "jax.lax.stop_gradient(state)", "tasks/test_parallel_sessions"),
    ("tasks-quota", "tasks", "(place < missing)", "(place <= missing)", "tasks/test_cluster_serving"),
    ("tasks-same-negative", "tasks", "(history - 1 + step) % num_items + 1",
     "(history + step) % num_items + 1", "tasks/test_ctr"),
    # --- train ---
    ("train-step-key", "train/step",
     "_same_state(weighting, state)\n"
     "        step_key = jax.random.fold_in(jax.random.fold_in(state.key, STEP), state.step)",
     "_same_state(weighting, state)\n        step_key = jax.random.fold_in(state.key, STEP)",
     "train/test_epoch train/test_stream train/test_fit"),
    ("train-one-key-for-two", "train/step",
     "prepare_key, loss_key = jax.random.split(step_key)\n"
     "        batch = task.prepare(prepare_key, parallel.whole(examples, axis_name)",
     "prepare_key = loss_key = step_key\n"
     "        batch = task.prepare(prepare_key, parallel.whole(examples, axis_name)",
     "train/test_epoch train/test_step_balancing train/test_stream"),
    ("train-share", "train/parallel", "return PartitionSpec(axis_name)", "return PartitionSpec()",
     "train/test_devices"),
    ("train-live", "train/epoch", "live = index < plan.num_steps", "live = index <= plan.num_steps",
     "train/test_epoch"),
    ("train-tail-mask", "train/epoch", "(number < order.shape[0]).reshape(shape)",
     "(number <= order.shape[0]).reshape(shape)", "train/test_epoch"),
    ("train-tail-mask", "train/epoch", "(place < order.shape[0]).reshape(shape)",
     "(place <= order.shape[0]).reshape(shape)", "train/test_epoch"),
    ("train-epoch-mean", "train/step", "jnp.where(live, value, 0).sum() / count", "value.sum() / count",
     "train/test_epoch train/test_fit"),
    ("train-checksums", "train/checkpoint", "found = _checksums(arrays)", 'found = kept["checksums"]',
     "train/test_checkpoint"),
    ("train-keep-one", "train/checkpoint", "max_to_keep=2", "max_to_keep=1",
     "train/test_checkpoint train/test_fit"),
    ("train-axis-name", "train/parallel", "return None if num_devices == 1 else AXIS", "return None",
     "train/test_fit train/test_devices"),
    ("index-ties-in-lists", "index", 'last = hits if protocol.ties == "pessimistic" else ~hits',
     'last = ~hits if protocol.ties == "pessimistic" else hits', "index/test_top_k"),
    ("index-repeats", "index", "jnp.where(ordered[:, 1:] == ordered[:, :-1], 0, ordered[:, 1:])",
     "ordered[:, 1:]", "index/test_top_k"),
    ("protocols-padding-shown", "protocols", "real = jnp.where(mask[..., None], lists.ids, 0)",
     "real = lists.ids", "protocols/test_beyond"),
    ("protocols-short-lists", "protocols", '"tail_share": 1, "diversity": 2}',
     '"tail_share": 1, "diversity": 0}', "protocols/test_beyond"),
    ("train-last-block", "index", "block.real & (block.ids != target[:, None])",
     "(block.ids != target[:, None])", "index/* train/test_evaluate"),
    ("train-last-block", "train/evaluate", "(ids < first_id + count) & (ids != target[:, None])",
     "(ids != target[:, None])", "train/test_evaluate"),
    ("train-seen-target", "train/evaluate",
     "jnp.where((seen == target[:, None]).any(axis=1), metrics.MISS, ranks)", "ranks",
     "index/test_rank train/test_evaluate"),
    ("train-equal-is-better", "train/run",
     "value < best if self.selection.lower_is_better else value > best",
     "value <= best if self.selection.lower_is_better else value >= best", "train/test_fit"),
    ("train-patience", "train/run", "self.waited[seed] >= patience", "self.waited[seed] > patience",
     "train/test_fit"),
    ("train-other-phases", "train/reuse", " and epoch_names(run.phases)[: run.done] == begun[: run.done]",
     "", "train/test_reuse"),
    ("train-order-of-seeds", "train/reuse", "[np.concatenate(filled).tolist()[i] for i in order]",
     "np.concatenate(filled).tolist()", "train/test_reuse"),
    ("train-rest-of-epoch", "train/stream", "first % self._batches.num_steps", "0 * first",
     "train/test_stream"),
    # --- convert, report ---
    ("convert-update-gate", "convert", "// gates :] *= -1", "// gates :] *= 1",
     "golden/test_hidasi_gru4rec"),
    ("convert-order-back", "convert", "np.take(state[key], np.argsort(location.order), location.axis)",
     "np.take(state[key], location.order, location.axis)",
     "golden/test_hidasi_gru4rec golden/test_mimn convert/test_parts"),
    ("convert-order-back", "convert", "np.take(state[key], np.argsort(place.order), place.axis)",
     "np.take(state[key], place.order, place.axis)",
     "golden/test_hidasi_gru4rec golden/test_mimn convert/test_parts"),
    ("convert-shift", "convert", "(*range(max_shift + 1, 2 * max_shift + 1), *range(max_shift + 1))",
     "tuple(range(2 * max_shift + 1))", "golden/test_mimn"),
    ("report-deviation", "report", "std = statistics.stdev(values)", "std = statistics.pstdev(values)",
     "report/test_results"),
    ("report-difference", "report", "mean_and_std(values).mean - published",
     "published - mean_and_std(values).mean",
     "report/test_tables"),
    ("report-band", "report", "2 * statistics.pstdev(", "statistics.pstdev(", "report/test_plots"),
    # --- protocols, experiments ---
    ("protocols-target-drawn", "protocols", "(taken[at] == keys) | (drawn == queries.target[:, None])",
     "(taken[at] == keys)", "protocols/test_next_item experiments/test_sasrec"),
    ("protocols-test-popularity", "baselines",
     'the events that training may read, bool [N]."""\n'
     "        return first_events(self.sequences, self.train_length)\n\n"
     "    def training_events(self) -> TrainingEvents:\n",
     'the events that training may read, bool [N]."""\n'
     "        return first_events(self.sequences, self.sequences.lengths)\n\n"
     "    def training_events(self) -> TrainingEvents:\n",
     "*test_training_events baselines/* experiments/test_sasrec"),
    ("protocols-test-popularity", "protocols", "[_training_events(data)], minlength", ", minlength",
     "protocols/test_next_item experiments/test_sasrec"),
    ("protocols-across-sessions", "baselines", "inside = events.group[1:] == events.group[:-1]",
     "inside = events.group[1:] >= events.group[:-1]", "baselines/*"),
    ("protocols-across-sessions", "protocols", "inside = session[1:] == session[:-1]",
     "inside = session[1:] >= session[:-1]", "experiments/test_tiny_sessions"),
    ("protocols-knn-norm", "baselines", "/ np.sqrt(alone[row] * alone[col])", "/ (alone[row] * alone[col])",
     "baselines/* experiments/test_tiny_sessions"),
    ("experiments-smoothing", "protocols", "(likes + SMOOTHING * average) / (count + SMOOTHING)",
     "likes / (count + SMOOTHING)",
     "experiments/test_tiny_generative experiments/sequential/test_hstu_generative protocols/*"),
    ("experiments-cluster-of-item", "recipes", "labels[seen - 1] = found.labels",
     "labels[seen - 2] = found.labels", "*test_kuaishou_ebr"),
    ("experiments-cluster-of-item", "experiments", "labels[met - 1] = found.labels",
     "labels[met - 2] = found.labels",
     "experiments/test_kuaishou_ebr experiments/retrieval/test_kuaishou_ebr"),
    ("experiments-published-rule", "experiments",
     'same_rule = compare and seen == "zero"', "same_rule = compare",
     "experiments/test_published_checkpoints"),
))
# fmt: on


def main(args: Sequence[str] | None = None) -> int:
    """Plants the chosen faults one after the other; prints what became of each."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.planted_faults", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="names of faults; all by default"
    )
    parser.add_argument("--room", nargs="+", default=[], help="rooms whose faults are planted")
    parser.add_argument("--checkout", type=Path, default=Path.cwd(), help="the state that is tried")
    parser.add_argument("--list", action="store_true", help="say where each fault would be planted, and stop")
    given = parser.parse_args(args)
    unknown = sorted(set(given.only) - {fault.name for fault in FAULTS})
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: no such fault; --list shows all")
    rooms = given.room or {fault.room for fault in FAULTS}
    faults = [f for f in FAULTS if f.room in rooms and (not given.only or f.name in given.only)]
    chosen = [planted_form(forms, given.checkout) for _, forms in itertools.groupby(faults, lambda f: f.name)]
    if given.list:
        for fault in chosen:
            print(f"{fault.name:<28} {fault.room:<16} {location(fault, given.checkout)}")
        return 0
    found = []
    with tempfile.TemporaryDirectory(prefix="planted-faults-") as folder:
        copy = Path(folder) / given.checkout.resolve().name
        shutil.copytree(given.checkout, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for fault in chosen:
            start = time.perf_counter()
            found.append(outcome(fault, copy, environment_of(given.checkout, Path(folder))))
            print(f"{fault.name:<28} {found[-1]} ({time.perf_counter() - start:.0f} s)", flush=True)
    caught = sum(said.startswith("caught") for said in found)
    print(f"{caught} of {len(found)} caught")
    return 0 if caught == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
