"""The reference of preferences: log-probabilities of all answers under the model before the first step.

They never change, so a run computes them once and keeps them in its workdir; it holds no second model. Names: B rows in a batch,
T sequence, S segments in a row (two for each pair), N rows of a split.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from tonsai_jax.data.manifest import SPLITS, RowsManifest
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.data.order import Window
from tonsai_jax.data.rows import Rows, open_rows
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write
from tonsai_jax.hosts.processes import on_every_process
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.training.mesh import put_batch
from tonsai_jax.training.step import Batch

REFERENCE_FILE = "reference.npz"
ScoreStep = Callable[[Any, Batch], jax.Array]


class Reference:
    """The reference of a run, in the file `reference.npz` of its workdir; `make` or `read` fills it.

    Args:
      manifest: the token rows.
      sources: those of pairs that the run reads.
    """

    def __init__(self, workdir: Path, manifest: RowsManifest, sources: Iterable[str]) -> None:
        self.manifest = manifest
        self.sources = tuple(sorted(sources))
        self._path = workdir / REFERENCE_FILE
        self._by_split: dict[str, np.ndarray] = {}

    def rows(self, source: str, split: str) -> np.ndarray:
        """The log-probabilities of the answers in each segment of each row of a split, float32 [N, S]; 0 where there is none."""
        return self._by_split[f"{split}/{source}"]

    def of_window(self, window: Window) -> dict[str, np.ndarray]:
        """What a window of training has next to its tokens."""
        return {"reference": self.rows(window.source, "train")[window.row]}

    def read(self) -> None:
        """Reads what the run made before its first step; raises `UserError` where that is missing or of other rows."""
        again = "give another --workdir to begin again"
        try:
            with np.load(self._path) as file:
                arrays = dict(file)
        except FileNotFoundError:
            raise UserError(
                f"{self._path}: this file is missing, the log-probabilities from before the first step; {again}"
            ) from None
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self._path}: damaged ({error}); {again}") from None
        if str(arrays.pop("rows", "")) != self._identity():
            raise UserError(
                f"{self._path}: the log-probabilities of other rows than those in {self.manifest.directory}; {again}"
            )
        self._by_split = arrays

    def make(self, score_step: ScoreStep, params: Any, mesh: Mesh, batch_size: int) -> None:
        """Scores all rows of both splits with the parameters before the first step, and writes the file."""
        scored: dict[str, list[np.ndarray]] = {}
        for source in self.sources:
            for split in SPLITS:
                rows = open_rows(self.manifest, source, split)
                scored[f"{split}/{source}"] = score_rows(
                    score_step, params, rows, range(len(rows)), mesh, batch_size, task=f"reference of {source}"
                )
        width = max(len(sums) for of_rows in scored.values() for sums in of_rows)
        for name, of_rows in scored.items():
            self._by_split[name] = np.zeros((len(of_rows), width), np.float32)
            for row, sums in enumerate(of_rows):
                self._by_split[name][row, : len(sums)] = sums
        if jax.process_index() == 0:
            with atomic_write(self._path) as partial, partial.open("wb") as file:
                np.savez(file, **{"rows": np.array(self._identity()), **self._by_split})  # type: ignore[arg-type]  # none is "allow_pickle"

    def _identity(self) -> str:
        """Names the rows; the weights need no name, since a workdir without a checkpoint makes its reference again."""
        files = {
            f"{split}/{name}": [shard.sha256 for shard in self.manifest.sources[name].splits[split].files]
            for name in self.sources
            for split in SPLITS
        }
        return json.dumps(files, sort_keys=True)


def score_rows(
    score_step: ScoreStep,
    params: Any,
    rows: Rows,
    numbers: Sequence[int],
    mesh: Mesh,
    batch_size: int,
    *,
    task: str,
) -> list[np.ndarray]:
    """The log-probabilities of the answers in each segment of some packed rows, float32 (2 * pairs,) for each row.

    Every process gets all of them, and every process raises where one could not read a row.

    Args:
      score_step: from `make_score_step`.
      numbers: of the rows.
      batch_size: rows in a batch over all devices; must be divisible by the number of processes.
      task: for the progress on stderr.
    """
    local = batch_size // jax.process_count()
    own = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    found: list[np.ndarray] = []
    with progress_bar(task, unit=" rows", total=len(numbers), wanted=jax.process_index() == 0) as bar:
        for start in range(0, len(numbers), batch_size):
            windows = on_every_process(partial(_packed_windows, rows, numbers[start : start + batch_size]))
            count = len(windows)
            windows += [windows[0]] * (batch_size - count)
            batch = {
                "tokens": np.stack([tokens for tokens, _ in windows[own]]),
                "valid": np.full(local, rows.row_tokens, np.int32),
                "marks": np.stack([marks for _, marks in windows[own]]),
            }
            logp_BxT = process_allgather(score_step(params, put_batch(batch, mesh)), tiled=True)
            found += [_by_segment(logp_T, marks) for logp_T, (_, marks) in zip(logp_BxT, windows[:count], strict=False)]
            bar.update(count)
    return found


def _packed_windows(rows: Rows, numbers: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [rows.packed_window(number) for number in numbers]


def _by_segment(logp_T: np.ndarray, marks_T1: np.ndarray) -> np.ndarray:
    """The sums over the answers of each segment that has one, (2 * pairs,)."""
    is_answer_T = (marks_T1[1:] & ANSWER) > 0
    segment_T = np.cumsum((marks_T1[:-1] & BEGIN) > 0) - 1
    return np.bincount(segment_T[is_answer_T], weights=logp_T[is_answer_T]).astype(np.float32)
