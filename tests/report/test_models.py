"""The table of models: what it reads, and that it notices what it cannot place."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrec.report import models

GOLDEN = "| fixture | agreement | test |\n| --- | --- | --- |\n| `mmoe` | equal | `test_a.py` |\n"
MMOE = '''"""MMoE (Ma et al., KDD 2018).

More.
"""

class MMoE(nn.Module): ...
class _Gate(nn.Module): ...
'''
CENSUS = 'from jaxrec.nn.multitask.mmoe import MMoE\nEXPERIMENT = "tasks"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package of one model, one experiment and one fixture."""
    for folder in ("jaxrec/nn/multitask", "experiments/multitask", "tests/golden"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "jaxrec/nn/multitask/mmoe.py").write_text(MMOE)
    (tmp_path / "experiments/multitask/census.py").write_text(CENSUS)
    (tmp_path / "tests/golden/README.md").write_text(GOLDEN)
    return tmp_path


def test_a_row_has_class_docstring_experiment_and_fixture(checkout: Path) -> None:
    row = "| [MMoE](../jaxrec/nn/multitask/mmoe.py) | MMoE (Ma et al., KDD 2018). "
    page = models.models_page(checkout)
    assert row + "| [census](../experiments/multitask/census.py) | none yet | `mmoe` |\n" in page


def test_a_benchmark_has_no_results_and_a_floor_is_in_many_tables(checkout: Path) -> None:
    (checkout / "experiments/multitask/census.py").unlink()
    (checkout / "experiments/steps.py").write_text("from jaxrec.nn.multitask.mmoe import MMoE\n")
    assert "| [steps](../experiments/steps.py) |  | `mmoe` |\n" in models.models_page(checkout)
    (checkout / "experiments/steps.py").rename(checkout / "experiments/floors.py")
    assert "(../experiments/floors.py) | [many](../results/README.md) | `mmoe` |\n" in models.models_page(
        checkout
    )


def test_an_experiment_uses_what_its_parts_import(checkout: Path) -> None:
    folder = checkout / "experiments/multitask"
    (folder / "census_rows.py").write_text("from jaxrec.nn.multitask.mmoe import MMoE\n")
    (folder / "census.py").write_text('EXPERIMENT = "census"\n')
    page = models.models_page(checkout)
    assert "| [census](../experiments/multitask/census.py) | none yet | `mmoe` |" in page
    assert "census_rows" not in page


def test_a_baseline_is_found_by_its_name_in_the_package(checkout: Path) -> None:
    (checkout / "jaxrec/baselines").mkdir()
    (checkout / "jaxrec/baselines/ease.py").write_text('"""EASE."""\n')
    (checkout / "experiments/multitask/census.py").write_text(
        "from jaxrec import baselines\nbaselines.ease\n"
    )
    assert "| EASE. | [census](../experiments/multitask/census.py) |" in models.models_page(checkout)


def test_an_experiment_uses_what_its_recipe_imports(checkout: Path) -> None:
    (checkout / "jaxrec/recipes").mkdir()
    (checkout / "jaxrec/recipes/multitask.py").write_text("from jaxrec.nn.multitask.mmoe import MMoE\n")
    (checkout / "experiments/multitask/census.py").write_text(
        'from jaxrec.recipes import multitask as recipes\nEXPERIMENT = "tasks"\n'
    )
    assert "| [census](../experiments/multitask/census.py) | none yet | `mmoe` |" in models.models_page(
        checkout
    )


def test_results_are_those_of_the_experiments_that_have_some(checkout: Path) -> None:
    assert "/census.py) | none yet | `mmoe` |" in models.models_page(checkout)
    (checkout / "results/tasks").mkdir(parents=True)
    assert "/census.py) | [tasks](../results/tasks) | `mmoe` |" in models.models_page(checkout)


def test_the_paper_is_found_in_a_later_paragraph(checkout: Path) -> None:
    module = checkout / "jaxrec/nn/multitask/mmoe.py"
    module.write_text('"""Gates.\n\nMa, Zhao and Chi, "Tasks", KDD 2018, arXiv:1.23. It is\nquick.\n"""\n')
    assert '| Gates. Ma, Zhao and Chi, "Tasks", KDD 2018, arXiv:1.23. |' in models.models_page(checkout)


def test_a_fixture_of_no_module_is_an_error(checkout: Path) -> None:
    (checkout / "tests/golden/README.md").write_text(GOLDEN.replace("mmoe", "nothing"))
    with pytest.raises(
        ValueError, match="golden fixture nothing: belongs to no module; add it to FIXTURE_MODULES"
    ):
        models.models_page(checkout)
