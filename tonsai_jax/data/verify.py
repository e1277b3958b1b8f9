"""Checks token rows against their manifest: in bounded time before a run, and every byte with `tonsai verify`."""

import os
import random
from collections.abc import Callable
from typing import NamedTuple

from tonsai_jax.checksums import SAMPLE_BYTES, sample_sha256
from tonsai_jax.data.manifest import RowsManifest, ShardInfo
from tonsai_jax.data.rows import DamagedRowError, open_rows
from tonsai_jax.errors import UserError
from tonsai_jax.files import sha256_file
from tonsai_jax.tokenizer.loading import Tokenizer

# At most this many files are looked at before a run, at most `SAMPLE_BYTES` of each: 256 MiB, other files at every start.
_MOST_FILES = 256
# This many bytes of validation rows are read as a whole: a damaged row ends an evaluation, and none is skipped there.
_VALIDATION_BYTES = 64 * 2**20


class Place(NamedTuple):
    """A file of token rows, and where it belongs: it holds the rows `numbers` of a source and split."""

    source: str
    split: str
    numbers: range
    shard: ShardInfo


def shards_of(manifest: RowsManifest) -> list[Place]:
    """The files of all sources and splits."""
    places = []
    for name, source in manifest.sources.items():
        for split, info in source.splits.items():
            first = 0
            for shard in info.files:
                places.append(Place(name, split, range(first, first + shard.rows), shard))
                first += shard.rows
    return places


def check_shards(manifest: RowsManifest, max_damaged_rows: int = 0) -> None:
    """Looks at a sample of the files' bytes; raises `UserError` for one that is not the file that the manifest describes.

    Up to 64 MiB of validation rows are read as a whole. A manifest of an earlier version has no checksums of samples: of its
    other files, only those of up to 1 MiB are checked.

    Args:
      max_damaged_rows: above 0, a file with damaged rows to train on is not refused here, since reading notices these rows.
    """
    places, left = shards_of(manifest), _VALIDATION_BYTES
    for place in random.Random(os.urandom(8)).sample(places, min(len(places), _MOST_FILES)):
        size = place.shard.path.stat().st_size
        is_whole = place.split == "validation" and size <= left
        left -= size if is_whole else 0
        if _is_the_file(place.shard, size, is_whole=is_whole):
            continue
        faults = _faults(manifest, place)
        can_skip = max_damaged_rows and place.split == "train"
        if not (can_skip and all(isinstance(fault, DamagedRowError) for fault in faults)):
            raise faults[0]


def _is_the_file(shard: ShardInfo, size: int, *, is_whole: bool) -> bool:
    if is_whole or (shard.sample is None and size <= SAMPLE_BYTES):
        return sha256_file(shard.path) == shard.sha256
    return shard.sample is None or sample_sha256(shard.path) == shard.sample


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


def verify_rows(manifest: RowsManifest, progress: Callable[[int], object]) -> list[UserError]:
    """Reads every byte; returns an error for each damaged row, and for each file that is another in a way that no row shows.

    Args:
      progress: called with the bytes that were read.
    """
    faults = []
    for place in shards_of(manifest):
        if sha256_file(place.shard.path) != place.shard.sha256:
            faults += _faults(manifest, place)
        progress(place.shard.path.stat().st_size)
    return faults


def _faults(manifest: RowsManifest, place: Place) -> list[UserError]:
    """What is wrong with a file whose checksum does not fit: an error for each damaged row, or one for the file."""
    rows = open_rows(manifest, place.source, place.split)
    faults: list[UserError] = []
    for number in place.numbers:
        try:
            if manifest.sources[place.source].is_packed:
                rows.packed_window(number)
            else:
                rows.window(number, 0, manifest.row_tokens)
        except DamagedRowError as error:
            faults.append(error)
        except UserError as error:
            return [error]
    other = UserError(
        f"{place.shard.path}: not the file that manifest.json describes (its SHA-256 is another); copy the file again, or "
        "tokenize the dataset again"
    )
    return faults or [other]
