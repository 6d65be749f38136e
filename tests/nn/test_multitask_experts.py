"""Shared-Bottom and the models that mix experts: what holds for all, and where they are equal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.experts import Gate
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.attention_gated_mmoe import AttentionGatedMMoE
from jaxrec.nn.multitask.cgc import CGC, Extraction
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.multitask.snr import SNR
from jaxrec.types import Array

T, E = 3, 4
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
LABELS = (X[:, :T] > 0).astype(np.float32)
SMALL: dict[str, Any] = {"num_tasks": T, "tower_dims": ()}
MODELS: dict[str, Any] = {
    "shared_bottom": SharedBottom(**SMALL, bottom_dims=(7,)),
    "mmoe": MMoE(**SMALL, num_experts=E, expert_dims=(7,), gate=Factory(Gate, dims=(3,))),
    "cgc": CGC(**SMALL, num_specific=2, num_shared=2, expert_dims=(7,)),
    "ple": PLE(**SMALL, num_specific=2, num_shared=2, expert_dims=((7,), (7,))),
    "attention": AttentionGatedMMoE(**SMALL, num_experts=E, expert_dims=(7,), query_dim=4),
    "snr": SNR(**SMALL, num_subnets=(2, 3), dims=((7,), (7,))),
}
PLAIN = MODELS["mmoe"].clone(gate=Gate)
every_model = pytest.mark.parametrize("name", MODELS)


def moved(module: Any) -> Any:
    """Variables of a module with values in place of the initial ones, biases too."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), X))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(module: Any, variables: Any) -> Array:
    return module.apply(variables, X)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def zeroed(tree: Any, *names: str) -> Any:
    """The tree with zeros wherever one of the names stands in a leaf's path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if {part.key for part in path} & set(names) else leaf, tree
    )


class Fitted:
    """A model with parameters, and one compiled call that gives all that the tests ask of it."""

    def __init__(self, name: str) -> None:
        self.model = MODELS[name]
        self.params = moved(self.model)["params"]

        def loss(params: Any, x: Array, weights: Array) -> tuple[Array, Any]:
            logits, state = self.model.apply({"params": params}, x, mutable=["intermediates"])
            return (jnp.square(logits - LABELS) * weights).mean(), (logits, state.get("intermediates", {}))

        self.call = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, (self.logits, self.gates)), self.gradient = self(self.params)

    def __call__(self, params: Any, x: np.ndarray = X, tasks: Sequence[float] = (1, 0, 0)) -> Any:
        """((loss of the tasks by their weights, (logits, gates)), gradient)."""
        return jax.tree.map(np.asarray, self.call(params, x, np.array(tasks, np.float32)))

    def logits_of(self, params: Any, x: np.ndarray = X) -> np.ndarray:
        return self(params, x)[0][1][0]


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], Fitted]:
    return functools.cache(Fitted)


# --- every model ------------------------------------------------------------------------------------


@every_model
def test_one_logit_a_task(fitted: Callable[[str], Fitted], name: str) -> None:
    assert fitted(name).logits.shape == (len(X), T)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted(name).gradient))


@every_model
def test_a_task_trains_its_own_tower_and_what_is_shared(fitted: Callable[[str], Fitted], name: str) -> None:
    gradient = dict(fitted(name).gradient)
    for leaf in jax.tree.leaves(gradient.pop("towers")):
        assert leaf[0].any()
        assert not leaf[1:].any()
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient))


@every_model
def test_steps_down_the_gradient_lower_the_loss(fitted: Callable[[str], Fitted], name: str) -> None:
    params, values = fitted(name).params, []
    for _ in range(20):
        (value, _), gradient = fitted(name)(params, tasks=(1, 1, 1))
        params = jax.tree.map(lambda leaf, slope: leaf - 0.05 * slope, params, gradient)
        values.append(value)
    assert values[-1] < 0.9 * values[0]


PER_TASK = {  # parameters with an axis of tasks
    "shared_bottom": ["towers"],
    "mmoe": ["towers", "gate"],
    "cgc": ["towers", "gate", "specific"],
    "attention": ["towers", "task_vectors"],
}


@pytest.mark.parametrize("name", PER_TASK)
def test_outputs_permute_with_the_tasks(fitted: Callable[[str], Fitted], name: str) -> None:
    order = np.array([2, 0, 1])
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf[order] if {part.key for part in path} & set(PER_TASK[name]) else leaf,
        fitted(name).params,
    )
    if name == "attention":
        kernel = params["query_kernel"]
        params["query_kernel"] = kernel.reshape(len(kernel), T, -1)[:, order].reshape(kernel.shape)
    close(fitted(name).logits_of(params), fitted(name).logits[:, order])


GATES = {
    "mmoe": {"gates": ((8, T, E),)},
    "attention": {"gates": ((8, T, E),)},
    "cgc": {"level_0": {"gates": ((8, T, 4),)}},
    "ple": {
        "level_0": {"gates": ((8, T, 4),), "shared_gates": ((8, 2 * T + 2),)},
        "level_1": {"gates": ((8, T, 4),)},
    },
}


@pytest.mark.parametrize("name", GATES)
def test_gates_can_be_read_and_add_up_to_1(fitted: Callable[[str], Fitted], name: str) -> None:
    assert jax.tree.map(np.shape, fitted(name).gates) == GATES[name]
    for gates in jax.tree.leaves(fitted(name).gates):
        assert (gates >= 0).all()
        np.testing.assert_allclose(gates.sum(axis=-1), np.ones(gates.shape[:-1]), rtol=1e-5)


GROWING: dict[str, Callable[[int], Any]] = {
    "omoe": lambda n: OMoE(num_tasks=2, num_experts=n, expert_dims=(4,), tower_dims=()),
    "mmoe experts": lambda n: MMoE(num_tasks=2, num_experts=n, expert_dims=(4,), tower_dims=()),
    "mmoe tasks": lambda n: MMoE(num_tasks=n, num_experts=2, expert_dims=(4,), tower_dims=()),
    "ple": lambda n: PLE(num_tasks=n, num_specific=n, num_shared=n, expert_dims=((4,), (4,)), tower_dims=()),
    "attention": lambda n: AttentionGatedMMoE(num_tasks=n, num_experts=n, expert_dims=(4,), tower_dims=()),
    "snr": lambda n: SNR(num_tasks=n, num_subnets=(n, n), dims=((4,), (4,)), tower_dims=()),
}


@pytest.mark.parametrize("make", GROWING.values(), ids=GROWING)
def test_the_trace_does_not_grow_with_the_bank(make: Callable[[int], Any]) -> None:
    sizes = []
    for n in (2, 16):
        module = make(n)
        shapes = jax.eval_shape(module.init, jax.random.key(0), X)
        sizes.append(str(jax.make_jaxpr(module.apply)(shapes, X)).count(" = "))
    assert sizes[0] == sizes[1] > 10


# --- where they are equal ---------------------------------------------------------------------------


def test_parameters_of_mmoe() -> None:
    shapes = jax.tree.map(np.shape, moved(PLAIN.clone(tower_dims=(5,)))["params"])
    assert shapes == {
        "experts": {"layer_0": {"kernel": (E, 6, 7), "bias": (E, 7)}},
        "gate": {"logits": {"kernel": (T, 6, E), "bias": (T, E)}},
        "towers": {
            "mlp": {"layer_0": {"kernel": (T, 7, 5), "bias": (T, 5)}},
            "logit": {"kernel": (T, 5, 1), "bias": (T, 1)},
        },
    }


def test_shared_bottom_of_one_task_is_an_mlp() -> None:
    module = SharedBottom(num_tasks=1, bottom_dims=(7,), tower_dims=(5,))
    params = moved(module)["params"]
    towers = jax.tree.map(lambda leaf: leaf[0], params["towers"])
    layers = {"layer_0": params["bottom"]["layer_0"], "layer_1": towers["mlp"]["layer_0"]}
    single = MLP((7, 5, 1), activate_last=False)
    close(run(module, {"params": params}), run(single, {"params": {**layers, "layer_2": towers["logit"]}}))


@pytest.mark.parametrize("name", ["mmoe", "attention"])
def test_one_expert_is_shared_bottom(name: str) -> None:
    module = MODELS[name].clone(num_experts=1)
    params = moved(module)["params"]
    bottom = {"bottom": jax.tree.map(lambda leaf: leaf[0], params["experts"]), "towers": params["towers"]}
    close(run(module, {"params": params}), run(SharedBottom(**SMALL, bottom_dims=(7,)), {"params": bottom}))


def test_tied_gates_are_omoe() -> None:
    module = OMoE(**SMALL, num_experts=E, expert_dims=(7,))
    params = moved(module)["params"]
    tied = {
        "experts": params["moe"]["experts"],
        "gate": jax.tree.map(lambda leaf: np.stack([leaf] * T), params["moe"]["gate"]),
        "towers": params["towers"],
    }
    close(run(PLAIN, {"params": tied}), run(module, {"params": params}))


@pytest.mark.parametrize("name", ["mmoe", "cgc"])
def test_zero_gates_take_the_mean_of_the_experts(fitted: Callable[[str], Fitted], name: str) -> None:
    params = zeroed(fitted(name).params, "gate")
    logits = fitted(name).logits_of(params)
    banks = params["level_0"] if name == "cgc" else {"shared": params["experts"]}
    outputs = {key: value["layer_0"] for key, value in banks.items() if key in ("specific", "shared")}
    hidden = {
        key: np.maximum(np.einsum("bf,...fh->...bh", X, layer["kernel"]) + layer["bias"][..., None, :], 0)
        for key, layer in outputs.items()
    }
    for task in range(T):
        experts = np.concatenate(
            [value[task] if key == "specific" else value for key, value in hidden.items()]
        )
        logit = params["towers"]["logit"]
        expected = experts.mean(axis=0) @ logit["kernel"][task] + logit["bias"][task]
        close(logits[:, task], expected[:, 0])


@pytest.mark.parametrize("name", ["mmoe", "attention"])
def test_experts_may_change_places(fitted: Callable[[str], Fitted], name: str) -> None:
    """Together with the columns of MMoE's gates; in attention without any change of the gates."""
    order = np.array([2, 0, 3, 1])
    params = dict(fitted(name).params)
    params["experts"] = jax.tree.map(lambda leaf: leaf[order], params["experts"])
    if name == "mmoe":
        logits = jax.tree.map(lambda leaf: leaf[..., order], params["gate"]["logits"])
        params["gate"] = {**params["gate"], "logits": logits}
    close(fitted(name).logits_of(params), fitted(name).logits)


