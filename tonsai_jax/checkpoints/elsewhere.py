"""What of a run goes to other places while it trains: `checkpoint.mirror` and `checkpoint.hub_repo`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from tonsai_jax.checkpoints.remote_workdir import is_url, is_working_folder
from tonsai_jax.errors import UserError
from tonsai_jax.hosts.first_process import on_first_process


@contextlib.contextmanager
def copies_elsewhere(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Brings the run down from its mirror where `workdir` lacks it, and copies it there while the block trains it.

    All processes of a run call it; the first one copies, and the others wait until the run is here.

    Raises `UserError` for a place or a name that cannot be used, and the errors of `bring_down`.
    """
    where = config.checkpoint.mirror
    with contextlib.ExitStack() as stack:
        if where:
            if is_working_folder(workdir) and jax.process_count() > 1:
                raise UserError(
                    f"--workdir={where}: works for a run of one process; give a folder that all processes share as --workdir, "
                    f"and --config.checkpoint.mirror={where}"
                )
            if not is_url(where) and _is_inside(Path(where).expanduser().absolute(), workdir.absolute()):
                raise UserError(
                    f"checkpoint.mirror={where}: lies in the run's own folder {workdir}; give a folder elsewhere"
                )
            from tonsai_jax.checkpoints.mirror import Mirror  # imported here, as below: most runs go nowhere else
            from tonsai_jax.checkpoints.place import Place
            from tonsai_jax.checkpoints.restore_copy import bring_down

            def begin() -> None:
                place = Place(where, "checkpoint.mirror")
                bring_down(place, workdir, say, training=True, with_sane=config.spikes.action == "roll_back")
                if is_working_folder(workdir):
                    say(f"workdir: {where}, with {workdir} as its folder on this machine")
                stack.enter_context(Mirror(place, workdir, say))

            on_first_process(begin)
        if config.checkpoint.hub_repo and jax.process_index() == 0:
            from tonsai_jax.checkpoints.hub_push import HubPushes

            stack.enter_context(HubPushes(config, workdir, say))
        yield


def _is_inside(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) or folder.is_relative_to(path)
