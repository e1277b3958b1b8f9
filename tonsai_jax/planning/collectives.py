"""The collectives of a training step: what a compiled program sends between GPUs, and the least that it must send.

The reader takes the text of an optimized program (`compiled.as_text()`), whose instructions are in the order of the schedule. The
body of a loop counts as often as the loop runs, by the trip count that XLA writes there.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([^\s=]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[sufc]\d+|bf16|f8\w+)\[([\d,]*)\]")
_OPERATION = re.compile(r"^((?:\((?:[^()]|\([^()]*\))*\)|\S+)) ([a-z][a-z0-9-]*)\((.*)$")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


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


@dataclasses.dataclass
class _Instruction:
    name: str
    type: str
    operation: str
    rest: str


def read_collectives(text: str) -> dict[str, Collectives]:
    """The collectives in one run of the program, by kind; without the kinds that it does not use.

    Args:
      text: the text of a compiled and scheduled program.
    """
    computations, entry = _parse(text)
    count: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    overlapped: dict[str, int] = defaultdict(int)
    dtypes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    multiplies = {name for name, body in computations.items() if any(_multiplies(each, ()) for each in body)}
    for name, times in _times_run(computations, entry).items():
        body = computations[name]
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


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            body = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            parts = _OPERATION.match(re.sub(r"/\*.*?\*/", "", re.sub(r"\{[\d,]*(?::[^{}]*)?\}", "", found[2])))
            if parts:
                body.append(_Instruction(found[1], parts[1], parts[2], parts[3] + "\n" + found[2]))
    return computations, entry


def _times_run(computations: Mapping[str, list[_Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs; the entry reaches them through loops, calls and branches."""
    times: dict[str, int] = defaultdict(int)

    def walk(name: str, factor: int) -> None:
        times[name] += factor
        for each in computations[name]:
            if each.operation in ("while", "call", "conditional", "async-start"):
                trips = _TRIPS.search(each.rest) if each.operation == "while" else None
                for called in _called(each):
                    if called in computations:
                        walk(called, factor * (int(trips[1]) if trips else 1))

    walk(entry, 1)
    return times


def _called(instruction: _Instruction) -> list[str]:
    names = re.findall(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", instruction.rest)
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    return list(dict.fromkeys(names + re.findall(r"[\w.\-]+", branches[1] if branches else "")))


def _payload(instruction: _Instruction, types: Mapping[str, str]) -> dict[str, int]:
    """Bytes by dtype of the larger side of a collective: the output of a gather, the input of a scatter."""
    names = re.findall(r"%([\w.\-]+)", instruction.rest.partition(")")[0])
    operands: dict[str, int] = defaultdict(int)
    for name in names:
        for dtype, size in _bytes(types.get(name, "")).items():
            operands[dtype] += size
    results = _bytes(instruction.type)
    if instruction.operation in (
        "all-gather-start",
        "reduce-scatter-start",
        "all-to-all-start",
        "collective-permute-start",
    ):
        results = {
            dtype: size - operands.get(dtype, 0) for dtype, size in results.items()
        }  # the type of a -start names inputs and outputs
    return operands if sum(operands.values()) > sum(results.values()) else results


def _bytes(type_text: str) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for dtype, dimensions in _ARRAY.findall(type_text):
        bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
        sizes[dtype] += bits * int(np.prod([int(size) for size in dimensions.split(",") if size])) // 8
    return sizes


def _until_done(body: list[_Instruction], start: int) -> Iterator[_Instruction]:
    """The instructions scheduled while an asynchronous collective runs; none for a synchronous one."""
    begun = body[start]
    if not begun.operation.endswith("-start") or '"is_sync":true' in begun.rest:
        return
    for each in body[start + 1 :]:
        if each.operation.endswith("-done") and re.search(rf"%{re.escape(begun.name)}[,)]", each.rest):
            return
        yield each


def _multiplies(instruction: _Instruction, computations_that_do: Any) -> bool:
    """Whether an instruction is a matrix product, fused attention, a loop, or a fusion or call that contains one."""
    if instruction.operation in ("dot", "convolution", "while"):
        return True
    if instruction.operation == "custom-call":
        return re.search(r'custom_call_target="[^"]*(?:gemm|matmul|fmha|cudnn)', instruction.rest) is not None
    return instruction.operation in ("fusion", "call") and any(
        called in computations_that_do for called in _called(instruction)
    )
