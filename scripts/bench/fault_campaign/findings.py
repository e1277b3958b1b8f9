"""What a part of the campaign counted, and what it found."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

from tonsai_jax.reporting.tables import Table

SESSION_SECONDS = 120.0  # a session that is still there after this time hangs; the longest take a tenth of it
TRACE = re.compile(
    r"Traceback \(most recent call last\)|\*\*\* Check failure|^\s+@ +0x|Fatal Python error", re.MULTILINE
)


@dataclass
class Findings:
    """The result of one part.

    Attributes:
      counts: what was done and what came of it, in the order of the table.
      failures: a line each; empty where every promise was kept.
    """

    part: str
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def count(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def failed(self, kind: str, line: str) -> None:
        """Counts a failure of a kind, such as "hung", and prints its line at once: a campaign takes a while."""
        self.count(kind)
        self.failures.append(f"{kind}: {line}")
        print(f"  {self.part}: {self.failures[-1]}", flush=True)

    def end(self) -> "Findings":
        self.seconds = time.monotonic() - self.started
        return self

    def figures(self) -> dict[str, Any]:
        return {"counts": self.counts, "failures": self.failures, "seconds": round(self.seconds, 1)}


def as_table(parts: list[Findings]) -> Table:
    rows = [
        (
            part.part,
            ", ".join(f"{number} {name}" for name, number in part.counts.items()),
            str(len(part.failures)),
            f"{part.seconds:.0f}",
        )
        for part in parts
    ]
    return Table("", ("part", "what happened", "failures", "seconds"), rows, "llrr")


def last_line(text: str) -> str:
    """The last line that was printed, shortened."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "(no output)"
