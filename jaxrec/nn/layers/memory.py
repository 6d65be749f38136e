"""A memory of fixed size that events are written into, one after the other (Pi et al., KDD 2019, MIMN).

A neural Turing machine (Graves et al., arXiv:1410.5401) with one read and one write head, the re-balancing of
what it writes to (section 3.3 of the paper, memory utilisation regularisation) and a GRU for each slot
(section 3.4, memory induction unit).
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.recurrent import gate_init
from jaxrec.types import Array, Key

USAGE_SCALE = 400.0  # what the public code divides numbers of writes by, for histories of up to 200 events
REBALANCES = ("utilisation", "shift", None)


class MemoryState(NamedTuple):
    """All that is kept of a user, of one size whatever the number of events.

    memory: slots [B, M, D]. controller: its state [B, H]. read: what was read at the last event [B, D].
    usage: write weights summed over events [B, M], which sum to the number of events.
    channels: states of the induction unit [B, M, D]. total: sum of the events' vectors [B, D].
    """

    memory: Array
    controller: Array
    read: Array
    usage: Array
    channels: Array
    total: Array


class Heads(NamedTuple):
    """What the controller requests of the memory: keys, erase and add vectors [B, D], and numbers [B, …]."""

    read_key: Array
    write_key: Array
    erase: Array
    add: Array
    strengths: Array
    shift: Array
    sharpening: Array


class Access(NamedTuple):
    """How an event reads and is written: weights of slots [B, M], and vectors [B, D]."""

    read_weights: Array
    write_weights: Array
    erase: Array
    add: Array


class InterestMemory(nn.Module):
    """Reads and writes a memory at each event, and answers a target from it.

    With x_t the event, r the vector read, h the controller's state, K the cosine and S the channels:

        h_t = GRU([x_t; r_{t-1}], h_{t-1})      k, e, a = tanh, σ, tanh of linear functions of h_t
        w(i) = softmax_i K(k, M(i))             r_t = Σ_i w_read(i) M_{t-1}(i)
        w̃ = w_write, re-balanced                M_t(i) = (1 - w̃(i) e) ⊙ M_{t-1}(i) + w̃(i) a
        S_t(i) = GRU([x_t; M_{t-1}(i)], S_{t-1}(i)) for the `induction` slots i of highest w_read

    Weights of a head sum to 1, before and after re-balancing. Time runs from left to right; a masked step
    leaves all of the state as it was, so padding may stand on either side. Gradients of the induction unit do
    not enter the memory (as in the public code).

    The memory before any event is learned: equal slots would stay equal for ever. Departs from the public
    code, whose initial memory is small and fixed.

    Shape names: B batch, L events, M slots, D width of an event, of a slot and of a channel, H controller.

    Fields:
      slots: M. hidden_dim: H; None for D.
      induction: channels updated at an event, at most M; 0: none is.
      rebalance: what keeps a slot from being written to all the time. "utilisation": w̃ ∝ w ⊙ softmax(W g)
        with g the usage before the event (the paper, whose product we make sum to 1 again). "shift": a
        learned circular shift by at most one slot and a sharpening, of weights that reach the usage without
        gradient; heads then see the usage too (the public code). None: w̃ = w.
      shares: whether usage is read as each slot's share of all writes, at most 1, not as their number, which
        grows with the history.
      strength: w = softmax(β K) with a learned β > `sharpness` at every event. key_memory: K is the mean of
        the cosines to a slot and to a trained key of it. Both as in the public code.
      chunk: events between two states that are kept for the gradient; those in between are computed once more
        then, so that memory grows with L / chunk + chunk. None keeps the state of every event. Of what a step
        computes nothing else is kept, which on CPU is also faster than keeping it.

    Further fields, for the public code in all its parts (its values in brackets):
      reset_first: whether the GRUs' reset gate acts on the state before U_n, as in TensorFlow 1 and in Cho et
        al., not after it as in `recurrent.GRU` (True). Products of input and state then share their bias.
      gate_bias: where the biases of the reset and update gates start (1).
      sharpness: the least β of `strength`, and half the least exponent of "shift" (2).
      max_shift: slots by which "shift" moves at most (1).
      counted_twice: whether "shift" re-balances once more what reaches the usage (True).
      clip: bound of what heads and answers are, on both sides; None: there is none (20).
      output_dim: width of an answer; None for D (H).
    """

    slots: int = 4
    hidden_dim: int | None = None
    induction: int = 1
    rebalance: Literal["utilisation", "shift"] | None = "utilisation"
    shares: bool = False
    strength: bool = False
    key_memory: bool = False
    chunk: int | None = None
    reset_first: bool = False
    gate_bias: float = 0.0
    sharpness: float = 2.0
    max_shift: int = 1
    counted_twice: bool = False
    clip: float | None = None
    output_dim: int | None = None

    def __post_init__(self) -> None:
        if self.slots < 1 or not 0 <= self.induction <= self.slots:
            raise ValueError(
                f"slots={self.slots}, induction={self.induction}: at least 1 slot, and 0 to all of them"
            )
        if self.rebalance not in REBALANCES:
            raise ValueError(f"rebalance={self.rebalance!r}: must be one of {REBALANCES}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk={self.chunk}: must be at least 1 event, or None to keep every state")
        if self.max_shift < 1 or (self.clip is not None and self.clip <= 0.0):
            raise ValueError(
                f"max_shift={self.max_shift}, clip={self.clip}: a shift reaches at least 1 slot, and a bound "
                "is above 0, or None for none"
            )
        super().__post_init__()

    def __call__(self, history: Array, mask: Array, state: MemoryState | None = None) -> MemoryState:
        """The state after events [B, L, D] that follow `state`, by default the start; mask: [B, L]."""
        batch, length, dim = history.shape
        p = self._parameters(dim)
        state = self._start(p, batch) if state is None else state
        step = jax.checkpoint(functools.partial(self._step, p), prevent_cse=False)

        def run(state: MemoryState, events: Array, real: Array) -> MemoryState:
            return jax.lax.scan(step, state, (events, real))[0]

        events, real = history.swapaxes(0, 1), mask.T  # time first
        if self.chunk is None or self.chunk >= length:
            return run(state, events, real)
        padded = -length % self.chunk
        events = jnp.pad(events, ((padded, 0), (0, 0), (0, 0))).reshape(-1, self.chunk, batch, dim)
        real = jnp.pad(real, ((padded, 0), (0, 0))).reshape(-1, self.chunk, batch)
        again = jax.checkpoint(run, prevent_cse=False)
        return jax.lax.scan(lambda s, block: (again(s, *block), None), state, (events, real))[0]

    def read(self, target: Array, state: MemoryState) -> Array:
        """What the memory answers to targets [B, D]: [B, D]. They are read as events but not written."""
        p = self._parameters(target.shape[-1])
        projected = target @ p["event_kernel"] + p["event_bias"]
        controller, _, _, read = self._look(p, state, projected)
        seen = jnp.concatenate([controller, read], axis=-1)
        return self._clipped(seen @ p["output_kernel"] + p["output_bias"])

    def access(self, event: Array, state: MemoryState) -> Access:
        """How events [B, D] that follow `state` read the memory and are written into it."""
        p = self._parameters(event.shape[-1])
        projected = event @ p["event_kernel"] + p["event_bias"]
        _, heads, weights, _ = self._look(p, state, projected)
        written, _ = self._writes(p, state, heads)
        return Access(read_weights=weights, write_weights=written, erase=heads.erase, add=heads.add)

    def balance(self, state: MemoryState) -> Array:
        """Usage as re-balancing and its loss read it, numbers of writes or shares: [B, M]."""
        return self._usage(state.usage)

    def _usage(self, usage: Array) -> Array:
        return usage / jnp.maximum(usage.sum(axis=-1, keepdims=True), 1.0) if self.shares else usage

    @nn.compact
    def _parameters(self, dim: int) -> dict[str, Array]:
        """All weights; those that act on an event stand side by side: [D, 3H + 3D]."""
        hidden, shift = self.hidden_dim or dim, self.rebalance == "shift"
        zeros, glorot = nn.initializers.zeros, nn.initializers.glorot_uniform()
        # keys, erase, add; strengths; shifts by -max_shift … max_shift and a sharpening
        width = 4 * dim + 2 * self.strength + (2 * self.max_shift + 2) * shift
        answer = self.output_dim or dim
        p = {
            "memory": self.param("memory", nn.initializers.normal(0.5), (self.slots, dim)),
            "read": self.param("read", zeros, (dim,)),
            "hidden_kernel": self.param("hidden_kernel", gate_init, (hidden, 3 * hidden)),
            "hidden_bias": self._hidden_bias("hidden_bias", 3 * hidden),
            "heads_kernel": self.param("heads_kernel", glorot, (hidden + shift * self.slots, width)),
            "heads_bias": self.param("heads_bias", zeros, (width,)),
            "output_kernel": self.param("output_kernel", glorot, (hidden + dim, answer)),
            "output_bias": self.param("output_bias", zeros, (answer,)),
        }
        events = [self.param("controller_kernel", gate_init, (2 * dim, 3 * hidden))]
        biases = [self.param("controller_bias", self._bias_init, (3 * hidden,))]
        p["read_kernel"] = events[0][dim:]
        if self.induction:
            events.append(self.param("channel_kernel", gate_init, (2 * dim, 3 * dim)))
            biases.append(self.param("channel_bias", self._bias_init, (3 * dim,)))
            p["slot_kernel"] = events[1][dim:]
            p["channel_hidden_kernel"] = self.param("channel_hidden_kernel", gate_init, (dim, 3 * dim))
            p["channel_hidden_bias"] = self._hidden_bias("channel_hidden_bias", 3 * dim)
        p["event_kernel"] = jnp.concatenate([kernel[:dim] for kernel in events], axis=1)
        p["event_bias"] = jnp.concatenate(biases)
        if self.rebalance == "utilisation":
            p["utilisation_kernel"] = self.param("utilisation_kernel", zeros, (self.slots, self.slots))
        if self.key_memory:
            p["keys"] = jnp.tanh(self.param("keys", nn.initializers.normal(0.5), (self.slots, dim)))
        return p

    def _bias_init(self, key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """`gate_bias` for reset and update, 0 for the third part."""
        width = shape[0] // 3
        return jnp.repeat(jnp.array([self.gate_bias, self.gate_bias, 0.0], dtype), width)

    def _hidden_bias(self, name: str, width: int) -> Array:
        if self.reset_first:  # the same as the input's
            return jnp.zeros(width)
        return self.param(name, nn.initializers.zeros, (width,))

    def _clipped(self, x: Array) -> Array:
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)

    def _start(self, p: dict[str, Array], batch: int) -> MemoryState:
        memory, read = jnp.tanh(p["memory"]), jnp.tanh(p["read"])
        (slots, dim), hidden = memory.shape, len(p["hidden_kernel"])
        return MemoryState(
            memory=jnp.broadcast_to(memory, (batch, slots, dim)),
            controller=jnp.zeros((batch, hidden), memory.dtype),
            read=jnp.broadcast_to(read, (batch, dim)),
            usage=jnp.zeros((batch, slots), memory.dtype),
            channels=jnp.zeros((batch, slots, dim), memory.dtype),
            total=jnp.zeros((batch, dim), memory.dtype),
        )

    def _step(
        self, p: dict[str, Array], state: MemoryState, inputs: tuple[Array, Array]
    ) -> tuple[MemoryState, None]:
        event, real = inputs
        projected = event @ p["event_kernel"] + p["event_bias"]
        controller, heads, weights, read = self._look(p, state, projected)
        written, counted = self._writes(p, state, heads)
        kept = 1.0 - written[:, :, None] * heads.erase[:, None]
        new = MemoryState(
            memory=kept * state.memory + written[:, :, None] * heads.add[:, None],
            controller=controller,
            read=read,
            usage=state.usage + counted,
            channels=self._induced(p, state, projected, weights) if self.induction else state.channels,
            total=state.total + event,
        )

        def where_real(after: Array, before: Array) -> Array:
            return jnp.where(real.reshape(-1, *[1] * (after.ndim - 1)), after, before)

        return jax.tree.map(where_real, new, state), None

    def _writes(self, p: dict[str, Array], state: MemoryState, heads: Heads) -> tuple[Array, Array]:
        """The write weights and what of them reaches the usage, [B, M] both."""
        found = self._address(p, heads.write_key, heads.strengths[:, 1:], state.memory)
        written = self._rebalanced(p, found, state, heads)
        if self.rebalance != "shift":
            return written, written
        counted = jax.lax.stop_gradient(written if self.counted_twice else found)
        return written, self._rebalanced(p, counted, state, heads)

    def _look(
        self, p: dict[str, Array], state: MemoryState, projected: Array
    ) -> tuple[Array, Heads, Array, Array]:
        """The controller's next state [B, H], its heads, the read weights [B, M] and what is read [B, D]."""
        hidden, dim = state.controller.shape[-1], state.read.shape[-1]
        inputs = projected[:, : 3 * hidden] + state.read @ p["read_kernel"]
        controller = gru(
            inputs, state.controller, p["hidden_kernel"], p["hidden_bias"], reset_first=self.reset_first
        )
        seen = [controller]
        if self.rebalance == "shift":
            usage = self._usage(state.usage) / (1.0 if self.shares else USAGE_SCALE)
            seen.append(jax.lax.stop_gradient(usage))
        given = self._clipped(jnp.concatenate(seen, axis=-1) @ p["heads_kernel"] + p["heads_bias"])
        vectors, rest = given[:, : 4 * dim], given[:, 4 * dim :]
        read_key, write_key, erase, add = jnp.split(vectors, 4, axis=-1)
        strengths = jnp.ones_like(given[:, :2])
        if self.strength:
            strengths = self.sharpness * (nn.softplus(rest[:, :2]) + 1.0)
        heads = Heads(
            read_key=jnp.tanh(read_key),
            write_key=jnp.tanh(write_key),
            erase=nn.sigmoid(erase),
            add=jnp.tanh(add),
            strengths=strengths,
            shift=nn.softmax(rest[:, -2 * self.max_shift - 2 : -1]),
            sharpening=2.0 * self.sharpness * (nn.softplus(rest[:, -1:]) + 1.0),
        )
        weights = self._address(p, heads.read_key, strengths[:, :1], state.memory)
        return controller, heads, weights, jnp.einsum("bm,bmd->bd", weights, state.memory)

    def _address(self, p: dict[str, Array], key: Array, strength: Array, memory: Array) -> Array:
        scores = cosine(key, memory)
        if self.key_memory:
            scores = 0.5 * (scores + cosine(key, jnp.broadcast_to(p["keys"], memory.shape)))
        return nn.softmax(strength * scores)

    def _rebalanced(self, p: dict[str, Array], weights: Array, state: MemoryState, heads: Heads) -> Array:
        if self.rebalance is None:
            return weights
        logits = jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))
        if self.rebalance == "utilisation":  # w ⊙ softmax(z) over its sum is softmax(log w + z)
            return nn.softmax(logits + self._usage(state.usage) @ p["utilisation_kernel"])
        shifted = jnp.zeros_like(weights)
        for i, by in enumerate(range(-self.max_shift, self.max_shift + 1)):
            shifted += heads.shift[:, i : i + 1] * jnp.roll(weights, by, axis=-1)
        return nn.softmax(heads.sharpening * jnp.log(jnp.maximum(shifted, jnp.finfo(weights.dtype).tiny)))

    def _induced(self, p: dict[str, Array], state: MemoryState, projected: Array, weights: Array) -> Array:
        """Channels after the step, [B, M, D]."""
        _, best = jax.lax.top_k(jax.lax.stop_gradient(weights), self.induction)
        chosen = nn.one_hot(best, self.slots, dtype=projected.dtype)  # [B, k, M]
        slot, before = (jnp.einsum("bkm,bmd->bkd", chosen, x) for x in (state.memory, state.channels))
        dim = before.shape[-1]
        inputs = projected[:, None, -3 * dim :] + jax.lax.stop_gradient(slot) @ p["slot_kernel"]
        kernel, bias = p["channel_hidden_kernel"], p["channel_hidden_bias"]
        after = gru(inputs, before, kernel, bias, reset_first=self.reset_first)
        spread = jnp.einsum("bkm,bkd->bmd", chosen, after)
        return jnp.where(chosen.sum(axis=1)[..., None] > 0, spread, state.channels)


