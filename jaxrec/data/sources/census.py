"""Census-Income (KDD): two pairs of tasks over demographic columns (UCI, doi:10.24432/C5N30T, CC BY 4.0).

The task pairs of MMoE (Ma et al., KDD 2018, section 6.3):
    income     income over 50,000 dollars (main), and never married
    education  a college degree, from associate to doctorate (main), and never married
Each pair's label columns are taken out of its features: marital status from both, education from the second,
where income is a feature. The paper says "at least college": with degrees the two labels correlate by -0.239,
near its 0.2373 (and income by -0.178, near its 0.1768); with some college but no degree it would be -0.286.

Departs from the paper: features are the nominal columns. The numeric ones (age, wage per hour, capital gains
and losses, dividends, employers, weeks worked) could be had for test rows only, so that published figures,
which use them, are not strictly comparable. The instance weight is never a feature. The columns of training
rows are right, their order is lost: they are what the file of all rows holds beyond the official test rows.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.data import store
from jaxrec.data.sources.dataset import Table, check_table, pick
from jaxrec.data.store import File, Route, Source, github, show_terms
from jaxrec.data.tables.columns import Coded, RawColumn
from jaxrec.data.tables.features import Category, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, SplitIndices

SOURCE = Source(
    "census",
    "Census-Income (KDD), UCI Machine Learning Repository",
    "https://archive.ics.uci.edu/dataset/117/census+income+kdd",
    "CC BY 4.0",
    "Nominal columns of all rows; the official test rows.",
)


def _unpacked(route: Route) -> Route:
    def write(path: Path) -> None:
        packed = path.with_name(f"{path.name}.gz")
        route.write(packed)
        path.write_bytes(store.read_bytes(packed))

    return Route(route.address, write)


_PACKED = File(
    "census-income/nominal_split.npz",
    "2855753b614c3d025a56b8ad39eebfe281b62a64c804e8ae1ef5095bee779fbc",
    2655434,
)
_TEST = File(
    "census-income/census-income.test",
    "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
    51918813,
    (
        _unpacked(
            github(
                "drawbridge/keras-mmoe",
                "2718f56e4313716fd3a86e9510bc2df0cc366238",
                "data/census-income.test.gz",
            )
        ),
    ),
)
_NOMINAL = File(
    "census-income/census-income-full-nominal.tar.xz",
    "de528ec7ee39163c18a397f915481524bcd45a5ae6e2f60135e560363b43dc62",
    3550432,
    (
        github(
            "GuansongPang/ADRepository-Anomaly-detection-datasets",
            "3361daccc4384a60025b6b684ccf55699decbed5",
            "categorical%20data/census-income-full-nominal.tar.xz",
        ),
    ),
)
_FILES = ((_PACKED, _TEST), (_PACKED, _NOMINAL))  # the packed one stands for both
TABLES = (
    Table("income", _FILES, {"income": 18_568, "never_married": 129_628}),
    Table("education", _FILES, {"college": 58_639, "never_married": 129_628}),
)
_NAMES = (
    "class_worker det_ind_code det_occ_code education hs_college marital_stat major_ind_code "
    "major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp tax_filer_stat "
    "region_prev_res state_prev_res det_hh_fam_stat det_hh_summ mig_chg_msa mig_chg_reg mig_move_reg "
    "mig_same mig_prev_sunbelt fam_under_18 country_father country_mother country_self citizenship "
    "own_or_self vet_question vet_benefits year"
)
NAMES = tuple(_NAMES.split())
_NUMERIC = {  # columns of the test file that the file of all rows lacks
    "age": 0,
    "wage_per_hour": 5,
    "capital_gains": 16,
    "capital_losses": 17,
    "stock_dividends": 18,
    "instance_weight": 24,
    "num_emp": 30,
    "weeks_worked": 39,
}
_TRAIN = 199_523
COLLEGE = (
    "Associates degree-academic program",
    "Associates degree-occup /vocational",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)


def load_impressions(name: str, *, seed: int = 0) -> ImpressionSplit:
    """Official training rows; the official test rows halved at random into validation and test by `seed`.

    "?" is missing; "Not in universe" and the like are values.
    """
    table = pick(TABLES, name)
    show_terms(SOURCE)
    columns, income = _packed() if store.find_file(_PACKED) is not None else _originals()
    never_married = _is(columns["marital_stat"], ("Never married",))
    raw: dict[str, RawColumn] = {
        column: coded for column, coded in columns.items() if column != "marital_stat"
    }
    if name == "income":
        labels = {"income": income.astype(np.float32), "never_married": never_married}
    else:
        labels = {"college": _is(columns["education"], COLLEGE), "never_married": never_married}
        del raw["education"]
        raw["income_50k"] = Coded(income.astype(np.int64), np.array(["- 50000.", "50000+."]))
    train = np.arange(_TRAIN)
    test = np.random.default_rng(seed).permutation(np.arange(_TRAIN, len(income)))
    validation, test = np.sort(test[: len(test) // 2]), np.sort(test[len(test) // 2 :])
    encoders = fit_encoders([Category(column, missing=("?",)) for column in raw], raw, train)
    impressions = Impressions(f"census/{name}", encode(encoders, raw), encoders.fields, labels)
    check_table(impressions, table)
    rows = SplitIndices(train, validation, test, f"official test halved, seed {seed}")
    return impressions.split(*rows[:3], rule=rows.rule)


def load_test_numbers() -> dict[str, np.ndarray]:
    """The numeric columns, without the instance weight: float64, a row for each official test row.

    In the order of the file, which is that of the rows of `load_impressions` past the training rows.
    """
    show_terms(SOURCE)
    names = [name for name in _NUMERIC if name != "instance_weight"]
    if store.find_file(_PACKED) is not None:
        with np.load(io.BytesIO(store.read_file(_PACKED))) as packed:
            return {name: packed[f"test_{name}"].astype(np.float64) for name in names}
    cells = [line.split(",") for line in store.read_file(_TEST).decode().splitlines()]
    return {name: np.array([float(row[_NUMERIC[name]]) for row in cells]) for name in names}


def _packed() -> tuple[dict[str, Coded], np.ndarray]:
    """The nominal columns, training rows first, and whether income is over 50,000 dollars."""
    with np.load(io.BytesIO(store.read_file(_PACKED))) as packed:
        codes = np.concatenate([packed["train_codes"], packed["test_codes"]])
        columns = {name: Coded(codes[:, i], packed[f"vocab_{name}"]) for i, name in enumerate(NAMES)}
        return columns, np.concatenate([packed["train_income_50k"], packed["test_income_50k"]])


def _originals() -> tuple[dict[str, Coded], np.ndarray]:
    """The same from the public files: all rows, less the test rows, are the training rows.

    The file of all rows is in another order, without the numeric columns, and with "-" for spaces.
    """
    cells = [line.split(",") for line in store.read_file(_TEST).decode().splitlines()]
    kept = [i for i in range(len(cells[0])) if i not in _NUMERIC.values()]
    test = [[row[i].strip() for i in kept] for row in cells]
    left = Counter(",".join(row).replace(" ", "-") for row in test)
    train = []
    for line in _lines_of_all():
        if left[line]:
            left[line] -= 1
        else:
            train.append(line.split(","))
    if len(train) != _TRAIN or left.total():
        raise ValueError(
            f"{_NOMINAL.path}: {len(train):,} rows beyond those of {_TEST.path} and {left.total():,} of "
            f"those missing, expected {_TRAIN:,} and 0: the files are of other versions"
        )
    columns = {}
    for i, name in enumerate((*NAMES, "income")):
        spelt = {row[i].replace(" ", "-"): row[i] for row in test}
        columns[name] = _coded([*(spelt.get(row[i], row[i]) for row in train), *(row[i] for row in test)])
    income = columns.pop("income")
    return columns, income.values[income.codes] == "50000+."


def _lines_of_all() -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(store.read_file(_NOMINAL))) as archive:
        opened = archive.extractfile("census-income-full-nominal.arff")
        assert opened is not None
        data = opened.read().decode().split("@data", 1)[1]
    return [line for line in data.splitlines() if line]


def _coded(cells: Sequence[str]) -> Coded:
    codes: dict[str, int] = {}
    column = np.array([codes.setdefault(cell, len(codes)) for cell in cells], np.int16)
    return Coded(column, np.array(list(codes)))


def _is(column: Coded, values: tuple[str, ...]) -> np.ndarray:
    return np.isin(column.values, values)[column.codes].astype(np.float32)
