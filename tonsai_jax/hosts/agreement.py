"""Hosts that differ are refused: every process of a run has the same config, code, libraries, rows and checkpoint.

A difference would go unnoticed otherwise: with another learning rate on one host, its copy of the parameters drifts away from
the others'. The comparison is one of texts, through process 0, so it works where the programs themselves would differ.
"""

import hashlib
import json
import platform
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import tonsai_jax
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write
from tonsai_jax.hosts.peers import Peers
from tonsai_jax.runtime.environment import package_versions
from tonsai_jax.saved_config import to_json

_NAMED = 3  # differences in the message; the rest is counted
_POLL_SECONDS = 0.2


def check_program(peers: Peers, config: ConfigDict, flags: Mapping[str, Any], workdir: Path) -> None:
    """Raises `UserError` on every process where one runs something else, or does not share the workdir with process 0."""
    check_same(peers, "program", program_of(config, flags))
    check_shared_folder(peers, workdir, config.hosts.shared_seconds)


def check_inputs(peers: Peers, manifest: RowsManifest, start_step: int, history: Mapping[str, Any]) -> None:
    """Raises `UserError` on every process where one has something else in `inputs_of`."""
    check_same(peers, "inputs", inputs_of(manifest, start_step, history))


def program_of(config: ConfigDict, flags: Mapping[str, Any]) -> dict[str, str]:
    """What runs: each key of the config and each flag, the files of this package, Python and the libraries."""
    folder = Path(tonsai_jax.__file__).parent
    code = {
        f"code {path.relative_to(folder.parent).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in sorted(folder.rglob("*.py"))
    }
    versions = {f"version of {name}": version for name, version in package_versions().items()}
    flat = _flat("config", to_json(config)) | {f"--{name}": str(value) for name, value in flags.items()}
    return flat | versions | {"version of Python": platform.python_version()} | code


def inputs_of(manifest: RowsManifest, start_step: int, history: Mapping[str, Any]) -> dict[str, str]:
    """What the run reads: the rows and the weight of each source, the tokenizer, and where the run stands.

    Args:
      start_step: of the newest checkpoint.
      history: JSON values that decide how the run goes on, by the names of the files in which each process finds them.
    """
    sources: dict[str, str] = {}
    for name, source in manifest.sources.items():
        sources |= {
            f"weight of source {name!r} in the rows' manifest": str(source.weight),
            f"training rows of source {name!r}": f"{manifest.identity(name)} ({source.splits['train'].rows} rows)",
            f"validation rows of source {name!r}": str(source.splits["validation"].rows),
        }
    return sources | {
        "tokenizer of the rows": manifest.tokenizer_hash[:12],
        "step of the newest checkpoint": str(start_step),
        **{name: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12] for name, value in history.items()},
    }


def check_same(peers: Peers, name: str, values: Mapping[str, str]) -> None:
    """Compares `values` of every process with those of process 0; `name` is that of this comparison on all processes.

    Raises `UserError` on every process, with the same line, which names what differs and where.
    """
    everyone = peers.gather(name, {"host": peers.name, "values": dict(values)})
    found = [] if everyone is None else [_differences(other, everyone[0]) for other in everyone[1:]]
    if line := peers.broadcast(f"{name} result", "; ".join(filter(None, found))):
        raise UserError(f"{line}. All processes of a run need the same")


def check_shared_folder(peers: Peers, workdir: Path, seconds: float) -> None:
    """Checks that every process sees the workdir of process 0, by a file that process 0 writes there.

    Args:
      seconds: how long a process may look for the file; network file systems show it late.

    Raises `UserError` on every process where one does not see it.
    """
    name = secrets.token_hex(8) if peers.index == 0 else ""
    if name:
        for left in workdir.glob(".shared-*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        with atomic_write(workdir / f".shared-{name}") as partial:
            partial.write_text(name)
    name = peers.broadcast("shared file", name)
    file = workdir / f".shared-{name}"
    try:
        sees = peers.index == 0 or _appears(file, name, seconds)
        everyone = peers.gather("shared", [peers.name, str(workdir.absolute()), sees])
    finally:
        if peers.index == 0:
            file.unlink(missing_ok=True)
    blind = [
        f"{who} does not see the workdir of process 0 in {folder}" for who, folder, sees in everyone or () if not sees
    ]
    if line := peers.broadcast("shared result", "; ".join(blind)):
        raise UserError(f"{line}: a run on several hosts needs a --workdir in a folder that all of them share")


def _differences(other: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """How a process differs from process 0, as "process 1 (b): config.seed is 1, 0 on process 0 (a)"."""
    values, expected = other["values"], first["values"]
    keys = [key for key in {**expected, **values} if values.get(key) != expected.get(key)]
    lines = [
        f"{key} is {values.get(key, 'absent')}, {expected.get(key, 'absent')} on {first['host']}"
        for key in keys[:_NAMED]
    ]
    rest = f", and {len(keys) - _NAMED} more differ" if len(keys) > _NAMED else ""
    return f"{other['host']}: {', '.join(lines)}{rest}" if keys else ""


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: str(value)}
    return {key: text for name, inner in value.items() for key, text in _flat(f"{prefix}.{name}", inner).items()}


def _appears(file: Path, content: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            list(file.parent.iterdir())  # a network file system looks at the folder again
            if file.read_text() == content:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
