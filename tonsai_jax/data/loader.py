"""Token rows of several sources, mixed by weight, as training batches.

What is unusual here: nothing is ever "read up to" a point. The batch of a step is computed from the step, so
a run resumes at once, on any number of hosts, with the batches it would have had. Pure functions do it:

  step -> how many windows of each source came before each row of the batch   (`_counts`: the mix)
  window number within a source -> epoch, row, part of the row                (`SourceOrder`: the shuffle)
  row, part -> token ids                                                      (`Rows.read`)

Of Grain only the permutation of large sources is used. Its mix and shuffle of datasets know nothing of where
an earlier stage left a source, and its reading threads cost a third of the speed measured here.

A run is a list of segments: stretches of steps with one sequence length, batch size and mix. A segment begins
where the one before left every source, whether the config planned it (the next stage) or somebody edited the
config between two runs; so changing the mix never reads a window again before its source is used up.
"""

import functools
import hashlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from grain.experimental import index_shuffle

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import check_seq_len, open_rows
from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.stages import Stage

STATE_VERSION = 1

# Weights are kept as whole numbers out of this, so that the mix is exact integer arithmetic: the same on
# every machine, and good for 2**39 windows before int64 runs out.
_WHOLE = 2**24
# Windows are shuffled within blocks of this many shuffled rows. A stage with another sequence length goes on
# at the next block, so a block is at most a sixteenth of a source, unless the source is very small.
_MAX_BLOCK_ROWS = 4096
_MIN_BLOCK_ROWS = 256
_BLOCKS_PER_EPOCH = 16
_PREFETCH_BATCHES = 8
_MAX_TABLE = 2**16

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Position:
    """How far a source has been read: `windows` of `seq_len` since the start of its first epoch."""

    seq_len: int
    windows: int


@dataclass(frozen=True)
class _Segment:
    """Steps from `first_step` on that share a batch shape and a mix, and where they found every source."""

    first_step: int
    seq_len: int
    global_batch_size: int
    shares: dict[str, int]
    positions: dict[str, Position]

    def same_batches(self, stage: Stage, shares: dict[str, int]) -> bool:
        ours = (self.seq_len, self.global_batch_size, self.shares)
        return ours == (stage.seq_len, stage.global_batch_size, shares)


