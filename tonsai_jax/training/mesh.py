"""Which device holds what: the mesh, the shardings of parameters, and batches that are split over devices.

The model does not know this file. A parameter is sharded by the first rule whose pattern is found in its path. Other parameters
are sharded along their largest axis that divides; small ones are replicated on every device.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tonsai_jax.errors import UserError

BATCH_AXES = ("data", "fsdp", "expert")  # every axis of the mesh: each device has its own sequences

# (pattern in the path of a parameter, mesh axis of each dimension). The first dimension of everything in "blocks" counts the
# stacked layers; it is never split, because each iteration of the scan slices one layer out of it.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"token_embedding|head$", ("fsdp", None)),
    (r"blocks/experts_.*/kernel", (None, "expert", "fsdp", None)),
    (r"blocks/.*/kernel", (None, "fsdp", None)),
)
TABLES = ("token_embedding", "head")
REPLICATED_BELOW = 2**16  # elements; to gather a small array costs more than to keep it


def mesh_sizes(data: int, fsdp: int, expert: int, *, count: int, num_experts: int = 0) -> dict[str, int]:
    """Devices along each axis of a mesh of `count` devices.

    Args:
      data: devices along the axis "data"; -1 takes what the other axes leave.
      num_experts: of the model; 0 for a dense model.

    Raises `UserError` where the product of the axes is not `count`, or `expert` does not divide the experts.
    """
    others = f"mesh.fsdp={fsdp}" + (f" x mesh.expert={expert}" if expert > 1 else "")
    if expert > 1 and (num_experts == 0 or num_experts % expert):
        raise UserError(
            f"mesh.expert={expert} does not divide the model's experts (model.num_experts={num_experts}); "
            f"choose a divisor of that number, or 1"
        )
    if data == -1:
        if count % (fsdp * expert):
            raise UserError(f"{others} does not divide the number of devices, {count}; choose a divisor of {count}")
        data = count // (fsdp * expert)
    if data * fsdp * expert != count:
        raise UserError(
            f"mesh.data={data} x {others} is {data * fsdp * expert}, but the number of devices is {count}; "
            f"set mesh.data=-1 to take what {'mesh.fsdp leaves' if expert == 1 else 'the others leave'}"
        )
    return {"data": data, "fsdp": fsdp, "expert": expert}


def make_mesh(data: int, fsdp: int, expert: int = 1, *, num_experts: int = 0) -> Mesh:
    """A mesh of all devices, see `mesh_sizes`.

    Neighbors along "expert" and then "fsdp" are neighbors in `jax.devices()`, which lists them process by process: these axes,
    which send the most, stay inside a host where they fit, and "data" goes between hosts.
    """
    sizes = mesh_sizes(data, fsdp, expert, count=jax.device_count(), num_experts=num_experts)
    axis_types = (AxisType.Auto,) * len(sizes)
    if jax.devices()[0].platform == "tpu":  # there the order must follow the torus
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=axis_types)
    # `jax.make_mesh` refuses GPUs of several hosts (https://github.com/jax-ml/jax/pull/37863).
    return Mesh(np.array(jax.devices()).reshape(tuple(sizes.values())), tuple(sizes), axis_types=axis_types)


def one_device_mesh() -> Mesh:
    """A mesh of only the first device, with the axes that the step expects."""
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), BATCH_AXES)


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A `NamedSharding` for every array or `ShapeDtypeStruct` of `tree`: parameters, optimizer moments or the whole state."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition_spec(_path_name(path), leaf.shape, mesh.shape)),
        tree,
    )


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mapping[str, int]) -> P:
    """The sharding of the parameter at `path`; `mesh` gives the number of devices along each axis."""
    fsdp = mesh["fsdp"]
    if fsdp * mesh["expert"] == 1 or np.prod(shape) < REPLICATED_BELOW:
        return P()
    for pattern, axes in RULES:
        if len(shape) != len(axes) or not re.search(pattern, path):
            continue  # moments of Adafactor have one dimension less than their parameter
        if all(size % mesh[axis] == 0 for size, axis in zip(shape, axes, strict=True) if axis):
            return P(*axes)
    candidates = [d for d in range(1 if "blocks/" in path else 0, len(shape)) if shape[d] % fsdp == 0]
    if fsdp == 1 or not candidates:
        return P()
    largest = max(candidates, key=lambda d: shape[d])
    return P(*("fsdp" if d == largest else None for d in range(len(shape))))


def with_table_copies(params: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The parameters of a model with a copy of each embedding table for each device: [devices, V, D] instead of [V, D].

    Lookup and head share the copy. Left alone, the compiler gathers a split table for each of the two, and sums each of their
    gradients over devices. The gradient of a copy is what the sequences of its device add to it. Differentiating this function
    sums those of all copies: a reduce-scatter along the axis that splits the table, then an all-reduce along the others.

    A mesh of one device gives `params` back.
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


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays, split over all devices by sequence, from the sequences that each process has loaded."""
    sharding = NamedSharding(mesh, P(BATCH_AXES))
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def _path_name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
