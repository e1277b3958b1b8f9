"""The batches of a run: a Grain pipeline over the windows that `DataOrder` puts in order.

  for each segment: its windows (`Windows`) -> transforms -> the windows of this process -> batches
  for the run: the batches of all segments, indexed by step -> read ahead in a thread, several batches at once

The batches have random access, so a run resumes at any step without reading what came before. To add a transform, pass
it to `Loader`.
To add something without random access, such as Grain's packing, build on `Loader.windows`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from grain.experimental import FlatMapIterDataset, FlatMapTransform

from tonsai_jax.data.damage import DamagedRows
from tonsai_jax.data.marks import marks_of_text
from tonsai_jax.data.order import DataOrder, Segment, Window
from tonsai_jax.data.rows import Rows, open_rows
from tonsai_jax.errors import UserError

# One thread: reading and stacking hold Python's lock, so more threads would only wait for each other.
_READ_OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
# Waking the thread takes as long as reading about eight windows of 2048 tokens, so it reads small batches in groups.
_GROUP_WINDOWS, _GROUP_TOKENS = 128, 2**18  # the most in a group, unless one batch has more

Batch = dict[str, np.ndarray]
Attach = Callable[[Window], dict[str, np.ndarray]]


# A `MapDataset` and not a source for `MapDataset.source`: Grain counts the bytes of every element of a source, which
# takes longer than reading a window of 2048 tokens.
class Windows(grain.MapDataset[dict[str, Any]]):
    """The windows of one segment in the order of training, over all processes.

    Element n is a dictionary:
      tokens: the ids of the window, (seq_len + 1,) of the rows' dtype; the last id is only a target.
      valid: int32 scalar, how many of the seq_len targets are real; fewer only in the last window of a source.
      marks: only where a source of the segment is packed: uint8 (seq_len + 1,), see `data.marks`.

    Args:
      order: the order of the run.
      segment: one of `order.segments`.
      steps: length of the segment; it has steps * global_batch_size windows.
      rows: the token rows of each source.
      document_mask: whether documents of plain text are kept apart, in a segment with packed sources.
      attach: more arrays for a packed window, such as what a model says about it.
      damaged: takes note of windows that cannot be read; they have a `valid` below 0, and ids and marks of 0.

    Raises:
      UserError: without `damaged`, when a window is read whose file is missing or damaged.
    """

    def __init__(
        self,
        order: DataOrder,
        segment: Segment,
        steps: int,
        rows: dict[str, Rows],
        document_mask: bool,
        attach: Attach | None,
        damaged: DamagedRows | None,
    ) -> None:
        super().__init__()
        self._order = order
        self._segment = segment
        self._length = steps * segment.global_batch_size
        self._rows = rows
        self._attach = attach
        self._damaged = damaged
        self._has_marks = any(order.manifest.sources[name].is_packed for name in segment.shares)
        self._text_begins = order.manifest.end_of_text_id if document_mask else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        window = self._order.window(self._segment, index)
        is_packed = self._order.manifest.sources[window.source].is_packed
        valid, rows = np.int32(window.valid), self._rows[window.source]
        marks = None
        try:
            if is_packed:
                tokens, marks = rows.packed_window(window.row)
            else:
                tokens = rows.window(window.row, window.part, self._segment.seq_len)
        except UserError as error:
            if self._damaged is None:
                raise
            valid, tokens = self._damaged.report(error), np.zeros(self._segment.seq_len + 1, rows.dtype)
            marks = np.zeros(len(tokens), np.uint8)
        if not self._has_marks:
            return {"tokens": tokens, "valid": valid}
        if marks is None:
            marks = marks_of_text(tokens, self._text_begins)
        attached = self._attach(window) if is_packed and self._attach else {}
        return {"tokens": tokens, "valid": valid, "marks": marks} | attached


class Loader:
    """The batches of a run, as one process sees them.

    Args:
      order: the order of the run.
      process_index, process_count: process h of H gets sequences h*B/H ... (h+1)*B/H of each global batch of B.
      document_mask, attach, damaged: see `Windows`.
      transforms: Grain transforms, applied to every window before it is batched. A random transform gets a generator
        that depends on the order's seed and on the number of the window in its segment. So the batches stay the same
        after a resume and on another number of processes.

    Attributes:
      dataset: a `grain.MapDataset` whose element `step` is this process's part of the global batch of that step. Each
        key of a window becomes an array with a leading batch axis: tokens (local_batch, seq_len + 1) of the rows'
        dtype, valid (local_batch,) int32, and marks (local_batch, seq_len + 1) uint8 where a source is packed.

    Raises:
      UserError: a batch size is not divisible by the number of processes.
    """

    def __init__(
        self,
        order: DataOrder,
        *,
        process_index: int = 0,
        process_count: int = 1,
        document_mask: bool = False,
        attach: Attach | None = None,
        damaged: DamagedRows | None = None,
        transforms: grain.transforms.Transformations = (),
    ) -> None:
        self._order = order
        self._transforms = transforms
        self._document_mask = document_mask
        self._attach = attach
        self._damaged = damaged
        self._rows = {name: open_rows(order.manifest, name, "train") for name in order.manifest.sources}
        batches, windows_per_step, tokens_per_step = [], 1, 1
        for number, segment in enumerate(order.segments):
            batch_size = segment.global_batch_size
            if batch_size % process_count:
                raise UserError(
                    f"global_batch_size {batch_size} (from step {segment.first_step} on) is not divisible by the "
                    f"{process_count} processes; choose a multiple of {process_count}"
                )
            windows = self.windows(number)
            if process_count > 1:
                windows = _WindowsOfProcess(windows, batch_size, process_index, process_count)
            local_batch = batch_size // process_count
            batches.append(windows.batch(local_batch, batch_fn=_stack))
            windows_per_step = max(windows_per_step, local_batch)
            tokens_per_step = max(tokens_per_step, local_batch * segment.seq_len)
        self._group_steps = max(1, min(_GROUP_WINDOWS // windows_per_step, _GROUP_TOKENS // tokens_per_step))
        self.dataset = grain.MapDataset.select_from_datasets(batches, _Steps(order))

    def windows(self, segment_number: int) -> grain.MapDataset[Any]:
        """Returns the windows of segment `segment_number` over all processes, with the transforms (see `Windows`)."""
        segments = self._order.segments
        segment = segments[segment_number]
        is_last = segment_number == len(segments) - 1
        end = self._order.total_steps if is_last else segments[segment_number + 1].first_step
        steps = max(0, end - segment.first_step)
        windows = Windows(self._order, segment, steps, self._rows, self._document_mask, self._attach, self._damaged)
        return windows.seed(self._order.seed).apply(self._transforms) if self._transforms else windows

    def batches(self, start_step: int) -> grain.DatasetIterator[Batch]:
        """Returns an iterator over `dataset` from `start_step` to the last step, which reads ahead in a thread.

        Its `get_state()` counts from `start_step`: set it only on an iterator of the same run from the same step. A
        checkpoint keeps `DataOrder.state` instead, because the config may change before the run resumes.
        """
        groups = self.dataset[start_step:].batch(self._group_steps, batch_fn=list)
        return iter(FlatMapIterDataset(groups.to_iter_dataset(_READ_OPTIONS), _Ungroup()))


class _Ungroup(FlatMapTransform):
    max_fan_out = _GROUP_WINDOWS  # batches in a group, for each has at least one window

    def flat_map(self, group: list[Batch]) -> list[Batch]:
        return group


# Grain's own function takes any tree; for small dictionaries it takes longer than the copy of the tokens.
def _stack(windows: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    return {key: np.array([window[key] for window in windows]) for key in windows[0]}


class _WindowsOfProcess(grain.MapDataset[Any]):
    """The windows of one process, out of those of all processes."""

    def __init__(self, windows: grain.MapDataset[Any], batch_size: int, process_index: int, process_count: int) -> None:
        super().__init__(windows)
        self._windows = windows
        self._length = len(windows) // process_count
        self._batch_size = batch_size
        self._local_batch = batch_size // process_count
        self._first = process_index * self._local_batch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, sequence = divmod(index, self._local_batch)
        return self._windows[batch * self._batch_size + self._first + sequence]


class _Steps(grain.transforms.DatasetSelectionMap):
    """Finds the batch of a step in the datasets of the segments."""

    def __init__(self, order: DataOrder) -> None:
        self._order = order

    def __len__(self) -> int:
        return self._order.total_steps

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index >= self._order.total_steps:
            raise IndexError(f"step {index} of a run of {self._order.total_steps} steps")
        number = self._order.segment_number(index)
        return number, index - self._order.segments[number].first_step
