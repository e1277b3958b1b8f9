"""What a model card says about a run: its data, what it learned from, its scores, the model that it began with."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tonsai_jax.checkpoints.saved import open_checkpoint
from tonsai_jax.data.manifest import SourceInfo, read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.download import HUB
from tonsai_jax.reporting.metrics_file import metrics_rows, scores_of
from tonsai_jax.saved_config import from_json

# What a run learns from: the kinds of its sources, and the rewards of GRPO.
LESSONS = {
    "text": "plain text",
    "conversations": "the answers in conversations",
    "pairs": "pairs of a better and a worse answer",
    "rewards": "rewards for its own answers to prompts (GRPO)",
}


@dataclasses.dataclass(frozen=True)
class SourceDetails:
    """A source of training text and its kind; a weight, license or Hub dataset ("owner/name") that was not recorded is None."""

    name: str
    language: str
    weight: float | None
    license: str | None = None
    dataset: str | None = None
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class CardDetails:
    """What is known about a run in addition to its model.

    Attributes:
      name: the model's name; if empty, the name of the exported folder is used.
      step: number of optimizer steps.
      sources: the sources of training text.
      bits_per_byte: on held-out text, {"km": 1.2, "source/wiki": 1.3}, by language and by source.
      before: the same of the model that the run continued from; empty if it was not measured.
      base_model: that model: its name on the Hub, "ORG/NAME", or the name of a folder; None for a run from scratch.
      license: the Hub's name for the model's license, "apache-2.0"; if None, the card says that it follows from the text's.
      learned_from: what the run learned from: "text", "conversations", "pairs" or "rewards"; empty if that is not known.
      answers: whether this run, or an earlier one that it continues, taught the model to answer in its chat template.

    Raises `UserError` for a license that cannot be a name on the Hub.
    """

    name: str = ""
    step: int | None = None
    sources: tuple[SourceDetails, ...] = ()
    bits_per_byte: Mapping[str, float] = dataclasses.field(default_factory=dict)
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    base_model: str | None = None
    license: str | None = None
    learned_from: tuple[str, ...] = ()
    answers: bool = False

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch("[a-z0-9][a-z0-9.-]*", self.license):
            raise UserError(
                f"license {self.license!r}: not a name on the Hugging Face Hub; write it as there, for instance apache-2.0"
            )

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(source.language for source in self.sources))


def details_of_run(workdir: Path, config: Any, step: int, saved: Mapping[str, Any] | None = None) -> CardDetails:
    """Reads the details from the run's folder and its token rows; token rows that are gone, or others now, are left out.

    Args:
      workdir: the run's folder.
      config: the run's config.
      step: the step of the exported checkpoint.
      saved: the resume metadata of that checkpoint, by which the rows of the training are known again; None does not compare.
    """
    manifest_sources = _sources(config, saved)
    weights = {source.name: source.weight for source in manifest_sources} | dict(config.data.weights or {})
    staged = any("weights" in stage for stage in config.stages)
    sources = tuple(
        SourceDetails(
            source.name,
            source.language,
            None if staged else weights[source.name],
            source.license,
            source.dataset,
            source.kind,
        )
        for source in manifest_sources
    )
    learned_from = _learned_from(config, saved)
    return CardDetails(
        name=workdir.name,
        step=step,
        sources=sources,
        bits_per_byte=_last_scores(workdir / "metrics.jsonl", step),
        before=_last_scores(workdir / "metrics.jsonl", 0),
        base_model=_base_model(config.get("init_from", "")),
        learned_from=learned_from,
        answers=_teaches_answers(learned_from, config) or _answered_before(config.get("init_from", "")),
    )


def _sources(config: Any, saved: Mapping[str, Any] | None) -> list[SourceInfo]:
    """The sources in the run's token rows; none where these are gone, or are others than those in `saved`."""
    with contextlib.suppress(UserError):
        manifest = read_manifest(config.data.dir)
        if saved is None or all(
            manifest.identity(name) == saved["data"]["rows"].get(name) for name in manifest.sources
        ):
            return list(manifest.sources.values())
    return []


def _learned_from(config: Any, saved: Mapping[str, Any] | None) -> tuple[str, ...]:
    """See `CardDetails.learned_from`; a source whose weight is 0 throughout the run does not count."""
    if saved is not None and "grpo" in saved:
        return ("rewards",)
    if config.loss.objective != "next_token":
        return ("pairs",)
    sources = _sources(config, saved)
    usual = config.data.weights or {source.name: source.weight for source in sources}
    mixes = [stage.get("weights") or usual for stage in config.stages] or [usual]
    kinds = {source.kind for source in sources if any(mix.get(source.name, 0) > 0 for mix in mixes)}
    return tuple(kind for kind in LESSONS if kind in kinds)


def _teaches_answers(learned_from: tuple[str, ...], config: Any) -> bool:
    """Whether a run teaches a model to answer; where its rows are gone, a run that samples answers does."""
    return bool({*learned_from} - {"text"}) if learned_from else bool(config.sample.chat)


def _answered_before(init_from: str) -> bool:
    """Whether a run in the line of runs that led to this model taught it to answer."""
    folder = Path(init_from).expanduser().absolute()
    if not init_from or init_from.startswith(HUB) or not (folder / "checkpoints").is_dir():
        return False
    with contextlib.suppress(UserError):
        saved = open_checkpoint(folder).saved
        config = from_json(saved["config"])
        return _teaches_answers(_learned_from(config, saved), config) or _answered_before(config.init_from)
    return False


def _last_scores(path: Path, step: int) -> dict[str, float]:
    """The last evaluation at or before `step`: {"km": 1.2, "source/wiki": 1.3}."""
    evaluations = (scores_of(row) for row in metrics_rows(path) if row["step"] <= step)
    return next(filter(None, reversed(list(evaluations))), {})


def _base_model(init_from: str) -> str | None:
    """The model that a run continued from: ORG/NAME where it came from the Hub, also through other runs or the Hub's cache.

    Of another folder only the name is for the public.
    """
    if not init_from:
        return None
    if on_hub := hub_model(init_from):
        return on_hub[0]
    folder = Path(init_from).expanduser().absolute()
    if (folder / "checkpoints").is_dir():
        earlier = read_json(folder / "config.json").get("init_from", "")
        return _base_model(earlier) or folder.name
    return folder.name


def hub_model(where: str) -> tuple[str, str | None] | None:
    """The model of the Hub at hf:ORG/NAME@REVISION, or in a folder of the Hub's cache: its ORG/NAME, and its revision if given.

    None for every other folder.
    """
    if where.startswith(HUB):
        name, _, revision = where.removeprefix(HUB).partition("@")
        return name, revision or None
    cached = re.search(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/([^/]+)/", f"{Path(where).expanduser().absolute()}/")
    return (f"{cached[1]}/{cached[2]}", cached[3]) if cached else None
