"""FuxiCTR's Shared-Bottom, MMoE, CGC, PLE, PPNet and APG block: outputs, losses and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import fuxictr
from jaxrec.convert.state_dict import to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Conditioned
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.ppnet import PersonalisedTower, PPNet
from jaxrec.types import Array
from tests.golden.activations import activation, one_name
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_din import LEARNED, differentiated, running

FILES = [
    *golden_files("shared_bottom"),
    *golden_files("mmoe"),
    *golden_files("cgc"),
    *(
        file for file in golden_files("ple") if not str(file.id).startswith("ple_all_experts")
    ),  # torch-rechub's
    *golden_files("ppnet"),
]
LOADERS: dict[str, Any] = {
    "shared": fuxictr.share_bottom,
    "mmoe": fuxictr.mmoe,
    "cgc": fuxictr.ple,
    "ple": fuxictr.ple,
    "ppnet": fuxictr.ppnet,
}
Computed = tuple[Golden, Any, dict[str, Array], dict[str, np.ndarray]]


def fields(config: dict[str, Any]) -> dict[str, Any]:
    """What shapes do not tell."""
    name = one_name(config.get("hidden_activations", "ReLU"))
    found = {} if name.lower() in LEARNED else {"activation": activation(name)}
    return found | ({"dropout": config["net_dropout"]} if "net_dropout" in config else {})


def factory(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The same, in the field of our model that builds its layers."""
    if kind == "ppnet":
        return {"tower": Factory(PersonalisedTower, **fields(config))}
    return {"mlp": Factory(MLP, **fields(config))}


def read_out(golden: Golden) -> Golden:
    """Without the statistics of PLE's last shared gate, which reaches no output: we have none."""
    config = golden.meta["config"]
    unused = f"state_after/cgc_layers.{config.get('num_layers', 1) - 1}.gate.{config.get('num_tasks')}."
    outputs = {name: value for name, value in golden.outputs.items() if not name.startswith(unused)}
    return golden._replace(outputs=outputs)


