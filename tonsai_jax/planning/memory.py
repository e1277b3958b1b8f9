"""What a training step holds on each GPU, by part, without compiling it.

Parameters, moments and gradients are counted from the real state and its shardings. What the backward pass keeps is
counted by tracing the real model at one and at two sequences: the difference is what one sequence adds, whatever the
family, the remat policy and the attention kernel. Only the scratch space of the layer at work is an estimate; the
compiled program's own figures, beside these, are in docs/estimate.md.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from tonsai_jax.model.config import ModelConfig
from tonsai_jax.planning.described_gpu import cudnn_attention_without_a_gpu
from tonsai_jax.training.loss import chunk_length
from tonsai_jax.training.state import TrainState, abstract_state, init_params, model_graph

# Fitted to the programs that XLA compiles for a Hopper (docs/estimate.md). Of what a layer without remat would keep, so
# much is live at once while its backward pass runs, by attention kernel; fusions spare the rest.
WORKSPACE_SHARE = {"cudnn": 0.4, "xla": 0.9}
# Of what "none" keeps in layers that are scanned, unrolled ones keep so much: XLA computes the rest again by itself.
UNROLLED_SHARE = 0.45


def memory_by_part(
    shape: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    kernel: str,
    mesh_sizes: Mapping[str, int],
    micro_batch: int,
    seq_len: int,
    chunk_tokens: int,
    accumulates: bool = False,
) -> dict[str, int]:
    """Bytes on each GPU, by part, at the moment of a training step when it is fullest; they add up to the peak.

    That moment is the end of the backward pass (then no logits are left), or, in a small model with a large vocabulary,
    the loss (then there are no gradients yet but the head's).

    Args:
      kernel: of attention, from `choose_attention_backend`.
      mesh_sizes: devices along each axis of the mesh, as in {"data": 1, "fsdp": 8}.
      micro_batch: sequences that a GPU holds at a time.
      chunk_tokens: tokens per GPU whose logits exist at a time.
      accumulates: whether the batch is done in several parts, whose gradients are added up.

    Returns:
      parameters, moments, gradients, activations (kept for the backward pass), logits (a chunk of them, their
      gradients and the head's), workspace (of the layer at work, and gathered parameters).
    """
    state = described_state(shape, optimizer, mesh_sizes)
    parameters = _local_bytes(state.params)
    moments = _local_bytes((state.opt_state, state.step))
    kept, layer = _kept_per_sequence(shape, kernel, seq_len)
    table = shape.padded_vocab_size * shape.d_model
    width = jnp.dtype(shape.dtype).itemsize
    split = _local_bytes(state.params) < sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))

    chunk = micro_batch * chunk_length(micro_batch, seq_len, chunk_tokens)
    at_loss = {
        "gradients": parameters if accumulates else 0,
        "logits": chunk * shape.padded_vocab_size * (4 + width) + table * (4 + width),
        "workspace": table * 4 if split else 0,  # the embedding, gathered
    }
    at_end = {
        "gradients": parameters * (2 if accumulates else 1),
        "logits": 0,
        "workspace": round(WORKSPACE_SHARE[kernel] * layer * micro_batch)
        + (table * 4 if split else 0),  # the head's gradient
    }
    fullest = max(at_loss, at_end, key=lambda moment: sum(moment.values()))
    return {
        "parameters": parameters,
        "moments": moments,
        "gradients": fullest["gradients"],
        "activations": kept * micro_batch,
        "logits": fullest["logits"],
        "workspace": fullest["workspace"],
    }


def largest_micro_batch(usable_bytes: int, share: int | None = None, **settings: Any) -> int:
    """The most sequences a GPU can hold at a time, or 0 where not even one fits.

    Args:
      usable_bytes: memory of a GPU that a program can have.
      share: sequences of a GPU in a step; then the answer divides it, as `micro_batch_size` must.
      settings: of `memory_by_part`, without the micro-batch.
    """

    def fits(micro_batch: int) -> bool:
        parts = memory_by_part(settings["shape"], settings["optimizer"], micro_batch=micro_batch, **others)
        return sum(parts.values()) <= usable_bytes

    others = {name: value for name, value in settings.items() if name not in ("shape", "optimizer")}
    if share is not None:
        return max((size for size in range(1, share + 1) if share % size == 0 and fits(size)), default=0)
    if not fits(1):
        return 0
    fitting, failing = 1, 2
    while fits(failing):
        fitting, failing = failing, 2 * failing
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


@functools.lru_cache(maxsize=8)
def _described_state(
    shape: ModelConfig, optimizer: optax.GradientTransformation, sizes: tuple[tuple[str, int], ...]
) -> TrainState:
    names = tuple(name for name, _ in sizes)
    mesh = AbstractMesh(tuple(size for _, size in sizes), names, axis_types=(AxisType.Auto,) * len(names))
    return abstract_state(shape, optimizer, mesh)


def described_state(
    shape: ModelConfig, optimizer: optax.GradientTransformation, mesh_sizes: Mapping[str, int]
) -> TrainState:
    """Shapes, dtypes and shardings of the state on a mesh of devices that need not be there."""
    return _described_state(shape, optimizer, tuple(mesh_sizes.items()))


def local_parameters(state: TrainState) -> int:
    """Elements of the parameters that one device keeps."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state.params))


def _local_bytes(tree: Any) -> int:
    """Bytes of one device's pieces."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.lru_cache(maxsize=8)
def _kept_per_sequence(shape: ModelConfig, kernel: str, seq_len: int) -> tuple[int, int]:
    """Bytes that a sequence adds to what the backward pass keeps: of the whole model, and of one layer without remat."""

    def kept(config: ModelConfig, sequences: int) -> int:
        graph = model_graph(config, kernel)
        params = jax.eval_shape(lambda: init_params(config, 0))

        def backward_pass(params: Any, tokens_BxT: jax.Array) -> Any:
            def forward(params: Any) -> Any:
                key = jax.random.key(0)
                return nnx.merge(graph, params)(tokens_BxT, end_of_text_id=0, dropout_key=key, dropless=False)

            kept = jax.tree.leaves(jax.vjp(forward, params)[1])
            return [leaf for leaf in kept if jax.typeof(leaf).memory_space != jax.memory.Space.Host]

        tokens = jax.ShapeDtypeStruct((sequences, seq_len), np.int32)
        leaves = jax.tree.leaves(jax.eval_shape(backward_pass, params, tokens))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    with cudnn_attention_without_a_gpu():
        whole = kept(shape, 2) - kept(shape, 1)
        plain = replace(shape, remat="none")
        if shape.remat == "none" and not shape.scan_layers:
            whole = round(UNROLLED_SHARE * whole)
        return whole, (kept(plain, 2) - kept(plain, 1)) // shape.num_layers
