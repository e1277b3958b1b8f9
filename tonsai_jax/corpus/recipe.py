"""A sources file: the YAML that says which text to prepare, how it is cleaned, and where the work is done."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from tonsai_jax.corpus.duplicates import Deduplication
from tonsai_jax.corpus.engine import Executor
from tonsai_jax.corpus.normalize import Normalization
from tonsai_jax.corpus.sources import Source, sources_of
from tonsai_jax.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a prepared dataset is made of, by the keys of a sources file."""

    sources: list[Source]
    normalize: Normalization = dataclasses.field(default_factory=Normalization)
    deduplicate: Deduplication = dataclasses.field(default_factory=Deduplication)
    executor: Executor = dataclasses.field(default_factory=Executor)


def load_recipe(path: Path | str) -> Recipe:
    """Reads a sources file; raises `UserError` naming the file and the key where something is missing, unknown or wrong."""
    content = _read_yaml(path)
    if not isinstance(content, dict):
        content = {}  # `sources_of` says what is missing
    known = [field.name for field in dataclasses.fields(Recipe)]
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{did_you_mean(str(key), known)}")
    executor = _group(content, "executor", path)
    options = {key: executor.pop(key) for key in list(executor) if key not in ("kind", "workers")}
    try:
        return Recipe(
            sources_of(content.get("sources"), path),
            Normalization(**_known(_group(content, "normalize", path), Normalization, f"{path}: normalize")),
            Deduplication(**_known(_group(content, "deduplicate", path), Deduplication, f"{path}: deduplicate")),
            Executor(**executor, options=options),
        )
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


def _group(content: dict[str, Any], key: str, path: Path | str) -> dict[str, Any]:
    group = content.get(key)
    if group is None:
        return {}
    if not isinstance(group, dict):
        raise UserError(f"{path}: {key} must be a group of `key: value` lines, is {group!r}")
    return dict(group)


def _known(group: dict[str, Any], settings: type, where: str) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(settings)]
    for key in group:
        if key not in names:
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(str(key), names)}")
    return group
