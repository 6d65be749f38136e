"""One epoch of a run is recorded, not the one that compiles."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from jaxrec.train.fit import Phase
from jaxrec.train.profile import Profile
from tests.train import toy


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that JAX is asked to record into, in place of recording."""
    folders: list[str] = []

    @contextlib.contextmanager
    def trace(folder: str) -> Any:
        folders.append(folder)
        yield

    monkeypatch.setattr("jax.profiler.trace", trace)
    return folders


def phases(*epochs: int) -> list[Any]:
    return [Phase(f"p{i}", toy.factors(), count) for i, count in enumerate(epochs)]


def epochs_recorded(folder: Path, recorded: list[str], counts: tuple[int, ...], first: int = 0) -> list[int]:
    profile, found = Profile(folder, phases(*counts)), []
    for number in range(first, sum(counts)):
        before = len(recorded)
        with profile.epoch(number):
            pass
        found += [number] * (len(recorded) - before)
    profile.end()
    return found


@pytest.mark.parametrize(
    ("counts", "first", "expected"),
    [((3,), 0, [1]), ((1, 2), 0, [2]), ((5,), 3, [4]), ((2,), 1, []), ((4, 1), 3, [])],
)
def test_the_second_epoch_of_a_program_in_this_process_is_recorded(
    tmp_path: Path,
    recorded: list[str],
    capsys: pytest.CaptureFixture[str],
    counts: tuple[int, ...],
    first: int,
    expected: list[int],
) -> None:
    assert epochs_recorded(tmp_path, recorded, counts, first) == expected
    said = capsys.readouterr().out
    assert ("nothing was recorded" in said) is (not expected)


def test_nothing_is_recorded_without_a_folder(
    recorded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    profile = Profile(None, phases(1))
    with profile.epoch(0):
        pass
    profile.end()
    assert not recorded and not capsys.readouterr().out


def test_a_run_without_a_second_epoch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the second one is recorded, and no phase has two"):
        toy.run(tmp_path / "run", epochs=(1,), profile=tmp_path / "record")
    assert not (tmp_path / "run").exists()


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="profile=.*: is a file; name a folder"):
        toy.run(tmp_path / "run", profile=tmp_path / "file")


def test_a_run_writes_a_record_and_its_result_stays_the_same(tmp_path: Path) -> None:
    recorded = toy.run(tmp_path / "recorded", epochs=(2,), profile=tmp_path / "record")
    plain = toy.run(tmp_path / "plain", epochs=(2,))
    toy.same_bits(recorded.variables, plain.variables)
    (folder,) = (tmp_path / "record" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))
