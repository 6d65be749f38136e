"""The list of long tests: how it is made, and that it names tests that are there."""

from pathlib import Path

import pytest

from tests import long_tests

ROOT = Path(__file__).resolve().parents[1]
LOG = """
============ slowest durations ============
2.00s call     tests/a/test_x.py::test_one[b c]
0.50s setup    tests/a/test_x.py::test_one[b c]
0.40s call     tests/a/test_x.py::test_one[d]
9.00s call     jaxrec/metrics.py::jaxrec.metrics.auc
"""


def test_a_case_takes_its_call_and_what_is_set_up_for_it() -> None:
    assert long_tests.seconds(LOG) == {
        "tests/a/test_x.py::test_one[b c]": 2.5,
        "tests/a/test_x.py::test_one[d]": 0.4,
        "jaxrec/metrics.py::jaxrec.metrics.auc": 9.0,
    }


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({"a": 0.1, "b": 0.2, "c": 0.0}, []),
        ({"a": 0.21}, ["x.py::t[a]"]),
        ({"a": 0.3, "b": 0.4}, ["x.py::t except [c]"]),
        ({"a": 0.3, "b": 0.4, "c": 0.5}, ["x.py::t except [a]"]),  # the quickest stays, up to half a second
        ({"a": 0.6, "b": 0.7, "c": 0.8}, ["x.py::t"]),
    ],
)
def test_the_quickest_case_stays_if_it_is_quick(measured: dict[str, float], expected: list[str]) -> None:
    test = "tests/x.py::t"
    found = long_tests.choose(
        {f"{test}[{case}]": spent for case, spent in measured.items()},
        [f"{test}[{case}]" for case in "abc"] + ["tests/x.py::u"],
    )
    assert found == expected


def test_a_comparison_with_a_slow_twin_may_take_longer() -> None:
    every = ["tests/x.py::test_equals_numpy[a]", "tests/x.py::test_equals_numpy[b]", "tests/x.py::test_u"]
    measured = dict(zip(every, (1.0, 1.5, 1.0), strict=True))
    assert long_tests.choose(measured, every) == ["x.py::test_equals_numpy[b]", "x.py::test_u"]


def test_a_file_of_long_tests_is_one_line_and_what_is_kept_is_in_none() -> None:
    every = ["tests/x.py::t", "tests/x.py::u", "tests/golden/test_y.py::t", "jaxrec/z.py::jaxrec.z"]
    assert long_tests.choose(dict.fromkeys(every, 9.0), every) == ["x.py"]


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("tests/x.py::t[a]", True),
        ("tests/y.py::t", True),
        ("tests/y.py::t[a[0]]", True),
        ("tests/y.py::u[a]", False),
        ("tests/y.py::u[b]", True),
        ("tests/y.py::v[a]", True),
        ("tests/y.py::v[b]", False),
        ("tests/y.py::tt", False),
        ("tests/z.py::t", False),
    ],
)
def test_files_tests_and_cases_are_found(tmp_path: Path, identifier: str, expected: bool) -> None:
    path = tmp_path / "long.txt"
    path.write_text("x.py\ny.py::t\ny.py::u except [a]\ny.py::v[a]\n", encoding="utf-8")
    assert long_tests.is_long(identifier, long_tests.read(path)) is expected


def test_the_list_names_tests_that_are_there() -> None:
    for listed in long_tests.read():
        file, _, test = listed.partition("::")
        path = ROOT / file
        assert path.exists(), f"{listed}: make tests/long_tests.txt again, see tests/long_tests.py"
        name = test.partition("[")[0].rpartition("::")[2]
        assert f"def {name}(" in path.read_text(encoding="utf-8") or not name, listed


def test_what_is_kept_is_not_listed() -> None:
    assert [listed for listed in long_tests.read() if listed.startswith(long_tests.KEPT)] == []
