import importlib.metadata

import pytest

import jaxrec


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"jaxrec": "1.2.3"}.__getitem__)
    assert jaxrec.__version__ == "1.2.3"


def test_an_installed_package_has_a_version() -> None:
    assert jaxrec.__version__ == importlib.metadata.version("jaxrec") != ""


def test_without_an_installed_package_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxrec, "__name__", "jaxrec-that-is-not-installed")
    with pytest.raises(importlib.metadata.PackageNotFoundError, match="jaxrec-that-is-not-installed"):
        _ = jaxrec.__version__


def test_other_attributes_of_the_package_are_missing_as_usual() -> None:
    assert not hasattr(jaxrec, "__versions__")


def test_the_package_says_what_it_is() -> None:
    assert (jaxrec.__doc__ or "").startswith("Recommender models in JAX and Flax")