def gru(inputs: Array, state: Array, kernel: Array, bias: Array, *, reset_first: bool = False) -> Array:
    """One step of `recurrent.GRU` after its input product: [..., 3H] and [..., H] → [..., H].

    reset_first: n = tanh(W_n x + U_n (r ⊙ h)) instead of its tanh(W_n x + r ⊙ U_n h).
    """
    hidden = state.shape[-1]
    x_r, x_u, x_n = jnp.split(inputs, 3, axis=-1)
    if reset_first:
        h_r, h_u = jnp.split(state @ kernel[:, : 2 * hidden] + bias[: 2 * hidden], 2, axis=-1)
        reset = nn.sigmoid(x_r + h_r)
        new = jnp.tanh(x_n + (reset * state) @ kernel[:, 2 * hidden :] + bias[2 * hidden :])
    else:
        h_r, h_u, h_n = jnp.split(state @ kernel + bias, 3, axis=-1)
        new = jnp.tanh(x_n + nn.sigmoid(x_r + h_r) * h_n)
    keep = nn.sigmoid(x_u + h_u)
    return (1.0 - keep) * new + keep * state


def cosine(key: Array, rows: Array) -> Array:
    """Cosines of [B, D] to rows [B, M, D]: [B, M]; 0, with the gradient 0, where either is zero."""
    key, rows = (jnp.where((x != 0).any(-1, keepdims=True), x, jax.lax.stop_gradient(x)) for x in (key, rows))
    product = jnp.einsum("bd,bmd->bm", key, rows)
    return product * inverse_norm(key)[:, None] * inverse_norm(rows)


def inverse_norm(x: Array) -> Array:
    """1 / ‖x‖ over the last axis, for norms far above 1e-6."""
    return jax.lax.rsqrt(jnp.sum(x * x, axis=-1) + 1e-12)
