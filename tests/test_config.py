"""Command line, settings in force, device notes, cache folder, manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxrec import config


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How parameters move."""

    learning_rate: float = 1e-3  # step size


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment of the tests."""

    max_len: int = 50  # most recent events kept per user
    seeds: tuple[int, ...] = (0,)  # one run each
    tiny: bool = False  # ends in seconds
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        if self.max_len < 1:
            raise ValueError(f"max_len={self.max_len}: must be at least 1")


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What stderr says of a command line that is refused."""
    with pytest.raises(SystemExit) as stop:
        config.cli(Config, prog="prog", args=args)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_no_options_gives_the_defaults() -> None:
    assert config.cli(Config, args=[]) == Config()


@pytest.mark.parametrize("args", [("--max-len", "7"), ("--max_len", "7"), ("--max-len=7",)])
def test_option_spellings(args: tuple[str, ...]) -> None:
    assert config.cli(Config, args=args) == Config(max_len=7)


def test_sequences_flags_and_nested_fields() -> None:
    args = ["--seeds", "1", "2", "--tiny", "--optimiser.learning-rate", "0.5"]
    expected = Config(seeds=(1, 2), tiny=True, optimiser=Optimiser(0.5))
    assert config.cli(Config, args=args) == expected


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("--max-lem", "--max-len"),
        ("--max_lenn", "--max-len"),
        ("--seed", "--seeds"),
        ("--no-tinny", "--no-tiny"),
        ("--optimiser.learning_rte", "--optimiser.learning-rate"),
        ("--optimizer.learning-rate", "--optimiser.learning-rate"),
    ],
)
@pytest.mark.parametrize("form", [["{}", "5"], ["{}=5"]])
def test_unknown_option_names_the_nearest(
    capsys: pytest.CaptureFixture[str], given: str, nearest: str, form: list[str]
) -> None:
    message = failure(capsys, *(word.format(given) for word in form))
    assert message == (
        f"prog: error: unknown option {given}: the nearest option is {nearest}; --help lists all\n"
    )


def test_a_word_that_is_no_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unexpected argument 'beauty'" in failure(capsys, "beauty")


def test_value_of_the_wrong_type_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    message = failure(capsys, "--max-len", "many")
    assert "--max-len" in message
    assert "'many'" in message
    assert "Traceback" not in message


def test_validation_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, "--max-len", "0") == "prog: error: max_len=0: must be at least 1\n"


