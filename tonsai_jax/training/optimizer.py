"""Optimizers and the learning rate: how a gradient becomes an update, which parameters decay, how the rate rises and falls.

The updates of an optimizer here do not contain the learning rate. The step applies it: param - learning_rate * update.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tonsai_jax.choices import MU_DTYPES, OPTIMIZERS, SCHEDULES
from tonsai_jax.errors import UserError, unknown_name

Schedule = Callable[[jax.Array], jax.Array]
# Matrices; biases and norms do not decay.
DECAYED = ("kernel", "token_embedding", "position_embedding", "head", "lora_a", "lora_b")


def learning_rate_schedule(
    name: str, *, peak: float, total_steps: int, warmup_steps: int, decay_steps: int, final_ratio: float
) -> Schedule:
    """The learning rate as a function of the step, float32.

    It rises linearly from 0 and reaches `peak` at step `warmup_steps`. After that:

    "cosine" falls along half a cosine to `peak * final_ratio` at the end of the run (arXiv:1608.03983).
    "linear" falls along a straight line to the same value.
    "wsd" (warm-up, stable, decay) stays at `peak`, and falls to the same value in the last `decay_steps`, as 1 - sqrt(progress)
    (arXiv:2405.18392).

    Raises `UserError` for another name.
    """
    if name not in SCHEDULES:
        raise unknown_name("optimizer.schedule", name, SCHEDULES)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = (step + 1) / (warmup_steps + 1)
        fall_start = total_steps - decay_steps if name == "wsd" else warmup_steps
        progress = jnp.clip((step - fall_start) / max(1, total_steps - fall_start), 0, 1)
        share = {
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)),
            "linear": 1 - progress,
            "wsd": 1 - jnp.sqrt(progress),
        }[name]
        return peak * jnp.minimum(warmup, final_ratio + (1 - final_ratio) * share)

    return schedule


def make_optimizer(
    name: str,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    momentum: float = 0.95,
    embedding_rate: float = 1.0,
    cautious_weight_decay: bool = False,
    mu_dtype: str = "float32",
    rate_of: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """An optimizer with weight decay on matrices and embeddings, and learning rates by parameter.

    "adamw": arXiv:1711.05101. "muon": see `scale_by_muon_and_adam`. "lion": arXiv:2302.06675. "adafactor": arXiv:1804.04235
    with absolute step sizes, updates clipped to a root mean square of 1, and momentum `beta1` (0: no momentum).

    Args:
      epsilon: of Adam.
      momentum: of Muon.
      embedding_rate: factor for the rate of the token embedding under Muon, times that of `rate_of`. Adam updates the embedding
        there, and wants larger steps than the matrices (docs/recipe.md).
      cautious_weight_decay: see `cautious_decay`.
      mu_dtype: "float32" or "bfloat16", the dtype in which the first moment is stored; second moments are float32.
      rate_of: see `rate_factors`.

    Raises `UserError` for another `name` or `mu_dtype`; its `init` raises one for a name in `rate_of` that no parameter has.
    """
    factor_of = dict(rate_of or {})
    if mu_dtype not in MU_DTYPES:
        raise unknown_name("optimizer.mu_dtype", mu_dtype, MU_DTYPES)
    if name == "adamw":
        direction = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon, mu_dtype=mu_dtype)
    elif name == "muon":
        from tonsai_jax.training.muon import scale_by_muon_and_adam  # imported here: most runs use another one

        if embedding_rate != 1:
            factor_of["token_embedding"] = factor_of.get("token_embedding", 1.0) * embedding_rate
        direction = scale_by_muon_and_adam(
            beta1=beta1, beta2=beta2, epsilon=epsilon, momentum=momentum, mu_dtype=mu_dtype
        )
    elif name == "lion":
        direction = optax.scale_by_lion(b1=beta1, b2=beta2, mu_dtype=mu_dtype)
    elif name == "adafactor":
        direction = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.ema(beta1, debias=False, accumulator_dtype=mu_dtype) if beta1 else optax.identity(),
        )
    else:
        raise unknown_name("optimizer.name", name, OPTIMIZERS)
    decay = cautious_decay(weight_decay) if cautious_weight_decay else optax.add_decayed_weights(weight_decay)
    optimizer = optax.chain(direction, optax.masked(decay, decay_mask))

    def init(params: Any) -> Any:
        rate_factors(params, factor_of)  # only for its error
        return optimizer.init(params)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params)
        factors = rate_factors(updates, factor_of)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors), state

    return optax.GradientTransformation(init, update)


def decay_mask(params: Any) -> Any:
    """A tree like `params`: True for a parameter with weight decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def cautious_decay(weight_decay: float) -> optax.GradientTransformation:
    """Weight decay only of the elements that the update also moves towards 0: update * param >= 0 (arXiv:2510.12402)."""
    return optax.stateless_with_tree_map(
        lambda update, param: update + jnp.where(update * param >= 0, weight_decay * param, 0)
    )


def rate_factors(params: Any, rate_of: Mapping[str, float]) -> Any:
    """A tree like `params` of factors for the updates, weight decay included.

    A parameter gets the product of the factors of all names that fit its path, or 1 where none fits.

    Args:
      rate_of: {name: factor}. A name is one part of a parameter's path or several consecutive parts, such as
        "token_embedding", "blocks", "bias" or "qkv/kernel".

    Raises `UserError` for a name that no parameter has.
    """
    paths = _paths(params)
    factors = dict.fromkeys(paths, 1.0)
    for name, factor in rate_of.items():
        named = [path for path in paths if _has_name(path, name)]
        if not named:
            raise UserError(f"optimizer.rate_of={name!r}: no parameter has this name; there are {', '.join(paths)}")
        for path in named:
            factors[path] *= factor
    return jax.tree.unflatten(jax.tree.structure(params), factors.values())


def mask_of(params: Any, names: Sequence[str]) -> Any:
    """A tree like `params`: True for a parameter whose path has one of `names`, which are written as in `rate_factors`.

    Raises `UserError` for a name that no parameter has, except for the output head that tied embeddings do without.
    """
    paths = _paths(params)
    for name in names:
        if name != "head" and not any(_has_name(path, name) for path in paths):
            raise UserError(
                f"optimizer.frozen_except={tuple(names)!r}: no parameter has the name {name!r}; there are {', '.join(paths)}"
            )
    found = [any(_has_name(path, name) for name in names) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _paths(params: Any) -> list[str]:
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


def _has_name(path: str, name: str) -> bool:
    return f"/{name}/" in f"/{path}/"
