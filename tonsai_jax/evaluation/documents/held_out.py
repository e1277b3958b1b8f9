"""Scores the held-out documents in token rows, each for itself.

A document of text is what lies between two end-of-text ids of the stream; in packed rows it is a conversation, of which the
answers count. In training `bits_per_byte.evaluate` adds up whole batches on the devices instead, which gives the same sums.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.data.rows import Rows, open_rows, read_window
from tonsai_jax.evaluation.bits_per_byte import held_out_windows
from tonsai_jax.evaluation.documents.breakdown import Documents
from tonsai_jax.reporting.progress_bar import Progress, progress_bar
from tonsai_jax.training.mesh import put_batch
from tonsai_jax.training.reference import ScoreStep

_PIECE_TOKENS = 2**20  # whose documents are told apart at once


class HeldOut:
    """The held-out windows of token rows.

    Args:
      token_bytes: int32 (vocab_size,), UTF-8 bytes of each id.
      prefix_bytes: how many bytes the tokenizer puts before every text (`Tokenizer.prefix`).
      seq_len: tokens in a window. Packed rows are not cut: they are scored where it is their length.
    """

    def __init__(self, manifest: RowsManifest, token_bytes: np.ndarray, prefix_bytes: int, seq_len: int) -> None:
        self._manifest = manifest
        self._token_bytes, self._prefix_bytes = token_bytes, prefix_bytes
        self._seq_len = seq_len

    def score(
        self,
        score_step: ScoreStep,
        params: Any,
        mesh: Mesh,
        *,
        batch_size: int,
        max_tokens: int = 0,
        leave_out: Collection[str] = (),
    ) -> dict[str, Documents]:
        """The scores of the held-out documents of each source that has some; those of which nothing is scored have no tokens.

        Args:
          score_step: from `make_score_step`.
          batch_size: windows in a batch.
          max_tokens: of all scored windows together, see `held_out_windows`; 0 means all. A document of which some windows are
            not scored counts with the others, among the documents of its whole length.
          leave_out: sources that are not scored.

        Raises `UserError` where `seq_len` does not divide row_tokens, or a file is missing or damaged.
        """
        found = {}
        chosen = held_out_windows(self._manifest, self._seq_len, max_tokens, leave_out)
        with progress_bar("evaluating", unit=" windows", total=sum(map(len, chosen.values()))) as bar:
            for name, numbers in chosen.items():
                if len(numbers):
                    found[name] = self._documents(score_step, params, mesh, name, numbers, batch_size, bar)
        return found

    def _documents(
        self,
        score_step: ScoreStep,
        params: Any,
        mesh: Mesh,
        source: str,
        numbers: np.ndarray,
        batch_size: int,
        bar: Progress,
    ) -> Documents:
        rows = open_rows(self._manifest, source, "validation")
        lengths, first_W = self._lengths(rows)
        nats, tokens, bytes = np.zeros(len(lengths)), np.zeros_like(lengths), np.zeros_like(lengths)

        def add(logp_BxT: jax.Array, windows: list[_Window], firsts: np.ndarray) -> None:
            for logp_T, window, first in zip(np.asarray(logp_BxT), windows, firsts, strict=False):
                begins_T, counts_T, bytes_T = self._targets(window.tokens[: window.valid + 1], window.marks)
                document_T = np.cumsum(begins_T)  # counted from the one in which the window begins
                part = slice(first, first + document_T[-1] + 1)
                nats[part] -= np.bincount(document_T, np.where(counts_T, logp_T[: window.valid], 0))
                tokens[part] += np.bincount(document_T, counts_T).astype(np.int64)
                bytes[part] += np.bincount(document_T, bytes_T).astype(np.int64)
            bar.update(len(windows))

        dispatched = None
        for start in range(0, len(numbers), batch_size):
            chosen = numbers[start : start + batch_size]
            windows = [self._read(rows, int(number)) for number in chosen]
            logp_BxT = score_step(params, put_batch(_batch(windows, batch_size), mesh))
            if dispatched is not None:  # the device works on this batch while the host adds up the one before
                add(*dispatched)
            dispatched = logp_BxT, windows, first_W[chosen]
        if dispatched is not None:
            add(*dispatched)
        return Documents(nats, tokens, bytes, lengths)

    def _lengths(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of each document of a split, int64, and the number of the document in which each window begins, int64.

        Reads whole rows, many at once: a budget can choose few of the windows, but a document ends anywhere.
        """
        rows_in_piece = max(1, _PIECE_TOKENS // rows.row_tokens)
        pieces, first, firsts = [], 0, []
        for start in range(0, len(rows), rows_in_piece):
            numbers = range(start, min(start + rows_in_piece, len(rows)))
            begins_T, _, bytes_T = (
                array[: rows.split.targets - start * rows.row_tokens]
                for array in self._targets(*_read_rows(rows, numbers))
            )
            document_T = np.cumsum(begins_T)
            firsts.append(first + (document_T - begins_T)[:: self._seq_len])
            pieces.append((first, np.bincount(document_T, bytes_T).astype(np.int64)))
            first += int(document_T[-1])
        lengths = np.zeros(first + 1, np.int64)
        for begin, part in pieces:
            lengths[begin : begin + len(part)] += part
        return lengths, np.concatenate(firsts)

    def _targets(self, tokens: np.ndarray, marks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each target: whether a document begins before it; whether it counts; its bytes, 0 where it does not count.

        Args:
          tokens: ids, (..., T + 1): T inputs, and the target of the last one.
          marks: of these ids in packed rows, of the same shape.

        Returns flat arrays, all rows one after the other.
        """
        inputs, targets, end = tokens[..., :-1].ravel(), tokens[..., 1:].ravel(), self._manifest.end_of_text_id
        counts, begins = targets != end, inputs == end
        bytes = self._token_bytes[targets] - self._prefix_bytes * begins
        if marks is not None:
            counts &= (marks[..., 1:].ravel() & ANSWER) != 0
            begins = (marks[..., :-1].ravel() & BEGIN) != 0
        return begins, counts, np.where(counts, bytes, 0)

    def _read(self, rows: Rows, number: int) -> "_Window":
        if rows.split.slots is not None:
            tokens, marks = rows.packed_window(number)
            return _Window(tokens, self._seq_len, marks)
        return _Window(*read_window(rows, number, self._seq_len), None)


class _Window(NamedTuple):
    """Ids of a window, (seq_len + 1,); how many of its targets are no padding; the marks of the ids in packed rows."""

    tokens: np.ndarray
    valid: int
    marks: np.ndarray | None


def _read_rows(rows: Rows, numbers: Iterable[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """The ids of whole rows, (rows, row_tokens + 1), and the marks of packed ones."""
    if rows.split.slots is None:
        return np.stack([rows.window(number, 0, rows.row_tokens) for number in numbers]), None
    tokens, marks = zip(*(rows.packed_window(number) for number in numbers), strict=True)
    return np.stack(tokens), np.stack(marks)


def _batch(windows: list[_Window], size: int) -> dict[str, np.ndarray]:
    """The windows as a batch; the first of them fills what is missing of `size`."""
    windows = windows + [windows[0]] * (size - len(windows))
    batch = {"tokens": np.stack([tokens for tokens, _, _ in windows])}
    batch["valid"] = np.array([valid for _, valid, _ in windows], np.int32)
    marks = [marks for _, _, marks in windows if marks is not None]
    return batch | ({"marks": np.stack(marks)} if marks else {})
