"""Which tests `make test` leaves to `make test-all`: those that take long, where quicker ones show the same.

    python -m pytest --collect-only -q > IDS
    python -m pytest -n 2 --durations=0 --durations-min=0.2 > LOG
    python -m tests.long_tests IDS LOG

writes long_tests.txt anew from measured seconds. What several tests share is part of the seconds of the first
of them, so the tests that are left (-m 'not long') are measured too, and both logs are given; of two measures
of a case the longer one counts. A case of more than CASE seconds is long, but not

  - the quickest case of its test, up to ALONE seconds, so that each quick test runs in some form, and up to
    TWIN seconds where the test's name says that it compares with a slow computation or a formula;
  - what KEPT names: doctests, comparisons with stored outputs of a reference, one run of an installed package
    from a file to answers, what documents and notebooks show, limits of files and functions, one experiment
    of each folder, and tests that alone notice a fault of tests/planted_faults.py.

Lines of the file, after `tests/`: a file or a test of which all cases are long, a case, or `a test except
[case]`, of which all other cases are long.
"""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CASE = 0.2
ALONE = 0.5
TWIN = 2.0
COMPARES = re.compile("numpy|slow|formula|by_hand|twin")
TINY = "test_tiny_runs_to_the_end"
KEPT = (  # beginnings of ids
    "jaxrec/",
    "tests/golden/",
    "tests/test_wheel.py",
    "tests/test_notebooks.py",
    "tests/test_ablations.py",
    "tests/test_architecture.py",
    "tests/test_documents.py",
    "tests/test_sizes.py",
    f"tests/experiments/multitask/test_census.py::{TINY}",
    f"tests/experiments/ranking/test_din.py::{TINY}",
    f"tests/experiments/retrieval/test_lightgcn.py::{TINY}",
    f"tests/experiments/sequential/test_ticoserec.py::{TINY}",
    # Without these a fault would stay.
    "tests/augment/test_similarity.py::test_online_never_yields_padding_or_the_item_itself",
    "tests/augment/test_views.py::test_short_rows_get_the_short_set_and_long_rows_all",
    "tests/data/sources/test_impression_sources.py::test_movielens_tasks_form_a_funnel",
    "tests/data/test_vocab.py::test_decode_inverts_encode",
    "tests/index/test_top_k.py::test_lists_are_those_of_a_sort[exclude-pessimistic-True]",
    "tests/metrics/test_exposure.py::test_counts_coverage_gini_and_entropy",
    "tests/metrics/test_exposure.py::test_distance_by_the_users_of_two_items",
    "tests/nn/test_encoders.py::test_packed_rows_give_the_outputs_of_padded_ones",
    "tests/optim/test_loss_weighting.py::test_weights_follow_the_ratio_of_the_means_of_two_epochs",
    "tests/protocols/test_beyond.py::test_devices_change_no_number[2]",
    "tests/tasks/test_contrastive.py::test_two_views_of_a_user_are_drawn_independently",
    "tests/tasks/test_multitask.py::test_shares_of_devices_add_up_and_batch_statistics_are_averaged",
    "tests/tasks/test_parallel_sessions.py::test_a_session_in_its_lane_has_the_states_it_has_alone",
    "tests/tasks/test_table_dropout.py",
    "tests/train/test_checkpoint.py::test_a_damaged_checkpoint_is_an_error_or_reads_back_whole[one bit]",
    "tests/train/test_checkpoint.py::test_two_checkpoints_are_kept_and_clear_removes_them",
    "tests/train/test_devices.py::test_devices_share_a_batch_without_changing_the_result[sampled]",
    "tests/train/test_epoch.py::test_a_step_logs_raw_losses_and_descends_on_their_weighted_sum",
    "tests/train/test_epoch.py::test_an_epoch_cut_into_calls_has_the_same_bits[2]",
    "tests/train/test_fit.py::test_a_batch_that_devices_do_not_divide_is_an_error",
    "tests/train/test_fit.py::test_the_best_epoch_is_kept_and_the_first_of_equals",
    "tests/train/test_reuse.py::test_added_seeds_are_trained_and_the_others_are_not",
    "tests/train/test_reuse.py::test_phases_that_begin_otherwise_are_not_gone_on_with",
    "tests/train/test_stream.py::test_a_run_resumed_in_the_middle_gives_the_same_bits[after step 1]",
)
LIST = Path(__file__).with_suffix(".txt")
EXCEPT = " except "


def read(path: Path = LIST) -> dict[str, str]:
    """The listed ids, each with the case that is not long, "" for none."""
    lines = (line.partition(EXCEPT) for line in path.read_text(encoding="utf-8").splitlines())
    return {f"tests/{listed}": kept for listed, _, kept in lines}


def is_long(identifier: str, listed: Mapping[str, str]) -> bool:
    """Whether a case is listed, or its test, or its file."""
    test, bracket, case = identifier.partition("[")
    if identifier in listed or identifier.partition("::")[0] in listed:
        return True
    return test in listed and listed[test] != bracket + case


def seconds(log: str) -> dict[str, float]:
    """Seconds of each case in pytest's list of durations: its call with what is set up for it."""
    found: dict[str, float] = collections.defaultdict(float)
    for line in log.splitlines():
        spent, _, rest = line.partition("s ")
        phase, _, identifier = rest.partition(" ")
        if phase in ("call", "setup", "teardown") and spent.replace(".", "").isdigit():
            found[identifier.strip()] += float(spent)
    return dict(found)


def choose(measured: Mapping[str, float], every: Iterable[str]) -> list[str]:
    """The lines of the list. measured: seconds of cases, of others 0. every: the ids of all cases."""
    files: dict[str, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for identifier in every:
        test = identifier.partition("[")[0]
        files[test.partition("::")[0]][test].append(identifier)
    lines: list[str] = []
    for file, tests in sorted(files.items()):
        of_tests = [of_test(test, cases, measured) for test, cases in sorted(tests.items())]
        whole = all(found == [test] for found, test in zip(of_tests, sorted(tests), strict=True))
        lines += [file] if whole else [line for found in of_tests for line in found]
    return [line.removeprefix("tests/") for line in lines]


def of_test(test: str, cases: Sequence[str], measured: Mapping[str, float]) -> list[str]:
    """The lines of one test."""
    long = [case for case in cases if measured.get(case, 0.0) > CASE and not case.startswith(KEPT)]
    quickest = min(cases, key=lambda case: measured.get(case, 0.0))
    if quickest in long and measured[quickest] <= (TWIN if COMPARES.search(test) else ALONE):
        long.remove(quickest)
    if long and len(long) == len(cases):
        return [test]
    if len(long) > 1 and len(long) == len(cases) - 1:
        (kept,) = set(cases) - set(long)
        return [f"{test}{EXCEPT}{kept.removeprefix(test)}"]
    return sorted(long)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes long_tests.txt from measured seconds.")
    parser.add_argument("ids", type=Path, help="what pytest --collect-only -q printed")
    parser.add_argument("logs", type=Path, nargs="+", help="what pytest printed, with --durations=0")
    asked = parser.parse_args(arguments)
    every = [line for line in asked.ids.read_text(encoding="utf-8").splitlines() if "::" in line]
    measured: dict[str, float] = {}
    for log in asked.logs:
        for case, spent in seconds(log.read_text(encoding="utf-8")).items():
            measured[case] = max(spent, measured.get(case, 0.0))
    lines = choose(measured, every)
    LIST.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} lines in {LIST}")


if __name__ == "__main__":
    main()
