"""The memory that a training step needs on each GPU, by part, without compiling the step.

Parameters, moments and gradients are counted from the real state and its shardings. Activations are what the backward pass of
the real model keeps: it is traced with one and with two sequences, and the difference is what one sequence adds. That holds for
every family, remat policy and attention backend. Only the workspace of the layer that is being computed is an estimate;
docs/estimate.md compares the result with compiled programs.
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

from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.model.experts import expert_capacity
from tonsai_jax.model.lora import join_adapters, split_adapters
from tonsai_jax.planning.described_gpu import cudnn_attention_without_a_gpu
from tonsai_jax.training.loss import chunk_length
from tonsai_jax.training.state import TrainState, abstract_state, init_params, model_graph

# Fitted to the programs that XLA compiles for a Hopper (docs/estimate.md). A share, by attention backend, of what a layer without
# remat would keep: that much is in memory at once while its backward pass runs. Fusion saves the rest.
WORKSPACE_SHARE = {"cudnn": 0.9, "cudnn_packed": 0.9, "xla": 0.9}
# With remat="none", unrolled layers keep this share of what scanned layers keep: XLA itself computes the rest again.
UNROLLED_SHARE = 0.9


def memory_by_part(
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    attention_backend: str,
    mesh_sizes: Mapping[str, int],
    micro_batch_size: int,
    seq_len: int,
    chunk_tokens: int,
    lora: Lora | None = None,
    accumulates: bool = False,
) -> dict[str, int]:
    """Bytes on each GPU, by part, at the moment of a training step when memory is fullest; their sum is the peak.

    That moment is usually the end of the backward pass, when no logits are left. In a small model with a large vocabulary it is
    the loss, when only the head has gradients yet.

    Args:
      attention_backend: from `choose_attention_backend`.
      mesh_sizes: devices along each axis of the mesh, such as {"data": 1, "fsdp": 8, "expert": 1}.
      micro_batch_size: sequences that a GPU processes at once.
      chunk_tokens: tokens per GPU whose logits exist at once.
      lora: the adapters, where only they are trained.
      accumulates: whether the batch is processed in several micro-batches, whose gradients are added up.

    Returns:
      parameters, also those of a frozen base; moments; gradients; activations, kept for the backward pass; logits: one chunk of
      them with their gradients and those of the head; workspace: of the layer that is being computed, and of gathered
      parameters.
    """
    state = described_state(model_config, optimizer, mesh_sizes, lora)
    trained = local_bytes(state.params)
    parameters = trained + local_bytes(state.frozen)
    moments = local_bytes((state.opt_state, state.step))
    kept, layer = _kept_per_sequence(model_config, attention_backend, seq_len, lora)
    if mesh_sizes["expert"] > 1 and model_config.remat in ("qkv_mlp", "offload"):
        kept += _received_per_sequence(model_config, seq_len)
    table = model_config.padded_vocab_size * model_config.d_model
    width = jnp.dtype(model_config.dtype).itemsize
    all_parameters = jax.tree.leaves((state.params, state.frozen))
    is_split = parameters < sum(leaf.size * leaf.dtype.itemsize for leaf in all_parameters)
    # The table in the compute dtype and its gradient. That of a frozen base is stored in this dtype, and has no gradient.
    head = 0 if lora else table * (4 + width)
    table_bytes = table * (width if lora else 4)

    chunk = micro_batch_size * chunk_length(micro_batch_size, seq_len, chunk_tokens)
    at_loss = {
        "gradients": trained if accumulates else 0,
        "logits": chunk * model_config.padded_vocab_size * (4 + width) + head,
        "workspace": table_bytes if is_split else 0,  # the gathered embedding
    }
    at_end = {
        "gradients": trained * (2 if accumulates else 1),
        "logits": 0,
        "workspace": round(WORKSPACE_SHARE[attention_backend] * layer * micro_batch_size)
        + attention_workspace(model_config, attention_backend, micro_batch_size, seq_len)
        + (table * 4 if is_split and not lora else 0),  # the gradient of the head
    }
    fullest = max(at_loss, at_end, key=lambda moment: sum(moment.values()))
    return {
        "parameters": parameters,
        "moments": moments,
        "gradients": fullest["gradients"],
        "activations": kept * micro_batch_size,
        "logits": fullest["logits"],
        "workspace": fullest["workspace"],
    }


def largest_micro_batch_size(usable_bytes: int, sequences_per_device: int | None = None, **settings: Any) -> int:
    """The most sequences that fit on a GPU at once, or 0 where one does not fit.

    Args:
      usable_bytes: memory of a GPU that the program can use.
      sequences_per_device: of a step; where it is given, the answer divides it, as the key `micro_batch_size` must.
      settings: the arguments of `memory_by_part` without the micro-batch size.
    """

    def fits(size: int) -> bool:
        accumulates = sequences_per_device is not None and size < sequences_per_device
        parts = memory_by_part(**settings, micro_batch_size=size, accumulates=accumulates)
        return sum(parts.values()) <= usable_bytes

    if sequences_per_device is not None:
        sizes = range(1, sequences_per_device + 1)
        return max((size for size in sizes if sequences_per_device % size == 0 and fits(size)), default=0)
    if not fits(1):
        return 0
    fitting, failing = 1, 2
    while fits(failing):
        fitting, failing = failing, 2 * failing
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def described_state(
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh_sizes: Mapping[str, int],
    lora: Lora | None = None,
) -> TrainState:
    """Shapes, dtypes and shardings of the training state on a mesh of devices that need not exist."""
    return _described_state(model_config, optimizer, tuple(mesh_sizes.items()), lora)


@functools.lru_cache(maxsize=8)
def _described_state(
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    sizes: tuple[tuple[str, int], ...],
    lora: Lora | None,
) -> TrainState:
    names = tuple(name for name, _ in sizes)
    mesh = AbstractMesh(tuple(size for _, size in sizes), names, axis_types=(AxisType.Auto,) * len(names))
    return abstract_state(model_config, optimizer, mesh, lora)


def local_parameters(state: TrainState) -> int:
    """Elements of the trained parameters that one device keeps."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state.params))


