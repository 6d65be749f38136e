"""Deep User Perception Network: one representation of a user for several tasks (Ni et al., KDD 2018).

arXiv:1805.10727, section 3. A behaviour is an item and its properties, such as type, scene and time: the
properties open and close the gates of an LSTM and the attention over its states, and are not stored in the
cell.

Departs from the paper: the LSTM and the attention skip padding, of which the paper does not speak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.features import FeatureEmbedding
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.target_attention import masked_softmax
from jaxrec.types import Array


class PropertyLSTM(nn.Module):
    """An LSTM whose gates read the properties of a behaviour too (section 3.2, equations 2 to 6).

        i, f, o = σ(W e + P p + U h + b)   g = tanh(W_g e + U_g h + b_g)
        c' = f ⊙ c + i ⊙ g                 h' = o ⊙ tanh(c')

    Parameters hold the gates side by side in the order i, f, o, g; P has the first three.
    """

    hidden_dim: int

    @nn.compact
    def __call__(
        self, items: Array, properties: Array | None = None, *, update: Array | None = None
    ) -> Array:
        """Maps vectors of items [B, L, E] and of properties [B, L, P] to states [B, L, H].

        properties: None is an ordinary LSTM. update: True where the step changes the state, [B, L]; None
        means everywhere.
        """
        glorot, orthogonal = nn.initializers.xavier_uniform(), nn.initializers.orthogonal()
        width = self.hidden_dim
        w = self.param("input_kernel", glorot, (items.shape[-1], 4 * width))
        u = self.param("hidden_kernel", orthogonal, (width, 4 * width))
        b = self.param("bias", nn.initializers.zeros, (4 * width,))
        projected = items @ w + b
        if properties is not None:
            p = self.param("property_kernel", glorot, (properties.shape[-1], 3 * width))
            projected = projected + jnp.pad(properties @ p, ((0, 0), (0, 0), (0, width)))
        update = jnp.ones(items.shape[:2], bool) if update is None else update

        def step(state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            projected, updates = inputs
            h, c = state
            i, f, o, g = jnp.split(projected + h @ u, 4, axis=-1)
            cell = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            cell = jnp.where(updates[:, None], cell, c)
            h = jnp.where(updates[:, None], nn.sigmoid(o) * jnp.tanh(cell), h)
            return (h, cell), h

        start = jnp.zeros_like(projected[:, 0, :width])
        inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (projected, update))  # time first
        return jax.lax.scan(step, (start, start), inputs)[1].swapaxes(0, 1)


class DUPN(nn.Module):
    """LSTM over behaviours → attention with query, user and properties → a head for each task.

    Shape names: B batch, L behaviours, E, P, Q, U widths of item, properties, query and user, H hidden_dim.

    Fields besides the sizes:
      gate, attend: whether the LSTM's gates, and the attention, read the properties (the paper's rows
        "bplstm" and "bpatt" have one of them, "nobp" none).
      attention_dims: hidden layers of the network that scores states.
      num_levels: classes of the price level; 0: without this head.
      num_ranking: ranking features, which the user's representation weighs; 0: without this head.
      targets: names of the heads of a click on something: an item, an icon.
      head_dims: hidden layers of the heads of clicks and price levels; ranking_dims: of that of ranking.
      mlp: builds all MLPs, see `Tower`.
    """

    hidden_dim: int = 128
    targets: Sequence[str] = ("click",)
    num_levels: int = 7
    num_ranking: int = 0
    gate: bool = True
    attend: bool = True
    attention_dims: Sequence[int] = (128, 64)
    head_dims: Sequence[int] = (128,)
    ranking_dims: Sequence[int] = (128, 64)
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(
        self,
        items: Array,
        properties: Array,
        mask: Array,
        query: Array,
        user: Array,
        targets: Mapping[str, Array],
        ranking: Array | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Logits and scores of each task, which share one representation of the user.

        Args:
          items: vectors of the items of behaviours [B, L, E], the most recent last. properties: [B, L, P].
          mask: True where a behaviour is real, [B, L]; padding may stand on either side.
          query: [B, Q]. user: profile, [B, U].
          targets: {name: vector [B, T]} for each of the field `targets`.
          ranking: features of an item to be ranked, [B, R].

        Returns:
          {target: logit of a click [B]}, "level": logits of price levels [B, C], "ranking": the ranking
          features weighed by non-negative weights, [B].
        """
        if set(targets) != set(self.targets) or (ranking is not None) != bool(self.num_ranking):
            raise ValueError(
                f"targets {sorted(targets)}, ranking features {ranking is not None}: the model has the "
                f"targets {sorted(self.targets)} and num_ranking={self.num_ranking}"
            )
        found = self.represent(items, properties, mask, query, user, train)
        heads: dict[str, Array] = {}
        for name in self.targets:
            x = jnp.concatenate([found, targets[name]], axis=-1)
            heads[name] = Tower(self.head_dims, mlp=self.mlp, name=f"head_{name}")(x, train=train)
        if self.num_levels:
            x = self.mlp(self.head_dims, name="head_level")(found, train=train)
            heads["level"] = nn.Dense(self.num_levels, name="levels")(x)
        if ranking is not None:
            x = self.mlp(self.ranking_dims, name="head_ranking")(found, train=train)
            weights = nn.relu(nn.Dense(self.num_ranking, name="ranking_weights")(x))
            heads["ranking"] = jnp.sum(weights * ranking, axis=-1)
        return heads

    def represent(
        self, items: Array, properties: Array, mask: Array, query: Array, user: Array, train: bool
    ) -> Array:
        """The representation of the user, [B, H + U]: the attended states, then the profile."""
        items = jnp.where(mask[..., None], items, 0.0)
        properties = jnp.where(mask[..., None], properties, 0.0)
        lstm = PropertyLSTM(self.hidden_dim, name="lstm")
        states = lstm(items, properties if self.gate else None, update=mask)  # [B, L, H]
        length = mask.shape[-1]
        shared = [jnp.broadcast_to(x[:, None], (len(x), length, x.shape[-1])) for x in (query, user)]
        parts = [states, *shared, *([properties] if self.attend else [])]
        hidden = self.mlp(self.attention_dims, name="attention")(jnp.concatenate(parts, -1), train=train)
        scores = nn.Dense(1, name="score")(hidden)[..., 0]
        weights = masked_softmax(scores, mask)
        self.sow("intermediates", "weights", weights)
        attended = jnp.einsum("bl,blh->bh", weights, states)
        return self.perturb("shared", jnp.concatenate([attended, user], axis=-1))


