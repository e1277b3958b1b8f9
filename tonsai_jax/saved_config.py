"""The config as it is saved with a run, and read again by this version and later ones."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.model.config import ModelConfig

RENAMED = {"device_batch_size": "micro_batch_size"}  # keys of earlier versions, by the name that they have now
# Defaults until optimizer.embedding_rate came. A run from before goes on with them (`training.run.keep_earlier_defaults`).
EARLIER: dict[str, dict[str, Any]] = {
    "model": {field.name: field.default for field in dataclasses.fields(ModelConfig)},
    "optimizer": {"name": "adamw", "learning_rate": 6e-4, "embedding_rate": 1.0},
}
REPLACED = {"max_batches": "eval.tokens, the validation tokens in an evaluation"}  # by keys that mean something else


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values, as saved with a run."""
    return json.loads(json.dumps(config.to_dict(), ensure_ascii=False))


def from_json(saved: Mapping[str, Any]) -> ConfigDict:
    """The config of a saved run: renamed keys under their new names, newer keys at their defaults, removed keys ignored."""
    config = default_config()

    def fill(section: ConfigDict, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            key = RENAMED.get(name, name)
            if key not in section:
                continue
            if isinstance(section[key], ConfigDict):
                fill(section[key], value)
            else:
                section[key] = tuple(value) if isinstance(value, list) else value

    fill(config, EARLIER)
    fill(config, saved)
    return config


def copy_of(config: ConfigDict) -> ConfigDict:
    """A copy that can be changed. `ConfigDict`'s own copy turns values that are dicts, such as weights, into sections."""
    return from_json(to_json(config))


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines 'key: old -> new' for every key whose value has changed between two saved configs."""
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        old, new = saved.get(key), current.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and key != "weights":
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines
