"""Packed rows: whole conversations next to each other in a row, with marks that say what is learned.

In rows of pairs the segments 2p and 2p + 1 of a row are the chosen and the rejected conversation of its pair p.

A record is row_tokens + 1 ids, as in rows of text, and after them row_tokens + 1 bytes of marks, one for each id. A row is one
window of training, so a sequence length other than row_tokens is refused.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import numpy as np
from grain.experimental import FirstFitPackIterDataset

from tonsai_jax.data.manifest import SplitInfo, dtype_for
from tonsai_jax.data.marks import BEGIN
from tonsai_jax.data.shard_writer import ShardWriter

_GROUP = 2**14  # sequences that are packed together


def pack(
    sequences: Sequence[tuple[np.ndarray, np.ndarray]], row_tokens: int, pad_id: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Puts whole sequences together in rows, with Grain's first-fit packing, the longest first.

    Args:
      sequences: the ids and the marks of each sequence, at most row_tokens + 1.
      row_tokens: inputs in a row.
      pad_id: the id that fills the rest of a row; there it begins a segment and is not learned.

    Yields:
      The ids and the marks of a row: int32 and uint8, (row_tokens + 1,).
    """
    slots = row_tokens + 1
    for start in range(0, len(sequences), _GROUP):
        group = sorted(sequences[start : start + _GROUP], key=lambda sequence: -len(sequence[0]))
        items = [{"ids": ids.astype(np.int32), "marks": marks} for ids, marks in group]
        needed = sum(len(ids) for ids, _ in group) // slots
        dataset = grain.MapDataset.source(items).to_iter_dataset(grain.ReadOptions(num_threads=0))
        packed = FirstFitPackIterDataset(
            dataset,
            length_struct={"ids": slots, "marks": slots},
            num_packing_bins=needed + needed // 8 + 1,
            shuffle_bins=False,
        )
        for row in packed:
            ids, marks = row["ids"].copy(), row["marks"].copy()
            filled = int(np.count_nonzero(row["ids_segment_ids"]))
            ids[filled:] = pad_id
            if filled < slots:
                marks[filled:] = 0
                marks[filled] = BEGIN
            yield ids, marks


def write_packed(
    directory: Path,
    source: str,
    split: str,
    sequences: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    row_tokens: int,
    vocab_size: int,
    pad_id: int,
    text_bytes: int,
    rows_per_shard: int = 65_536,
) -> SplitInfo:
    """Packs sequences and writes their rows to directory/source.

    Args:
      sequences, row_tokens, pad_id: see `pack`.
      vocab_size: number of ids in the vocabulary; it determines the dtype on disk.
      text_bytes: UTF-8 bytes of the answers.

    Raises `UserError` if the disk is full.
    """
    dtype = dtype_for(vocab_size)
    with ShardWriter(directory, source, split, rows_per_shard=rows_per_shard) as writer:
        for ids, marks in pack(sequences, row_tokens, pad_id):
            writer.write(ids.astype(dtype).tobytes() + marks.tobytes())
        files = writer.finish()
    rows = sum(shard.rows for shard in files)
    tokens = sum(len(ids) for ids, _ in sequences)
    return SplitInfo(rows, tokens, len(sequences), text_bytes, files, slots=rows * row_tokens)
