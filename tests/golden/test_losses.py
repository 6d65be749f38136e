"""Losses of vectors and of samples: pytorch-metric-learning, TensorFlow (Recommenders), torch-rechub."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.losses.vectors import l2_normalise
from jaxrec.segments import pick, rows_by_id
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


def value_and_gradients(loss: Callable[..., Array], *arrays: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
    every = tuple(range(len(arrays)))
    return jax.jit(jax.value_and_grad(loss, every))(*map(jnp.asarray, arrays))


# --- pairs and triplets of a batch -----------------------------------------------------------------

METRIC_LEARNING = golden_files("contrastive_losses")


def metric_losses(golden: Golden) -> dict[str, Callable[[Any, Any], Array]]:
    """Each loss of the fixture as a function of its two arrays of vectors."""
    config, labels = golden.meta["config"], jnp.asarray(golden.inputs["label"].astype(np.int32))
    margin, temperature = config["triplet_margin"], config["temperature"]
    of_euclid = functools.partial(losses.triplet, distances=losses.euclidean_distances)

    def circle(z: Array, other: Array) -> Array:
        return losses.circle(
            z, labels, margin=config["circle_m"], gamma=config["circle_gamma"], violated=True
        )

    return {
        "circle": circle,
        "triplet_cosine_mean": lambda z, other: losses.triplet(z, labels, margin=margin),
        "triplet_cosine_mean_nonzero": lambda z, other: losses.triplet(
            z, labels, margin=margin, violated=True
        ),
        "triplet_euclid_mean": lambda z, other: of_euclid(l2_normalise(z), labels, margin=margin),
        "supervised_ntxent": lambda z, other: losses.supervised_nt_xent(z, labels, temperature=temperature),
        "supcon": lambda z, other: losses.supcon(z, labels, temperature=temperature),
        "simclr_two_views": lambda z, other: losses.nt_xent(z, other, temperature=temperature),
        "infonce_one_way": lambda z, other: losses.info_nce(z, other, temperature=temperature),
    }


@pytest.mark.parametrize("path", METRIC_LEARNING)
def test_losses_of_labelled_vectors(path: Any) -> None:
    golden = read(path)
    found = metric_losses(golden)
    values, gradients, total = {}, {}, [np.zeros(1)] * 2
    for name, loss in found.items():
        value, (of_anchor, of_other) = value_and_gradients(
            loss, golden.params["anchor"], golden.params["other"]
        )
        values[name], gradients[name] = value, of_anchor
        if not name.endswith("_nonzero"):
            total = [np.asarray(total[0] + of_anchor), np.asarray(total[1] + of_other)]
    values["loss"] = sum(value for name, value in values.items() if not name.endswith("_nonzero"))
    expected = {name: value for name, value in golden.outputs.items() if value.ndim == 0}
    close_outputs(values, expected)
    of_each = {name[5:]: value for name, value in golden.outputs.items() if name.startswith("grad_")}
    close_gradients({name: np.asarray(gradients[name]) for name in of_each}, of_each)
    close_gradients({"anchor": total[0], "other": total[1]}, golden.gradients)


@pytest.mark.parametrize("path", METRIC_LEARNING)
def test_triplets_that_are_given_are_a_hinge(path: Any) -> None:
    golden = read(path)
    triplets, margin = golden.outputs["triplets"], golden.meta["config"]["triplet_margin"]
    labels = golden.inputs["label"]
    same = labels[:, None] == labels
    made = np.argwhere((same & ~np.eye(len(labels), dtype=bool))[:, :, None] & ~same[:, None, :])
    np.testing.assert_array_equal(np.unique(triplets, axis=0), made)  # those that `triplet` averages over
    z = jnp.asarray(golden.params["anchor"])
    apart = losses.cosine_distances(z, z)
    near, far = apart[triplets[:, 0], triplets[:, 1]], apart[triplets[:, 0], triplets[:, 2]]
    for violated, name in ((False, "triplet_cosine_mean"), (True, "triplet_cosine_mean_nonzero")):
        value = losses.hinge(-near, -far[:, None], margin=margin, violated=violated)
        np.testing.assert_allclose(value, golden.outputs[name], rtol=1e-5, atol=1e-5)


# --- given samples ---------------------------------------------------------------------------------


def sampled_losses(golden: Golden) -> dict[str, Callable[..., Array]]:
    labels = jnp.asarray(golden.inputs["labels"][:, 0].astype(np.int32))
    samples = jnp.asarray(golden.inputs["sampled"].astype(np.int32))
    true, drawn = (np.log(golden.inputs[f"{name}_expected_count"]) for name in ("true", "sampled"))

    def scores(weights: Array, biases: Array, inputs: Array) -> tuple[Array, Array]:
        pos = jnp.sum(inputs * rows_by_id(weights, labels), axis=-1) + rows_by_id(biases, labels)
        return pos, inputs @ rows_by_id(weights, samples).T + rows_by_id(biases, samples)

    def softmax(*params: Array, keep: bool = False) -> Array:
        pos, neg = scores(*params)
        hits = None if keep else samples == labels[:, None]

        def of_one(pos: Array, neg: Array, own: Array, hit: Array | None) -> Array:
            return losses.sampled_softmax(pos, neg, pos_log_prob=own, neg_log_prob=drawn, accidental=hit)

        return jax.vmap(of_one)(pos, neg, true[:, 0], hits)

    def nce(*params: Array) -> Array:
        pos, neg = scores(*params)
        return jax.vmap(lambda p, n, own: losses.nce(p, n, pos_log_count=own, neg_log_count=drawn))(
            pos, neg, true[:, 0]
        )

    return {"softmax": softmax, "softmax_keep_accidental": functools.partial(softmax, keep=True), "nce": nce}


@pytest.mark.parametrize("path", golden_files("sampled_softmax"))
def test_losses_of_given_samples(path: Any) -> None:
    golden = read(path)
    params = [golden.params[name] for name in ("weights", "biases", "inputs")]
    found: dict[str, Any] = {}
    for name, loss in sampled_losses(golden).items():
        found[f"{name}/per_example"] = jax.jit(loss)(*params)
        mean, gradients = value_and_gradients(lambda *a, loss=loss: jnp.mean(loss(*a)), *params)
        found[f"{name}/mean"] = mean
        for part, gradient in zip(("weights", "biases", "inputs"), gradients, strict=True):
            found[f"{name}/grad_{part}"] = gradient
    close_outputs(found, golden.outputs)


# --- the batch as negatives ------------------------------------------------------------------------


def options_of(variant: list[str], golden: Golden) -> dict[str, Any]:
    """A variant's arguments of `in_batch_softmax`."""
    config, inputs, size = golden.meta["config"], golden.inputs, golden.params["query"].shape[0]
    known = {"temperature", "candidate_sampling_probability", "candidate_ids", "remove_accidental_hits"}
    assert set(variant) <= known | {"sample_weight", "num_hard_negatives"}
    ids = jnp.asarray(inputs["candidate_ids"]) + 1 if "remove_accidental_hits" in variant else None
    known_p = jnp.log(jnp.clip(inputs["sampling_probability"], 1e-6, 1.0))
    log_prob = known_p if "candidate_sampling_probability" in variant else None
    options: dict[str, Any] = {
        "temperature": config["temperature"] if "temperature" in variant else 1.0,
        "ids": None if ids is None else ids[:size],
        "log_prob": None if log_prob is None else log_prob[:size],
        "weight": inputs["sample_weight"] if "sample_weight" in variant else None,
    }
    if "num_hard_negatives" in variant:  # the reference takes as many as there are
        options["num_hardest"] = min(config["num_hard_negatives"], golden.params["candidate"].shape[0])
    extra = (None if ids is None else ids[size:], None if log_prob is None else log_prob[size:])
    return {"options": options, "extra": extra if golden.params["candidate"].shape[0] > size else None}