def test_help_shows_every_field_with_comment_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        config.cli(Config, prog="prog", args=["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "An experiment of the tests." in text
    assert "most recent events kept per user (default: 50)" in text
    assert "one run each (default: 0)" in text
    assert "--tiny, --no-tiny" in text
    assert "step size (default: 0.001)" in text


def test_description_replaces_the_docstring_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.cli(Config, prog="prog", description="Another text.", args=["--help"])
    text = capsys.readouterr().out
    assert "Another text." in text
    assert "An experiment of the tests." not in text


def test_effective_marks_what_differs_from_the_default() -> None:
    lines = config.format_settings(Config(optimiser=Optimiser(0.5))).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["max_len", "=", "50"]
    assert lines[3].split() == ["optimiser.learning_rate", "=", "0.5", "(default", "0.001)"]


def test_start_prints_settings_and_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    config.start_program(Config())
    out = capsys.readouterr().out
    assert "max_len" in out
    assert f"running on {jax.default_backend()}: {jax.device_count()} device" in out
    assert f"jax {jax.__version__}" in out


# --- devices -----------------------------------------------------------------------------------


def touch(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pci(root: Path, slot: str, vendor: str, device: str) -> None:
    touch(root / f"sys/bus/pci/devices/{slot}/vendor", vendor + "\n")
    touch(root / f"sys/bus/pci/devices/{slot}/device", device + "\n")


def test_machine_without_accelerators(tmp_path: Path) -> None:
    pci(tmp_path, "0000:00:01.0", "0x1ae0", "0x0042")  # a network card of the maker of TPUs
    assert config.find_accelerators(tmp_path) == []
    assert config.idle_accelerator_warning(tmp_path) is None


@pytest.mark.parametrize("device", ["nvidia0", "nvidiactl", "dxg"])
def test_idle_gpu_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    touch(tmp_path / "dev" / device)
    warning = config.idle_accelerator_warning(tmp_path)
    assert warning is not None
    assert warning.startswith("warning: this machine has a NVIDIA GPU, but JAX runs on the CPU")
    assert "ACCELERATOR=cuda" in warning


def test_idle_tpu_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    pci(tmp_path, "0000:00:05.0", "0x1ae0", "0x0063")
    warning = config.idle_accelerator_warning(tmp_path)
    assert warning is not None
    assert "TPU" in warning
    assert "ACCELERATOR=tpu" in warning


def test_warning_says_when_the_cpu_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    touch(tmp_path / "dev/kfd")
    warning = config.idle_accelerator_warning(tmp_path)
    assert warning is not None
    assert "AMD GPU" in warning
    assert "JAX_PLATFORMS=cpu asks for that" in warning


def test_no_warning_when_the_accelerator_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    touch(tmp_path / "dev/nvidia0")
    assert config.idle_accelerator_warning(tmp_path) is None


# --- compilation cache ------------------------------------------------------------------------------


@pytest.fixture
def jax_settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `jax.config.update` was called with; the settings themselves stay as they are."""
    settings: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    for name in ("JAXREC_XLA_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return settings


def test_cache_follows_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert config.enable_compilation_cache() == tmp_path / "jaxrec/xla"
    assert (tmp_path / "jaxrec/xla").is_dir()
    assert jax_settings["jax_compilation_cache_dir"] == str(tmp_path / "jaxrec/xla")


def test_cache_defaults_to_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.enable_compilation_cache() == tmp_path / ".cache/jaxrec/xla"


def test_cache_honours_the_variable_of_jax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert config.enable_compilation_cache() == tmp_path / "elsewhere"


@pytest.mark.parametrize("value", ["0", "off", "False"])
def test_cache_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, jax_settings: dict[str, Any], value: str
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", value)
    assert config.enable_compilation_cache() is None
    assert jax_settings == {}


def test_a_cache_that_cannot_be_made_is_a_note(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jax_settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    touch(tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert config.enable_compilation_cache() is None
    assert "no compilation cache" in capsys.readouterr().err
    assert jax_settings == {}


# --- manifest -------------------------------------------------------------------------------------------


def test_manifest_names_what_a_number_depends_on() -> None:
    manifest = config.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["device"]["count"] == jax.device_count()
    assert {"commit", "python", "host"} <= set(manifest)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit; the path is that of its file jaxrec/code.py."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    code = tmp_path / "jaxrec/code.py"
    touch(code, "1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "jaxrec/code.py")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    git(tmp_path, *identity, "commit", "--quiet", "-m", "one")
    return code


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_of_a_clean_checkout(checkout: Path) -> None:
    assert config.commit(checkout) == git(checkout.parent, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_commit_of_changed_code_is_dirty(checkout: Path, name: str) -> None:
    touch(checkout.with_name(name), "2\n")
    assert config.commit(checkout) == git(checkout.parent, "rev-parse", "HEAD") + "-dirty"


def test_new_results_do_not_make_the_code_dirty(checkout: Path) -> None:
    touch(checkout.parent.parent / "results/a.json", "{}")
    assert config.commit(checkout) == git(checkout.parent, "rev-parse", "HEAD")


def test_a_copy_inside_another_checkout_has_no_commit(checkout: Path) -> None:
    installed = checkout.parent / "site-packages/code.py"
    touch(installed)
    assert config.commit(installed) is None


def test_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert config.commit(tmp_path / "code.py") is None


def test_no_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert config.commit(checkout) is None


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], None]:
    """Sets XLA_FLAGS, and whether a backend has started."""

    def put(value: str, started: bool) -> None:
        monkeypatch.setenv("XLA_FLAGS", value)
        monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: started)

    return put


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_gpu_deterministic_ops=true"),
        ("--a=1", "--a=1 --xla_gpu_deterministic_ops=true"),
        ("--xla_gpu_deterministic_ops=true", "--xla_gpu_deterministic_ops=true"),
    ],
)
def test_determinism_is_a_flag_of_xla_and_is_kept_with_results(
    flags: Callable[[str, bool], None], before: str, after: str
) -> None:
    flags(before, False)
    config.make_deterministic()
    assert config.manifest()["settings"]["XLA_FLAGS"] == after


def test_determinism_that_comes_too_late_or_against_the_flags_is_refused(
    flags: Callable[[str, bool], None],
) -> None:
    flags("--a=1", True)
    with pytest.raises(ValueError, match="backend has started .* XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        config.make_deterministic()
    flags("--xla_gpu_deterministic_ops=true", True)
    config.make_deterministic()  # it has been read
    flags("--xla_gpu_deterministic_ops=false", False)
    with pytest.raises(ValueError, match="XLA_FLAGS has --xla_gpu_deterministic_ops=false"):
        config.make_deterministic()


@dataclasses.dataclass(frozen=True)
class Deterministic:
    deterministic: bool = True


def test_a_program_sets_it_before_the_backend_starts(flags: Callable[[str, bool], None]) -> None:
    flags("", True)
    with pytest.raises(ValueError, match="^deterministic=True: JAX's backend has started"):
        config.start_program(Deterministic())
