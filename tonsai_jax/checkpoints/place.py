"""A place outside the workdir that holds a copy of a run: another folder, or a URL of object storage, through fsspec.

It has the layout of a workdir, and `mirrored/STEP.json` for each checkpoint: the files that belong to it, with their sizes. This
list is written last and removed first, since object storage can neither rename a folder nor write several files at once. A
checkpoint without its list is not whole, and no reader takes it. In a folder of this machine a copy is renamed to its name after
its list is written, and away from it before the list is removed: a checkpoint without a list is one that was trained there.
`mirrored/run.json` says which run the copy is of, and which process writes it.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE, METADATA_FILE
from tonsai_jax.checkpoints.folder import IS_TEMPORARY
from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.files import atomic_write

LISTS_FOLDER = "mirrored"
RUN_FILE = f"{LISTS_FOLDER}/run.json"
EXPORT_FOLDER = "export"  # of a complete run: large, and no run goes on from it, so it does not come back
_PARTIAL = f"{LISTS_FOLDER}/partial"  # of folders of this machine: a checkpoint that is being copied or removed
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # the extra of this package, by the URL's first word

# Errors of a storage that another try does not change.
_FOR_A_PERSON = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)


class IncompleteError(Exception):
    """A checkpoint is not whole in this place."""


class Place:
    """The copy of a run at `where`: the path of a folder, or a URL. Errors of the storage are raised as they come.

    `key` is the key or flag that named the place, for messages. Raises `UserError` where no installed package reads such a URL.
    """

    def __init__(self, where: str, key: str) -> None:
        from fsspec.core import url_to_fs  # imported here, as below: most runs have no such place
        from fsspec.implementations.local import LocalFileSystem

        self.where, self.key = where, key
        try:
            self._files, self._root = url_to_fs(where if "://" in where else str(Path(where).expanduser().absolute()))
        except ImportError as error:
            protocol = where.partition(":")[0]
            extra = _EXTRAS.get(protocol)
            way_out = f"uv sync --inexact --extra {extra}" if extra else str(error)
            raise UserError(f"{key}={where}: a package for {protocol}:// is missing; install it: {way_out}") from None
        except ValueError as error:
            raise UserError(f"{key}={where}: not a folder and not a URL that can be used ({error})") from None
        self._is_folder = isinstance(self._files, LocalFileSystem)

    def __str__(self) -> str:
        return f"{self.key}={self.where}"

    def has_other_files(self) -> bool:
        """Whether something is there that is none of a copy. Asks the storage again, as all methods do."""
        self._files.invalidate_cache()
        try:
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return False
        names = {path.rstrip("/").rpartition("/")[2] for path in paths if path.strip("/") != self._root.strip("/")}
        return bool(names - {LISTS_FOLDER})

    def read_json(self, name: str) -> Any:
        """The JSON in the file `name`; None where there is no such file."""
        self._files.invalidate_cache()
        try:
            return json.loads(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except ValueError:
            raise self._damaged(name) from None

    def run(self) -> dict[str, str] | None:
        """`run`, the id of the run whose copy is there, and the `writer` and `host` that copy it; None where there is no run."""
        run = self.read_json(RUN_FILE)
        if run is None or (isinstance(run, dict) and isinstance(run.get("run"), str)):
            return run
        raise self._damaged(RUN_FILE)

    def _damaged(self, name: str) -> UserError:
        return UserError(f"{self}: {name} there is damaged; give another place, or remove this one")

    def write_json(self, name: str, value: Any) -> None:
        self.put_bytes(json.dumps(value, ensure_ascii=False, indent=2).encode(), name)

    def put_bytes(self, content: bytes, name: str) -> None:
        """Writes a file, whole or not at all."""
        if self._is_folder:
            with atomic_write(Path(self._path(name))) as partial:
                partial.write_bytes(content)
        else:
            self._files.pipe_file(self._path(name), content)

    def check_writable(self) -> None:
        """Writes a file and removes it; raises what the storage raises."""
        self.put_bytes(b"", f"{LISTS_FOLDER}/writable")
        self._remove(f"{LISTS_FOLDER}/writable")

    def put(self, source: Path, name: str) -> None:
        """Copies a file there, whole or not at all; of a file of JSON lines, which may be growing, only whole lines."""
        if source.suffix == ".jsonl":
            content = source.read_bytes()
            self.put_bytes(content[: content.rfind(b"\n") + 1], name)
        elif self._is_folder:
            with atomic_write(Path(self._path(name))) as partial:
                shutil.copyfile(source, partial)
        else:
            self._files.put_file(str(source), self._path(name))

    def put_checkpoint(self, step: int, folder: Path, names: Iterable[str]) -> None:
        """Copies these files of a checkpoint there; it becomes whole with `seal_checkpoint`."""
        self.remove_checkpoint(step)
        for name in names:
            self.put(folder / name, f"{_PARTIAL if self._is_folder else 'checkpoints'}/{step}/{name}")

    def seal_checkpoint(self, step: int, sizes: Mapping[str, int]) -> None:
        """Makes the checkpoint that was copied whole: `sizes` are its files, in bytes."""
        self.write_json(f"{LISTS_FOLDER}/{step}.json", dict(sizes))
        if self._is_folder:  # so that the folder can also be used as a workdir, whatever moment a copy is cut off at
            target = Path(self._path(f"checkpoints/{step}"))
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(self._path(f"{_PARTIAL}/{step}")).rename(target)

    def replace_checksums(self, step: int, folder: Path, sizes: Mapping[str, int]) -> None:
        """Copies only `checksums.json` of a checkpoint that is whole there; it is whole at each moment."""
        self.put(folder / CHECKSUMS_FILE, f"checkpoints/{step}/{CHECKSUMS_FILE}")
        self.write_json(f"{LISTS_FOLDER}/{step}.json", dict(sizes))

    def is_temporary(self, step: int) -> bool:
        """Whether the checkpoint there was saved because of `checkpoint.every_minutes`."""
        try:
            return bool(self.read_json(f"checkpoints/{step}/{METADATA_FILE}")["custom_metadata"][IS_TEMPORARY])
        except (UserError, KeyError, TypeError):  # damaged, or of an earlier version
            return False

    def remove_checkpoint(self, step: int) -> None:
        """Removes a checkpoint, whole or not, if there is one."""
        self._remove(f"{_PARTIAL}/{step}")
        whole = Path(self._path(f"checkpoints/{step}"))
        if self._is_folder and whole.is_dir():  # as in `seal_checkpoint`
            partial = Path(self._path(f"{_PARTIAL}/{step}"))
            partial.parent.mkdir(parents=True, exist_ok=True)
            whole.rename(partial)
        self._remove(f"{LISTS_FOLDER}/{step}.json")
        self._remove(f"checkpoints/{step}")
        self._remove(f"{_PARTIAL}/{step}")

    def whole_steps(self) -> list[int]:
        """The steps of the checkpoints that were copied to their end, in rising order."""
        listed = self._steps_in(LISTS_FOLDER)
        return sorted(listed & self._steps_in("checkpoints") if self._is_folder else listed)

    def steps_trained_there(self) -> list[int]:
        """The steps of whole checkpoints that no copy made: somebody used the folder as a workdir. A URL has none."""
        return sorted(self._steps_in("checkpoints") - self._steps_in(LISTS_FOLDER)) if self._is_folder else []

    def remove_unfinished(self) -> None:
        """Removes the parts of checkpoints that a process left which was ended while it copied or removed them."""
        if self._is_folder:
            self._remove(_PARTIAL)
            return
        for step in self._steps_in("checkpoints") - self._steps_in(LISTS_FOLDER):
            self.remove_checkpoint(step)

    def _steps_in(self, folder: str) -> set[int]:
        self._files.invalidate_cache()
        try:
            paths = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return set()
        names = [path.rstrip("/").rpartition("/")[2].removesuffix(".json") for path in paths]
        return {int(name) for name in names if name.isdecimal()}

    def get_checkpoint(self, step: int, folder: Path) -> None:
        """Copies a checkpoint to `folder`, which must not exist; raises `IncompleteError` where it is not whole."""
        sizes = self.read_json(f"{LISTS_FOLDER}/{step}.json")
        if not isinstance(sizes, dict):
            raise IncompleteError(f"checkpoint {step} has no list of its files")
        for name, size in sizes.items():
            try:
                target = self._get(self._path(f"checkpoints/{step}/{name}"), name, folder)
            except FileNotFoundError:
                raise IncompleteError(f"checkpoint {step} lacks its file {name}") from None
            # The checksums are written again when a save is done, and tell by themselves whether they are whole.
            if target.stat().st_size != size and name != CHECKSUMS_FILE:
                raise IncompleteError(f"file {name} of checkpoint {step} has {target.stat().st_size} bytes, not {size}")

    def get_small_files(self, workdir: Path) -> None:
        """Copies all that a run needs besides checkpoints to `workdir`, each file whole or not at all."""
        self._files.invalidate_cache()
        root = self._root.rstrip("/")
        for path in self._files.find(root):
            name = path.removeprefix(root).lstrip("/")
            if name.split("/")[0] not in ("checkpoints", LISTS_FOLDER, EXPORT_FOLDER):
                self._get(path, name, workdir)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _get(self, path: str, name: str, folder: Path) -> Path:
        """Copies a file to `name` in `folder`; raises `UserError` for a name that leads out of it."""
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{self}: the name {name!r} there leads out of the run's folder; this is no copy of a run")
        with atomic_write(folder / name) as partial:
            self._files.get_file(path, str(partial))
        return folder / name

    def _remove(self, name: str) -> None:
        self._files.invalidate_cache()
        if self._files.exists(self._path(name)):
            self._files.rm(self._path(name), recursive=True)


def reason(error: Exception) -> str:
    """What a storage said, in one line without a path of ours."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def unreachable(place: Place, error: Exception, consequence: str, use: str = "read") -> UserError:
    """The error for a place that cannot be read or written: `TemporaryError` where another try may help."""
    message = f"{place}: cannot be {use} ({reason(error)}); {consequence}"
    of_network = any(word in type(error).__name__ for word in ("Connect", "Timeout"))  # botocore's are no OSError
    may_pass = of_network or (isinstance(error, OSError) and not isinstance(error, _FOR_A_PERSON))
    return TemporaryError(message) if may_pass else UserError(message)