def test_equal_experts_leave_the_gates_without_effect(fitted: Callable[[str], Fitted]) -> None:
    params = fitted("mmoe").params
    same = jax.tree.map(lambda leaf: np.stack([leaf[0]] * E), params["experts"])
    (_, (logits, _)), gradient = fitted("mmoe")({**params, "experts": same})
    close(logits, fitted("mmoe").logits_of({**zeroed(params, "gate"), "experts": same}))
    for leaf in jax.tree.leaves(gradient["gate"]):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)


def test_a_task_trains_its_own_gate(fitted: Callable[[str], Fitted]) -> None:
    for leaf in jax.tree.leaves(fitted("mmoe").gradient["gate"]):
        assert leaf[0].any()
        assert not leaf[1:].any()


def test_ple_of_one_level_is_cgc(fitted: Callable[[str], Fitted]) -> None:
    module = MODELS["ple"].clone(expert_dims=((7,),))
    close(run(module, {"params": fitted("cgc").params}), fitted("cgc").logits)


def test_cgc_without_specific_experts_is_mmoe() -> None:
    module = CGC(**SMALL, num_specific=0, num_shared=E, expert_dims=(7,))
    params = moved(module)["params"]
    assert set(params["level_0"]) == {"gate", "shared"}
    same = {
        "experts": params["level_0"]["shared"],
        "gate": params["level_0"]["gate"],
        "towers": params["towers"],
    }
    close(run(module, {"params": params}), run(PLAIN, {"params": same}))


