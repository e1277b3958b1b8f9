"""The collectives of a training step: what a compiled program sends between GPUs, and the least that it must send.

The collectives of a loop's body count as often as the loop turns (`planning/program.py` reads the program).
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.planning.program import Instruction, Program, array_bytes

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collectives:
    """The collectives of one kind in one step, on each GPU.

    Attributes:
      count: how many run.
      num_bytes: bytes of the whole arrays that they gather (all-gather) or add up (reduce-scatter, all-reduce).
      overlapped_bytes: the part of `num_bytes` with a matrix product or a loop scheduled between start and end.
      dtypes: `num_bytes` by dtype.
    """

    count: int
    num_bytes: int
    overlapped_bytes: int
    dtypes: Mapping[str, int]


def read_collectives(program: Program) -> dict[str, Collectives]:
    """The collectives in one run of the program, by kind; without the kinds that it does not use."""
    count: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    overlapped: dict[str, int] = defaultdict(int)
    dtypes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    multiplies = {name for name, body in program.computations.items() if any(_multiplies(each, ()) for each in body)}
    for name, times in program.times_run().items():
        body = program.computations[name]
        types = {each.name: each.type for each in body}
        for position, each in enumerate(body):
            kind = each.operation.removesuffix("-start")
            if kind not in KINDS:
                continue
            payload = _payload(each, types)
            count[kind] += times
            total[kind] += times * sum(payload.values())
            for dtype, size in payload.items():
                dtypes[kind][dtype] += times * size
            if any(_multiplies(between, multiplies) for between in _until_done(body, position)):
                overlapped[kind] += times * sum(payload.values())
    return {
        kind: Collectives(count[kind], total[kind], overlapped[kind], dict(dtypes[kind]))
        for kind in KINDS
        if count[kind]
    }


def least_bytes(
    state: Any, mesh_sizes: Mapping[str, int], accumulation_steps: int, compute_dtype: str
) -> dict[str, int]:
    """The fewest bytes that a step with this sharding must gather, scatter and reduce, by kind.

    A split parameter of the layers is gathered in the compute dtype, for the forward pass and again for the backward pass of
    each micro-batch. A split parameter outside the layers (embeddings, looked up in float32) is gathered once per micro-batch
    in its own dtype. Gradients are float32. Those of split parameters are scattered once per micro-batch, because their
    sum stays split. At the end of the step the gradients are summed once over the devices that hold the same part. What
    is sent to experts on other devices (all-to-all) depends on the tokens and is not counted.

    Args:
      state: from `abstract_state`.
      mesh_sizes: devices along each axis of the mesh.
      accumulation_steps: micro-batches of a step.
    """
    least = dict.fromkeys(KINDS, 0)
    devices = int(np.prod(list(mesh_sizes.values())))
    frozen, trained = map(jax.tree_util.tree_leaves_with_path, (state.frozen, state.params))
    for is_trained, path, leaf in [*((False, *each) for each in frozen), *((True, *each) for each in trained)]:
        split = leaf.size // int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
        # Experts stay on their devices: a device gathers only the parts of its own experts.
        experts = mesh_sizes["expert"] if "expert" in leaf.sharding.spec else 1
        size = leaf.size // experts
        in_layers = any(getattr(key, "key", None) == "blocks" for key in path)
        if split > experts:
            width = jnp.dtype(compute_dtype).itemsize if in_layers else leaf.dtype.itemsize
            least["all-gather"] += size * width * (2 if in_layers else 1) * accumulation_steps
            least["reduce-scatter"] += is_trained * size * leaf.dtype.itemsize * accumulation_steps
        if is_trained and split < devices:
            least["all-reduce"] += leaf.size // split * leaf.dtype.itemsize
    return least


@dataclasses.dataclass(frozen=True)
class Links:
    """How fast the collectives of a mesh are, whose devices are numbered host by host.

    A ring over GPUs of several hosts leaves each host over the network cards of its GPUs in that ring, all at once, as NCCL
    does. So its speed is that of the link inside a host, or that of these cards together where they are slower.

    Attributes:
      link_bandwidth: bytes/s of one GPU in one direction, inside a host.
      network_bandwidth: bytes/s of one GPU's network card in one direction.
      gpus_per_host: GPUs of a host.
      mesh_sizes: devices along each axis of the mesh.
    """

    link_bandwidth: float
    network_bandwidth: float
    gpus_per_host: int
    mesh_sizes: Mapping[str, int]

    def bandwidth(self, kind: str) -> float:
        """Bytes/s of one GPU in a collective of this kind: an all-reduce goes along "data", the others along the other axes."""
        inner = self.mesh_sizes["fsdp"] * self.mesh_sizes["expert"]
        group = inner
        cards = min(inner, self.gpus_per_host)
        if kind == "all-reduce":
            group = inner * self.mesh_sizes["data"]
            cards = max(1, self.gpus_per_host // inner)
        if group <= self.gpus_per_host:
            return self.link_bandwidth
        return min(self.link_bandwidth, cards * self.network_bandwidth)


def seconds_on_the_wire(num_bytes: Mapping[str, int], devices: int, links: Links) -> float:
    """Seconds that the link of a GPU is busy with these collectives, computed as rings.

    With n devices, a ring sends (n - 1) / n of an array over each link to gather or scatter it, and twice that to all-reduce it.

    Args:
      num_bytes: bytes of whole arrays, by kind.
      devices: in a ring; counted as all devices, also where "fsdp" has fewer.
    """
    return sum(
        (2 if kind == "all-reduce" else 1) * size * (devices - 1) / devices / links.bandwidth(kind)
        for kind, size in num_bytes.items()
    )


def _payload(instruction: Instruction, types: Mapping[str, str]) -> dict[str, int]:
    """Bytes by dtype of the larger side of a collective: the output of a gather, the input of a scatter.

    The type of a `-start` names its inputs too, in some versions of XLA that of an all-reduce as well. An all-reduce is as large
    as its input.
    """
    operands: dict[str, int] = defaultdict(int)
    for name in instruction.operands:
        for dtype, size in array_bytes(types.get(name, "")).items():
            operands[dtype] += size
    results = array_bytes(instruction.type)
    if instruction.operation.startswith("all-reduce"):
        return operands
    if instruction.operation.endswith("-start"):
        results = {dtype: size - operands.get(dtype, 0) for dtype, size in results.items()}
    return operands if sum(operands.values()) > sum(results.values()) else results


def _until_done(body: Sequence[Instruction], start: int) -> Iterator[Instruction]:
    """The instructions scheduled while an asynchronous collective runs; none for a synchronous one."""
    begun = body[start]
    if not begun.operation.endswith("-start") or '"is_sync":true' in begun.attributes:
        return
    for each in body[start + 1 :]:
        if each.operation.endswith("-done") and begun.name in each.operands:
            return
        yield each


def _multiplies(instruction: Instruction, computations_that_do: Container[str]) -> bool:
    """Whether an instruction is a matrix product, fused attention, a loop, or a fusion or call that contains one."""
    if instruction.operation in ("dot", "convolution", "while"):
        return True
    if instruction.operation == "custom-call":
        return re.search("gemm|matmul|fmha|cudnn", instruction.custom_call_target) is not None
    return instruction.operation in ("fusion", "call") and any(
        called in computations_that_do for called in instruction.called
    )
