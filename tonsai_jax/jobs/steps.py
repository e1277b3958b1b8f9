"""Commands that write folders one after the other: which of them are finished and need not run again."""

from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json

FORMAT = "tonsai_jax/steps"


class Steps:
    """A file that says, for each finished step, what its result depends on and which files it wrote.

    Args:
      file: the file; it is written when the first step is finished.

    Raises `UserError` where the file is there and is something else.
    """

    def __init__(self, file: Path):
        self._file = file
        self._steps: dict[str, Any] = {}
        if file.exists():
            saved = read_json(file)
            if not isinstance(saved, dict) or saved.get("format") != FORMAT:
                raise UserError(
                    f"{file}: was not made by this command; choose another output folder, or remove this file"
                )
            self._steps = saved["steps"]

    def is_finished(self, folder: Path, key: str) -> bool:
        """Whether `folder` was written by a step with this key and still has the files that the step wrote."""
        step = self._steps.get(folder.name)
        return step is not None and step["key"] == key and step["files"].items() <= _sizes(folder).items()

    def finish(self, folder: Path, key: str) -> None:
        """Records that a step has written `folder`.

        Args:
          key: the name of everything that the folder depends on (`jobs.cache.content_key`).
        """
        self._steps[folder.name] = {"key": key, "files": _sizes(folder)}
        write_json(self._file, {"format": FORMAT, "steps": self._steps})


def _sizes(folder: Path) -> dict[str, int]:
    """{path of each file below the folder: its bytes}."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
