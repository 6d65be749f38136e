"""Every fault of `python -m tests.planted_faults` can still be planted: sources move, and texts with them."""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.planted_faults import FAULTS
from tests.planting import tests_of as files_of

CHECKOUT = Path(__file__).parent.parent


def test_every_fault_has_one_place_in_the_sources_and_tests_that_exist() -> None:
    rooms = [CHECKOUT / room for room in ("jaxrec", "experiments")]
    sources = "\0".join(path.read_text(encoding="utf-8") for room in rooms for path in room.rglob("*.py"))
    for name, same in itertools.groupby(FAULTS, lambda fault: fault.name):
        forms = [form for form in same if sources.count(form.text) == 1]
        assert forms, f"{name}: no form of it occurs once; fit its text to the sources"
        assert files_of(CHECKOUT, forms[0].tests)
        assert all(form.replacement != form.text for form in forms)
