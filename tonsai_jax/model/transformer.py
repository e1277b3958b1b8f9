"""The decoder: GPT-2 as its switches stand, and by them Llama, Qwen3 or Mixtral (`presets.py`), as Hugging Face defines them.

Layers are stored stacked along a leading axis and scanned or unrolled alike, so a checkpoint does not depend on that key.
Array names carry their shape: B batch, T sequence, S cache slots, D width, K heads of keys and values, Dh head size,
V vocabulary, L layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from tonsai_jax.model.attention import document_mask
from tonsai_jax.model.block import INIT_STD, Block, dropout, make_norm
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.experts import Routing
from tonsai_jax.model.remat import remat_policy
from tonsai_jax.model.rope import rotation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens seen so far.

    Attributes:
      k_LxBxSxKxDh, v_LxBxSxKxDh: in the compute dtype; S is the longest sequence that fits.
      length_B: int32, the filled slots of each sequence.
    """

    k_LxBxSxKxDh: jax.Array
    v_LxBxSxKxDh: jax.Array
    length_B: jax.Array

    @classmethod
    def empty(cls, config: ModelConfig, batch_size: int, max_length: int) -> "KVCache":
        shape = (config.num_layers, batch_size, max_length, config.kv_heads, config.head_dim)
        zeros = jnp.zeros(shape, dtype=config.dtype)
        return cls(zeros, zeros, jnp.zeros(batch_size, dtype=jnp.int32))


def output_table(params: dict[str, Any]) -> jax.Array:
    """The float32 [V, D] table of the logits among a model's parameters: the embedding where they are tied."""
    return params.get("head", params["token_embedding"])


class Transformer(nnx.Module):
    """Token ids in, hidden states or logits out.

    Args:
      kernel: what `choose_attention_backend` chose.
      mesh: in training, the devices over which tokens and experts are spread; only experts need to know.
    """

    def __init__(self, config: ModelConfig, kernel: str = "xla", mesh: Mesh | None = None, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal(INIT_STD)
        self.token_embedding = nnx.Param(normal(rngs.params(), (config.padded_vocab_size, config.d_model)))
        if config.position == "learned":
            self.position_embedding = nnx.Param(normal(rngs.params(), (config.context_length, config.d_model)))

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, kernel, mesh, rngs=rngs)

        self.blocks = stacked_blocks(rngs)
        self.final_norm = make_norm(config, config.d_model, rngs)
        if not config.tie_embeddings:
            self.head = nnx.Param(normal(rngs.params(), (config.padded_vocab_size, config.d_model)))

    def __call__(
        self,
        tokens_BxT: jax.Array,
        *,
        end_of_text_id: int | None = None,
        dropout_key: jax.Array | None = None,
        dropless: bool = True,
    ) -> tuple[jax.Array, Routing | None]:
        """Hidden states after the last norm, [B, T, D] in the compute dtype, which `logits` turns into scores; and what the
        routers of a mixture of experts did, stacked by layer.

        Args:
          tokens_BxT: integer ids, T at most `context_length`.
          end_of_text_id: stands between documents; used where `config.document_mask` is set.
          dropout_key: random key of this step; without it nothing is dropped.
          dropless: no expert turns a token away; in training `config.capacity_factor` says how many it takes.
        """
        mask = None
        if self.config.document_mask and end_of_text_id is not None:
            mask = document_mask(tokens_BxT == end_of_text_id)
        positions_T = jnp.arange(tokens_BxT.shape[1])
        x_BxTxD, (_, routing) = self._layers(tokens_BxT, positions_T, mask=mask, key=dropout_key, dropless=dropless)
        return x_BxTxD, routing

    def decode(self, tokens_BxT: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Hidden states of `tokens_BxT`, which follow what the cache holds, and the cache with them added.

        The caller keeps `length_B`: rows whose last tokens are padding set it back to their true length.
        """
        S = cache.k_LxBxSxKxDh.shape[2]
        positions_BxT = cache.length_B[:, None] + jnp.arange(tokens_BxT.shape[1])
        mask_Bx1xTxS = (jnp.arange(S) <= positions_BxT[:, :, None])[:, None]
        cached_kv = (cache.k_LxBxSxKxDh, cache.v_LxBxSxKxDh)
        x_BxTxD, ((k, v), _) = self._layers(tokens_BxT, positions_BxT, mask=mask_Bx1xTxS, cached_kv=cached_kv)
        return x_BxTxD, KVCache(k, v, cache.length_B + tokens_BxT.shape[1])

    def logits(self, x_BxTxD: jax.Array) -> jax.Array:
        """Scores over the true vocabulary, float32 [B, T, vocab_size]; padding rows of the table are cut off."""
        table = self.token_embedding if self.config.tie_embeddings else self.head
        table_VxD = table[: self.config.vocab_size].astype(x_BxTxD.dtype)
        return jnp.einsum("btd,vd->btv", x_BxTxD, table_VxD, preferred_element_type=jnp.float32)

    def _layers(
        self,
        tokens_BxT: jax.Array,
        positions: jax.Array,
        *,
        mask: jax.Array | None,
        key: jax.Array | None = None,
        dropless: bool = True,
        cached_kv: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, tuple[Any, Routing | None]]:
        config = self.config
        # Look up in float32, then cast: casting the table first would make its gradient a bfloat16 scatter-add.
        x_BxTxD = self.token_embedding[tokens_BxT]
        if config.position == "learned":
            x_BxTxD = x_BxTxD + self.position_embedding[positions]
        x_BxTxD = x_BxTxD.astype(config.dtype)
        turned = rotation(positions, config) if config.position == "rope" else None
        layer_keys = None
        if key is not None and (config.dropout or config.attention_dropout):
            embedding_key, blocks_key = jax.random.split(key)
            x_BxTxD = dropout(x_BxTxD, config.dropout, embedding_key)
            layer_keys = jax.random.split(blocks_key, config.num_layers)
        graphdef, stacked_params = nnx.split(self.blocks)

        def layer(x_BxTxD: jax.Array, inputs: tuple[Any, Any, Any]) -> tuple[jax.Array, Any]:
            params, key, cached_kv = inputs
            return nnx.merge(graphdef, params)(
                x_BxTxD,
                mask=mask,
                rotation=turned,
                key=key,
                dropless=dropless,
                cached_kv=cached_kv,
                positions_BxT=positions,
            )

        if config.remat != "none":
            layer = jax.checkpoint(layer, policy=remat_policy(config.remat), prevent_cse=not config.scan_layers)
        x_BxTxD, by_layer = jax.lax.scan(
            layer,
            x_BxTxD,
            (stacked_params, layer_keys, cached_kv),
            unroll=1 if config.scan_layers else config.num_layers,
        )
        return self.final_norm(x_BxTxD), by_layer
