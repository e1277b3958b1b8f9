"""What a compiled step computes and moves through the memory of a GPU, by kind, read from its optimized program.

A kernel reads its operands from memory and writes its result there, so its bytes follow from their shapes. Of an operand that it
only slices or gathers from, the slices count, and of an array that it updates in place, the update. What the caches of the GPU
save is not known here: the bytes are an upper bound.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tonsai_jax.planning.collectives import KINDS as COLLECTIVES
from tonsai_jax.planning.program import Instruction, Program, array_bytes, dimensions_of

PRODUCTS, FUSED_ATTENTION, OPTIMIZER, COPIES, REST = (
    "products",
    "fused attention",
    "optimizer",
    "copies and casts",
    "rest",
)
# The named scopes (`jax.named_scope`) of the model and the loss, by the kind that their kernels have. Of an
# instruction the innermost scope counts, of a kernel made of several instructions the most frequent one.
SCOPES = {
    "norm": "norm",
    "linear": "biases",
    "rope": "rope",
    "attention": "attention",
    "activation": "activation",
    "experts": "experts",
    "layer": "residual sums",
    "loss": "loss",
}
KINDS = (PRODUCTS, FUSED_ATTENTION, *SCOPES.values(), OPTIMIZER, COPIES, REST)

_NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional"}
_NO_KERNEL |= {"after-all", "partition-id", "replica-id", "opt-barrier", "async-start"}
_MOVES = {"copy", "copy-start", "transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate"}
_MOVES |= {"bitcast", "convert", "pad", "broadcast", "parameter", "constant", "tuple", "get-tuple-element"}
_SLICES = {"slice", "dynamic-slice", "gather"}
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # operation -> which of its operands is the update


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a step on each GPU.

    Attributes:
      kind: one of KINDS.
      op_name: the JAX operation that it came from, with its named scopes.
      times: how often it runs.
      num_bytes: that it reads from memory and writes to it, each time.
      flops: of its matrix products, each time. Those of a kernel that XLA does not look into, as fused attention, are not known.
      is_recomputed: whether rematerialization causes it.
    """

    name: str
    kind: str
    op_name: str
    times: int
    num_bytes: int
    flops: int
    is_recomputed: bool


