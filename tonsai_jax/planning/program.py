"""An optimized program of XLA as data: its computations, their instructions, and how often each one runs in a step.

The reader takes the text of a compiled and scheduled program (`compiled.as_text()`), whose instructions are in the order of the
schedule. The body of a loop runs as often as the loop turns, by the trip count that XLA writes there.
"""

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[sufc]\d+|bf16|f8\w+)\[([\d,]*)\]")
_OPERATION = re.compile(r"^((?:\((?:[^()]|\([^()]*\))*\)|\S+)) ([a-z][a-z0-9-]*)\((.*)$")
_LAYOUT = re.compile(r"\{[\d,]*(?::[^{}]*)?\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      type: of its result, such as "f32[16,2048]" or "(bf16[8], s32[])", without layouts.
      operation: such as "fusion" or "all-gather-start".
      operands: names of the instructions whose results it takes.
      attributes: the text after the operation's name, with its metadata.
      is_root: whether its result is that of its computation.
    """

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool = False

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        names = _CALLED.findall(self.attributes) + re.findall(r"[\w.\-]+", branches[1] if branches else "")
        return tuple(dict.fromkeys(names))

    @functools.cached_property
    def op_name(self) -> str:
        """The JAX operation that it came from, with its named scopes, such as "jit(train_step)/jvp(norm)/mul"; "" for none."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def custom_call_target(self) -> str:
        """What a custom call runs; "" for another operation."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found and self.operation == "custom-call" else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program.

    Attributes:
      computations: the instructions of each, in the order of the schedule, by name.
      entry: name of the computation that runs.
    """

    computations: Mapping[str, Sequence[Instruction]]
    entry: str

    def times_run(self) -> dict[str, int]:
        """How often each computation runs; the entry reaches them through loops, calls and branches."""
        times: dict[str, int] = defaultdict(int)

        def walk(name: str, factor: int) -> None:
            times[name] += factor
            for each in self.computations[name]:
                if each.operation in ("while", "call", "conditional", "async-start"):
                    trips = _TRIPS.search(each.attributes) if each.operation == "while" else None
                    for called in each.called:
                        if called in self.computations:
                            walk(called, factor * (int(trips[1]) if trips else 1))

        walk(self.entry, 1)
        return times

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions of the computations that it calls, and of those that these call."""
        for name in instruction.called:
            for each in self.computations.get(name, ()):
                yield each
                yield from self.inside(each)


def read_program(text: str) -> Program:
    """The program with this text."""
    computations: dict[str, list[Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            body = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            parts = _OPERATION.match(re.sub(r"/\*.*?\*/", "", _LAYOUT.sub("", found[3])))
            if parts:
                operands = tuple(re.findall(r"%([\w.\-]+)", parts[3].partition(")")[0]))
                attributes = found[3].partition(f" {parts[2]}(")[2]  # as they were: above, more than layouts is cut out
                body.append(Instruction(found[2], parts[1], parts[2], operands, attributes, bool(found[1])))
    return Program(computations, entry)


def array_bytes(type_text: str) -> dict[str, int]:
    """Bytes of the arrays in a type, by dtype."""
    sizes: dict[str, int] = defaultdict(int)
    for dtype, dimensions in _ARRAY.findall(type_text):
        bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
        sizes[dtype] += bits * int(np.prod([int(size) for size in dimensions.split(",") if size])) // 8
    return sizes


def dimensions_of(type_text: str) -> tuple[int, ...]:
    """The dimensions of the first array in a type."""
    found = _ARRAY.search(type_text)
    return tuple(int(size) for size in found[2].split(",") if size) if found else ()
