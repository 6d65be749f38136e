"""The dispatcher: `jaxrec VERB`, its help, its errors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from jaxrec import __main__ as program
from jaxrec.data.__main__ import describe_error


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {verb} " in printed for verb in program.VERBS)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], []])
def test_help_imports_neither_jax_nor_flax(words: list[str]) -> None:
    code = (
        "import sys\nfrom jaxrec.__main__ import main\n"
        f"assert main({words!r}) == 0\n"
        "assert not {'jax', 'flax', 'optax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["trian"]) == 2
    assert "no verb 'trian': the nearest is 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ValueError("k=0: must be\nat least 1"), OSError("disk full"), ImportError("needs pyarrow")]
)
def test_an_error_that_a_user_can_correct_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(args: list[str]) -> int:
        raise error

    verb = types.SimpleNamespace(main=main)
    monkeypatch.setattr("importlib.import_module", lambda name: verb)
    assert program.main(["train"]) == 2
    found = capsys.readouterr().err
    assert found == f"jaxrec train: error: {' '.join(str(error).split())}\n"


def test_a_missing_file_is_named_without_the_number_of_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.csv"
    assert program.main(["data", "validate", str(missing)]) == 2
    assert f"error: {missing}: no such file\n" in capsys.readouterr().err
    found = describe_error(PermissionError(errno.EACCES, "Permission denied", "x.csv"))
    assert found == "x.csv: permission denied"


@pytest.mark.parametrize("words", [["jaxrec.data", "list"], ["jaxrec", "data", "list"]])
def test_a_closed_output_ends_in_silence(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run([sys.executable, "-m", *words], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")


def test_a_verb_whose_output_is_closed_ends_in_silence(tmp_path: Path) -> None:
    code = (
        "import sys, types\nfrom jaxrec import __main__ as program\n"
        "program.importlib = types.SimpleNamespace("
        "import_module=lambda name: types.SimpleNamespace(main=lambda args: print('a list')))\n"
        "sys.exit(program.main(['recommend', 'run']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(args: list[str]) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr("importlib.import_module", lambda name: types.SimpleNamespace(main=main))
    with pytest.raises(KeyError):
        program.main(["train"])


@pytest.mark.parametrize("verb", ["data", "report"])
def test_verbs_that_are_programs_of_their_own_have_help(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        program.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"jaxrec {verb}" in capsys.readouterr().out


def test_report_prints_the_tables_of_a_folder(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["report", "--results", f"{tmp_path}/none"]) == 2
    assert "jaxrec report: error" in capsys.readouterr().err
