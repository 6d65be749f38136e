"""A process whose code is another, for tests of what a run says of the code that trained it."""

from __future__ import annotations

from typing import Any

import pytest

from jaxrec import provenance

OTHER_CODE = r"this is other code: sources of jaxrec: \w+, now other.*--accept-changed"


def with_code(monkeypatch: pytest.MonkeyPatch, **change: Any) -> None:
    """Makes the code of this process another."""
    code = {"commit": "b" * 40, "sources": {"jaxrec": "other"}, **change}
    monkeypatch.setattr(provenance, "_code_identity", lambda: code)