def read_kernels(program: Program) -> list[Kernel]:
    """The kernels of one run of the program, without the collectives."""
    kernels = []
    for name, times in program.times_run().items():
        types = {each.name: each.type for each in program.computations[name]}
        for each in program.computations[name]:
            if _is_kernel(each):
                kind, size, flops = _kind(program, each), _bytes(program, each, types), _flops(program, each, types)
                is_recomputed = "rematted_computation" in each.op_name
                kernels.append(Kernel(each.name, kind, each.op_name, times, size, flops, is_recomputed))
    return kernels


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The kernels of one kind in one step, on each GPU; bytes and FLOPs as in `Kernel`, of all of them together."""

    kernels: int
    num_bytes: int
    recomputed_bytes: int
    flops: int


def traffic_by_kind(kernels: Sequence[Kernel]) -> dict[str, Traffic]:
    """The sums of a step, by kind; without the kinds that it does not have."""

    def total(kind: str) -> Traffic:
        chosen = [each for each in kernels if each.kind == kind]
        return Traffic(
            kernels=sum(each.times for each in chosen),
            num_bytes=sum(each.times * each.num_bytes for each in chosen),
            recomputed_bytes=sum(each.times * each.num_bytes for each in chosen if each.is_recomputed),
            flops=sum(each.times * each.flops for each in chosen),
        )

    return {kind: total(kind) for kind in KINDS if any(each.kind == kind for each in kernels)}


def _is_kernel(instruction: Instruction) -> bool:
    """Whether the GPU starts a kernel for it that is no collective."""
    operation = instruction.operation
    is_collective = operation.removesuffix("-start") in COLLECTIVES
    return not (is_collective or operation in _NO_KERNEL or operation.endswith("-done"))


def _kind(program: Program, instruction: Instruction) -> str:
    inside = [instruction, *program.inside(instruction)]
    if any(_is_product(each) for each in inside):
        return PRODUCTS
    if "fmha" in instruction.custom_call_target:
        return FUSED_ATTENTION
    if all(each.operation in _MOVES for each in inside if not each.called):
        return COPIES
    if instruction.op_name.startswith("jit(") and "jvp(" not in instruction.op_name:
        return OPTIMIZER  # the part of a step that is not differentiated
    scopes = Counter(scope for each in inside if (scope := _scope(each)))
    return SCOPES[scopes.most_common(1)[0][0]] if scopes else REST


def _scope(instruction: Instruction) -> str:
    return next((word for word in reversed(re.findall(r"\w+", instruction.op_name)) if word in SCOPES), "")


def _is_product(instruction: Instruction) -> bool:
    is_library = re.search("gemm|matmul|ragged_dot", instruction.custom_call_target + instruction.name)
    return instruction.operation == "dot" or bool(instruction.custom_call_target and is_library)


def _flops(program: Program, instruction: Instruction, types: Mapping[str, str]) -> int:
    """FLOPs of the matrix products in a kernel."""
    total = 0
    for body, each in _with_types(program, instruction, types):
        if _is_product(each):
            contracted = re.search(r"lhs_contracting_dim(?:ension)?s\W+([\d,\"]+)", each.attributes)
            left = dimensions_of(body.get(each.operands[0], ""))
            depth = [left[int(axis)] for axis in re.findall(r"\d+", contracted[1])] if contracted and left else [0]
            total += 2 * math.prod(dimensions_of(each.type)) * math.prod(depth)
    return total


def _with_types(
    program: Program, instruction: Instruction, types: Mapping[str, str]
) -> Iterator[tuple[Mapping[str, str], Instruction]]:
    """An instruction and those inside it, each with the types of the computation that it stands in."""
    yield types, instruction
    for name in instruction.called:
        body = program.computations.get(name, ())
        inner = {each.name: each.type for each in body}
        for each in body:
            yield from _with_types(program, each, inner)


def _bytes(program: Program, instruction: Instruction, types: Mapping[str, str]) -> int:
    """Bytes that a kernel reads and writes."""
    bodies = [program.computations[name] for name in instruction.called if name in program.computations]
    if instruction.operation not in ("fusion", "fusion-start") or not bodies:
        read = [_size(types.get(operand, "")) for operand in instruction.operands]
        written = _size(instruction.type)
        if instruction.operation in _SLICES:
            read = [written]
        elif instruction.operation in _UPDATES:
            written = _size(types.get(instruction.operands[_UPDATES[instruction.operation]], ""))
            read = [written]
        elif instruction.operation == "copy-start":
            written = read[0]
        return sum(read) + written
    body = bodies[0]
    by_name = {each.name: each for each in body}
    return sum(_read(body, each) for each in body if each.operation == "parameter") + _written(by_name, body[-1])


def _read(body: Sequence[Instruction], array: Instruction) -> int:
    """Bytes that the instructions of a fusion read of one array."""
    total = 0
    for each in body:
        if array.name in each.operands:
            if each.operation in _SLICES and each.operands[0] == array.name:
                total += _size(each.type)
            elif each.operation == "bitcast":
                total += _read(body, each)
            elif not (each.operation in _UPDATES and each.operands[0] == array.name):
                return _size(array.type)
    return min(total, _size(array.type))


def _written(body: Mapping[str, Instruction], result: Instruction) -> int:
    """Bytes of a fusion's result that it writes; of an update in place, those of the update."""
    if result.operation == "tuple":
        return sum(_written(body, body[name]) for name in result.operands)
    if result.operation == "bitcast":
        return _written(body, body[result.operands[0]])
    if result.operation in _UPDATES:
        return _size(body[result.operands[_UPDATES[result.operation]]].type)
    return _size(result.type)


def _size(type_text: str) -> int:
    return sum(array_bytes(type_text).values())
