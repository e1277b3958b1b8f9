"""Documents as rows for a model: a long document is cut into windows, short documents share a row."""

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tonsai_jax.data.marks import ANSWER, BEGIN

# Up to this width several windows share a row. There the mask that keeps them apart costs nothing; in rows of 1,024 it would cost
# more than the padding that it saves.
SHARED_WIDTH = 256


class Window(NamedTuple):
    """A part of a document that the model reads at once.

    Attributes:
      document: number of the document.
      ids: int32 (n + 1,), n inputs; each of them but the first, and the last id, is a target.
      scored: the last `scored` targets count; those before them are context.
    """

    document: int
    ids: np.ndarray
    scored: int


def windows_of(document: int, ids: np.ndarray, seq_len: int, stride: int) -> Iterator[Window]:
    """The windows of one document; together they score each target once.

    The first scores up to `seq_len` targets, each of the others `stride` more (the last what is left), after `seq_len - stride`
    tokens of context. With a stride of `seq_len` they are those of token rows: none has context but its first input.

    Args:
      ids: the end-of-text id and the ids of the document.
      stride: 1 to `seq_len`.
    """
    done, targets = 0, len(ids) - 1
    while done < targets:
        start = max(0, done + stride - seq_len) if done else 0
        end = min(start + seq_len, targets)
        yield Window(document, ids[start : end + 1], end - done)
        done = end


def pack_windows(windows: Iterable[Window], seq_len: int) -> Iterator[tuple[int, list[Window]]]:
    """Yields (width, windows of one row), the longest windows first; a row has `width` + 1 slots, one for each id.

    Short windows share rows of up to `SHARED_WIDTH`. Each of the others has a row of its own, in one of four widths for each
    doubling of the length.
    """
    waiting = sorted(windows, key=lambda window: len(window.ids))
    lengths = [len(window.ids) for window in waiting]
    shared_width = min(SHARED_WIDTH, seq_len)
    while waiting:
        row = [waiting.pop()]
        inputs = lengths.pop() - 1
        if inputs > shared_width:
            step = 1 << (inputs - 1).bit_length() - 3
            yield min(-(-inputs // step) * step, seq_len), row
            continue
        space = shared_width - inputs
        while (place := bisect.bisect_right(lengths, space) - 1) >= 0:
            row.append(waiting.pop(place))
            space -= lengths.pop(place)
        yield shared_width, row


def batch_of(rows: list[list[Window]], width: int, size: int) -> dict[str, np.ndarray]:
    """A batch for the score step: `size` rows, those after `rows` empty.

    Returns "tokens", int32 [size, width + 1], "valid", int32 [size], and where rows are shared "marks", uint8 like the tokens, by
    which no token attends to another window.
    """
    batch = {"tokens": np.zeros((size, width + 1), np.int32), "valid": np.full(size, width, np.int32)}
    if width <= SHARED_WIDTH:
        batch["marks"] = np.full((size, width + 1), ANSWER, np.uint8)
    for number, row in enumerate(rows):
        start = 0
        for window in row:
            batch["tokens"][number, start : start + len(window.ids)] = window.ids
            if "marks" in batch:
                batch["marks"][number, start] |= BEGIN
            start += len(window.ids)
    return batch


def scored_sums(logp_BxT: np.ndarray, rows: list[list[Window]]) -> Iterator[tuple[int, int, float]]:
    """Yields (document, targets, nats) of each window of a batch, from the log-probabilities of the batch's targets."""
    for row, logp_T in zip(rows, logp_BxT, strict=False):
        end = -1  # the target of input t is the id at t + 1
        for window in row:
            end += len(window.ids)
            yield window.document, window.scored, -float(logp_T[end - window.scored : end].sum(dtype=np.float64))
