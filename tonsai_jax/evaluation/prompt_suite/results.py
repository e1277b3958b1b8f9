"""What a model made of a suite: texts with their checks, the means, and the forms in which people and files get them."""

import dataclasses
from pathlib import Path
from typing import Any

from tonsai_jax.evaluation.prompt_suite.checks import CHECKS
from tonsai_jax.evaluation.prompt_suite.prompts import Prompt
from tonsai_jax.files import write_json_lines
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.samples import sample_text
from tonsai_jax.reporting.tables import Table

ALL_KINDS = "all"
# Those of the one line that a run prints.
_SHORT = ("script_share", "valid_clusters", "distinct_2", "longest_loop", "premature_stop")


@dataclasses.dataclass(frozen=True)
class Result:
    """A continuation of a prompt, and the value of each of `CHECKS`: 0 to 1, or None where it does not apply."""

    prompt: Prompt
    continuation: str
    checks: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """The line of the file that a run writes."""
        return {
            "id": self.prompt.id,
            "kind": self.prompt.kind,
            "language": self.prompt.language,
            "prompt": self.prompt.prompt,
            "continuation": self.continuation,
            "checks": {name: None if value is None else round(value, 4) for name, value in self.checks.items()},
        }


@dataclasses.dataclass(frozen=True)
class Results:
    """All continuations of a suite.

    Attributes:
      results: in the order of the suite.
      left_out: the ids of the prompts that are too long for the model.
    """

    results: tuple[Result, ...]
    left_out: tuple[str, ...] = ()

    def means(self, language: str, kind: str = ALL_KINDS) -> dict[str, float]:
        """The mean of each check over the prompts to which it applies; checks that apply to none are left out."""
        chosen = [
            each for each in self.results if each.prompt.language == language and kind in (ALL_KINDS, each.prompt.kind)
        ]
        values = {name: [each.checks[name] for each in chosen] for name in CHECKS}
        known = {name: [value for value in column if value is not None] for name, column in values.items()}
        return {name: sum(column) / len(column) for name, column in known.items() if column}

    @property
    def languages(self) -> list[str]:
        """The languages of the continuations, in the order of the suite."""
        return list(dict.fromkeys(each.prompt.language for each in self.results))

    def scalars(self) -> dict[str, float]:
        """The means of each language for metrics.jsonl: {"eval/prompts/script_share/km": 0.98, ...}."""
        return {
            f"eval/prompts/{name}/{language}": value
            for language in self.languages
            for name, value in self.means(language).items()
        }

    def write(self, workdir: Path, step: int) -> Path:
        """Writes the texts and their checks to the run's `prompt_suite/step-000500.jsonl`, which its report shows."""
        path = workdir / "prompt_suite" / f"step-{step:06d}.jsonl"
        write_json_lines(path, (each.to_json() for each in self.results))
        return path

    def line(self) -> str:
        """The most telling means, and how many prompts were left out, in one line."""
        parts = []
        for language in self.languages:
            means = self.means(language)
            told = [f"{CHECKS[name].head} {means[name]:.2f}" for name in _SHORT if name in means]
            parts.append(f"{language}: {', '.join(told)}")
        if self.left_out:
            total = count_of(len(self.results) + len(self.left_out), "prompt")
            parts.append(f"{len(self.left_out)} of {total} left out, too long for the model's context")
        return f"prompt suite, {'; '.join(parts)}"

    def table(self, title: str) -> Table:
        """The means of each language and kind."""
        groups = []
        for language in self.languages:
            kinds = dict.fromkeys(each.prompt.kind for each in self.results if each.prompt.language == language)
            groups += [(language, kind) for kind in (*kinds, ALL_KINDS)]
        means = [self.means(*group) for group in groups]
        names = [name for name in CHECKS if any(name in values for values in means)]
        rows = [
            [*group, str(self._count(*group)), *(f"{values[name]:.2f}" if name in values else "-" for name in names)]
            for group, values in zip(groups, means, strict=True)
        ]
        heads = ["language", "kind", "prompts", *(CHECKS[name].head for name in names)]
        return Table(title, heads, rows, "ll" + "r" * (1 + len(names)))

    def explanation(self) -> str:
        """One line for each check of the table: what it means, and which value is the good one."""
        names = [name for name in CHECKS if any(each.checks[name] is not None for each in self.results)]
        width = max(len(CHECKS[name].head) for name in names)
        return "\n".join(
            f"  {CHECKS[name].head:{width}}  {CHECKS[name].meaning}; {'high' if CHECKS[name].higher_is_better else 'low'} is good"
            for name in names
        )

    def texts(self) -> str:
        """Every prompt with its continuation, for people."""
        return "\n\n".join(
            f"[{each.prompt.id}] {sample_text(each.prompt.prompt, each.continuation)}" for each in self.results
        )

    def _count(self, language: str, kind: str) -> int:
        return sum(each.prompt.language == language and kind in (ALL_KINDS, each.prompt.kind) for each in self.results)
