"""AdamW and the learning rate: which parameters decay, and how the rate rises and falls."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.Array]
DECAYED = ("kernel", "token_embedding", "position_embedding")  # matrices; biases and norms are left alone


def learning_rate_schedule(
    name: str, *, peak: float, total_steps: int, warmup_steps: int, decay_steps: int, final_ratio: float
) -> Schedule:
    """The learning rate of a step: linear warm-up from 0 (reaching `peak` at step `warmup_steps`), then

    "cosine": half a cosine from `peak` to `peak * final_ratio` at the end of the run (arXiv:1608.03983);
    "wsd": constant, then over the last `decay_steps` down to it as 1 - sqrt(progress) (arXiv:2405.18392).
    """

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = (step + 1) / (warmup_steps + 1)
        if name == "cosine":
            progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
            share = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        else:
            progress = (step - (total_steps - decay_steps)) / max(1, decay_steps)
            share = 1 - jnp.sqrt(jnp.clip(progress, 0, 1))
        return peak * jnp.minimum(warmup, final_ratio + (1 - final_ratio) * share)

    return schedule


def adamw(*, beta1: float, beta2: float, epsilon: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) without the learning rate, which the step multiplies in; moments are float32."""
    return optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
    )


def decay_mask(params: Any) -> Any:
    """True for every parameter that decays."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)
