"""The GPT-2 decoder, as Hugging Face defines it: learned positions, pre-LayerNorm, tanh GELU, biases, tied embeddings.

Layers are stored stacked along a leading axis and scanned or unrolled alike, so a checkpoint does not depend on that key.
Array names carry their shape: B batch, T sequence, S cache slots, D width, H heads, Dh head size, V vocabulary, L layers.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from tonsai_jax.model.attention import attention, document_mask
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.linear import Linear

LAYER_NORM_EPSILON = 1e-5
INIT_STD = 0.02


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens seen so far.

    Attributes:
      k_LxBxSxHxDh, v_LxBxSxHxDh: in the compute dtype; S is the longest sequence that fits.
      length_B: int32, the filled slots of each sequence.
    """

    k_LxBxSxHxDh: jax.Array
    v_LxBxSxHxDh: jax.Array
    length_B: jax.Array

    @classmethod
    def empty(cls, config: ModelConfig, batch_size: int, max_length: int) -> "KVCache":
        shape = (config.num_layers, batch_size, max_length, config.num_heads, config.head_dim)
        zeros = jnp.zeros(shape, dtype=config.dtype)
        return cls(zeros, zeros, jnp.zeros(batch_size, dtype=jnp.int32))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the others up; does nothing without a key."""
    if rate == 0.0 or key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0).astype(x.dtype)


def remat_policy(name: str) -> Callable[..., Any] | None:
    """What the backward pass may keep of a layer instead of computing it again; "none" is not a policy but no remat.

    "full" keeps nothing, "dots" every matrix product, "qkv_mlp" the two widest matrix products and the fused attention:
    that one must be named by its primitive, else its forward runs twice.
    """
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "dots":
        return policies.dots_with_no_batch_dims_saveable
    return policies.save_from_both_policies(
        policies.save_only_these_names("qkv", "mlp_pre_activation"),
        lambda primitive, *_, **__: "dot_product_attention" in primitive.name,
    )


def _layer_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.d_model,
        epsilon=LAYER_NORM_EPSILON,
        dtype=jnp.dtype(config.dtype),
        use_fast_variance=False,
        rngs=rngs,
    )


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, kernel: str, *, rngs: nnx.Rngs):
        residual_std = INIT_STD / math.sqrt(2 * config.num_layers)  # GPT-2: the residual stream keeps its variance
        self.config = config
        self.kernel = kernel
        self.attention_norm = _layer_norm(config, rngs)
        self.qkv = Linear(config.d_model, 3 * config.d_model, std=INIT_STD, rngs=rngs)
        self.attention_out = Linear(config.d_model, config.d_model, std=residual_std, rngs=rngs)
        self.mlp_norm = _layer_norm(config, rngs)
        self.mlp_up = Linear(config.d_model, config.d_ff, std=INIT_STD, rngs=rngs)
        self.mlp_down = Linear(config.d_ff, config.d_model, std=residual_std, rngs=rngs)

    def __call__(
        self,
        x_BxTxD: jax.Array,
        *,
        mask: jax.Array | None,
        key: jax.Array | None,
        cached_kv: tuple[jax.Array, jax.Array] | None = None,
        positions_BxT: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Returns the layer's output and, where a cache was given, the cache with this call's keys and values in it."""
        B, T, _ = x_BxTxD.shape
        heads = (B, T, self.config.num_heads, self.config.head_dim)
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))

        qkv_BxTx3D = checkpoint_name(self.qkv(self.attention_norm(x_BxTxD)), "qkv")
        q, k, v = (part.reshape(heads) for part in jnp.split(qkv_BxTx3D, 3, axis=-1))
        if cached_kv is not None:
            rows = jnp.arange(B)[:, None]
            k = cached_kv[0].at[rows, positions_BxT].set(k)
            v = cached_kv[1].at[rows, positions_BxT].set(v)
            cached_kv = (k, v)
        mixed_BxTxHxDh = attention(
            q, k, v, kernel=self.kernel, mask=mask, dropout=self.config.attention_dropout, dropout_key=keys[0]
        )
        x_BxTxD += dropout(self.attention_out(mixed_BxTxHxDh.reshape(B, T, -1)), self.config.dropout, keys[1])

        hidden_BxTxF = checkpoint_name(self.mlp_up(self.mlp_norm(x_BxTxD)), "mlp_pre_activation")
        hidden_BxTxF = jax.nn.gelu(hidden_BxTxF, approximate=True)
        return x_BxTxD + dropout(self.mlp_down(hidden_BxTxF), self.config.dropout, keys[2]), cached_kv


