"""What the GPUs of a run send each other: read from a compiled program, and the least that it could be.

The reader takes XLA's text of an optimized program (`compiled.as_text()`), whose lines stand in the order in which they
are scheduled. A loop's body counts as often as XLA says that the loop turns.
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
    """What one step does of one kind of collective, on each GPU.

    Attributes:
      count: how many run.
      num_bytes: of the whole arrays that they make (all-gather) or add up (reduce-scatter, all-reduce).
      overlapped_bytes: of those with a matrix product or a loop scheduled between their start and their end.
      dtypes: bytes of each dtype.
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
    """The collectives of one run of the program, by kind; kinds that it does not use are left out.

    Args:
      text: of a compiled program, scheduled.
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
            moved = _payload(each, types)
            count[kind] += times
            total[kind] += times * sum(moved.values())
            for dtype, size in moved.items():
                dtypes[kind][dtype] += times * size
            if any(_multiplies(between, multiplies) for between in _until_done(body, position)):
                overlapped[kind] += times * sum(moved.values())
    return {
        kind: Collectives(count[kind], total[kind], overlapped[kind], dict(dtypes[kind]))
        for kind in KINDS
        if count[kind]
    }


def least_bytes(state: Any, mesh_sizes: Mapping[str, int], accumulation: int, compute_dtype: str) -> dict[str, int]:
    """The fewest bytes of arrays that a step of this sharding must gather, scatter and reduce, by kind.

    A parameter of the layers that is split is gathered in the compute dtype for the forward and again for the backward
    pass of every part of the batch; one outside the layers (embeddings, looked up in float32) once, as it is. Gradients
    are float32: those of split parameters are scattered once for each part of the batch, since the sum of the parts is
    kept split; then all are summed once over the devices that hold the same piece. What is sent to experts on other
    devices (all-to-all) depends on the tokens and is not counted.

    Args:
      state: from `abstract_state`.
      accumulation: parts of the batch.
    """
    least = dict.fromkeys(KINDS, 0)
    devices = int(np.prod(list(mesh_sizes.values())))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        split = leaf.size // int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
        # Experts stay where they are: a device gathers the pieces of its own ones alone.
        experts = mesh_sizes["expert"] if "expert" in leaf.sharding.spec else 1
        size = leaf.size // experts
        in_layers = any(getattr(key, "key", None) == "blocks" for key in path)
        if split > experts:
            width = jnp.dtype(compute_dtype).itemsize if in_layers else leaf.dtype.itemsize
            least["all-gather"] += size * width * (2 if in_layers else 1) * accumulation
            least["reduce-scatter"] += size * leaf.dtype.itemsize * accumulation
        if split < devices:
            least["all-reduce"] += leaf.size // split * leaf.dtype.itemsize
    return least


def seconds_on_the_wire(num_bytes: Mapping[str, int], devices: int, link_bandwidth: float) -> float:
    """Seconds that a GPU's link is busy with collectives of arrays of so many bytes, done in rings.

    A ring passes (n - 1) / n of an array along each link to gather or to scatter it, twice that to all-reduce it.

    Args:
      link_bandwidth: bytes/s of one GPU in one direction.
    """
    passes = sum((2 if kind == "all-reduce" else 1) * size for kind, size in num_bytes.items())
    return passes * (devices - 1) / devices / link_bandwidth


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
    """How often each computation runs that the entry reaches through loops, calls and branches."""
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
    """Bytes by dtype of the larger side of a collective: what a gather makes, what a scatter takes."""
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
        results = {dtype: size - operands.get(dtype, 0) for dtype, size in results.items()}  # its type names both
    return operands if sum(operands.values()) > sum(results.values()) else results


def _bytes(type_text: str) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for dtype, dimensions in _ARRAY.findall(type_text):
        bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
        sizes[dtype] += bits * int(np.prod([int(size) for size in dimensions.split(",") if size])) // 8
    return sizes


def _until_done(body: list[_Instruction], start: int) -> Iterator[_Instruction]:
    """What is scheduled while an asynchronous collective runs; nothing for one that the GPU waits for."""
    begun = body[start]
    if not begun.operation.endswith("-start") or '"is_sync":true' in begun.rest:
        return
    for each in body[start + 1 :]:
        if each.operation.endswith("-done") and re.search(rf"%{re.escape(begun.name)}[,)]", each.rest):
            return
        yield each


def _multiplies(instruction: _Instruction, computations_that_do: Any) -> bool:
    """Whether an instruction is a matrix product, fused attention, a fusion or call of one, or a loop."""
    if instruction.operation in ("dot", "convolution", "while"):
        return True
    if instruction.operation == "custom-call":
        return re.search(r'custom_call_target="[^"]*(?:gemm|matmul|fmha|cudnn)', instruction.rest) is not None
    return instruction.operation in ("fusion", "call") and any(
        called in computations_that_do for called in _called(instruction)
    )
