"""Rotary position embedding (RoPE, arXiv:2104.09864), and how it is stretched to a longer context.

A head of size Dh has Dh / 2 rotated pairs (P in array names). As in Hugging Face's models, the first half of a head holds the
first coordinates of the pairs and the second half their second coordinates.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.errors import unknown_name
from tonsai_jax.model.config import ModelConfig, choices_of

# Full turns of a pair over the original context. A pair with more turns than FAST keeps its frequency, a pair with fewer than
# SLOW is stretched by the whole factor; there is a ramp in between.
YARN_FAST, YARN_SLOW = 32, 1
LLAMA3_FAST, LLAMA3_SLOW = 4, 1


def frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Radians per position of each pair, float32 [P], and the factor by which rotated values are multiplied.

    "none" keeps the frequencies of the paper. "linear" divides all of them by `rope_factor` (arXiv:2306.15595). "yarn" divides
    those of the slow pairs, with a ramp over the number of the pair, and multiplies values by 0.1 * ln(rope_factor) + 1
    (arXiv:2309.00071). "llama3" divides those of the slow pairs, with a ramp over their turns (arXiv:2407.21783 and the code
    released with that model).

    Raises `UserError` for another `rope_scaling`.
    """
    pairs = np.arange(config.head_dim // 2)
    plain = config.rope_theta ** (-2.0 * pairs / config.head_dim)
    stretched = plain / config.rope_factor
    scale = 1.0
    if config.rope_scaling == "none":
        share: float | np.ndarray = 0.0
    elif config.rope_scaling == "linear":
        share = 1.0
    elif config.rope_scaling == "yarn":
        low = max(math.floor(_pair_with_turns(YARN_FAST, config)), 0)
        high = min(math.ceil(_pair_with_turns(YARN_SLOW, config)), config.head_dim - 1)
        share = np.clip((pairs - low) / max(high - low, 1e-3), 0, 1)
        scale = 0.1 * math.log(config.rope_factor) + 1.0
    elif config.rope_scaling == "llama3":
        turns = config.original_context * plain / (2 * math.pi)
        share = 1 - np.clip((turns - LLAMA3_SLOW) / (LLAMA3_FAST - LLAMA3_SLOW), 0, 1)
    else:
        raise unknown_name("model.rope_scaling", config.rope_scaling, choices_of("rope_scaling"))
    return (plain * (1 - share) + stretched * share).astype(np.float32), scale


def _pair_with_turns(turns: float, config: ModelConfig) -> float:
    """The number of the pair, as a real number, that makes this many turns over the original context."""
    return (
        config.head_dim * math.log(config.original_context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))
    )


def local_rope(config: ModelConfig) -> ModelConfig:
    """The config with the RoPE of the sliding layers as its RoPE: a base of their own, and no `rope_scaling`."""
    return dataclasses.replace(
        config, rope_theta=config.local_rope_theta, rope_scaling="none", rope_factor=1.0, rope_original_context=0
    )


def rotation(positions: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [..., T, 1, P], for positions [T] or [B, T]."""
    radians_P, scale = frequencies(config)
    angles_xTx1xP = positions[..., None, None].astype(jnp.float32) * radians_P
    return jnp.cos(angles_xTx1xP) * scale, jnp.sin(angles_xTx1xP) * scale


@jax.named_scope("rope")
def rotate(x_BxTxHxDh: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates queries or keys; computes in float32, returns [B, T, H, Dh] in the dtype of `x`."""
    cos, sin = rotation
    first, second = jnp.split(x_BxTxHxDh.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x_BxTxHxDh.dtype)
