"""Documents to token rows: encode every document once, so that training only reads numbers."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.data.manifest import (
    FORMAT,
    SPLITS,
    RowsManifest,
    SourceInfo,
    SplitInfo,
    dtype_for,
    read_manifest,
    write_manifest,
)
from tonsai_jax.data.rows import RowWriter
from tonsai_jax.errors import UserError
from tonsai_jax.folders import atomic_folder
from tonsai_jax.text_progress import TextProgress
from tonsai_jax.tokenizer.loading import Tokenizer

# Encoded at once: enough to keep all cores busy, little enough to keep memory flat in the corpus size.
_BATCH_CHARACTERS = 1_000_000

_TOKENIZER_FOLDER = "tokenizer"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "report.json",
    "chat_template.jinja",
    "spm.model",
)


def tokenize_dataset(
    dataset_dir: str | Path,
    tokenizer_dir: str | Path,
    output_dir: str | Path,
    *,
    val_ratio: float,
    seed: int,
    row_tokens: int = 8192,
    progress: bool = True,
) -> RowsManifest:
    """Writes the token rows of prepared documents; the same input gives the same bytes on any machine.

    Args:
      dataset_dir: prepared documents, as scripts/prepare_dataset.py writes them.
      tokenizer_dir: the tokenizer; a copy goes to `output_dir`/tokenizer.
      output_dir: the folder to write; rows written before are replaced once the new ones are whole.
      val_ratio: share of each source's documents, in [0, 1), that becomes the "validation" split.
      seed: chooses which documents those are.
      row_tokens: tokens a row; a multiple of every sequence length to be used.
      progress: show a progress line on stderr when that is a terminal.

    Returns:
      The manifest of `output_dir`.

    Raises:
      UserError: a value out of range, a folder that is missing, damaged or not ours to replace, a full disk.
    """
    if not 0 <= val_ratio < 1:
        raise UserError(f"val_ratio {val_ratio} is not in [0, 1); 0.01 keeps one document in a hundred for validation")
    if row_tokens < 1:
        raise UserError(f"row_tokens {row_tokens} must be at least 1; the usual value is 8192")
    documents = read_documents_manifest(dataset_dir)["sources"]
    if not any(source["documents"] for source in documents.values()):
        raise UserError(f"{dataset_dir}: holds no documents; prepare the dataset again from files that have text")
    if _TOKENIZER_FOLDER in documents:
        raise UserError(
            f"{dataset_dir}: a source may not be named {_TOKENIZER_FOLDER!r}, because token rows keep their "
            "tokenizer in a folder of that name; prepare the dataset again with another name"
        )
    tokenizer = Tokenizer.from_folder(tokenizer_dir)
    total_bytes = sum(source["bytes"] for source in documents.values())
    with (
        atomic_folder(output_dir, manifest="manifest.json", format=FORMAT) as folder,
        TextProgress(Path(dataset_dir).name, wanted=progress, total_bytes=total_bytes) as meter,
    ):
        sources = {}
        for name, source in documents.items():
            with ExitStack() as stack:
                writers = {
                    split: stack.enter_context(
                        RowWriter(
                            folder,
                            name,
                            split,
                            row_tokens=row_tokens,
                            vocab_size=tokenizer.vocab_size,
                            end_of_text_id=tokenizer.end_of_text_id,
                        )
                    )
                    for split in SPLITS
                }
                batches = _batches(read_documents(dataset_dir, name))
                validation = _choose_validation(source["documents"], val_ratio, f"{seed}/{name}")
                splits = _write_source(batches, validation, tokenizer, writers, meter)
            found = sum(split.documents for split in splits.values())
            if found != source["documents"]:
                raise UserError(
                    f"{dataset_dir}: source {name!r} has {found} documents, but the manifest says "
                    f"{source['documents']}; prepare the dataset again"
                )
            sources[name] = SourceInfo(name, source["weight"], source["language"], splits, source["license"])
        _copy_tokenizer(tokenizer.folder, folder / _TOKENIZER_FOLDER)
        write_manifest(
            RowsManifest(
                directory=folder,
                row_tokens=row_tokens,
                dtype=dtype_for(tokenizer.vocab_size),
                vocab_size=tokenizer.vocab_size,
                end_of_text_id=tokenizer.end_of_text_id,
                tokenizer_hash=tokenizer.hash,
                sources=sources,
            )
        )
    return read_manifest(output_dir)


def figures(manifest: RowsManifest) -> list[dict[str, Any]]:
    """What each source and split holds, one dictionary a line of the table that the command prints."""
    return [
        {
            "source": source.name,
            "split": name,
            "documents": split.documents,
            "rows": split.rows,
            "tokens": split.tokens,
            "bytes": split.bytes,
            # End-of-text tokens stand for no text, so they are left out.
            "bytes_per_token": round(split.bytes / max(split.tokens - split.documents, 1), 3),
        }
        for source in manifest.sources.values()
        for name, split in source.splits.items()
    ]


def _choose_validation(count: int, val_ratio: float, seed: str) -> Iterator[bool]:
    """Says of each of `count` documents in turn whether it is for validation; round(count * val_ratio) are.

    Of two documents or more, at least one is for training and, unless the ratio is 0, at least one for
    validation. The choice is uniform, needs no memory, and depends on nothing but the arguments.
    Selection sampling: Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm S.
    """
    random = Random(seed)
    wanted = min(max(round(count * val_ratio), 1), count - 1) if val_ratio else 0
    for left in range(count, 0, -1):
        is_chosen = random.random() * left < wanted
        wanted -= is_chosen
        yield is_chosen
    yield from repeat(False)  # more documents than promised: the caller counts them and says so


def _batches(groups: Iterator[list[str]]) -> Iterator[list[str]]:
    """Cuts groups of texts into lists of at most `_BATCH_CHARACTERS`, or of one text that is longer."""
    for texts in groups:
        start = size = 0
        for index, text in enumerate(texts):
            if size + len(text) > _BATCH_CHARACTERS and index > start:
                yield texts[start:index]
                start, size = index, 0
            size += len(text)
        if start < len(texts):
            yield texts[start:]


def _write_source(
    batches: Iterator[list[str]],
    validation: Iterator[bool],
    tokenizer: Tokenizer,
    writers: dict[str, RowWriter],
    meter: TextProgress,
) -> dict[str, SplitInfo]:
    documents = dict.fromkeys(SPLITS, 0)
    text_bytes = dict.fromkeys(SPLITS, 0)
    for texts in batches:
        stream: dict[str, list[int]] = {split: [] for split in SPLITS}
        batch_bytes = 0
        # `texts` comes first: zip stops there, and takes no more from `validation` than it uses.
        for text, ids, is_validation in zip(texts, tokenizer.encode_batch(texts), validation, strict=False):
            split = "validation" if is_validation else "train"
            stream[split] += ids
            stream[split].append(tokenizer.end_of_text_id)
            size = len(text.encode())
            documents[split] += 1
            text_bytes[split] += size
            batch_bytes += size
        for split, writer in writers.items():
            writer.write(np.array(stream[split], np.uint32))
        meter.add(len(texts), batch_bytes)
    return {
        split: writer.finish(documents=documents[split], text_bytes=text_bytes[split])
        for split, writer in writers.items()
    }


def _copy_tokenizer(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        # An exported model's folder also serves as a tokenizer: its weights are no part of that.
        if path.name in _TOKENIZER_FILES:
            shutil.copyfile(path, target / path.name)
