"""Rotary position embedding (arXiv:2104.09864), and how it is stretched over a longer context.

The two halves of a head are the two coordinates of its rotated pairs, as Hugging Face has them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.model.config import ModelConfig

# YaRN: pairs that turn more often than this over the original context stay, those that turn less than once are stretched.
YARN_FAST, YARN_SLOW = 32, 1
# Llama 3: the same with these numbers of turns.
LLAMA3_FAST, LLAMA3_SLOW = 4, 1


def frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Radians per position of each pair, float32 [head_dim / 2], and what the rotated values are multiplied by.

    "linear": all are divided by the factor (arXiv:2306.15595). "yarn": those that turn seldom, and in between a ramp over the
    pairs; values grow with the factor's logarithm (arXiv:2309.00071). "llama3": the same with a ramp over the turns
    (arXiv:2407.21783, and the code of that model's release).
    """
    pairs = np.arange(config.head_dim // 2)
    plain = config.rope_theta ** (-2.0 * pairs / config.head_dim)
    stretched = plain / config.rope_factor
    turns = config.original_context * plain / (2 * math.pi)
    if config.rope_scaling == "linear":
        return stretched.astype(np.float32), 1.0
    if config.rope_scaling == "yarn":
        low = max(math.floor(_pair_that_turns(YARN_FAST, config)), 0)
        high = min(math.ceil(_pair_that_turns(YARN_SLOW, config)), config.head_dim - 1)
        stretch = np.clip((pairs - low) / max(high - low, 1e-3), 0, 1)
        values = 0.1 * math.log(config.rope_factor) + 1.0
        return (plain * (1 - stretch) + stretched * stretch).astype(np.float32), values
    if config.rope_scaling == "llama3":
        stretch = 1 - np.clip((turns - LLAMA3_SLOW) / (LLAMA3_FAST - LLAMA3_SLOW), 0, 1)
        return (plain * (1 - stretch) + stretched * stretch).astype(np.float32), 1.0
    return plain.astype(np.float32), 1.0


def _pair_that_turns(turns: float, config: ModelConfig) -> float:
    """The pair, as a real number, that turns so often over the original context."""
    return (
        config.head_dim * math.log(config.original_context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))
    )


def rotation(positions_T: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [..., T, 1, head_dim / 2], of positions [T] or [B, T]."""
    radians, scale = frequencies(config)
    angles_xTx1xP = positions_T[..., None, None].astype(jnp.float32) * radians
    return jnp.cos(angles_xTx1xP) * scale, jnp.sin(angles_xTx1xP) * scale


def rotate(x_BxTxHxDh: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns queries or keys; computed in float32, returned in the dtype of `x`."""
    cos, sin = rotation
    first, second = jnp.split(x_BxTxHxDh.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x_BxTxHxDh.dtype)
