"""A module as JSON and back."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.serve.modules import build, code_of, describe
from jaxrec.serve.run_folder import write
from tests.serve.small_runs import MODULES as RUN_MODULES
from tests.serve.small_runs import kept as run_of


def there_and_back(value: Any) -> Any:
    return build(json.loads(json.dumps(describe(value), allow_nan=False)))


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    first: int
    second: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = 0.5


def double(x: Any) -> Any:
    return 2 * x


MODULES = [
    SASRec(num_items=7, dim=4, dtype=jnp.bfloat16, bits=counter_bits),
    Cosine(SASRec(num_items=7, dim=4)),
    GRU4Rec(num_items=7, hidden_dims=(4, 3), inputs="own"),
    HSTU(num_items=7, dim=4, num_layers=1, num_heads=1, key_dim=4, value_dim=4, max_len=5),
    NextItNet(num_items=7),
    STAMP(num_items=7),
    Featured(
        FeatureEmbedding((Categorical("city", 5, 2), Numeric("price"))),
        MMoE(2, mlp=Factory(MLP, dropout=0.1), expert_dims=(4,), tower_dims=[3]),
    ),
    DIN(),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_module_comes_back_equal(module: nn.Module) -> None:
    assert there_and_back(module) == module


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, "text", 0.1, [1, 2], (1, (2,)), {"a": (1,), 3: None}, Pair(1, (0.5,)), Settings(0.25),
        Colour.RED, double, np.tanh, jax.nn.relu, jnp.tanh, jnp.bfloat16, np.dtype("int32"), float,
        np.float32(0.1), Factory(MLP, dropout=0.5),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value).split(" at 0x")[0],
)  # fmt: skip
def test_a_value_comes_back_equal(value: Any) -> None:
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_infinite_numbers_are_kept(value: float) -> None:
    np.testing.assert_equal(there_and_back((value,)), (value,))


def test_a_partial_keeps_its_arguments() -> None:
    found = there_and_back(functools.partial(double, x=3))
    assert found() == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.initializers.normal(0.5),
        lambda: nn.initializers.uniform(0.5),
        nn.initializers.glorot_normal,
        lambda: nn.initializers.constant(2.0),
        nn.initializers.orthogonal,
    ],
)
def test_initialisers_are_made_again(make: Any) -> None:
    key, shape = jax.random.key(0), (3, 3)
    embedding = FeatureEmbedding((Categorical("a", 3, 2),), table_init=make())
    np.testing.assert_array_equal(
        there_and_back(embedding).table_init(key, shape, jnp.float32), make()(key, shape, jnp.float32)
    )


def make_closure(rate: float) -> Any:
    def scaled(x: Any) -> Any:
        return rate * x

    return scaled


class Own(nn.Module):
    num_items: int = 3
    activation: Any = make_closure(2.0)  # no path leads to it, but the class has it


def test_a_default_of_the_class_may_be_anything() -> None:
    assert there_and_back(Own()).activation is Own().activation


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, "module.activation=.*<lambda>.*define it at the top of a file"),
        (make_closure(3.0), "module.activation=make_closure.<locals>.scaled"),
        (np.zeros(2), "an array of shape \\(2,\\) is a field"),
        (object(), "a object can't be kept"),
    ],
)
def test_what_has_no_path_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(Own(activation=value))


def test_a_class_of_the_program_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    with pytest.raises(ValueError, match="move it to a file of its own"):
        describe(Own(activation=None))


# --- the code has changed since ------------------------------------------------------------------------

SOURCE = """
import flax.linen as nn

class Mine(nn.Module):
    width: int = 3
    rate: float = 0.5
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine_of_test.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("mine_of_test", None)


def kept(path: Path) -> Any:
    del path
    module = build({"import": "mine_of_test:Mine"})
    return describe(module(width=4))


def reread(source: str, path: Path) -> None:
    """The file as a later process would read it."""
    module = ModuleType("mine_of_test")
    exec(compile(source, str(path), "exec"), module.__dict__)
    sys.modules["mine_of_test"] = module


def test_a_module_of_the_working_directory_is_found(own_file: Path) -> None:
    assert build(kept(own_file)).width == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            SOURCE.replace("rate: float = 0.5", ""),
            "Mine no longer has rate: .*restore the class",
        ),
        (SOURCE.replace("width: int = 3", "size: int"), "no longer has width and now needs size"),
        ("", "mine_of_test has no Mine any more"),
        ("Mine = 3", "mine_of_test:Mine is no longer a module"),
    ],
)
def test_a_class_that_changed_is_refused(own_file: Path, source: str, message: str) -> None:
    described = kept(own_file)
    reread(source, own_file)
    with pytest.raises(ValueError, match=message):
        build(described)


def test_a_new_field_has_its_default_and_says_so(own_file: Path) -> None:
    described = kept(own_file)
    reread(SOURCE + "    depth: int = 2\n", own_file)
    with pytest.warns(UserWarning, match="mine_of_test:Mine has fields that the run did not keep.*depth=2"):
        assert build(described).depth == 2


def test_a_file_that_is_gone_is_named(own_file: Path) -> None:
    described = kept(own_file)
    own_file.unlink()
    del sys.modules["mine_of_test"]
    sys.path_importer_cache.clear()
    with pytest.raises(ValueError, match="mine_of_test:Mine can't be imported .*PYTHONPATH"):
        build(described)


def test_an_unknown_description_is_refused() -> None:
    with pytest.raises(ValueError, match="is no description"):
        build({"later": 1})


def test_a_run_whose_own_code_has_changed_says_so(tmp_path: Path) -> None:
    model = "tests.commands.own_models:LastItems"
    settings = {"module": model, "code": code_of(model.split(":")[0])}
    same = run_of(RUN_MODULES["sasrec"])._replace(settings=settings)
    write(tmp_path / "same", same)
    serve.load(tmp_path / "same")
    write(tmp_path / "changed", same._replace(settings={**settings, "code": "0" * 64}))
    with pytest.warns(UserWarning, match="own_models:LastItems has changed since this run was trained"):
        serve.load(tmp_path / "changed")