@pytest.fixture(params=FILES, scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our module, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    numeric = [name for name, value in golden.inputs.items() if value.dtype.kind == "f"]
    kind = path.stem.split("_")[0]
    factories = factory(kind, golden.meta["config"])
    module, variables, locations = LOADERS[kind](golden.params, numeric=numeric, **factories)
    columns = {field.name: isinstance(field, Categorical) for field in module.embedding.fields}
    batch = {
        name: jnp.asarray(value, jnp.int32 if columns[name] else jnp.float32)
        for name, value in golden.inputs.items()
        if name in columns
    }
    labels = {name: value for name, value in golden.inputs.items() if name not in columns}
    tasks = golden.meta["config"].get("task", "binary_classification")
    binary = ["binary" in task for task in (tasks if isinstance(tasks, list) else [tasks] * len(labels))]
    names = ["y_pred"] if isinstance(module, Conditioned) else [f"{label}_pred" for label in labels]

    train = golden.meta["mode"] == "train"

    def total(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        logits, updated = module.apply(
            {**rest, "params": params}, batch, train=train, mutable=["batch_stats"]
        )
        logits = logits.T
        outputs, loss = {}, jnp.zeros(())
        for name, label, logit, classify in zip(names, labels.values(), logits, binary, strict=True):
            outputs[name] = (jax.nn.sigmoid(logit) if classify else logit)[:, None]
            log_loss = jax.nn.softplus(logit) - label * logit
            loss += jnp.mean(log_loss if classify else (logit - label) ** 2)
        return loss, ({**outputs, "loss": loss}, updated)

    (_, (outputs, updated)), gradients = differentiated(total, variables, batch)
    if train and "batch_stats" in updated:
        running(read_out(golden), updated["batch_stats"], locations, {1: len(next(iter(batch.values())))})
    return golden, module, outputs, to_state({"params": gradients}, locations)


def test_outputs_and_loss(computed: Computed) -> None:
    golden, _, outputs, _ = computed
    assert set(outputs) == {name for name in golden.outputs if not name.startswith("state_after/")}
    for name, value in outputs.items():
        np.testing.assert_allclose(value, golden.outputs[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_all_gradients(computed: Computed) -> None:
    golden, _, _, gradients = computed
    close(gradients, golden.gradients)


def test_the_padding_row_reads_zero_and_never_trains(computed: Computed) -> None:
    golden, module, _, gradients = computed
    names = {f".{f.name}.weight" for f in module.embedding.fields if isinstance(f, Categorical)}
    tables = [name for name in golden.params if ".embedding_layers." in name and name.endswith(tuple(names))]
    assert len(tables) >= len(names)
    for name in tables:
        assert (golden.params[name][0] == 0.0).all()
        assert (gradients[name][0] == 0.0).all()


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, module, *_ = computed
    model, config = module.model, golden.meta["config"]
    names = {
        "num_tasks": "num_tasks",
        "bottom_hidden_units": "bottom_dims",
        "tower_hidden_units": "tower_dims",
        "num_experts": "num_experts",
        "num_shared_experts": "num_shared",
        "num_specific_experts": "num_specific",
        "hidden_units": "dims",
    }
    factory: Any = model.tower if isinstance(model, PPNet) else model.mlp
    sizes = {theirs: getattr(model, ours) for theirs, ours in names.items() if hasattr(model, ours)}
    sizes["batch_norm"] = factory.keywords["batch_norm"]
    if "gate_hidden_units" in config:
        sizes["gate_hidden_units"] = model.gate.keywords["dims"]
    found = {name: value for name, value in config.items() if name in (*names, *sizes)}
    assert len(found) >= 2
    for name, value in found.items():
        ours = sizes[name]
        assert (list(ours) if isinstance(value, list) else ours) == value, name
    if "expert_hidden_units" in config:
        levels = model.expert_dims if "num_layers" in config else [model.expert_dims]
        assert [list(dims) for dims in levels] == [config["expert_hidden_units"]] * config.get(
            "num_layers", 1
        )


def close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        atol = 1e-5 * max(1e-2, float(np.abs(theirs[name]).max()))
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize("path", golden_files("apg"))
def test_apg_block(path: Path) -> None:
    golden = read(path)
    config = golden.meta["config"]
    hyper = config.get("hypernet_config", {})
    of_hyper = activation(hyper.get("hidden_activations", "ReLU"))
    hyper_mlp = Factory(MLP, activation=of_hyper, dropout=hyper.get("dropout_rates", 0.0))
    sizes = {} if config["output_dim"] else {"dims": config["hidden_units"]}  # which no shape tells then
    model, variables, locations = fuxictr.apg(golden.params, hyper_mlp=hyper_mlp, **fields(config), **sizes)
    output_activation = activation(config.get("output_activation") or "none")
    assert (list(model.dims), model.num_tasks) == (config["hidden_units"], config["output_dim"])
    assert model.generate_bias is config["generate_bias"]
    for ours, name in zip(model.per_layer(), ("rank_k", "overparam_p"), strict=True):
        value = config[name]
        assert list(ours) == (value if isinstance(value, list) else [value] * len(model.dims))
    x, z, weights = (jnp.asarray(golden.inputs[name]) for name in ("x", "z", "w"))
    condition = None if config["condition_mode"] == "self-wise" else z

    train = golden.meta["mode"] == "train"

    def total(params: Any, rest: Any, x: Any) -> tuple[Array, Any]:
        values = {**rest, "params": params}
        y, updated = model.apply(values, x, condition, train=train, mutable=["batch_stats"])
        y = output_activation(y)
        return jnp.sum(y * weights), (y, updated)

    (loss, (y, updated)), gradients = differentiated(total, variables, x)
    np.testing.assert_allclose(y, golden.outputs["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss, golden.outputs["loss"], rtol=1e-5, atol=1e-5)
    close(to_state({"params": gradients}, locations), golden.gradients)
    if train and "batch_stats" in updated:
        running(golden, updated["batch_stats"], locations, {1: len(x)})
