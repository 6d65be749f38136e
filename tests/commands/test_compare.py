"""`jaxrec compare`: its options, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrec import config
from jaxrec.commands import compare
from tests.report.test_comparison import ranks, store


def test_prints_the_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(store(tmp_path, name, ranks(i))) for i, name in enumerate("ab")]
    options = config.cli(compare.Options, args=[*paths, "--metrics", "ndcg@10", "mrr", "--draws", "999"])
    assert compare.run(options) == 0
    printed = capsys.readouterr().out
    assert "| ndcg@10  | a   | b   |" in printed
    assert "| mrr " in printed


def test_a_wrong_name_of_a_picture_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"difference\.gif: a picture's name"):
        compare.run(compare.Options(results=(str(tmp_path),), plot="difference.gif"))
