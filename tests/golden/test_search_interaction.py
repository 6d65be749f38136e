"""FuxiCTR's SIM, ETA and DCNv2: outputs, losses, what is found, and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import fuxictr, fuxictr_interaction, fuxictr_ranking
from jaxrec.convert.state_dict import Converted, Locations, State, convert, to_state
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array, Variables
from tests.golden.activations import activation, one_name
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_din import differentiated, running

WITH_PARAMETERS: dict[str, Any] = {"dice": fuxictr.DICE, "prelu": PReLU}
TOWERS = {  # by their names there and here
    "dnn": "tower/mlp",
    "dnn_aux": "search_tower/mlp",
    "stacked_dnn": "stacked",
    "parallel_dnn": "parallel",
}
SEARCHES = {"sim": fuxictr_interaction.sim, "eta": fuxictr_interaction.eta}
FILES = [*golden_files("sim_soft"), *golden_files("eta"), *golden_files("dcnv2")]


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def learned(state: State) -> Locations:
    """Where the parameters of activations, such as Dice, stand in our MLPs."""
    found: Locations = {}
    for theirs, ours in TOWERS.items():
        if any(name.startswith(f"{theirs}.mlp.") for name in state):
            _, locations, _ = fuxictr_ranking.read_block(state, theirs, ours, "logit")
            found |= {name: p for name, p in locations.items() if p.path[-2].startswith("activation_")}
    return found


def build(kind: str, golden: Golden) -> tuple[Converted, dict[str, Any]]:
    """Our module with the fixture's weights, and the fixture's inputs as its columns."""
    config = golden.meta["config"]
    numeric = [name for name, value in golden.inputs.items() if value.dtype.kind == "f"]
    batch = {
        name: value.astype(np.float32 if name in numeric else np.int32)
        for name, value in golden.inputs.items()
        if name not in ("label", "mask")
    }
    locations = learned(golden.params)
    rest = {
        name: value
        for name, value in golden.params.items()
        if name not in locations and not name.endswith("bn.num_batches_tracked")
    }
    name = one_name(config.get("dnn_activations", "ReLU"))
    mlp = Factory(MLP, activation=WITH_PARAMETERS.get(name.lower()) or activation(name))
    if kind not in SEARCHES:
        converted = fuxictr_interaction.dcn_v2(rest, numeric=numeric, mlp=mlp)
        return with_learned(converted, golden.params, locations, batch), batch
    items = [name for name, value in batch.items() if value.ndim == 2]
    for name in items:  # [B, L + 1], the target last
        column = batch.pop(name)
        batch |= {name: column[:, -1], f"long_{name}": column[:, :-1]}
        batch[f"short_{name}"] = column[:, -config["short_seq_len"] : -1]  # one behaviour short
    options = {"use_scale": config["use_scale"]} if "use_scale" in config else {}
    converted = SEARCHES[kind](
        rest, items, numeric=numeric, num_heads=config["num_heads"], k=config["topk"], **options, mlp=mlp
    )
    return with_learned(converted, golden.params, locations, batch), batch


def with_learned(
    converted: Converted, state: State, locations: Locations, batch: dict[str, Any]
) -> Converted:
    """The module with the parameters of its activations as well."""
    return (
        convert(converted.module, state, {**converted.locations, **locations}, batch)
        if locations
        else converted
    )


def with_short_mask(module: Any, batch: dict[str, Any], mask: np.ndarray, train: bool) -> Any:
    """What `Sequenced` does, under the reference's mask of the short history, which lags by one slot."""
    names = [item.name for item in module.model.items]
    roles = {role: {n: batch[f"{role}_{n}"] for n in names} for role in module.model.histories}
    features = None if module.embedding is None else module.embedding(batch)
    target = {n: batch[n] for n in names}
    return module.model(target, **roles, features=features, short_mask=mask, train=train)


