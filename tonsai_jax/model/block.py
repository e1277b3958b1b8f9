"""One layer of the decoder: x + attention(norm(x)), then x + feed_forward(norm(x)).

With `sandwich_norms` each branch has a norm at its end as well.

Array names carry their shape: B batch, T sequence, S cache slots, D model width, H query heads, K heads of keys and values,
Dh head size, F inner width.
"""

import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from tonsai_jax.errors import unknown_name
from tonsai_jax.model.activations import geglu, gelu, relu2, swiglu
from tonsai_jax.model.attention import attention
from tonsai_jax.model.config import ModelConfig, choices_of
from tonsai_jax.model.experts import Routing, mixture_of_experts
from tonsai_jax.model.linear import Kernel, Linear
from tonsai_jax.model.norm import Norm
from tonsai_jax.model.rope import rotate

if TYPE_CHECKING:
    from tonsai_jax.model.cudnn_packed import Packing

INIT_STD = 0.02


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the others up; without a key it returns `x`."""
    if rate == 0.0 or key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0).astype(x.dtype)


class Block(nnx.Module):
    """A layer.

    The parameters of attention and feed-forward network lie next to each other, not in modules of their own: checkpoints,
    sharding rules and the names of exported tensors know them by these paths.

    Args:
      attention_backend: from `choose_attention_backend`.
      mesh: the devices over which tokens and experts are spread; only experts use it.
      experts_backend: from `choose_experts_backend`.

    Attributes:
      adapter_dropout: that of the adapters of LoRA, where it has some.
    """

    adapter_dropout: float = 0.0

    def __init__(
        self, config: ModelConfig, attention_backend: str, mesh: Mesh | None, experts_backend: str, *, rngs: nnx.Rngs
    ):
        residual_std = INIT_STD / math.sqrt(2 * config.num_layers)  # GPT-2: the residual stream keeps its variance
        linear = partial(Linear, bias=config.bias, rngs=rngs)
        D, H, K, Dh = config.d_model, config.num_heads, config.kv_heads, config.head_dim
        self.config = config
        self.attention_backend = attention_backend
        self.experts_backend = experts_backend
        self.mesh = mesh
        self.attention_norm = Norm(config, D, rngs)
        self.qkv = linear(D, (H + 2 * K) * Dh, std=INIT_STD)
        if config.qk_norm:
            self.q_norm, self.k_norm = Norm(config, Dh, rngs), Norm(config, Dh, rngs)
        self.attention_out = linear(H * Dh, D, std=residual_std)
        self.mlp_norm = Norm(config, D, rngs)
        if config.num_experts:
            E = config.num_experts
            self.router = Kernel(D, E, std=INIT_STD, rngs=rngs)
            self.experts_up = Kernel(E, D, config.up_width, std=INIT_STD, rngs=rngs)
            self.experts_down = Kernel(E, config.d_ff, D, std=residual_std, rngs=rngs)
        else:
            self.mlp_up = linear(D, config.up_width, std=INIT_STD)
            self.mlp_down = linear(config.d_ff, D, std=residual_std)
        if config.sandwich_norms:
            self.post_attention_norm, self.post_mlp_norm = Norm(config, D, rngs), Norm(config, D, rngs)

    @jax.named_scope("layer")
    def __call__(
        self,
        x_BxTxD: jax.Array,
        *,
        mask: jax.Array | None,
        packing: "Packing | None" = None,
        rotation: tuple[jax.Array, jax.Array] | None,
        dropout_key: jax.Array | None,
        dropless: bool,
        cached_kv: tuple[jax.Array, jax.Array] | None = None,
        positions_BxT: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[tuple[jax.Array, jax.Array] | None, Routing | None]]:
        """The output of the layer, [B, T, D] in the compute dtype, with the updated cache and the routing.

        Args:
          mask: see `attention`.
          packing: the documents, see `document_attention`; it has no mask.
          rotation: cosines and sines from `rope.rotation`; None without RoPE.
          dropout_key: key of this layer and step; None drops nothing.
          dropless: see `mixture_of_experts`.
          cached_kv: keys and values of earlier tokens, [B, K, S, Dh] each, into which those of these tokens are written at
            `positions_BxT`; None where there is no cache.

        Returns:
          (output, (cached_kv or None without a cache, routing or None without experts)).
        """
        keys = (None, None, None) if dropout_key is None else tuple(jax.random.split(dropout_key, 3))
        # Not a fourth part of the split, which would change the other three.
        adapter_key = None if dropout_key is None else jax.random.fold_in(dropout_key, 3)
        attention_BxTxD, cached_kv = self._attention(
            self.attention_norm(x_BxTxD), mask, packing, rotation, (keys[0], adapter_key), cached_kv, positions_BxT
        )
        if self.config.sandwich_norms:
            attention_BxTxD = self.post_attention_norm(attention_BxTxD)
        x_BxTxD += dropout(attention_BxTxD, self.config.dropout, keys[1])
        feed_forward_BxTxD, routing = self._feed_forward(self.mlp_norm(x_BxTxD), dropless, adapter_key)
        if self.config.sandwich_norms:
            feed_forward_BxTxD = self.post_mlp_norm(feed_forward_BxTxD)
        return x_BxTxD + dropout(feed_forward_BxTxD, self.config.dropout, keys[2]), (cached_kv, routing)

    def _attention(
        self,
        x_BxTxD: jax.Array,
        mask: jax.Array | None,
        packing: "Packing | None",
        rotation: tuple[jax.Array, jax.Array] | None,
        keys: tuple[jax.Array | None, jax.Array | None],
        cached_kv: tuple[jax.Array, jax.Array] | None,
        positions_BxT: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        dropout_key, adapter_key = keys
        B, T, _ = x_BxTxD.shape
        H, K, Dh = self.config.num_heads, self.config.kv_heads, self.config.head_dim
        qkv = self.qkv(x_BxTxD, adapter_key).reshape(B, T, H + 2 * K, Dh)
        # Slices, not a split: XLA joins their gradients in the kernel that sums them for the bias; a split's in one of its own.
        # Named after the cut, or the backward pass with remat would cut again.
        parts = (qkv[:, :, :H], qkv[:, :, H : H + K], qkv[:, :, H + K :])
        q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh = (checkpoint_name(part, "qkv") for part in parts)
        if self.config.qk_norm:
            q_BxTxHxDh, k_BxTxKxDh = self.q_norm(q_BxTxHxDh), self.k_norm(k_BxTxKxDh)
        if rotation is not None:
            q_BxTxHxDh, k_BxTxKxDh = rotate(q_BxTxHxDh, rotation), rotate(k_BxTxKxDh, rotation)
        if cached_kv is None:
            k_BxSxKxDh, v_BxSxKxDh = k_BxTxKxDh, v_BxTxKxDh
        else:
            rows = jnp.arange(B)[:, None]
            cached_kv = (
                cached_kv[0].at[rows, :, positions_BxT].set(k_BxTxKxDh),
                cached_kv[1].at[rows, :, positions_BxT].set(v_BxTxKxDh),
            )
            k_BxSxKxDh, v_BxSxKxDh = (each.transpose(0, 2, 1, 3) for each in cached_kv)
        scale = self.config.attention_scale
        if packing is not None:
            from tonsai_jax.model.document_attention import document_attention  # imported here: few runs have documents

            heads_BxTxHxDh = document_attention(q_BxTxHxDh, k_BxSxKxDh, v_BxSxKxDh, packing, scale, self.mesh)
        else:
            heads_BxTxHxDh = attention(
                q_BxTxHxDh,
                k_BxSxKxDh,
                v_BxSxKxDh,
                attention_backend=self.attention_backend,
                scale=scale,
                mask=mask,
                dropout=self.config.attention_dropout,
                dropout_key=dropout_key,
            )
        return self.attention_out(heads_BxTxHxDh.reshape(B, T, H * Dh), adapter_key), cached_kv

    def _feed_forward(
        self, x_BxTxD: jax.Array, dropless: bool, adapter_key: jax.Array | None
    ) -> tuple[jax.Array, Routing | None]:
        config = self.config
        if config.num_experts:
            return mixture_of_experts(
                x_BxTxD,
                self.router.kernel[...],
                self.experts_up.kernel[...],
                self.experts_down.kernel[...],
                config=config,
                mesh=self.mesh,
                dropless=dropless,
                backend=self.experts_backend,
            )
        hidden_BxTxF = checkpoint_name(self.mlp_up(x_BxTxD, adapter_key), "mlp_pre_activation")
        if config.mlp == "gelu":
            hidden_BxTxF = gelu(hidden_BxTxF)
        elif config.mlp == "relu2":
            hidden_BxTxF = relu2(hidden_BxTxF)
        elif config.mlp == "swiglu":
            hidden_BxTxF = swiglu(hidden_BxTxF)
        elif config.mlp == "geglu":
            hidden_BxTxF = geglu(hidden_BxTxF)
        else:
            raise unknown_name("model.mlp", config.mlp, choices_of("mlp"))
        return self.mlp_down(hidden_BxTxF, adapter_key), None
