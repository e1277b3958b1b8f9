"""Embedding tables over several devices: gathered once in a step, and their gradients summed once.

A tied table has two uses, the lookup and the head. Left alone, the compiler gathers a split table for each of them, and sums each
of their gradients over the devices. So a step gives each device a copy that both uses share.
"""

from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tonsai_jax.training.mesh import BATCH_AXES, partition_spec

TABLES = ("token_embedding", "head")


def with_table_copies(params: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The parameters of a model with a copy of each embedding table for each device: [devices, V, D] instead of [V, D].

    The gradient of a copy is what the sequences of its device add to it. Differentiating this function sums the gradients of
    all copies: a reduce-scatter for the axis of the mesh that splits the table, and an all-reduce for the others.
    On a mesh of one device it returns `params`.
    """
    if mesh.size == 1:
        return params
    return params | {name: _copies(params[name], name, mesh) for name in TABLES if name in params}


def _copies(table_VxD: jax.Array, name: str, mesh: Mesh) -> jax.Array:
    spec = partition_spec(name, table_VxD.shape, mesh.shape)

    def copy(table: jax.Array) -> jax.Array:
        for dimension, axis in enumerate(spec):
            if axis is not None:
                table = jax.lax.all_gather(table, axis, axis=dimension, tiled=True)
        return table[None]

    return jax.shard_map(copy, mesh=mesh, in_specs=spec, out_specs=P(BATCH_AXES), check_vma=False)(table_VxD)
