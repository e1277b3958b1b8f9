"""A sources file: YAML that says which texts to prepare, how, and where the tasks run."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import yaml

from tonsai_jax.corpus.cleaning.decontaminate import Decontamination
from tonsai_jax.corpus.cleaning.redact import Redaction
from tonsai_jax.corpus.cleaning.rules import Quality
from tonsai_jax.corpus.duplicates.exact import Deduplication
from tonsai_jax.corpus.sources.faults import OnError
from tonsai_jax.corpus.sources.source import Source, sources_of
from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.text.normalize import Normalization


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the texts of all sources are prepared: the keys of a sources file other than `sources`."""

    normalize: Normalization = dataclasses.field(default_factory=Normalization)
    redact: Redaction = dataclasses.field(default_factory=lambda: Redaction(email=False, phone=False))
    quality: Quality = dataclasses.field(default_factory=Quality)
    decontaminate: Decontamination = dataclasses.field(default_factory=Decontamination)
    deduplicate: Deduplication = dataclasses.field(default_factory=Deduplication)
    executor: Executor = dataclasses.field(default_factory=Executor)
    on_error: OnError = "stop"  # at input that cannot be read: "stop", or "skip" it (counted; failed sources are named)
    keep_dropped: bool = False  # also write the dropped documents, to the folder `dropped` of the output

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise UserError(f"on_error is {self.on_error!r}; it must be one of: {', '.join(get_args(OnError))}")
        if not isinstance(self.keep_dropped, bool):
            raise UserError(f"keep_dropped is {self.keep_dropped!r}; it must be true or false")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The content of a sources file."""

    sources: list[Source]
    settings: Settings = dataclasses.field(default_factory=Settings)


def load_recipe(path: Path | str) -> Recipe:
    """Reads a sources file. Raises `UserError`, which names the file and the key, if something is missing, unknown or wrong."""
    content = _read_yaml(path)
    if not isinstance(content, dict):
        content = {}  # `sources_of` raises the error
    groups = {field.name: field.type for field in dataclasses.fields(Settings)}
    known = ["sources", *groups]
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{did_you_mean(str(key), known)}")
    settings: dict[str, Any] = {}
    try:
        for key, kind in groups.items():
            if content.get(key) is None:
                continue
            settings[key] = _group(content[key], key, kind) if dataclasses.is_dataclass(kind) else content[key]
        return Recipe(sources_of(content.get("sources"), path), Settings(**settings))
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def _read_yaml(path: Path | str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def _group(group: Any, name: str, kind: Any) -> Any:
    """The settings under one key of the sources file."""
    if not isinstance(group, dict):
        raise UserError(f"{name} is {group!r}; it must be a mapping with lines `key: value`")
    group = {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
    if kind is Executor:  # the other keys are arguments of datatrove's executor
        options = {key: group.pop(key) for key in list(group) if key not in ("kind", "workers")}
        return Executor(**group, options=options)
    names = [field.name for field in dataclasses.fields(kind)]
    for key in group:
        if key not in names:
            raise UserError(f"{name}: unknown key {key!r}{did_you_mean(str(key), names)}")
    return kind(**group)
