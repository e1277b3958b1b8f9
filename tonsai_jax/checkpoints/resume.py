"""Which checkpoint a run resumes from: the newest whole one. Damaged ones are moved out of its way, never deleted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from tonsai_jax.checkpoints.folder import (
    DAMAGED_FOLDER,
    StoredCheckpoint,
    damaged_checkpoints,
    set_aside,
    stored_checkpoints,
)
from tonsai_jax.errors import UserError
from tonsai_jax.hosts.processes import gather_texts, on_every_process


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
        damage = damage_anywhere(newest)
        if damage is None:
            if not newest.has_checksums:
                say(f"{newest.folder}: saved by an earlier version without checksums, so it cannot be verified")
            return newest
        what = f"{newest.folder}: this checkpoint is damaged ({damage})"
        if not found:
            raise UserError(f"{what}, and no whole one is left in {workdir / 'checkpoints'}; {way_out}")
        moved = move_damaged(workdir, newest)
        say(f"{what}; it was moved to {moved}, and the one before it is used")
    if damaged_checkpoints(workdir):
        raise UserError(
            f"{workdir / 'checkpoints'}: no checkpoint is left, only damaged ones in {workdir / DAMAGED_FOLDER}; {way_out}"
        )
    return None


def damage_anywhere(checkpoint: StoredCheckpoint) -> str | None:
    """What is damaged, None where nothing is. All processes call it together, read their shares, and get the same answer."""
    share = jax.process_index(), jax.process_count()
    found = on_every_process(partial(checkpoint.damage, share=share))
    return next(filter(None, gather_texts(found or "")), None)


def move_damaged(workdir: Path, checkpoint: StoredCheckpoint) -> Path | None:
    """Moves the checkpoint to `WORKDIR/damaged`, on the first process; the others wait for it, and get None."""
    is_first = jax.process_index() == 0
    return on_every_process(lambda: set_aside(workdir, checkpoint.step) if is_first else None)