class Transformer(nnx.Module):
    """Token ids in, hidden states or logits out. `kernel` is what `choose_kernel` chose."""

    def __init__(self, config: ModelConfig, kernel: str = "xla", *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal(INIT_STD)
        self.token_embedding = nnx.Param(normal(rngs.params(), (config.padded_vocab_size, config.d_model)))
        self.position_embedding = nnx.Param(normal(rngs.params(), (config.context_length, config.d_model)))

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, kernel, rngs=rngs)

        self.blocks = stacked_blocks(rngs)
        self.final_norm = _layer_norm(config, rngs)

    def __call__(
        self,
        tokens_BxT: jax.Array,
        *,
        end_of_text_id: int | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states after the last norm, [B, T, D] in the compute dtype; `logits` turns them into scores.

        Args:
          tokens_BxT: integer ids, T at most `context_length`.
          end_of_text_id: stands between documents; used where `config.document_mask` is set.
          dropout_key: random key of this step; without it nothing is dropped.
        """
        mask = None
        if self.config.document_mask and end_of_text_id is not None:
            mask = document_mask(tokens_BxT == end_of_text_id)
        positions_T = jnp.arange(tokens_BxT.shape[1])
        x_BxTxD, _ = self._layers(self._embed(tokens_BxT, positions_T), mask, dropout_key, None, None)
        return x_BxTxD

    def decode(self, tokens_BxT: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Hidden states of `tokens_BxT`, which follow what the cache holds, and the cache with them added.

        The caller keeps `length_B`: rows whose last tokens are padding set it back to their true length.
        """
        S = cache.k_LxBxSxHxDh.shape[2]
        positions_BxT = cache.length_B[:, None] + jnp.arange(tokens_BxT.shape[1])
        mask_Bx1xTxS = (jnp.arange(S) <= positions_BxT[:, :, None])[:, None]
        x_BxTxD, (k, v) = self._layers(
            self._embed(tokens_BxT, positions_BxT),
            mask_Bx1xTxS,
            None,
            (cache.k_LxBxSxHxDh, cache.v_LxBxSxHxDh),
            positions_BxT,
        )
        return x_BxTxD, KVCache(k, v, cache.length_B + tokens_BxT.shape[1])

    def logits(self, x_BxTxD: jax.Array) -> jax.Array:
        """Scores over the true vocabulary, float32 [B, T, vocab_size]; padding rows of the table are cut off."""
        table_VxD = self.token_embedding[: self.config.vocab_size].astype(x_BxTxD.dtype)
        return jnp.einsum("btd,vd->btv", x_BxTxD, table_VxD, preferred_element_type=jnp.float32)

    def _embed(self, tokens_BxT: jax.Array, positions: jax.Array) -> jax.Array:
        # Look up in float32, then cast: casting the table first would make its gradient a bfloat16 scatter-add.
        x_BxTxD = self.token_embedding[tokens_BxT] + self.position_embedding[positions]
        return x_BxTxD.astype(self.config.dtype)

    def _layers(
        self,
        x_BxTxD: jax.Array,
        mask: jax.Array | None,
        key: jax.Array | None,
        cached_kv: tuple[jax.Array, jax.Array] | None,
        positions_BxT: jax.Array | None,
    ) -> tuple[jax.Array, Any]:
        config = self.config
        layer_keys = None
        if key is not None and (config.dropout or config.attention_dropout):
            embedding_key, blocks_key = jax.random.split(key)
            x_BxTxD = dropout(x_BxTxD, config.dropout, embedding_key)
            layer_keys = jax.random.split(blocks_key, config.num_layers)
        graphdef, stacked_params = nnx.split(self.blocks)

        def layer(x_BxTxD: jax.Array, inputs: tuple[Any, Any, Any]) -> tuple[jax.Array, Any]:
            params, key, cached_kv = inputs
            block = nnx.merge(graphdef, params)
            return block(x_BxTxD, mask=mask, key=key, cached_kv=cached_kv, positions_BxT=positions_BxT)

        if config.remat != "none":
            layer = jax.checkpoint(layer, policy=remat_policy(config.remat), prevent_cse=not config.scan_layers)
        x_BxTxD, cached_kv = jax.lax.scan(
            layer,
            x_BxTxD,
            (stacked_params, layer_keys, cached_kv),
            unroll=1 if config.scan_layers else config.num_layers,
        )
        return self.final_norm(x_BxTxD), cached_kv
