"""Weights of RecBole's MultiVAE and MacridVAE to our modules and back."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, dense, shape
from jaxrec.nn.retrieval.macridvae import MacridVAE
from jaxrec.nn.retrieval.multivae import MultVAE


def multivae(state: State, **fields: Any) -> Converted:
    """MultVAE; `fields` are those that shapes do not tell, such as dropout.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    encoder, locations = stack(state, "encoder")
    decoder, others = stack(state, "decoder")
    if decoder[:-1] != encoder[-2::-1] or encoder[-1] % 2:
        raise ValueError(
            f"encoder of widths {encoder}, decoder of {decoder}: the decoder has the encoder's hidden layers "
            "in reverse order, and the encoder ends in means and as many log-variances"
        )
    model = MultVAE(decoder[-1] - 1, hidden_dims=encoder[:-1], latent_dim=encoder[-1] // 2, **fields)
    return convert(model, state, locations | others, np.zeros((1, decoder[-1]), np.float32), train=False)


def macridvae(state: State, **fields: Any) -> Converted:
    """MacridVAE as RecBole builds it: rows are normalised before they are split.

    Args:
      state: arrays by PyTorch name.
      fields: those that shapes do not tell, such as dropout, temperature (RecBole's `tau`), prior_std (`std`)
        and gumbel (not `nogb`).

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    encoder, locations = stack(state, "encoder")
    rows, dim = shape(state, "item_embedding.weight")
    concepts, _ = shape(state, "k_embedding.weight")
    locations["item_embedding.weight"] = Location(("params", "items"))
    locations["k_embedding.weight"] = Location(("params", "concepts"))
    form = {"num_concepts": concepts, "dim": dim, "hidden_dims": encoder[:-1], "normalise": "history"}
    model = MacridVAE(rows - 1, **{**form, **fields})
    return convert(model, state, locations, np.zeros((1, rows), np.float32), train=False)


def stack(state: State, name: str) -> tuple[tuple[int, ...], Locations]:
    """Widths of linear layers `name.0`, `name.2` and so on, with an activation between, and their places.

    Raises:
      ValueError: there is none.
    """
    numbers = sorted(int(hit[1]) for key in state if (hit := re.fullmatch(rf"{name}\.(\d+)\.weight", key)))
    if not numbers:
        raise ValueError(f"{name}.0.weight: missing; the file has {', '.join(sorted(state)) or 'nothing'}")
    locations: Locations = {}
    for i, number in enumerate(numbers):
        locations |= dense(f"{name}.{number}", (name, f"layer_{i}"))
    return tuple(shape(state, f"{name}.{number}.weight")[0] for number in numbers), locations