class PerceivedUser(nn.Module):
    """A DUPN behind the columns of a batch.

    embedding: has a field for each column that is named here. items, properties: columns of behaviours,
    [B, L]; a behaviour is real where the first of items is not 0. query, user, target: columns [B], the last
    for all heads of clicks.
    """

    embedding: FeatureEmbedding
    model: DUPN
    items: Sequence[str] = ("history_item",)
    properties: Sequence[str] = ("history_kind",)
    query: Sequence[str] = ("query",)
    user: Sequence[str] = ("profile",)
    target: Sequence[str] = ("item",)

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Applies the model to the vectors of the columns."""
        shape = batch[self.items[0]].shape
        events = {name: batch[name].reshape(-1) for name in (*self.items, *self.properties)}
        vectors = self.embedding.vectors({**batch, **events})

        def joined(names: Sequence[str], *lead: int) -> Array:
            return jnp.concatenate([vectors[name].reshape(*lead, -1) for name in names], axis=-1)

        mask = batch[self.items[0]] != 0
        query, user = (joined(names, shape[0]) for names in (self.query, self.user))
        targets = {name: joined(self.target, shape[0]) for name in self.model.targets}
        items, properties = joined(self.items, *shape), joined(self.properties, *shape)
        found: dict[str, Array] = self.model(items, properties, mask, query, user, targets, train=train)
        return found
