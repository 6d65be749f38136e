"""What made a number: hashes of sources, settings of JAX, whose error it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxrec import config, provenance

ROOT = Path(__file__).parents[1]


def test_the_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    def hashed() -> str:
        return provenance.hash_files(tmp_path.rglob("*.py"), tmp_path)

    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("y = 2\n")
    before = hashed()
    assert len(before) == 16
    assert hashed() == before
    (tmp_path / "a.py").write_text("x = 3\n")
    changed = hashed()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({before, changed, hashed()}) == 3


def test_sources_are_those_of_the_package_and_of_the_program() -> None:
    found = provenance.source_hashes()
    assert found["jaxrec"] == provenance.hash_files((ROOT / "jaxrec").rglob("*.py"), ROOT / "jaxrec")
    files = provenance._program_files()
    assert Path(__file__).resolve() in files
    assert not any(ROOT / "jaxrec" in path.parents for path in files)
    assert not any("site-packages" in path.parts for path in files)


def test_a_program_is_told_by_what_it_loads(tmp_path: Path) -> None:
    """A line of a module that a script imports changes the hash of its program, and only that."""
    script = (
        "from jaxrec import provenance; import json, model; print(json.dumps(provenance.source_hashes()))"
    )
    (tmp_path / "script.py").write_text(script)
    found = []
    for line in ("width = 8\n", "width = 16\n"):
        (tmp_path / "model.py").write_text(line)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")],
            capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    assert found[0]["jaxrec"] == found[1]["jaxrec"]
    assert found[0]["program"] != found[1]["program"]


def test_differences_of_code_are_named() -> None:
    before = {"sources": {"jaxrec": "a"}, "versions": {"jax": "1", "flax": "2"}}
    now = {"sources": {"jaxrec": "b"}, "versions": {"jax": "1", "flax": "3"}}
    assert provenance.code_differences(before, now) == ["sources of jaxrec: a, now b", "flax: 2, now 3"]
    assert provenance.code_differences(before, before) == []
    assert provenance.code_differences({}, before) != []


def test_settings_off_their_defaults_are_named() -> None:
    assert provenance.non_default_settings(provenance.jax_settings()) == {}
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        changed = provenance.non_default_settings(provenance.jax_settings())
        manifest = provenance.manifest()
    assert changed == {"jax_threefry_partitionable": False, "jax_default_prng_impl": "rbg"}
    assert {name: manifest["settings"][name] for name in changed} == changed
    assert set(manifest["settings"]) == {*provenance.JAX_SETTINGS, "XLA_FLAGS"}


def test_defaults_are_those_of_the_installed_jax() -> None:
    code = "from jaxrec import provenance; print(provenance.non_default_settings(provenance.jax_settings()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.stdout.strip() == "{}"


def test_an_error_of_a_library_is_not_ours() -> None:
    with pytest.raises(ValueError, match="name a folder") as ours:
        config.check_folder("results", "")
    with pytest.raises(ValueError, match="Expecting") as theirs:
        json.loads("{")
    assert provenance.raised_outside_libraries(ours.value)
    assert not provenance.raised_outside_libraries(theirs.value)
    assert not provenance.raised_outside_libraries(ValueError("never raised"))


def program(monkeypatch: pytest.MonkeyPatch, run: Any, args: list[str] | None = None) -> int:
    """The exit code of a program that runs `run`."""
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Options:
        """A program."""

        num_devices: int = 1  # devices
        results: str = "runs/results"  # folder of results

    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    try:
        config.run_program(Options, run, args=args or [])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refuse(error: Exception) -> Any:
    def run(options: Any) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    "error",
    [ValueError("dim=0: must be at least 1"), FileNotFoundError(2, "No such file", "events.csv")],
    ids=str,
)
def test_what_a_user_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert program(monkeypatch, refuse(error)) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {error}")


def test_a_fault_of_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Expecting property name"):
        program(monkeypatch, lambda options: json.loads("{"))
    with pytest.raises(TypeError):
        program(monkeypatch, refuse(TypeError("x")))


@pytest.mark.parametrize("number", ["0", "-1", "99"])
def test_the_number_of_devices_is_checked_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    assert program(monkeypatch, config.check_run, ["--num-devices", number]) == 2
    assert f"num_devices={number}: this process has" in capsys.readouterr().err


def test_a_folder_that_cannot_be_one_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert program(monkeypatch, config.check_run, ["--results", str(folder)]) == 2
        assert f"{tmp_path / 'file'} is a file, so no folder can be there" in capsys.readouterr().err
    assert program(monkeypatch, config.check_run, ["--results", str(tmp_path / "new" / "below")]) == 0
    assert not (tmp_path / "new").exists()


def test_unusual_settings_of_jax_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with jax.threefry_partitionable(False):
        assert program(monkeypatch, lambda options: None) == 0
    assert "not its defaults: jax_threefry_partitionable=False" in capsys.readouterr().out
    assert program(monkeypatch, lambda options: None) == 0
    assert "not its defaults" not in capsys.readouterr().out
