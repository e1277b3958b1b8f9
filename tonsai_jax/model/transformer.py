"""The decoder. `ModelConfig` makes it a GPT-2, Llama, Qwen3, Mixtral or Gemma 3 as Hugging Face defines them (`presets.py`).

The parameters of all layers are stacked along a leading axis, whether layers are scanned or unrolled, so a checkpoint does not
depend on `scan_layers`. Array names carry their shape: B batch, T sequence, S cache slots, D model width, K heads of keys and
values, Dh head size, V vocabulary, L layers.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from tonsai_jax.errors import unknown_name
from tonsai_jax.model.attention import (
    causal_mask,
    document_segments,
    segment_mask,
    segment_positions,
    subtree_mask,
    window_mask,
)
from tonsai_jax.model.block import INIT_STD, Block, dropout
from tonsai_jax.model.config import ModelConfig, choices_of
from tonsai_jax.model.experts import Routing
from tonsai_jax.model.norm import Norm
from tonsai_jax.model.remat import remat_policy
from tonsai_jax.model.rope import local_rope, rotation

if TYPE_CHECKING:
    from tonsai_jax.model.cudnn_packed import Packing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens so far.

    Attributes:
      kv_BxKxSxDh: keys and values of each layer, in the compute dtype; S is the longest sequence that fits. Every layer has
        arrays of its own: in a stack of them, each step would copy all of it.
      length_B: int32, how many slots each sequence has filled.
    """

    kv_BxKxSxDh: tuple[tuple[jax.Array, jax.Array], ...]
    length_B: jax.Array

    @classmethod
    def empty(cls, config: ModelConfig, batch_size: int, max_length: int) -> "KVCache":
        """A cache without tokens for `batch_size` sequences of at most `max_length` tokens."""
        zeros = jnp.zeros((batch_size, config.kv_heads, max_length, config.head_dim), dtype=config.dtype)
        return cls(((zeros, zeros),) * config.num_layers, jnp.zeros(batch_size, dtype=jnp.int32))


def output_table(params: dict[str, Any]) -> jax.Array:
    """The table that makes logits, float32 [V, D], among a model's parameters: the token embedding where both are tied."""
    return params.get("head", params["token_embedding"])


def split_layers(stacked_blocks: Any) -> list[Any]:
    """The parameters of each layer as arrays of their own, out of those of all layers, stacked on the first axis."""
    num_layers = jax.tree.leaves(stacked_blocks)[0].shape[0]
    return [jax.tree.map(lambda leaf: leaf[number], stacked_blocks) for number in range(num_layers)]  # noqa: B023


def _rows(table: jax.Array, ids_BxT: jax.Array) -> jax.Array:
    """The rows of a table with these numbers, [B, T, D].

    Args:
      table: [V, D], or [devices, V, D] in training: a copy for each device, whose sequences read their own copy.
    """
    if table.ndim == 2:
        return table[ids_BxT]
    B, T = ids_BxT.shape
    rows = jax.vmap(lambda table_VxD, ids: table_VxD[ids])(table, ids_BxT.reshape(len(table), -1, T))
    return rows.reshape(B, T, -1)


