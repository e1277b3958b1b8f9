"""What differs between two checkpoints: the config, where the data stands, the parameters."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tonsai_jax.checkpoints.saved import SavedRun
from tonsai_jax.saved_config import differences


class ArrayChange(NamedTuple):
    """A parameter in two checkpoints.

    Attributes:
      before, after: its Euclidean norm; None where the checkpoint does not have it.
      change: the norm of the difference; None where the shapes differ.
    """

    name: str
    before: float | None
    after: float | None
    change: float | None


def changed_metadata(before: SavedRun, after: SavedRun) -> dict[str, list[str]]:
    """Lines "key: old -> new" for the config and for the state of the data."""
    return {key: differences(before.saved[key], after.saved[key]) for key in ("config", "data", "model")}


def changed_arrays(before: SavedRun, after: SavedRun) -> tuple[list[ArrayChange], int]:
    """The parameters that differ in a value, and the number of those that are equal to the bit. Holds both in memory."""
    old, new = (_arrays(run.checkpoints.directory / str(run.step) / "params") for run in (before, after))
    changes = [_change(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]
    return [change for change in changes if change.change != 0], sum(change.change == 0 for change in changes)


def _change(name: str, old: np.ndarray | None, new: np.ndarray | None) -> ArrayChange:
    if old is None or new is None or old.shape != new.shape:
        return ArrayChange(name, _norm(old), _norm(new), None)
    change = 0.0 if old.tobytes() == new.tobytes() else _norm(new.astype(np.float64) - old)
    return ArrayChange(name, _norm(old), _norm(new), change)


def _norm(array: np.ndarray | None) -> float | None:
    return None if array is None else float(np.linalg.norm(array.astype(np.float64)))


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of an item by name, on the host, however they were placed when they were saved."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        wanted: Any = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        arrays = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=wanted))
    flat, _ = jax.tree_util.tree_flatten_with_path(arrays)
    return {"/".join(str(getattr(key, "key", key)) for key in path): np.asarray(array) for path, array in flat}
