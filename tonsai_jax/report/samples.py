"""What the model wrote, side by side: of one run at some of its steps, of several runs at their last one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tonsai_jax.report.run import RunRecord

STEPS_SHOWN = 5
CHARACTERS_SHOWN = 700  # of a text
_KHMER = re.compile("[\u1780-\u17ff\u19e0-\u19ff]")


class Text(NamedTuple):
    """A text on the page, with the language tag for the browser ("" where it is not known) and a label above it."""

    text: str
    language: str
    label: str = ""


class Prompt(NamedTuple):
    """A prompt with what was made of it, in order."""

    prompt: Text
    about: str
    continuations: list[Text]


def of_samples(runs: Sequence[RunRecord]) -> list[Prompt]:
    """The prompts of `sample.prompts`; the continuations are those of a few steps, or of several runs."""
    return [prompt for _, prompt in _side_by_side([run.samples for run in runs], runs)]


def of_suite(runs: Sequence[RunRecord]) -> dict[str, list[Prompt]]:
    """The prompts of the prompt suite, by their kind."""
    by_kind: dict[str, list[Prompt]] = {}
    for kind, prompt in _side_by_side([run.suite for run in runs], runs):
        by_kind.setdefault(kind, []).append(prompt)
    return by_kind


def has_khmer(text: str) -> bool:
    return _KHMER.search(text) is not None


def spread(steps: Sequence[int], count: int = STEPS_SHOWN) -> list[int]:
    """At most `count` of the steps: the first, the last, and others evenly between them."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (count - 1))] for number in range(count)]


def _side_by_side(
    of_runs: Sequence[Mapping[int, Sequence[Mapping[str, Any]]]], runs: Sequence[RunRecord]
) -> list[tuple[str, Prompt]]:
    """(kind, prompt) in the order of the last step's prompts."""
    columns: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
    if len(runs) == 1:
        columns = [(f"step {step:,}", of_runs[0][step]) for step in spread(sorted(of_runs[0]))]
    else:
        for run, by_step in zip(runs, of_runs, strict=True):
            if by_step:
                columns.append((f"{run.name}, step {max(by_step):,}", by_step[max(by_step)]))
    found: dict[str, tuple[str, Prompt]] = {}
    for label, rows in reversed(columns):  # the newest first: its prompts give the order
        for row in rows:
            key = str(row.get("id") or row["prompt"])
            if key not in found:
                about = ", ".join(str(row[name]) for name in ("id", "language") if row.get(name))
                prompt = Prompt(_text(row["prompt"], row.get("language", "")), about, [])
                found[key] = (str(row.get("kind") or ""), prompt)
            found[key][1].continuations.insert(0, _text(row["continuation"], "", label))
    return list(found.values())


def _text(value: Any, language: str, label: str = "") -> Text:
    text = str(value).strip()
    shown = text if len(text) <= CHARACTERS_SHOWN else text[:CHARACTERS_SHOWN] + " …"
    return Text(shown or "(nothing: the model ended the text)", "km" if has_khmer(text) else language, label)
