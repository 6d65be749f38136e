"""The samples of the Open Bandit Dataset: what two policies of a shop showed, with propensities and clicks.

Saito et al., NeurIPS 2021 (Datasets and Benchmarks), arXiv:2008.07146. 10,000 rows for each of three
campaigns and two policies, uniform random and Bernoulli Thompson sampling, are in the `obp` wheel, which is
downloaded from the package index and read, but neither installed nor imported.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrec.data.cells import parse_number
from jaxrec.data.store import File, Source, archive_member, read_file, show_terms, wheel
from jaxrec.data.validation import MAX_ITEMS

SOURCE = Source(
    "open-bandit",
    title="Open Bandit Dataset, samples in the package obp (ZOZO, Inc.)",
    homepage="https://research.zozo.com/data.html",
    licence="data CC BY 4.0, package Apache-2.0",
    terms="Cite Saito et al., arXiv:2008.07146.",
)
POLICIES, CAMPAIGNS = ("random", "bts"), ("all", "men", "women")
NUM_POSITIONS = 3  # items of a list
_WHEEL = File(
    "open-bandit/obp-0.4.1-py3-none-any.whl",
    sha256="87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208",
    size=1338290,
    routes=(wheel("obp", "0.4.1"),),
)


def _member(name: str, sha256: str, size: int) -> File:
    packed = f"obp/{name}"
    routes = (archive_member(_WHEEL, packed, _extractor(packed)),)
    return File(f"open-bandit/{name.removeprefix('dataset/obd/')}", sha256, size, routes)


def _extractor(name: str) -> Callable[[bytes], bytes]:
    def extract(archive: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return opened.read(name)

    return extract


_SUMS = {
    ("random", "all"): ("7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1", 5039451),
    ("bts", "all"): ("0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106", 5084456),
    ("random", "men"): ("ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb", 3336811),
    ("bts", "men"): ("db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527", 3240432),
    ("random", "women"): ("e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34", 3817771),
    ("bts", "women"): ("e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8", 3722697),
}
FILES = {
    (policy, campaign): _member(f"dataset/obd/{policy}/{campaign}/{campaign}.csv", *sums)
    for (policy, campaign), sums in _SUMS.items()
}
_PRIORS = _member(
    "policy/conf/prior_bts.yaml", "81a54fbdc184021ccc62ab97de81ec35461c032e3d7f99ccaa0a9745f732d251", 3968
)


class Log(NamedTuple):
    """What a policy showed, in file order. N rows, one for each item of a list that was shown.

    item: from 1, int32 [N]. position: 1..3, int32 [N]. click: 0 or 1, float32 [N]. propensity: the
    probability with which the item was shown at the position, float64 [N].
    """

    item: np.ndarray
    position: np.ndarray
    click: np.ndarray
    propensity: np.ndarray
    num_items: int


def load(policy: str, campaign: str) -> Log:
    """The sample of a policy, "random" or "bts", and a campaign, "all", "men" or "women".

    Raises:
      ValueError: an unknown name; as `parse`. FileNotFoundError: the wheel can't be had.
    """
    if policy not in POLICIES or campaign not in CAMPAIGNS:
        raise ValueError(
            f"policy={policy!r}, campaign={campaign!r}: must be one of {POLICIES} and of {CAMPAIGNS}"
        )
    show_terms(SOURCE)
    file = FILES[policy, campaign]
    return parse(read_file(file).decode(), file.path)


def parse(text: str, where: str) -> Log:
    """A CSV file with item_id (from 0), position, click and propensity_score among its columns.

    Raises:
      ValueError: a column is missing or has something that is no number, a propensity is not in (0, 1], a
        position not in 1..3, a click neither 0 nor 1, or there is no row; names the line.
    """
    names = ("item_id", "position", "click", "propensity_score")
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in names if name not in (reader.fieldnames or ())]:
        raise ValueError(
            f"{where}: has no column {missing[0]!r}; its columns begin {reader.fieldnames!r:.60}"
        )
    try:
        rows = np.array([[parse_number(name, row[name] or "") for name in names] for row in reader])
    except ValueError as error:
        raise ValueError(f"{where}, line {reader.line_num}: {error}") from error
    if not rows.size:
        raise ValueError(f"{where}: has no row")
    item, position, click, propensity = rows.T
    rules = {
        "item_id, a whole number from 0": (item >= 0) & (item < MAX_ITEMS) & (item == np.floor(item)),
        "position in 1..3": np.isin(position, (1, 2, 3)),
        "click, 0 or 1": np.isin(click, (0, 1)),
        "propensity_score in (0, 1]": (propensity > 0) & (propensity <= 1),
    }
    for rule, holds in rules.items():
        if not holds.all():
            raise ValueError(f"{where}, line {int(holds.argmin()) + 2}: expected {rule}")
    return Log(
        item=(item + 1).astype(np.int32),
        position=position.astype(np.int32),
        click=click.astype(np.float32),
        propensity=propensity,
        num_items=int(item.max()) + 1,
    )


def load_prior(campaign: str) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and beta of each item's Beta distribution when the Thompson sampling of the log began, [items].

    The policy of the samples: it draws a click rate of each item and shows the three largest in their order.
    """
    if campaign not in CAMPAIGNS:
        raise ValueError(f"campaign={campaign!r}: must be one of {CAMPAIGNS}")
    show_terms(SOURCE)
    found: dict[tuple[str, str], list[float]] = {}
    outer, inner = "", ""
    for line in read_file(_PRIORS).decode().splitlines():
        word = line.strip()
        if word.startswith("-"):
            found[outer, inner].append(float(word.lstrip("- ")))
        elif line.startswith(" "):
            inner = word.rstrip(":")
            found[outer, inner] = []
        elif word:
            outer = word.rstrip(":")
    return np.array(found[campaign, "alpha"]), np.array(found[campaign, "beta"])
