"""Token rows from ids: a folder as `tokenize_dataset.py` writes it, without text or a tokenizer."""

from pathlib import Path

import numpy as np

from tonsai_jax.data.manifest import RowsManifest, SourceInfo, SplitInfo, dtype_for
from tonsai_jax.data.row_writer import RowWriter, write_manifest
from tonsai_jax.files import sha256_file

EMPTY = SplitInfo(0, 0, 0, 0, ())


def write_rows(
    directory: Path,
    streams: dict[str, np.ndarray],
    *,
    row_tokens: int = 8,
    vocab_size: int = 65_536,
    rows_per_shard: int = 100,
    weights: dict[str, float] | None = None,
    kinds: dict[str, str] | None = None,
) -> RowsManifest:
    """Writes a rows folder whose sources' train splits are the given id streams."""
    tokenizer = directory / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_text("{}")
    sources = {}
    for name, ids in streams.items():
        with RowWriter(
            directory,
            name,
            "train",
            row_tokens=row_tokens,
            vocab_size=vocab_size,
            end_of_text_id=0,
            rows_per_shard=rows_per_shard,
        ) as writer:
            for piece in np.array_split(ids, 7):
                writer.write(piece)
            split = writer.finish(documents=7, text_bytes=3 * len(ids))
        weight = weights[name] if weights else 1 / len(streams)
        sources[name] = SourceInfo(
            name, weight, "km", {"train": split, "validation": EMPTY}, kind=(kinds or {}).get(name, "text")
        )
    manifest = RowsManifest(
        directory, row_tokens, dtype_for(vocab_size), vocab_size, 0, sha256_file(tokenizer), sources
    )
    write_manifest(manifest)
    return manifest
