"""PDN: a user's evidence for an item, summed over the paths through the items that the user has clicked.

Li et al., SIGIR 2021, arXiv:2105.08246, section 3. A path merges by softplus(t + s), of how much the user
cares for the clicked item and how similar the two items are. Alibaba's EasyRec has another formula under this
name: exp(t) exp(s), and a TrigNet to whose output the user's is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.pairs import products
from jaxrec.nn.retrieval.field_pairs import FieldPairs
from jaxrec.nn.retrieval.two_tower import read
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Context


class PDN(nn.Module):
    """softplus(d) + Σ_j softplus(t_j + s_j) + softplus(b), as a logit: p = 1 - exp(-that sum).

    p is a noisy-or: 1 - σ(-d) σ(-b) Π_j σ(-(t_j + s_j)). The similarity of two items knows nothing of the
    user, so that an index of item pairs can serve it; `similarity`, `trigger` and `direct` are the parts.

    Shape names: B batch, F user features, D item dim, L clicked items.

    Fields:
      dims: of TrigNet, SimNet and the bias, before their logit. direct_dims: of the two towers.
      base_rate: p at the start, about, for a user of `max_paths` clicked items, as softplus(0) of each path
        would give a p of 1.
      with_direct: adds the direct path, the towers' product. with_bias: has the net of the bias path.
    """

    dims: Sequence[int] = (64, 32)
    direct_dims: Sequence[int] = (64, 32)
    mlp: Callable[..., nn.Module] = MLP
    base_rate: float = 0.1
    max_paths: int = 50
    with_direct: bool = True
    with_bias: bool = True

    def setup(self) -> None:
        if not 0 < self.base_rate < 1:
            raise ValueError(f"base_rate={self.base_rate}: must be in 0..1, both excluded")
        if self.max_paths < 0:
            raise ValueError(f"max_paths={self.max_paths}: must be at least 0")
        share = -math.log1p(-self.base_rate) / (self.max_paths + 2)
        start = math.log(math.expm1(share))  # whose softplus is the share
        self.trigger_net = Tower(self.dims, mlp=self.mlp)
        self.similarity_net = Tower(self.dims, mlp=self.mlp)
        self.path_bias = self.param("path_bias", nn.initializers.constant(start), (1,))
        if self.with_bias:
            self.bias_net = Tower(self.dims, mlp=self.mlp)
            self.bias_bias = self.param("bias_bias", nn.initializers.constant(start), (1,))
        if self.with_direct:
            self.user_tower = self.mlp(self.direct_dims)
            self.item_tower = self.mlp(self.direct_dims)
            self.direct_bias = self.param("direct_bias", nn.initializers.constant(start), (1,))

    def __call__(
        self,
        x: Array,
        target: Array,
        history: Array,
        mask: Array,
        *,
        behaviour: Array | None = None,
        relation: Array | None = None,
        bias: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Maps a user [B, F], an item [B, D] and clicked items [B, L, D] with a mask [B, L] to a logit [B].

        behaviour: of each click, such as its age and how often, [B, L, K]. relation: of each clicked item and
        the target, such as how often both are clicked, [B, L, R]. bias: of the impression, such as its
        position and hour, [B, P]; None, as in serving: no such path. Initialise with it to train with it, as
        the width of its net comes from there.

        Raises:
          ValueError: there is a bias, and the model has no net for it.
        """
        if bias is not None and not self.with_bias:
            raise ValueError("bias: is given to a model without its net; leave it out, or with_bias=True")
        trigger = self.trigger(x, history, behaviour, train=train)
        similarity = self.similarity(history, target, relation, train=train)
        paths = jnp.sum(jnp.where(mask, nn.softplus(trigger + similarity), 0.0), axis=-1)
        total = paths
        if self.with_direct:
            total = total + nn.softplus(self.direct(x, target, train=train))
        if bias is not None or (self.with_bias and self.is_initializing()):
            b = self.bias_net(jnp.zeros((x.shape[0], 1)) if bias is None else bias, train=train)
            total = total + (nn.softplus(b + self.bias_bias) if bias is not None else 0.0)
        return noisy_or_logit(total)

    def trigger(self, x: Array, history: Array, behaviour: Array | None, *, train: bool = False) -> Array:
        """How much users [B, F] care for clicked items [B, L, D]: t, [B, L]."""
        wide = jnp.broadcast_to(x[:, None], (*history.shape[:2], x.shape[-1]))
        return self._of_paths(self.trigger_net, (wide, behaviour, history), train)

    def similarity(
        self, history: Array, target: Array, relation: Array | None, *, train: bool = False
    ) -> Array:
        """How near clicked items [B, L, D] are to an item [B, D], whoever the user is: s, [B, L]."""
        wide = jnp.broadcast_to(target[:, None], history.shape)
        return self._of_paths(self.similarity_net, (history, relation, wide), train) + self.path_bias

    def direct(self, x: Array, target: Array, *, train: bool = False) -> Array:
        """The product of the towers of users [B, F] and items [B, D]: d, [B]."""
        users, items = self.user_tower(x, train=train), self.item_tower(target, train=train)
        return products(users, items[:, None])[:, 0] + self.direct_bias

    def _of_paths(self, net: nn.Module, parts: tuple[Array | None, ...], train: bool) -> Array:
        inputs = jnp.concatenate([part for part in parts if part is not None], axis=-1)
        flat = inputs.reshape(-1, inputs.shape[-1])
        return net(flat, train=train).reshape(inputs.shape[:2])  # type: ignore[no-any-return, operator]


