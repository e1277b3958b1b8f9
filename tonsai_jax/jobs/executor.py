"""Where tasks run: the settings under `executor:` in a sources file."""

import dataclasses
from typing import Any, Literal, get_args

from tonsai_jax.errors import UserError, did_you_mean

Kind = Literal["local", "ray", "slurm"]


@dataclasses.dataclass(frozen=True)
class Executor:
    """Where tasks run, and how many at the same time. Raises `UserError` for a value that cannot be right.

    Attributes:
      kind: "local" (processes on this machine), "ray" or "slurm".
      workers: how many tasks run at the same time. 0 means one per CPU core for "local", and no limit for the others.
      options: further arguments of datatrove's executor of that kind: `partition`, `time`, `mem_per_cpu_gb`,
        `cpus_per_task`, ... Ray also takes the `address` of a running cluster; without it, Ray starts on this machine.
    """

    kind: Kind = "local"
    workers: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"executor: unknown kind {self.kind!r}{did_you_mean(str(self.kind), get_args(Kind))}")
        if not isinstance(self.workers, int) or isinstance(self.workers, bool) or self.workers < 0:
            raise UserError(
                f"executor: workers is {self.workers!r}; it must be a whole number, or 0 for one per CPU core"
            )
        if self.kind == "slurm":
            for key in ("time", "partition"):
                if key not in self.options:
                    raise UserError(f"executor: slurm needs {key!r}; set it under `executor:` in the sources file")
