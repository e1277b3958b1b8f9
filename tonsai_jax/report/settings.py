"""The configuration of a run: what it sets, all keys, and what differs from another run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tonsai_jax.config import default_config
from tonsai_jax.report.run import RunRecord
from tonsai_jax.reporting.tables import Table


def all_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as {"optimizer.learning_rate": 0.001, ...}, in order."""
    return dict(_keys(config, ""))


def _keys(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and name not in ("weights", "rate_of"):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def changed_keys(run: RunRecord) -> Table | None:
    """The keys that are not at their defaults, with both values; None where the config is not known."""
    if not run.config:
        return None
    defaults = all_keys(json.loads(json.dumps(default_config().to_dict())))
    rows = [
        [key, _show(value), _show(defaults[key])]
        for key, value in all_keys(run.config).items()
        if key in defaults and value != defaults[key]
    ]
    return Table("", ["key", "this run", "default"], rows, "lll")


def every_key(run: RunRecord) -> Table:
    return Table("", ["key", "value"], [[key, _show(value)] for key, value in all_keys(run.config).items()], "ll")


def compared(runs: Sequence[RunRecord]) -> Table | None:
    """The keys that are not the same in all runs; None unless at least two configs are known."""
    known = [(run.name, all_keys(run.config)) for run in runs if run.config]
    if len(known) < 2:
        return None
    names = dict.fromkeys(key for _, keys in known for key in keys)
    rows = []
    for key in names:
        values = [_show(keys[key]) if key in keys else "-" for _, keys in known]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return Table("", ["key", *(name for name, _ in known)], rows, "l" * (1 + len(known)))


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