@pytest.mark.parametrize("path", golden_files("retrieval_inbatch"))
def test_in_batch_softmax_of_every_variant(path: Any) -> None:
    golden = read(path)
    size = golden.params["query"].shape[0]
    found: dict[str, Any] = {}
    for name, variant in golden.meta["config"]["variants"].items():
        given: Mapping[str, Any] = options_of(variant, golden)

        def total(query: Array, candidate: Array, given: Mapping[str, Any] = given) -> Array:
            extra = given["extra"] and losses.Extra(candidate[size:], *given["extra"])
            return size * losses.in_batch_softmax(
                query, candidate[:size], extra=extra, **given["options"]
            )  # the fixture's is the sum

        value, gradients = value_and_gradients(total, golden.params["query"], golden.params["candidate"])
        found |= {
            f"{name}/loss": value,
            f"{name}/grad_query": gradients[0],
            f"{name}/grad_candidate": gradients[1],
        }
    close_outputs(found, golden.outputs)


@pytest.mark.parametrize("path", golden_files("youtube_sbc"))
def test_the_loss_of_torch_rechub_on_the_towers_outputs(path: Any) -> None:
    """The correction inside the division by the temperature, and the next rows of the batch as negatives."""
    golden = read(path)
    config = golden.meta["config"]
    user, item = (l2_normalise(jnp.asarray(golden.outputs[side])) for side in ("user", "item"))
    lowered = jnp.log(jnp.asarray(golden.inputs["sample_weight"]))
    whole = functools.partial(
        losses.in_batch_softmax,
        temperature=config["temperature"],
        log_prob=lowered,
        inside=True,
    )
    index, cosine = jnp.asarray(golden.outputs["index"].astype(np.int32)), losses.in_batch_scores(user, item)
    corrected = (cosine.neg - lowered) / config["temperature"]
    scores = pick(corrected, index)
    found = {
        "cosine": cosine.neg,
        "full_corrected": corrected,
        "scores": scores,
        "full_loss": whole(user, item),
    }
    given = losses.sampled_softmax(scores[:, 0], scores[:, 1:])
    np.testing.assert_allclose(given, golden.outputs["loss"], rtol=1e-5)
    if 0 < config["n_neg"] < len(scores):  # more go round the batch again, and take in a row's own target
        found["loss"] = whole(user, item, following=config["n_neg"])
    close_outputs(found, {name: golden.outputs[name] for name in found})
