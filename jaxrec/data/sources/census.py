"""Census-Income (KDD): two pairs of tasks over demographic columns (UCI, doi:10.24432/C5N30T, CC BY 4.0).

The task pairs of MMoE (Ma et al., KDD 2018, section 6.3):
    income     income over 50,000 dollars (main), and never married
    education  a college degree, from associate to doctorate (main), and never married
Each pair's label columns are taken out of its features: marital status from both, education from the second,
where income is a feature. The paper says "at least college": with degrees the two labels correlate by -0.239,
near its 0.2373 (and income by -0.178, near its 0.1768); with some college but no degree it would be -0.286.

Departs from the paper: features are the nominal columns. The numeric ones (age, wage per hour, capital gains
and losses, dividends, employers, weeks worked) are available for test rows only, so published numbers, which
use them, are not strictly comparable. The instance weight is never a feature. Training rows are the rows of
the file of all rows that are not official test rows, so their order is not the official one.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.data import store
from jaxrec.data.sources.dataset import LabelledTable, check_positives, find_by_name
from jaxrec.data.store import File, Route, Source, github, show_terms
from jaxrec.data.tables.columns import Coded, RawColumn
from jaxrec.data.tables.features import Category, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit

SOURCE = Source(
    "census",
    title="Census-Income (KDD), UCI Machine Learning Repository",
    homepage="https://archive.ics.uci.edu/dataset/117/census+income+kdd",
    licence="CC BY 4.0",
    terms="Nominal columns of all rows; the official test rows.",
)


def _gunzip(route: Route) -> Route:
    def write(path: Path) -> None:
        packed = path.with_name(f"{path.name}.gz")
        route.write(packed)
        path.write_bytes(store.read_bytes(packed))

    return Route(route.address, write)


_ARRAYS = File(
    "census-income/nominal_split.npz",
    "2855753b614c3d025a56b8ad39eebfe281b62a64c804e8ae1ef5095bee779fbc",
    2655434,
)
_TEST = File(
    "census-income/census-income.test",
    sha256="98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
    size=51918813,
    routes=(
        _gunzip(
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
    sha256="de528ec7ee39163c18a397f915481524bcd45a5ae6e2f60135e560363b43dc62",
    size=3550432,
    routes=(
        github(
            "GuansongPang/ADRepository-Anomaly-detection-datasets",
            "3361daccc4384a60025b6b684ccf55699decbed5",
            "categorical%20data/census-income-full-nominal.tar.xz",
        ),
    ),
)
_FILES = ((_ARRAYS, _TEST), (_ARRAYS, _NOMINAL))  # the compressed copy has the content of both
TABLES = (
    LabelledTable("income", _FILES, {"income": 18_568, "never_married": 129_628}),
    LabelledTable("education", _FILES, {"college": 58_639, "never_married": 129_628}),
)
_NAMES = (
    "class_worker det_ind_code det_occ_code education hs_college marital_stat major_ind_code "
    "major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp tax_filer_stat "
    "region_prev_res state_prev_res det_hh_fam_stat det_hh_summ mig_chg_msa mig_chg_reg mig_move_reg "
    "mig_same mig_prev_sunbelt fam_under_18 country_father country_mother country_self citizenship "
    "own_or_self vet_question vet_benefits year"
)
NAMES = tuple(_NAMES.split())
_NUMERIC = {  # columns of the test file that are not in the file of all rows
    "age": 0,
    "wage_per_hour": 5,
    "capital_gains": 16,
    "capital_losses": 17,
    "stock_dividends": 18,
    "instance_weight": 24,
    "num_emp": 30,
    "weeks_worked": 39,
}
_NUM_TRAIN = 199_523
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

    "?" is missing; "Not in universe" and similar ones are values.
    """
    table = find_by_name(TABLES, name)
    show_terms(SOURCE)
    columns, income = _read_arrays() if store.find_file(_ARRAYS) is not None else _read_originals()
    never_married = _is_any(columns["marital_stat"], ("Never married",))
    raw: dict[str, RawColumn] = {
        column: coded for column, coded in columns.items() if column != "marital_stat"
    }
    if name == "income":
        labels = {"income": income.astype(np.float32), "never_married": never_married}
    else:
        labels = {"college": _is_any(columns["education"], COLLEGE), "never_married": never_married}
        del raw["education"]
        raw["income_50k"] = Coded(income.astype(np.int64), np.array(["- 50000.", "50000+."]))
    train = np.arange(_NUM_TRAIN)
    test = np.random.default_rng(seed).permutation(np.arange(_NUM_TRAIN, len(income)))
    validation, test = np.sort(test[: len(test) // 2]), np.sort(test[len(test) // 2 :])
    encoders = fit_encoders([Category(column, missing=("?",)) for column in raw], raw, train)
    impressions = Impressions(
        f"census/{name}", columns=encode(encoders, raw), fields=encoders.fields, labels=labels
    )
    check_positives(impressions, table)
    return impressions.split(train, validation, test, rule=f"official test halved, seed {seed}")


def load_test_numbers() -> dict[str, np.ndarray]:
    """The numeric columns of the official test rows, without the instance weight, float64 [N] each.

    In file order, which is the order of the rows of `load_impressions` after the training rows.
    """
    show_terms(SOURCE)
    names = [name for name in _NUMERIC if name != "instance_weight"]
    if store.find_file(_ARRAYS) is not None:
        with np.load(io.BytesIO(store.read_file(_ARRAYS))) as packed:
            return {name: packed[f"test_{name}"].astype(np.float64) for name in names}
    cells = [line.split(",") for line in store.read_file(_TEST).decode().splitlines()]
    return {name: np.array([float(row[_NUMERIC[name]]) for row in cells]) for name in names}


def _read_arrays() -> tuple[dict[str, Coded], np.ndarray]:
    """The nominal columns, training rows first, and whether income is over 50,000 dollars."""
    with np.load(io.BytesIO(store.read_file(_ARRAYS))) as packed:
        codes = np.concatenate([packed["train_codes"], packed["test_codes"]])
        columns = {name: Coded(codes[:, i], packed[f"vocab_{name}"]) for i, name in enumerate(NAMES)}
        return columns, np.concatenate([packed["train_income_50k"], packed["test_income_50k"]])


def _read_originals() -> tuple[dict[str, Coded], np.ndarray]:
    """The same from the public files: the training rows are all rows except the test rows.

    The file of all rows has another order, no numeric columns, and "-" for spaces.
    """
    cells = [line.split(",") for line in store.read_file(_TEST).decode().splitlines()]
    kept = [i for i in range(len(cells[0])) if i not in _NUMERIC.values()]
    test = [[row[i].strip() for i in kept] for row in cells]
    left = Counter(",".join(row).replace(" ", "-") for row in test)
    train = []
    for line in _read_all_lines():
        if left[line]:
            left[line] -= 1
        else:
            train.append(line.split(","))
    if len(train) != _NUM_TRAIN or left.total():
        raise ValueError(
            f"{_NOMINAL.path}: {len(train):,} rows beyond those of {_TEST.path} and {left.total():,} of "
            f"those missing, expected {_NUM_TRAIN:,} and 0: the files are of other versions"
        )
    columns = {}
    for i, name in enumerate((*NAMES, "income")):
        spelt = {row[i].replace(" ", "-"): row[i] for row in test}
        columns[name] = _as_coded([*(spelt.get(row[i], row[i]) for row in train), *(row[i] for row in test)])
    income = columns.pop("income")
    return columns, income.values[income.codes] == "50000+."


def _read_all_lines() -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(store.read_file(_NOMINAL))) as archive:
        opened = archive.extractfile("census-income-full-nominal.arff")
        assert opened is not None
        data = opened.read().decode().split("@data", 1)[1]
    return [line for line in data.splitlines() if line]


def _as_coded(cells: Sequence[str]) -> Coded:
    codes: dict[str, int] = {}
    column = np.array([codes.setdefault(cell, len(codes)) for cell in cells], np.int16)
    return Coded(column, np.array(list(codes)))


def _is_any(column: Coded, values: tuple[str, ...]) -> np.ndarray:
    return np.isin(column.values, values)[column.codes].astype(np.float32)
