"""The gradient of a batch that is processed in several micro-batches, one after the other, on one or many devices."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tonsai_jax.training.mesh import BATCH_AXES

Sums = TypeVar("Sums")  # a tree of arrays


def sum_over_micro_batches(
    function: Callable[[Any, jax.Array], Sums], batch: Any, key: jax.Array, count: int, mesh: Mesh | None
) -> Sums:
    """The sum of `function(micro_batch, key)` over the `count` micro-batches of a batch; each has a random key of its own.

    Args:
      batch: tree of arrays [B, ...].
      mesh: the devices over which it is split; None where it is on one device.
    """
    if count == 1:
        return function(batch, key)

    def add_one(total: Sums, one: tuple[Any, jax.Array]) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, total, function(*one)), None

    micro_batches = jax.tree.map(lambda leaf: _cut(leaf, count, mesh), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], micro_batches), key)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_one, start, (micro_batches, jax.random.split(key, count)))[0]


def sum_over_devices(
    function: Callable[..., Sums], batch: Any, key: jax.Array, whole: tuple[Any, ...], mesh: Mesh
) -> Sums:
    """The sum of `function(part, key, *whole)` over devices, each with its part of a batch and a random key of its own.

    The compiler does not see inside: nothing is sent before the one sum at the end.

    Args:
      batch: tree of arrays [B, ...], split over all devices.
      whole: arrays that each device has whole.
    """

    def on_device(part: Any, key: jax.Array, *whole: Any) -> Sums:
        key = jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXES))
        return jax.lax.psum(function(part, key, *whole), BATCH_AXES)

    specs = (P(BATCH_AXES), P(), *[P()] * len(whole))
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(batch, key, *whole)


def _cut(leaf_Bx: jax.Array, count: int, mesh: Mesh | None) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], the micro-batches; every device keeps the sequences that it holds."""
    if mesh is None:
        return leaf_Bx.reshape(count, -1, *leaf_Bx.shape[1:])
    cut = leaf_Bx.reshape(mesh.size, count, -1, *leaf_Bx.shape[1:]).swapaxes(0, 1)
    cut = cut.reshape(count, -1, *leaf_Bx.shape[1:])
    return jax.lax.with_sharding_constraint(cut, NamedSharding(mesh, P(None, BATCH_AXES)))