class PDNPairs(FieldPairs):
    """A `PDN` of features of users and items, whose paths go through a user's items of training.

    Of a path's two items it reads whether they have a value of each field in `same` in common, such as the
    brand or the category. It knows nothing of a click but its item, and has no path of a bias.

    Fields besides those of `FieldPairs`, of which `model` is the `PDN`:
      same: names of item fields of ids.
    """

    same: tuple[str, ...] = ()

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Logits of items [B, N] for users [B]: [B, N]. In training the first item of a row is no path."""
        model: Any = self.model
        x = jnp.concatenate(self.field_vectors(self.user_fields, user, context), axis=-1)
        past = self.past(user, item, context, train)
        history, candidates = (
            jnp.concatenate(self.field_vectors(self.item_fields, ids, context), axis=-1)
            for ids in (past, item)
        )
        count = item.shape[1]
        target = candidates.reshape(-1, candidates.shape[-1])
        trigger = model.trigger(x, history, None, train=train)  # [B, L]
        many = jnp.repeat(history, count, axis=0)  # [B · N, L, D]
        similar = model.similarity(many, target, self._relation(past, item, context), train=train)
        paths = nn.softplus(jnp.repeat(trigger, count, axis=0) + similar)
        total = jnp.sum(jnp.where(jnp.repeat(past, count, axis=0) != 0, paths, 0.0), axis=-1)
        if model.with_direct:
            total = total + nn.softplus(model.direct(jnp.repeat(x, count, axis=0), target, train=train))
        return noisy_or_logit(total).reshape(item.shape)

    def _relation(self, past: Array, item: Array, context: Context) -> Array | None:
        """1 where a past item and a candidate have a value in common: [B · N, L, fields]."""
        found = []
        for field in self.item_fields:
            if field.name not in self.same:
                continue
            read(context, field, field.name, item[:1, 0])  # says what is wrong with a column
            column = jnp.asarray(context[field.name])
            column = column.reshape(column.shape[0], -1)
            had, wanted = rows_by_id(column, past), rows_by_id(column, item)  # [B, L, W], [B, N, W]
            equal = had[:, None, :, :, None] == wanted[:, :, None, None, :]
            shared = (equal & (wanted != 0)[:, :, None, None, :]).any(axis=(-1, -2))
            found.append(shared.reshape(-1, past.shape[1]).astype(jnp.float32))
        return jnp.stack(found, axis=-1) if found else None


def noisy_or_logit(total: Array) -> Array:
    """log(p / (1 - p)) of p = 1 - exp(-total), from evidence above 0, [...] → [...].

    Of evidence 0 (no path at all) it is the logit of the smallest normal number. A binary cross-entropy of it
    is the paper's loss, -y log(1 - exp(-total)) + (1 - y) total.

    >>> round(float(nn.sigmoid(noisy_or_logit(jnp.array(2.0)))), 5)  # 1 - exp(-2)
    0.86466
    """
    total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
    return total + jnp.log(-jnp.expm1(-total))