class SourceOrder:
    """The order in which the windows of a source are read: a pure function of (seed, name, epoch).

    The full rows are permuted over the whole source, then cut into blocks, and the windows of a block are
    permuted again; no memory grows with the source. Every real target is read exactly once in an epoch: the
    windows of a padded last row that hold none are left out, and its others join the last block.
    """

    def __init__(self, name: str, targets: int, row_tokens: int, seed: int) -> None:
        self._name = name
        self._seed = seed
        self._row_tokens = row_tokens
        self._full_rows, self._rest = divmod(targets, row_tokens)
        self._block_rows = min(_MAX_BLOCK_ROWS, max(_MIN_BLOCK_ROWS, self._full_rows // _BLOCKS_PER_EPOCH))
        self._blocks = max(1, -(-self._full_rows // self._block_rows))

    def windows(self, seq_len: int) -> int:
        """Number of windows in an epoch."""
        return self._full_rows * (self._row_tokens // seq_len) + -(-self._rest // seq_len)

    def window(self, number: int, seq_len: int) -> tuple[int, int, int]:
        """Finds the window with this number, counted from the start of the first epoch.

        Returns:
          row, part: the window is ids part*seq_len ... (part+1)*seq_len of the row; valid: its real targets.
        """
        parts = self._row_tokens // seq_len
        epoch, number = divmod(number, self.windows(seq_len))
        block = min(number // (self._block_rows * parts), self._blocks - 1)
        first_row = block * self._block_rows
        if block == self._blocks - 1:
            rows = self._full_rows - first_row
            size = self.windows(seq_len) - first_row * parts
        else:
            rows = self._block_rows
            size = rows * parts
        key = _key(self._seed, self._name, epoch, block)
        number = _shuffled(number - first_row * parts, size, key)
        if number >= rows * parts:
            part = number - rows * parts
            return self._full_rows, part, min(seq_len, self._rest - part * seq_len)
        row, part = divmod(number, parts)
        row = _shuffled(first_row + row, self._full_rows, _key(self._seed, self._name, epoch, -1))
        return row, part, seq_len

    def move(self, position: Position, seq_len: int) -> Position:
        """Where windows of another length go on: at the next block, whose tokens were not read in this epoch.

        What was left of the block before it is not read until the next epoch.
        """
        if position.seq_len == seq_len:
            return position
        epoch, number = divmod(position.windows, self.windows(position.seq_len))
        block = -(-number // (self._block_rows * (self._row_tokens // position.seq_len)))
        if block >= self._blocks:
            epoch, block = epoch + 1, 0
        number = block * self._block_rows * (self._row_tokens // seq_len)
        return Position(seq_len, epoch * self.windows(seq_len) + number)


@functools.lru_cache(maxsize=1024)
def _key(seed: int, name: str, epoch: int, block: int) -> int:
    text = f"{seed}/{name}/{epoch}/{block}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def _shuffled(index: int, size: int, key: int) -> int:
    """Where `index` stands in a permutation of range(size), in constant memory."""
    # Grain's permutation walks through at least 2**16 numbers in search of one below `size`: two microseconds
    # where the size is larger than that, but a millisecond where it is 16, so small ones are kept as a table.
    if size > _MAX_TABLE:
        return index_shuffle(index, size - 1, key, 4)
    return int(_table(size, key)[index])


@functools.lru_cache(maxsize=256)
def _table(size: int, key: int) -> np.ndarray:
    # The old generator, because NumPy promises that its streams never change.
    return np.random.RandomState(key).permutation(size).astype(np.int32)


def _counts(numbers: np.ndarray, shares: Mapping[str, int]) -> np.ndarray:
    """How many of the first n rows of a segment come from each source.

    The first source takes its share of n rows, rounded; the second its share of what is left; and so on. As n
    grows by one, exactly one count does. With the largest share first, a count is within half a row of its
    share for two sources, within one for three, and was not seen further off than 1.4 rows for twenty.

    Args:
      numbers: values of n, int64 (N,).
      shares: weight of each source as a whole number, largest first.

    Returns:
      int64 (sources, N).
    """
    left, total = numbers, sum(shares.values())
    counts = []
    for share in shares.values():
        rest = (left * (total - share) + total // 2) // total
        counts.append(left - rest)
        left, total = rest, total - share
    return np.stack(counts)


def _largest_first(shares: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


class Mixture:
    """The batches of a run, as this process sees them.

    Args:
      manifest: the token rows.
      seed: of the order of the rows; part of the run's identity.
      stages: the run.
      split: "train" or "validation".
      process_index, process_count: host h of H gets rows h*B/H ... (h+1)*B/H of every global batch of B.
      state: what `state` returned for the checkpoint that this run goes on from. Where `stages` asks for
        another sequence length, batch size or mix at that step than the checkpoint had, they change from
        there on; else the run goes on with exactly the batches it would have had.

    Raises:
      UserError: a stage's key is impossible; an unknown source; a source with no rows; rows or a seed other
        than those in `state`.
    """

    def __init__(
        self,
        manifest: RowsManifest,
        *,
        seed: int,
        stages: Sequence[Stage],
        split: str = "train",
        process_index: int = 0,
        process_count: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._manifest = manifest
        self._seed = seed
        self._split = split
        self._process_index = process_index
        self._process_count = process_count
        self._rows = {name: open_rows(manifest, name, split) for name in manifest.sources}
        self._orders = {
            name: SourceOrder(name, rows.split.targets, manifest.row_tokens, seed) for name, rows in self._rows.items()
        }
        self.total_steps = sum(stage.steps for stage in stages)
        self._segments = self._plan(stages, state)

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yields `batch_at` of every step from `start_step` to the end, prepared ahead in a thread."""
        # One thread: more would only wait for the interpreter's lock.
        pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(start_step, self.total_steps):
                ahead.append(pool.submit(self.batch_at, step))
                if len(ahead) > _PREFETCH_BATCHES:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def batch_at(self, step: int) -> Batch:
        """This process's rows of the global batch of `step`.

        Returns:
          tokens (local_batch, seq_len + 1) of the rows' dtype; valid int32 (local_batch,): how many of a
          window's seq_len targets are real, fewer only in the last window of a source.
        """
        segment = self._segment_at(step)
        names, seq_len = list(segment.shares), segment.seq_len
        local_batch = segment.global_batch_size // self._process_count
        first = (step - segment.first_step) * segment.global_batch_size + self._process_index * local_batch
        counts = _counts(np.arange(first, first + local_batch + 1), segment.shares)
        sources = np.argmax(np.diff(counts), axis=0)
        numbers = counts[sources, np.arange(local_batch)]
        item, windows, valid = self._manifest.dtype.itemsize, [], []
        for source, number in zip(sources.tolist(), numbers.tolist(), strict=True):
            name = names[source]
            number += segment.positions[name].windows
            row, part, real = self._orders[name].window(number, seq_len)
            start = part * seq_len * item
            windows.append(memoryview(self._rows[name].read(row))[start : start + (seq_len + 1) * item])
            valid.append(real)
        # Joining the bytes first and making one array of them is twice as fast as stacking arrays.
        tokens = np.frombuffer(b"".join(windows), self._manifest.dtype).reshape(local_batch, seq_len + 1)
        return {"tokens": tokens, "valid": np.array(valid, np.int32)}

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint written before `step` must keep: small JSON, the same on every host."""
        return {
            "version": STATE_VERSION,
            "seed": self._seed,
            "step": step,
            "rows": {name: self._identity(name) for name in self._rows},
            "segment": asdict(self._segment_at(step)),
        }

    def epochs(self) -> dict[str, float]:
        """How many times each source is read over the whole run: behind and still planned."""
        last = self._segments[-1]
        positions = self._positions_at(last, max(self.total_steps, last.first_step))
        return {
            name: position.windows / max(1, self._orders[name].windows(position.seq_len))
            for name, position in positions.items()
        }

    def check_max_epochs(self, max_epochs: float) -> None:
        """Raises UserError naming a source that would be read more than `max_epochs` times (0 = no cap)."""
        for name, epochs in self.epochs().items():
            if max_epochs and epochs > max_epochs:
                raise UserError(
                    f"source {name!r} would be read {epochs:.2f} times in this run, but data.max_epochs "
                    f"is {max_epochs:g}; lower its weight, take fewer steps, or raise data.max_epochs "
                    "(0 = no cap)"
                )

    def _plan(self, stages: Sequence[Stage], state: Mapping[str, Any] | None) -> list[_Segment]:
        segments = [] if state is None else [self._saved_segment(state)]
        resumed_step = 0 if state is None else state["step"]
        first_step = 0
        for number, stage in enumerate(stages):
            shares = self._checked_shares(stage, f"stage {number}")
            begin = max(first_step, resumed_step)
            first_step += stage.steps
            if begin >= first_step or (segments and segments[-1].same_batches(stage, shares)):
                continue
            positions = {name: Position(stage.seq_len, 0) for name in self._rows}
            if segments:
                positions |= self._positions_at(segments[-1], begin)
            positions |= {name: self._orders[name].move(positions[name], stage.seq_len) for name in shares}
            segments.append(_Segment(begin, stage.seq_len, stage.global_batch_size, shares, positions))
        return segments

    def _checked_shares(self, stage: Stage, where: str) -> dict[str, int]:
        if stage.steps < 1 or stage.global_batch_size < 1:
            raise UserError(
                f"{where}: steps {stage.steps} and global_batch_size {stage.global_batch_size} must be at least 1"
            )
        if stage.global_batch_size % self._process_count:
            raise UserError(
                f"{where}: global_batch_size {stage.global_batch_size} is not divisible by the "
                f"{self._process_count} processes; choose a multiple of {self._process_count}"
            )
        check_seq_len(stage.seq_len, self._manifest.row_tokens)
        weights = stage.weights or {name: source.weight for name, source in self._manifest.sources.items()}
        for name, weight in weights.items():
            if name not in self._rows:
                raise UserError(
                    f"{where}: weights name source {name!r}, which the token rows do not have"
                    f"{did_you_mean(name, self._rows)}"
                )
            if not 0 <= weight < math.inf:
                raise UserError(f"{where}: the weight of source {name!r} is {weight}; it must be 0 or more")
            if weight > 0 and len(self._rows[name]) == 0:
                raise UserError(f"{where}: source {name!r} has no {self._split} rows; give it weight 0, or more text")
        total = sum(weights.values())
        if total == 0:
            raise UserError(f"{where}: every weight is 0; give at least one source a weight above 0")
        return _largest_first(
            {name: max(1, round(weight / total * _WHOLE)) for name, weight in weights.items() if weight > 0}
        )

    def _saved_segment(self, state: Mapping[str, Any]) -> _Segment:
        if state["version"] != STATE_VERSION:
            raise UserError(
                f"the checkpoint's data state has version {state['version']}, but this program reads version "
                f"{STATE_VERSION}; go on with the program that wrote it, or start a new run"
            )
        if state["seed"] != self._seed:
            raise UserError(
                f"the data seed was {state['seed']} when the checkpoint was written and is {self._seed} now, "
                f"which would read rows again; set it back to {state['seed']}, or start a new run"
            )
        for name, identity in state["rows"].items():
            if name in self._rows and self._identity(name) != identity:
                raise UserError(
                    f"{self._manifest.directory}: the token rows of source {name!r} are not those the "
                    "checkpoint was trained on; use those, or start a new run"
                )
        segment = state["segment"]
        return _Segment(
            first_step=segment["first_step"],
            seq_len=segment["seq_len"],
            global_batch_size=segment["global_batch_size"],
            shares=_largest_first(segment["shares"]),
            positions={name: Position(**position) for name, position in segment["positions"].items()},
        )

    def _segment_at(self, step: int) -> _Segment:
        segments = [segment for segment in self._segments if segment.first_step <= step]
        return segments[-1]

    def _positions_at(self, segment: _Segment, step: int) -> dict[str, Position]:
        """Where a segment has read to before `step`, for the sources that the rows still have."""
        rows = np.array([(step - segment.first_step) * segment.global_batch_size])
        read = dict(zip(segment.shares, _counts(rows, segment.shares)[:, 0].tolist(), strict=True))
        return {
            name: Position(position.seq_len, position.windows + read.get(name, 0))
            for name, position in segment.positions.items()
            if name in self._rows
        }

    def _identity(self, name: str) -> str:
        """A short hash of a source's rows."""
        hashes = "".join(shard.sha256 for shard in self._rows[name].split.files)
        return hashlib.sha256(f"{self._manifest.row_tokens} {hashes}".encode()).hexdigest()[:16]
