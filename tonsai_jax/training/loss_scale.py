"""The loss scale of float16, whose smallest number is 6e-8: without a scale most gradients would be 0.

The loss is multiplied by a power of two before the gradients are computed, and these are divided by it after, in float32. Where a
gradient overflows, the step is skipped and the scale halved; after `GROW_AFTER` good steps it is doubled (arXiv:1710.03740,
section 3.2). Other dtypes have no scale: theirs is an empty dict, and their compiled step is the same as without this file.

A scale is {"scale": float32 scalar, "good_steps": int32 scalar, the steps since it last changed}.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

FIRST, SMALLEST, LARGEST = 2.0**16, 1.0, 2.0**24
GROW_AFTER = 2000  # good steps

LossScale = dict[str, jax.Array]


def first_scale(dtype: str) -> LossScale:
    """The scale of a run that begins; empty unless `dtype` is "float16"."""
    return {"scale": jnp.float32(FIRST), "good_steps": jnp.int32(0)} if dtype == "float16" else {}


def next_scale(scale: LossScale, finite: jax.Array) -> LossScale:
    """The scale after a step whose gradients were `finite`, a bool scalar."""
    good_steps = jnp.where(finite, scale["good_steps"] + 1, 0)
    grows = good_steps >= GROW_AFTER
    value = jnp.where(finite, scale["scale"] * jnp.where(grows, 2.0, 1.0), scale["scale"] / 2)
    return {"scale": jnp.clip(value, SMALLEST, LARGEST), "good_steps": jnp.where(grows, 0, good_steps)}


def saved_scale(scale: LossScale) -> dict[str, float]:
    """The scale as JSON."""
    return {name: value.item() for name, value in jax.device_get(scale).items()}


def placed_scale(abstract: Any, saved: Mapping[str, float] | None = None) -> LossScale:
    """The scale that was `saved`, or the first one, placed as the abstract one says; empty where that is empty."""
    values = dict(saved or {"scale": FIRST, "good_steps": 0})
    return {
        name: jax.device_put(jnp.asarray(values[name], leaf.dtype), leaf.sharding) for name, leaf in abstract.items()
    }


def overflowed(metrics: Mapping[str, float]) -> bool:
    """Whether the metrics of a step that is not finite only mean that its scale was too large."""
    return metrics.get("loss_scale", SMALLEST) > SMALLEST