def test_without_shared_experts_tasks_are_mixtures_of_their_own() -> None:
    module = PLE(T, num_specific=2, num_shared=0, expert_dims=((7,), (7,)), tower_dims=())
    variables = moved(module)
    others = jax.tree.map(lambda leaf: np.concatenate([leaf[:1], -leaf[1:]]), variables)
    before, after = np.asarray(run(module, variables)), np.asarray(run(module, others))
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert (np.abs(after[:, 1:] - before[:, 1:]).max(axis=0) > 0.1).all()


def test_cgc_keeps_the_other_tasks_experts_out(fitted: Callable[[str], Fitted]) -> None:
    for leaf in jax.tree.leaves(fitted("cgc").gradient["level_0"]["specific"]):
        assert leaf[0].any()
        assert not leaf[1:].any()


def test_ple_lets_them_in_below_the_last_level(fitted: Callable[[str], Fitted]) -> None:
    gradient = fitted("ple").gradient
    for leaf in jax.tree.leaves(gradient["level_0"]["specific"]):
        assert leaf[0].any() and leaf[1].any() and leaf[2].any()
    for leaf in jax.tree.leaves(gradient["level_1"]["specific"]):
        assert leaf[0].any()
        assert not leaf[1:].any()


def test_order_of_experts_in_the_gates() -> None:
    """A task's own first, then the shared ones; in the shared gate task by task, then the shared ones."""
    module = Extraction(2, 2, 1, (3,), shared_output=True)
    variables, apply = moved(module), jax.jit(module.apply)
    for chosen in range(5):
        params = zeroed(variables["params"], "gate", "shared_gate")
        params["gate"]["logits"]["bias"][:, chosen % 3] = 100.0
        params["shared_gate"]["logits"]["bias"][chosen] = 100.0
        tasks, shared = apply({"params": params}, X)
        own, common = params["specific"]["layer_0"], params["shared"]["layer_0"]
        outputs = np.maximum(np.einsum("bf,tmfh->tmbh", X, own["kernel"]) + own["bias"][:, :, None], 0)
        last = np.maximum(X @ common["kernel"][0] + common["bias"][0], 0)
        expected = last if chosen == 4 else outputs.reshape(4, len(X), -1)[chosen]
        close(shared, expected)
        for task in range(2):
            close(tasks[:, task], last if chosen % 3 == 2 else outputs[task, chosen % 3])


