"""Which checkpoint a run resumes from: the newest whole one. Damaged ones are moved out of its way, never deleted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from tonsai_jax.checkpoints.folder import (
    DAMAGED_FOLDER,
    StoredCheckpoint,
    damaged_checkpoints,
    set_aside,
    stored_checkpoints,
)
from tonsai_jax.errors import UserError
from tonsai_jax.hosts.processes import on_every_process

_TEXT_BYTES = 512


def newest_whole(workdir: Path, say: Callable[[str], None]) -> StoredCheckpoint | None:
    """The newest checkpoint that is whole; None where a run has none yet.

    Newer ones that are damaged are named and moved to `WORKDIR/damaged`. All processes of a run must call it together: each
    reads its share of the files, and all come to the same answer.

    Raises `UserError` where checkpoints are there or were set aside, and none of them is whole: a run never begins again unasked.
    """
    found = stored_checkpoints(workdir)
    way_out = "copy a whole one into that folder, or give another --workdir to start again"
    while found:
        newest = found.pop()
        damage = _damage(newest)
        if damage is None:
            if not newest.has_checksums:
                say(f"{newest.folder}: saved by an earlier version without checksums, so it cannot be verified")
            return newest
        what = f"{newest.folder}: this checkpoint is damaged ({damage})"
        if not found:
            raise UserError(f"{what}, and no whole one is left in {workdir / 'checkpoints'}; {way_out}")
        moved = _move(workdir, newest)
        say(f"{what}; it was moved to {moved}, and the one before it is used")
    if damaged_checkpoints(workdir):
        raise UserError(
            f"{workdir / 'checkpoints'}: no checkpoint is left, only damaged ones in {workdir / DAMAGED_FOLDER}; {way_out}"
        )
    return None


def _damage(checkpoint: StoredCheckpoint) -> str | None:
    share = jax.process_index(), jax.process_count()
    return _first_text(on_every_process(partial(checkpoint.damage, share=share)))


def _move(workdir: Path, checkpoint: StoredCheckpoint) -> Path | None:
    """Moves the checkpoint, on the first process; the others wait for it, and get None."""
    is_first = jax.process_index() == 0
    return on_every_process(lambda: set_aside(workdir, checkpoint.step) if is_first else None)


def _first_text(text: str | None) -> str | None:
    """The first of the texts that the processes of a run have, None where none has one; all must call it together."""
    if jax.process_count() == 1:
        return text
    padded = (text or "").encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
    rows = process_allgather(np.frombuffer(padded, np.uint8)).reshape(-1, _TEXT_BYTES)
    texts = (row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows)
    return next(filter(None, texts), None)
