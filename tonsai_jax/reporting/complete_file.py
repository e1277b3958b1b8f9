"""complete.json: what a run records when it is complete."""

import logging
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json

COMPLETE_FILE = "complete.json"
_KINDS = {"step": int, "before": dict, "scores": dict, "samples": list, "exported": bool}
_SAMPLE = {"prompt", "continuation"}


def read_complete(workdir: Path) -> dict[str, Any] | None:
    """The content of the file; None for a run that is not complete.

    A damaged file counts as none, after a warning: the trainer then does the end of the run again, and writes it anew.
    """
    path = workdir / COMPLETE_FILE
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        if isinstance(record, dict):
            record.setdefault("before", {})  # which earlier versions did not write
        if _is_whole(record):
            return record
        reason = "not what a run writes"
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
    logging.getLogger("tonsai_jax").warning(
        "%s: damaged (%s), so the run does not count as complete; the command that trained it writes the file again",
        path,
        reason,
    )
    return None


def _is_whole(record: Any) -> bool:
    if not isinstance(record, dict) or any(type(record.get(name)) is not kind for name, kind in _KINDS.items()):
        return False
    numbers = (value for name in ("before", "scores") for value in record[name].values())
    samples = (isinstance(sample, dict) and sample.keys() == _SAMPLE for sample in record["samples"])
    texts = (text for sample in record["samples"] if isinstance(sample, dict) for text in sample.values())
    return (
        all(isinstance(value, int | float | None) for value in numbers)
        and all(samples)
        and all(isinstance(text, str) for text in texts)
    )