class Transformer(nnx.Module):
    """Token ids in, hidden states or logits out.

    Args:
      attention_backend: from `choose_attention_backend`.
      mesh: in training, the devices over which tokens and experts are spread; only experts use it.
      experts_backend: from `choose_experts_backend`.
      rngs: the stream "params" draws the initial parameters, float32.
    """

    def __init__(
        self,
        config: ModelConfig,
        attention_backend: str = "xla",
        mesh: Mesh | None = None,
        experts_backend: str = "batched",
        *,
        rngs: nnx.Rngs,
    ):
        self.config = config
        normal = nnx.initializers.normal(INIT_STD)
        self.token_embedding = nnx.Param(normal(rngs.params(), (config.padded_vocab_size, config.d_model)))
        if config.position == "learned":
            self.position_embedding = nnx.Param(normal(rngs.params(), (config.context_length, config.d_model)))

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, attention_backend, mesh, experts_backend, rngs=rngs)

        self.blocks = stacked_blocks(rngs)
        self.final_norm = Norm(config, config.d_model, rngs)
        if not config.tie_embeddings:
            self.head = nnx.Param(normal(rngs.params(), (config.padded_vocab_size, config.d_model)))

    def __call__(
        self,
        tokens_BxT: jax.Array,
        *,
        end_of_text_id: int | None = None,
        segments_BxT: jax.Array | None = None,
        subtree_ends_BxT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        dropless: bool = True,
    ) -> tuple[jax.Array, Routing | None]:
        """Hidden states after the last norm, [B, T, D] in the compute dtype; `logits` turns them into scores.

        Args:
          tokens_BxT: integer ids, T at most `context_length`.
          end_of_text_id: the token between documents; only used where `config.document_mask` is set.
          segments_BxT: int32 numbers that rise along T: a token attends only to tokens with its number, and positions count
            from 0 in each segment. Then `end_of_text_id` has no effect.
          subtree_ends_BxT: int32, for rows of sequences that share their beginnings, see `subtree_mask`; the position of a
            token is the number of its ancestors. T can exceed `context_length` here; a path cannot. The other masks have no
            effect.
          dropout_key: random key of this step; without it nothing is dropped.
          dropless: experts take every token that is routed to them. False, for training: `config.capacity_factor` limits them.

        Returns:
          (hidden states, the routing of all layers stacked on the first axis, or None without experts).
        """
        T = tokens_BxT.shape[1]
        mask, positions = None, jnp.arange(T)
        if subtree_ends_BxT is not None:
            mask = subtree_mask(subtree_ends_BxT)
            positions = mask[:, 0].sum(axis=-1) - 1
        elif segments_BxT is not None:
            positions = segment_positions(segments_BxT)
        elif self.config.document_mask and end_of_text_id is not None:
            segments_BxT = document_segments(tokens_BxT == end_of_text_id)
        packing = None
        if segments_BxT is not None and mask is None:
            if self.blocks.attention_backend == "cudnn_packed":
                from tonsai_jax.model.document_attention import pack  # imported here: only for documents on a GPU

                packing = pack(segments_BxT, self.blocks.mesh)
            else:
                mask = segment_mask(segments_BxT)
        if 0 < self.config.sliding_window < T and mask is None:
            mask = causal_mask(T)[None, None]  # a layer of a scan can leave out its mask only where all layers do
        x_BxTxD, (_, routing) = self._layers(
            tokens_BxT, positions, mask=mask, packing=packing, dropout_key=dropout_key, dropless=dropless
        )
        return x_BxTxD, routing

    def decode(
        self, tokens_BxT: jax.Array, cache: KVCache, layers: Sequence[Any] | None = None
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states of the tokens that follow those in the cache, [B, T, D], and the cache with these tokens added.

        `length_B` grows by T in every sequence. Where the last tokens of a sequence are padding, the caller must set it back to
        the true length.

        Args:
          layers: the parameters of each layer, from `split_layers`. Without them each call takes them out of the stack, which
            copies them.
        """
        S = cache.kv_BxKxSxDh[0][0].shape[2]
        positions_BxT = cache.length_B[:, None] + jnp.arange(tokens_BxT.shape[1])
        mask_Bx1xTxS = (jnp.arange(S) <= positions_BxT[:, :, None])[:, None]
        x_BxTxD, (kv_BxKxSxDh, _) = self._layers(
            tokens_BxT, positions_BxT, mask=mask_Bx1xTxS, cached_kv=cache.kv_BxKxSxDh, layers=layers
        )
        return x_BxTxD, KVCache(kv_BxKxSxDh, cache.length_B + tokens_BxT.shape[1])

    def logits(self, x_BxTxD: jax.Array) -> jax.Array:
        """Scores over the vocabulary, float32 [B, T, vocab_size], without the padding rows of the table."""
        table = self.token_embedding if self.config.tie_embeddings else self.head
        table_VxD = table[: self.config.vocab_size].astype(x_BxTxD.dtype)
        return jnp.einsum("btd,vd->btv", x_BxTxD, table_VxD, preferred_element_type=jnp.float32)

    def _layers(
        self,
        tokens_BxT: jax.Array,
        positions: jax.Array,
        *,
        mask: jax.Array | None,
        packing: "Packing | None" = None,
        dropout_key: jax.Array | None = None,
        dropless: bool = True,
        cached_kv: Sequence[tuple[jax.Array, jax.Array]] | None = None,
        layers: Sequence[Any] | None = None,
    ) -> tuple[jax.Array, tuple[Any, Routing | None]]:
        config = self.config
        # Look up in float32, then cast. Casting the table first would make its gradient a bfloat16 scatter-add. The table of a
        # frozen base may be bfloat16.
        x_BxTxD = _rows(self.token_embedding[...], tokens_BxT).astype(jnp.float32)
        if config.scale_embedding:  # by a factor in the compute dtype, as published models are trained
            x_BxTxD = x_BxTxD * jnp.asarray(math.sqrt(config.d_model), config.dtype)
        cos_sin = local_cos_sin = None
        if config.position == "learned":
            x_BxTxD = x_BxTxD + self.position_embedding[positions]
        elif config.position == "rope":
            cos_sin = rotation(positions, config)
            local_cos_sin = rotation(positions, local_rope(config)) if config.sliding_window else None
        else:
            raise unknown_name("model.position", config.position, choices_of("position"))
        x_BxTxD = x_BxTxD.astype(config.dtype)
        layer_keys = None
        if dropout_key is not None and (config.dropout or config.attention_dropout or self.blocks.adapter_dropout):
            embedding_key, blocks_key = jax.random.split(dropout_key)
            x_BxTxD = dropout(x_BxTxD, config.dropout, embedding_key)
            layer_keys = jax.random.split(blocks_key, config.num_layers)
        is_global_L, local_mask = None, mask
        if config.sliding_window:
            is_global_L = (jnp.arange(config.num_layers) + 1) % config.global_every == 0
            if mask is not None and config.sliding_window < mask.shape[-1]:
                key_positions = positions if cached_kv is None else jnp.arange(mask.shape[-1])
                local_mask = mask & window_mask(positions, key_positions, config.sliding_window)
        graphdef, stacked_params = nnx.split(self.blocks)

        def layer(x_BxTxD: jax.Array, inputs: tuple[Any, Any, Any, Any]) -> tuple[jax.Array, Any]:
            params, layer_key, cached_kv, is_global = inputs
            mask_and_rotation = (mask, cos_sin)
            if is_global is not None:
                choose = partial(jnp.where, is_global)
                mask_and_rotation = jax.tree.map(choose, mask_and_rotation, (local_mask, local_cos_sin))
            return nnx.merge(graphdef, params)(
                x_BxTxD,
                mask=mask_and_rotation[0],
                packing=packing,
                rotation=mask_and_rotation[1],
                dropout_key=layer_key,
                dropless=dropless,
                cached_kv=cached_kv,
                positions_BxT=positions,
            )

        if cached_kv is not None:
            updated = []
            for number, params in enumerate(layers or split_layers(stacked_params)):
                is_global = None if is_global_L is None else is_global_L[number]
                x_BxTxD, (kv_BxKxSxDh, _) = layer(x_BxTxD, (params, None, cached_kv[number], is_global))
                updated.append(kv_BxKxSxDh)
            return self.final_norm(x_BxTxD), (tuple(updated), None)
        if config.recomputes:
            layer = jax.checkpoint(layer, policy=remat_policy(config.remat), prevent_cse=not config.scan_layers)
        x_BxTxD, by_layer = jax.lax.scan(
            layer,
            x_BxTxD,
            (stacked_params, layer_keys, None, is_global_L),
            unroll=1 if config.scan_layers else config.num_layers,
        )
        return self.final_norm(x_BxTxD), by_layer