def test_levels_read_their_streams(fitted: Callable[[str], Fitted]) -> None:
    """The second level's input is the first level's output: the same as two extraction layers by hand."""

    @jax.jit
    def by_hand(params: Any) -> Array:
        first = Extraction(T, 2, 2, (7,), shared_output=True)
        tasks, shared = first.apply({"params": params["level_0"]}, X)
        mixed, none = Extraction(T, 2, 2, (7,)).apply({"params": params["level_1"]}, shared, tasks)
        assert none is None
        return mixed

    params = fitted("ple").params
    logit = params["towers"]["logit"]
    expected = np.einsum("btd,tdo->bt", by_hand(params), logit["kernel"]) + logit["bias"][:, 0]
    close(expected, fitted("ple").logits)


# --- training, and what is refused ------------------------------------------------------------------


def test_batch_norm_and_dropout_reach_every_part() -> None:
    module = Extraction(
        T,
        num_specific=2,
        num_shared=1,
        expert_dims=(7,),
        gate=Factory(Gate, logits_batch_norm=True, drop_experts=0.3),
        mlp=Factory(MLP, batch_norm=True, dropout=0.5),
    )
    variables = moved(module)
    stats = jax.tree.map(np.abs, variables["batch_stats"])
    shapes = jax.tree.map(np.shape, stats)
    assert set(shapes) == {"gate", "specific", "shared"}
    assert shapes["specific"]["norm_0"]["mean"] == (T, 2, 7)
    assert shapes["gate"]["norm"]["mean"] == (T, 3)

    @jax.jit
    def trained(key: Any) -> tuple[Any, Any]:
        filled = {**variables, "batch_stats": stats}
        return module.apply(filled, X, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    ((first, _), state), ((again, _), _), ((other, _), _) = (trained(jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert jax.tree.map(np.shape, state["batch_stats"]) == shapes
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, state["batch_stats"], stats)))


REFUSED = {
    "no expert": (lambda: Extraction(2, 0, 0, (3,)), "num_specific=0, num_shared=0"),
    "negative": (lambda: Extraction(2, -1, 2, (3,)), "num_specific=-1"),
    "unread": (lambda: Extraction(2, 1, 0, (3,), shared_output=True), "no shared expert would read it"),
    "flat dims": (lambda: PLE(2, expert_dims=(64, 32)), r"expert_dims=\(64, 32\).*each level"),
    "no level": (lambda: PLE(2, expert_dims=()), r"expert_dims=\(\)"),
}


@pytest.mark.parametrize("make, message", REFUSED.values(), ids=REFUSED)
def test_wrong_fields_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_shared_bottom_with_one_weight_learns_like_a_model_of_that_task_alone() -> None:
    """Loss weights (1, 0): bottom and first tower as of a single task, no gradient in the second tower."""
    sizes: Any = {"bottom_dims": (5,), "tower_dims": (4,)}
    both, alone = SharedBottom(2, **sizes), SharedBottom(1, **sizes)
    rng = np.random.default_rng(3)
    x, label = rng.normal(size=(6, 7)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    params: Any = jax.device_get(jax.jit(both.init)(jax.random.key(0), x))["params"]
    towers = [name for name in params if name != "bottom"]
    first = {**params, **{name: jax.tree.map(lambda leaf: leaf[:1], params[name]) for name in towers}}

    def loss(model: SharedBottom, params: Any) -> Any:
        logits: Any = model.apply({"params": params}, x)
        return jnp.sum((logits[:, 0] - label) ** 2)

    of_both, of_alone = (
        jax.device_get(jax.jit(jax.grad(functools.partial(loss, model)))(given))
        for model, given in ((both, params), (alone, first))
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        of_both["bottom"],
        of_alone["bottom"],
    )
    for name in towers:
        for two, one in zip(jax.tree.leaves(of_both[name]), jax.tree.leaves(of_alone[name]), strict=True):
            np.testing.assert_allclose(two[:1], one, rtol=1e-5, atol=1e-6)
            assert not two[1:].any()
