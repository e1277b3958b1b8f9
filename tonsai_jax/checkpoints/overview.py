"""What `tonsai checkpoints` says about the checkpoints of a run, and which of them it deletes; without JAX."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.checkpoints.folder import StoredCheckpoint, stored_checkpoints
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json

SCORES_FILE = "scores.json"
SANE_FILE = "sane_steps.json"
_logger = logging.getLogger("tonsai_jax")


def checkpoints_of(workdir: Path) -> list[StoredCheckpoint]:
    """The checkpoints of a run; raises `UserError` where there is no run, or none."""
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; give the --workdir that `tonsai train` was given")
    found = stored_checkpoints(workdir)
    if not found:
        raise UserError(f"{workdir}: no checkpoint here; give the --workdir of a run that has saved one")
    return found


def policy_of(workdir: Path, found: Sequence[StoredCheckpoint], **changes: int | None) -> KeepPolicy:
    """The rule by which the run in `workdir` keeps its checkpoints, with its scores.

    Args:
      changes: `last` or `every` to take instead of what the run's config says; None changes nothing.
    """
    config: Any = None
    with contextlib.suppress(UserError):  # a run that was copied without it has the defaults
        config = read_json(workdir / "config.json")
    if not (isinstance(config, Mapping) and isinstance(config.get("checkpoint"), Mapping)):
        config = {}
    settings: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    policy = dataclasses.replace(KeepPolicy.of(config), **settings)
    policy.scores.update(read_scores(workdir))
    policy.sane.update(read_sane_steps(workdir))
    policy.temporary.update(checkpoint.step for checkpoint in found if checkpoint.is_temporary)
    return policy


def read_scores(workdir: Path) -> dict[int, float]:
    """The scores of the checkpoints by step. A damaged file holds none, after a warning: a run that resumes finds them again."""
    path = workdir / SCORES_FILE
    if not path.is_file():
        return {}
    try:
        return {int(step): float(score) for step, score in read_json(path).items()}
    except (AttributeError, TypeError, ValueError, UserError):
        _logger.warning(
            "%s: damaged, so no checkpoint counts as the best; a run that resumes takes the scores from its metrics.jsonl",
            path,
        )
        return {}


def read_sane_steps(workdir: Path) -> set[int]:
    """The steps of the sane checkpoints. A damaged file holds none, after a warning: the next checkpoints are marked again."""
    path = workdir / SANE_FILE
    if not path.is_file():
        return set()
    try:
        return {int(step) for step in read_json(path)}
    except (TypeError, ValueError, UserError):
        _logger.warning("%s: damaged, so no checkpoint counts as sane until the next one does", path)
        return set()


def describe(workdir: Path) -> list[dict[str, Any]]:
    """A row for each checkpoint of a run: step, when it was saved, bytes, score, and why it stays."""
    found = checkpoints_of(workdir)
    policy = policy_of(workdir, found)
    reasons = policy.reasons([checkpoint.step for checkpoint in found])
    return [
        {
            "step": checkpoint.step,
            "saved": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(checkpoint.seconds)),
            "bytes": checkpoint.size(),
            "score": policy.scores.get(checkpoint.step),
            "sane": checkpoint.step in policy.sane if policy.sane else None,
            "checksums": checkpoint.has_checksums,
            "kept as": ["temporary"] * checkpoint.is_temporary
            + [reason for reason, steps in reasons.items() if checkpoint.step in steps],
        }
        for checkpoint in found
    ]


def to_delete(
    workdir: Path, keep_last: int | None, keep_every: int | None
) -> tuple[list[StoredCheckpoint], StoredCheckpoint | None]:
    """The checkpoints that the rule does not keep, and the newest whole one, which is never among them.

    Verifies from the newest one down to the first that is whole.
    """
    found = checkpoints_of(workdir)
    policy = policy_of(workdir, found, last=keep_last, every=keep_every)
    whole = next((checkpoint for checkpoint in reversed(found) if checkpoint.damage() is None), None)
    kept = policy.keeps([checkpoint.step for checkpoint in found]) | ({whole.step} if whole else set())
    return [checkpoint for checkpoint in found if checkpoint.step not in kept], whole
