"""Checks token rows against their manifest: in bounded time before a run, and every byte with `tonsai verify`."""

import os
import random
from collections.abc import Callable

from tonsai_jax.checksums import SAMPLE_BYTES, sample_sha256
from tonsai_jax.data.manifest import RowsManifest, ShardInfo
from tonsai_jax.data.rows import DamagedRowError, Rows, open_rows
from tonsai_jax.errors import UserError
from tonsai_jax.files import sha256_file
from tonsai_jax.tokenizer.loading import Tokenizer

# At most this many files are looked at before a run, at most `SAMPLE_BYTES` of each: 256 MiB, other files at every start.
_MOST_FILES = 256


def check_shards(manifest: RowsManifest) -> None:
    """Looks at a sample of the files' bytes; raises `UserError` for one that is not the file that the manifest describes.

    A manifest of an earlier version has no checksums of samples: of its files, only those of up to 1 MiB are checked.
    """
    shards = all_shards(manifest)
    for shard in random.Random(os.urandom(8)).sample(shards, min(len(shards), _MOST_FILES)):
        sample = shard.sample
        if sample is None and shard.path.stat().st_size <= SAMPLE_BYTES:
            sample = shard.sha256  # then the sample is the whole file
        if sample is not None and sample_sha256(shard.path) != sample:
            raise _other_file(shard)


def check_tokenizer(manifest: RowsManifest, tokenizer: Tokenizer) -> None:
    """Raises `UserError` where the manifest and the tokenizer of the rows do not agree about the ids."""
    for key, ours, theirs in (
        ("vocab_size", manifest.vocab_size, tokenizer.vocab_size),
        ("end_of_text_id", manifest.end_of_text_id, tokenizer.end_of_text_id),
    ):
        if ours != theirs:
            raise UserError(
                f"{manifest.directory / 'manifest.json'}: {key} is {ours}, but the tokenizer in {tokenizer.folder} has {theirs}; "
                "tokenize the dataset again"
            )


def verify_rows(manifest: RowsManifest, progress: Callable[[int], object]) -> list[str]:
    """Reads every byte; returns a line for each damaged row, and for each file that is another in a way that no row shows.

    Args:
      progress: called with the bytes that were read.
    """
    faults = []
    for name, source in manifest.sources.items():
        for split, info in source.splits.items():
            rows, first = open_rows(manifest, name, split), 0
            for shard in info.files:
                if sha256_file(shard.path) != shard.sha256:
                    found = _damaged_rows(rows, range(first, first + shard.rows), is_packed=source.is_packed)
                    faults += found or [str(_other_file(shard))]
                first += shard.rows
                progress(shard.path.stat().st_size)
    return faults


def _damaged_rows(rows: Rows, numbers: range, *, is_packed: bool) -> list[str]:
    """A line for each of these rows that is damaged; one for all of them where their file cannot be opened."""
    faults = []
    for row in numbers:
        try:
            if is_packed:
                rows.packed_window(row)
            else:
                rows.window(row, 0, rows.row_tokens)
        except DamagedRowError as error:
            faults.append(str(error))
        except UserError as error:
            return [str(error)]
    return faults


def all_shards(manifest: RowsManifest) -> list[ShardInfo]:
    """The files of all sources and splits."""
    return [shard for source in manifest.sources.values() for split in source.splits.values() for shard in split.files]


def _other_file(shard: ShardInfo) -> UserError:
    return UserError(
        f"{shard.path}: not the file that manifest.json describes (its SHA-256 is another); copy the file again, or tokenize the "
        "dataset again"
    )