def outputs_of(golden: Golden, logits: Any, seen: Any) -> tuple[Array, dict[str, Array]]:
    """The fixture's loss and outputs."""
    label, config = golden.inputs["label"], golden.meta["config"]
    if not isinstance(logits, dict):
        logits = {"ctr": logits}
    weights = {"ctr": config.get("beta", 1), "search": config.get("alpha", 1)}
    loss = jnp.zeros(())
    for name, logit in logits.items():
        loss += weights[name] * losses.binary_cross_entropy(logit, label)
    outputs: dict[str, Any] = {"loss": loss, "y_pred": jax.nn.sigmoid(logits["ctr"])[:, None]}
    if "search" in logits:
        outputs["y_aux"] = jax.nn.sigmoid(logits["search"])[:, None]
    model = seen.get("model", {})
    if "interests" in model:
        outputs["short_interest"], outputs["long_interest"] = model["interests"][0]
        outputs["topk_index"], outputs["found"] = model["found"][0]
        outputs["stage1_score"] = model.get("search_scores", model.get("distances"))[0]
    if "crossed" in model:
        outputs["crossnet"] = model["crossed"][0]
    return loss, outputs


@pytest.fixture(params=FILES, scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    return compute(path.stem.split("_")[0], read(path))


def compute(kind: str, golden: Golden) -> Computed:
    """Our outputs and gradients for a fixture."""
    converted, batch = build(kind, golden)
    module, variables, locations = converted
    train = golden.meta["mode"] == "train"
    call: dict[str, Any] = {}
    if kind in SEARCHES:
        width = golden.meta["config"]["short_seq_len"]
        mask = golden.inputs["mask"][:, -width:-1] > 0
        call["method"] = lambda m, b, train: with_short_mask(m, b, mask, train)

    def total(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        values, written = {"params": params, **rest}, ["batch_stats", "intermediates"]
        logits, state = module.apply(values, batch, train=train, mutable=written, **call)
        loss, found = outputs_of(golden, logits, state["intermediates"])
        return loss, (found, state.get("batch_stats"))

    (_, (outputs, updated)), gradients = differentiated(total, variables, batch)
    if train and updated is not None:
        running(golden, updated, locations, {1: len(golden.inputs["label"])})
    return Computed(golden, converted, outputs, to_state({"params": gradients}, locations))


def test_outputs_and_loss(computed: Computed) -> None:
    golden, _, outputs, _ = computed
    theirs = {name for name in golden.outputs if not name.startswith("state_after/")}
    assert set(outputs) - {"found"} == theirs
    for name in set(outputs) - {"found", "topk_index"}:
        np.testing.assert_allclose(outputs[name], golden.outputs[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("computed", [*golden_files("sim_soft"), *golden_files("eta")], indirect=True)
def test_behaviours_of_the_same_scores_are_found(computed: Computed) -> None:
    """Which of equal ones, in which order, and which padding fills up, is arbitrary in the reference."""
    golden, _, outputs, _ = computed
    rows = zip(
        *(np.asarray(outputs[name]) for name in ("topk_index", "found")),
        golden.outputs["topk_index"],
        golden.outputs["stage1_score"],
        golden.inputs["mask"] > 0,
        strict=True,
    )
    for ours, found, theirs, scores, real in rows:
        np.testing.assert_array_equal(np.sort(scores[ours[found]]), np.sort(scores[theirs[real[theirs]]]))


def test_all_gradients(computed: Computed) -> None:
    golden, _, _, gradients = computed
    assert set(gradients) == set(golden.gradients)
    for name, value in gradients.items():
        theirs = golden.gradients[name]
        atol = 1e-5 * max(1e-2, float(np.abs(theirs).max()))
        np.testing.assert_allclose(value, theirs, rtol=1e-4, atol=atol, err_msg=name)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    golden, (_, variables, locations), *_ = computed
    state = to_state(variables, locations)
    theirs = {k: v for k, v in golden.params.items() if not k.endswith("num_batches_tracked")}
    assert set(state) == set(theirs)
    for name, value in state.items():
        np.testing.assert_array_equal(value, theirs[name])


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("name", ["PReLU", "Dice"])
def test_activations_with_parameters_are_read(path: Path, name: str) -> None:
    """PReLU of slope 0 is ReLU, whatever the fixture has; Dice of slope 1 is s, since p s + (1 - p) s is."""
    golden, rng, own = read(path), np.random.default_rng(0), learned(read(path).params)
    config = {**golden.meta["config"], "dnn_activations": "ReLU"}
    bare = {
        k: v for k, v in golden.params.items() if k not in own and not k.endswith("bn.num_batches_tracked")
    }
    golden = golden._replace(meta={**golden.meta, "config": config}, params=bare)
    state = dict(bare)
    linear = {t: [k for k in state if k.startswith(f"{t}.mlp.") and state[k].ndim == 2] for t in TOWERS}
    for tower, kernels in linear.items():
        hidden = kernels if tower in ("stacked_dnn", "parallel_dnn") else kernels[:-1]
        for kernel in hidden:
            start, width = int(kernel.split(".")[2]) + 1, len(state[kernel])
            normed = f"{tower}.mlp.{start}.running_mean" in state
            key = f"{tower}.mlp.{start + normed}."
            if name == "PReLU":
                state[f"{key}weight"] = np.zeros(width, np.float32)
            else:
                state[f"{key}alpha"] = np.ones(width, np.float32)
                state[f"{key}bn.running_mean"] = rng.normal(size=width).astype(np.float32)
                state[f"{key}bn.running_var"] = rng.uniform(1, 2, width).astype(np.float32)
                state[f"{key}bn.num_batches_tracked"] = np.array(3)
    meta = {**golden.meta, "config": {**config, "dnn_activations": name}}
    kind = path.stem.split("_")[0]
    (module, variables, locations), batch = build(kind, golden._replace(meta=meta, params=state))
    back = to_state(variables, locations)
    assert set(back) == {k for k in state if not k.endswith("num_batches_tracked")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])

    def logits(module: Any, variables: Variables) -> Array:
        found = jax.jit(module.apply)(variables, batch)
        return found["ctr"] if isinstance(found, dict) else found

    plain, _ = build(kind, golden)
    same = plain.module if name == "PReLU" else with_identity(plain.module)
    np.testing.assert_allclose(logits(module, variables), logits(same, plain.variables), rtol=1e-5, atol=1e-5)


def with_identity(module: Any) -> Any:
    """The module without activations in its MLPs."""
    return module.clone(model=module.model.clone(mlp=Factory(module.model.mlp, activation=lambda x: x)))


@pytest.mark.parametrize("path", golden_files("eta"))
def test_items_without_a_table_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="items=\\['brand'\\]: tables are there of"):
        fuxictr_interaction.eta(read(path).params, ["brand"])


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, (module, *_), *_ = computed
    config, model = golden.meta["config"], module.model
    found = {
        "dnn_hidden_units": lambda: list(model.dims),
        "topk": lambda: model.k,
        "hash_bits": lambda: model.num_bits,
        "attention_dim": lambda: model.exact.dim,
        "num_cross_layers": lambda: model.cross.num_layers,
        "low_rank": lambda: model.cross.rank,
        "num_experts": lambda: model.cross.num_experts,
        "stacked_dnn_hidden_units": lambda: list(model.stacked_dims),
        "parallel_dnn_hidden_units": lambda: list(model.parallel_dims),
        "batch_norm": lambda: model.mlp.keywords["batch_norm"],
    }
    structure, mixture = config.get("model_structure", ""), config.get("use_low_rank_mixture", False)
    unused = [f"{name}_dnn_hidden_units" for name in ("stacked", "parallel") if name not in structure]
    unused += [] if mixture else ["low_rank", "num_experts"]
    unused += ["batch_norm"] if structure == "crossnet_only" else []
    names = [name for name in found if name in config and name not in unused]
    assert names
    assert {n: found[n]() for n in names} == {n: config[n] for n in names}
