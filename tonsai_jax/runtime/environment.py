"""What a run ran on and with: versions, devices, the command, the commit of the code; an entry for each start of the trainer."""

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import psutil

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json

# Those whose versions change results or speed. Plugins of JAX have a version for each kind of GPU.
_PACKAGES = (
    *("tonsai-jax", "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint"),
    *("grain", "array-record", "numpy", "tokenizers", "sentencepiece"),
)
_GIT_SECONDS = 10.0


def record_start(path: Path, start_step: int) -> None:
    """Adds an entry for this process to the list in `path`. A file that holds no such list is replaced."""
    try:
        entries = read_json(path)
    except UserError:
        entries = []
    write_json(path, [*(entries if isinstance(entries, list) else []), _entry(start_step)])


def _entry(start_step: int) -> dict[str, Any]:
    """Of the process environment nothing is kept: it can hold passwords."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "start_step": start_step,
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "versions": package_versions(),
        "platform": platform.platform(),
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "host_memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "git": _git(Path(__file__).parent),
    }


def package_versions() -> dict[str, str]:
    """The versions of the installed packages that change results or speed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the code in `folder` and whether files differ from it; None where that code is in no repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an environment can lie in somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None
