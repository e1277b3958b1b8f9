"""A `--workdir` that is a URL of object storage: the run works in a folder of this machine and is copied to the URL.

A run writes files that grow or are renamed, which object storage does not have, and Orbax 0.12 writes no checkpoints to s3://.
So `--workdir=gs://bucket/run` is `checkpoint.mirror=gs://bucket/run` with a folder that this module chooses.
"""

import hashlib
import re
from pathlib import Path

from tonsai_jax.errors import UserError

RUNS_FOLDER = "~/.cache/tonsai_jax/runs"


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def working_folder(url: str) -> Path:
    """The folder of this machine for the run at `url`, the same each time."""
    url = url.rstrip("/")
    name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2])
    return Path(RUNS_FOLDER).expanduser() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def is_working_folder(workdir: Path) -> bool:
    return workdir.absolute().parent == Path(RUNS_FOLDER).expanduser()


def local_copy(url: str, step: int | str | None) -> Path:
    """The folder of this machine with the run at `url` and its checkpoint of `step`; brings down what is missing.

    Args:
      step: None is the newest checkpoint, "best" the one with the lowest score.

    Raises `UserError` where there is no run, and the errors of `bring_down`.
    """
    from tonsai_jax.checkpoints.place import Place, unreachable  # imported here, as below: only URLs need them
    from tonsai_jax.checkpoints.restore_copy import bring_down

    place, folder = Place(url, "--workdir"), working_folder(url)
    if step == "best":
        try:
            scores, there = place.read_json("scores.json") or {}, place.whole_steps()
        except UserError:
            raise
        except Exception as error:
            raise unreachable(place, error, "check the URL and the rights to read there") from None
        scored = [each for each in there if str(each) in scores]
        step = min(scored, key=lambda each: scores[str(each)], default=None)
    bring_down(place, folder, print, int(step) if step is not None else None)
    if not (folder / "config.json").is_file():
        raise UserError(f"--workdir={url}: no run there; give the --workdir that `tonsai train` was given")
    return folder
