"""Turns prepared documents into token rows or flat files: every text is encoded once, and training only reads ids."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tonsai_jax.corpus.documents import read_documents_manifest
from tonsai_jax.data.encoded import count_documents, encode_sources, read_piece
from tonsai_jax.data.flat_files import FORMAT as FLAT_FILES_FORMAT
from tonsai_jax.data.flat_files import FlatFileWriter, write_flat_files_manifest
from tonsai_jax.data.manifest import (
    FORMAT,
    SPLITS,
    RowsManifest,
    SourceInfo,
    SplitInfo,
    dtype_for,
    read_manifest,
)
from tonsai_jax.data.row_writer import RowWriter, write_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, disk_errors, read_json, write_json
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.progress_bar import Progress, progress_bar
from tonsai_jax.sole_writer import sole_writer
from tonsai_jax.text.normalize import Normalization
from tonsai_jax.tokenizer.examples import dataset_normalization
from tonsai_jax.tokenizer.folder_checksums import write_tokenizer_checksums
from tonsai_jax.tokenizer.loading import ROWS_NORMALIZATION, Tokenizer

TOKENIZER_FOLDER = "tokenizer"
# When the command fails with at least this many bytes of ids encoded, they are kept for the next try.
_KEPT_BYTES = 4 * 2**20


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
    """Writes the token rows of prepared documents, on all cores. The same input gives the same bytes on any machine.

    Encoded text is kept in a hidden folder next to the output until everything is written. If the command is killed, the
    same command later continues from there.

    Args:
      dataset_dir: prepared documents, as `tonsai prepare` writes them.
      tokenizer_dir: the tokenizer; it is copied to `output_dir`/tokenizer.
      output_dir: the folder to write; older rows in it are replaced when the new ones are complete.
      val_ratio: share of each source's documents, in [0, 1), that becomes the "validation" split.
      seed: chooses these documents.
      row_tokens: inputs in a row; a multiple of every sequence length that you will train with.
      progress: show the progress on stderr.

    Returns:
      The manifest of `output_dir`.

    Raises:
      UserError: a value is out of range; an input folder is missing or damaged; `output_dir` holds something else than
        token rows; the disk is full.
    """
    if row_tokens < 1:
        raise UserError(f"row_tokens {row_tokens} must be at least 1; the usual value is 8192")
    with _encoded(dataset_dir, tokenizer_dir, output_dir, val_ratio, seed, progress, FORMAT) as (work, folder):
        tokenizer, sources = work.tokenizer, {}
        for name, source in work.sources.items():
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
                splits = work.write(name, writers)
            sources[name] = SourceInfo(
                name, source["weight"], source["language"], splits, source["license"], source.get("dataset")
            )
        write_manifest(
            RowsManifest(
                directory=folder,
                row_tokens=row_tokens,
                dtype=work.dtype,
                vocab_size=tokenizer.vocab_size,
                end_of_text_id=tokenizer.end_of_text_id,
                tokenizer_hash=tokenizer.hash,
                sources=sources,
            )
        )
    return read_manifest(output_dir)


def tokenize_to_flat_files(
    dataset_dir: str | Path,
    tokenizer_dir: str | Path,
    output_dir: str | Path,
    *,
    file_format: str,
    val_ratio: float,
    seed: int,
    progress: bool = True,
) -> dict[str, SourceInfo]:
    """Writes the ids of prepared documents for other trainers: one flat file for each source and split (docs/formats.md).

    Args:
      file_format: "bin", "npy" or "jsonl".
      The other arguments are those of `tokenize_dataset`.

    Returns:
      What each source has, by name.

    Raises:
      UserError: as `tokenize_dataset`, or `file_format` is not known.
    """
    with _encoded(dataset_dir, tokenizer_dir, output_dir, val_ratio, seed, progress, FLAT_FILES_FORMAT) as (
        work,
        folder,
    ):
        tokenizer, sources = work.tokenizer, {}
        for name, source in work.sources.items():
            with ExitStack() as stack:
                writers = {
                    split: stack.enter_context(
                        FlatFileWriter(folder / name / split, file_format, work.dtype, tokenizer.end_of_text_id)
                    )
                    for split in SPLITS
                }
                splits = work.write(name, writers)
            sources[name] = SourceInfo(
                name, source["weight"], source["language"], splits, source["license"], source.get("dataset")
            )
        write_flat_files_manifest(folder, file_format, work.dtype, tokenizer, sources)
    return sources


@dataclass(frozen=True)
class _EncodedDataset:
    """A dataset whose documents are encoded.

    Attributes:
      sources: the "sources" of the documents' manifest.
      pieces: the encoded pieces of each source, in order.
      validation: for each source, which documents are for validation; (documents,) bool.
      progress: counts the UTF-8 bytes of text whose ids are written.
    """

    tokenizer: Tokenizer
    dtype: np.dtype
    sources: dict[str, Any]
    pieces: dict[str, list[Path]]
    validation: dict[str, np.ndarray]
    progress: Progress

    def write(self, name: str, writers: dict[str, Any]) -> dict[str, SplitInfo]:
        """Writes the documents of a source with the writers of their splits, and finishes the writers."""
        documents = dict.fromkeys(SPLITS, 0)
        text_bytes = dict.fromkeys(SPLITS, 0)
        start = 0
        for path in self.pieces[name]:
            piece = read_piece(path, self.dtype)
            is_validation = self.validation[name][start : start + len(piece.lengths)]
            start += len(piece.lengths)
            for split, chosen in (("train", ~is_validation), ("validation", is_validation)):
                writers[split].write(piece.ids[np.repeat(chosen, piece.lengths)])
                documents[split] += int(chosen.sum())
                text_bytes[split] += int(piece.sizes[chosen].sum())
            self.progress.update(int(piece.sizes.sum()))
        return {
            split: writer.finish(documents=documents[split], text_bytes=text_bytes[split])
            for split, writer in writers.items()
        }


def check_val_ratio(val_ratio: float) -> None:
    """Raises `UserError` for a share of validation documents that is out of range."""
    if not 0 <= val_ratio < 1:
        raise UserError(f"val_ratio {val_ratio} is not in [0, 1); 0.01 keeps one document in a hundred for validation")


@contextmanager
def _encoded(
    dataset_dir: str | Path,
    tokenizer_dir: str | Path,
    output_dir: str | Path,
    val_ratio: float,
    seed: int,
    progress: bool,
    format: str,
) -> Iterator[tuple[_EncodedDataset, Path]]:
    """Encodes the dataset; yields it and a folder that becomes `output_dir` at the end, with the tokenizer in it."""
    check_val_ratio(val_ratio)
    sources = read_documents_manifest(dataset_dir)["sources"]
    if not any(source["documents"] for source in sources.values()):
        raise UserError(
            f"{dataset_dir}: there are no documents here; prepare the dataset again from files that have text"
        )
    if TOKENIZER_FOLDER in sources:
        raise UserError(
            f"{dataset_dir}: a source cannot have the name {TOKENIZER_FOLDER!r}, because the tokenizer is copied to a "
            "folder of that name; prepare the dataset again with another name for the source"
        )
    tokenizer = Tokenizer.from_folder(tokenizer_dir)
    dtype = dtype_for(tokenizer.vocab_size)
    files = {name: [Path(dataset_dir) / file for file in source["files"]] for name, source in sources.items()}
    output = Path(output_dir).absolute()
    with (
        disk_errors(output),
        sole_writer(output),
        _work_folder(output) as work,
        atomic_folder(output, manifest="manifest.json", format=format) as folder,
    ):
        pieces = encode_sources(files, tokenizer, dtype, work, progress=progress)
        validation = {}
        for name, source in sources.items():
            count, found = source["documents"], count_documents(pieces[name])
            if found != count:
                raise UserError(
                    f"{dataset_dir}: source {name!r} has {count_of(found, 'document')}, but the manifest says {count}; "
                    "prepare the dataset again"
                )
            validation[name] = np.fromiter(choose_validation(count, val_ratio, f"{seed}/{name}"), bool, count)
        total = sum(source["bytes"] for source in sources.values())
        with progress_bar("writing rows", unit="B", total=total, wanted=progress) as bar:
            yield _EncodedDataset(tokenizer, dtype, sources, pieces, validation, bar), folder
        copy_tokenizer(tokenizer, folder / TOKENIZER_FOLDER, dataset_normalization(dataset_dir))


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """Yields a hidden folder next to `output`. It is removed at the end, and after an error if it holds little."""
    work = output.with_name(f".{output.name}.work")
    try:
        with disk_errors(output):
            yield work
    except BaseException as error:
        if sum(file.stat().st_size for file in work.glob("encoded/*.ids")) < _KEPT_BYTES:
            shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, UserError):  # report the path that the user gave
            raise UserError(re.sub(re.escape(str(work)) + r"[^\s:]*", str(output), str(error))) from error
        raise
    shutil.rmtree(work, ignore_errors=True)


def figures(sources: dict[str, SourceInfo]) -> list[dict[str, Any]]:
    """Returns what each source and split holds: one dictionary for each line of the table that the command prints."""
    return [
        {
            "source": source.name,
            "split": name,
            "documents": split.documents,
            "rows": split.rows,
            "tokens": split.tokens,
            "bytes": split.bytes,
            # An end-of-text token stands for no text, so it does not count.
            "bytes_per_token": round(split.bytes / max(split.tokens - split.documents, 1), 3),
        }
        for source in sources.values()
        for name, split in source.splits.items()
    ]


def choose_validation(count: int, val_ratio: float, seed: str) -> Iterator[bool]:
    """Yields for each of `count` documents whether it is for validation; round(count * val_ratio) of them are.

    Of two or more documents, at least one is for training and, unless the ratio is 0, at least one is for validation.
    The choice is uniform, needs no memory, and depends only on the arguments.
    Selection sampling: Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm S.
    """
    random = Random(seed)
    wanted = min(max(round(count * val_ratio), 1), count - 1) if val_ratio else 0
    for left in range(count, 0, -1):
        is_chosen = random.random() * left < wanted
        wanted -= is_chosen
        yield is_chosen


def copy_tokenizer(tokenizer: Tokenizer, target: Path, normalization: Normalization | None) -> None:
    """Copies it next to token rows.

    The copy of an open model's tokenizer says what the text of the rows went through, if anything; ours says so by itself.
    """
    target.mkdir()
    for path in tokenizer.files:  # the folder may be a model: its weights are not copied
        shutil.copyfile(path, target / path.name)
    if not tokenizer.is_ours and normalization is not None:
        file = target / "tokenizer_config.json"
        config = read_json(file) if file.exists() else {}
        write_json(file, config | {ROWS_NORMALIZATION: asdict(normalization)})
    write_tokenizer_checksums(target)