def attention_workspace(config: ModelConfig, attention_backend: str, micro_batch_size: int, seq_len: int) -> int:
    """Bytes on a GPU that cuDNN takes for packed documents. A compiler without a GPU does not learn of them."""
    if attention_backend != "cudnn_packed":
        return 0
    from tonsai_jax.model.cudnn_packed import workspace_bytes  # imported here: few runs have documents

    return workspace_bytes(micro_batch_size, seq_len, config.num_heads, config.head_dim)


def local_bytes(tree: Any) -> int:
    """Bytes of the arrays' parts on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _received_per_sequence(model_config: ModelConfig, seq_len: int) -> int:
    """Bytes of the tokens that experts receive from other devices, which rematerialization keeps too."""
    slots = model_config.num_experts * expert_capacity(seq_len, model_config)
    return model_config.num_layers * slots * model_config.d_model * jnp.dtype(model_config.dtype).itemsize


@functools.lru_cache(maxsize=8)
def _kept_per_sequence(
    model_config: ModelConfig, attention_backend: str, seq_len: int, lora: Lora | None
) -> tuple[int, int]:
    """Bytes that one more sequence adds to what the backward pass keeps: of the whole model; of one layer without remat."""

    def kept(config: ModelConfig, sequences: int) -> int:
        graph = model_graph(config, attention_backend, lora=lora)
        params, frozen = jax.eval_shape(lambda: init_params(config, 0, lora)), dict[str, Any]()
        if lora is not None:
            params, frozen = split_adapters(params)

        def backward_pass(params: Any, frozen: Any, tokens_BxT: jax.Array) -> Any:
            def forward(params: Any) -> Any:
                key = jax.random.key(0)
                model = nnx.merge(graph, join_adapters(params, frozen))
                return model(tokens_BxT, end_of_text_id=0, dropout_key=key, dropless=False)

            kept = jax.tree.leaves(jax.vjp(forward, params)[1])
            return [leaf for leaf in kept if jax.typeof(leaf).memory_space != jax.memory.Space.Host]

        tokens = jax.ShapeDtypeStruct((sequences, seq_len), np.int32)
        leaves = jax.tree.leaves(jax.eval_shape(backward_pass, params, frozen, tokens))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    with cudnn_attention_without_a_gpu():
        whole = kept(model_config, 2) - kept(model_config, 1)
        without_remat = replace(model_config, remat="none")
        if not (model_config.recomputes or model_config.scan_layers):
            whole = round(UNROLLED_SHARE * whole)
        return whole, (kept(without_remat, 2) - kept(without_remat, 1)) // model_config.num_layers
