"""Prepared documents on disk, `OUT/<source>/part-00000.parquet` and `OUT/manifest.json`: reading and writing.

`prepare.py` writes them. Tokenizer training and the writing of token rows read them with the functions here.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.checksums import KEY, check_checksum
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.manifest_fields import Fields
from tonsai_jax.names import file_inside, is_folder_name

FORMAT = "tonsai_jax/documents"
VERSION = 1
PART_BYTES = 256 * 2**20  # text in one parquet file
ROW_GROUP_BYTES = 16 * 2**20  # text kept in memory before it is written
SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "language", "source", "id")])

SETTINGS = (
    "normalize",
    "redact",
    "quality",
    "decontaminate",
    "deduplicate",
)  # in the manifest: what a text went through
_KEYS = ("format", "version", *SETTINGS, "sources", "duplicates", "failed", KEY)

Extra = Literal["score", "rule"]
_EXTRAS = {"score": pa.float32(), "rule": pa.string()}


def read_documents_manifest(dataset_dir: Path | str) -> dict[str, Any]:
    """Reads `manifest.json` of a folder written by `tonsai prepare`.

    Returns {"format", "version", "sources": {name: {"weight", "language", "license", "dataset", "documents", "bytes",
    "files", "filters", "content_hash"}}}; weights sum to 1 and `bytes` are the UTF-8 bytes of the text.
    Raises `UserError` if the folder is missing, is something else, or lacks one of its files, and if the manifest is damaged, was
    changed since it was written, or names a file outside the folder.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; write it with `tonsai prepare`")
    if not (folder / "manifest.json").is_file():
        raise UserError(
            f"{folder}: no manifest.json, so this is not a prepared dataset; write one with `tonsai prepare`"
        )
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{folder / 'manifest.json'}: not a manifest of prepared documents ({FORMAT})")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{folder / 'manifest.json'}: version {manifest.get('version')}, but this program reads {VERSION}; "
            "prepare the dataset again"
        )
    fields = Fields(manifest, folder / "manifest.json")
    fields.no_others(_KEYS)
    sources = fields.group("sources")
    files = [
        file_inside(folder, file, fields.path)
        for name in sources.value
        for file in _check_source(name, sources.group(name))
    ]
    check_checksum(fields.path, manifest, "prepare the dataset again")
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: named in manifest.json but missing; prepare the dataset again")
    return manifest


def _check_source(name: str, fields: Fields) -> list[Any]:
    """The files of a source of the manifest; raises `UserError` for a value that cannot be right."""
    if not is_folder_name(name):
        raise UserError(
            f"{fields.path}: {name!r} cannot be the name of a source, which is also that of a folder; prepare the dataset again"
        )
    if not 0 <= fields.number("weight") < math.inf:
        raise UserError(
            f"{fields.path}: the weight of source {name!r} is {fields.number('weight')}; set it to 0 or more"
        )
    fields.text("language")
    for key in ("license", "dataset"):
        fields.text_or_none(key)
    for key in ("documents", "bytes"):
        fields.whole(key)
    return fields.items("files")


def read_documents(dataset_dir: Path | str, source: str) -> Iterator[list[str]]:
    """Gives the texts of one source in order, as one list per parquet row group.

    A list has at most `ROW_GROUP_BYTES` of text, or one longer document.
    Raises `UserError` if the source is not in the manifest or a file is damaged.
    """
    manifest = read_documents_manifest(dataset_dir)
    if source not in manifest["sources"]:
        raise UserError(f"{dataset_dir}: no source {source!r}; there are: {', '.join(manifest['sources'])}")
    for name in manifest["sources"][source]["files"]:
        path = Path(dataset_dir) / name
        with parquet_errors(path), pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["text"]).column("text").to_pylist()


@contextlib.contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turns an error of the block, which reads a file of documents, into a `UserError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the dataset again") from error


class DocumentWriter:
    """Context manager that writes the documents of one source to `folder/<source>/part-*.parquet`.

    A row group has `ROW_GROUP_BYTES` of text, a file has `PART_BYTES`. Files have their final names from the start, so `folder`
    must be a temporary one.

    Args:
      extra: a further column after those of `SCHEMA`: "score" or "rule".

    Attributes:
      files: the files written so far, relative to `folder`.
    """

    def __init__(self, folder: Path, *, source: str, language: str, extra: Extra | None = None):
        self.files: list[str] = []
        self._folder, self._source, self._language = folder, source, language
        self._schema = SCHEMA if extra is None else SCHEMA.append(pa.field(extra, _EXTRAS[extra]))
        self._texts: list[str] = []
        self._ids: list[str] = []
        self._extras: list[str | float | None] = []
        self._group_bytes = self._part_bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "DocumentWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self._end_part()
        elif self._writer is not None:
            with contextlib.suppress(OSError):  # a full disk again; its first error is already being raised
                self._writer.close()

    def add(self, text: str, size: int, document_id: str, extra: str | float | None = None) -> None:
        """Adds one document. `size` is the number of UTF-8 bytes of `text`; `extra` is the value of the further column."""
        if self._texts and self._group_bytes + size > ROW_GROUP_BYTES:
            self._flush()
        self._texts.append(text)
        self._ids.append(document_id)
        self._extras.append(extra)
        self._group_bytes += size

    def _flush(self) -> None:
        if not self._texts:
            return
        if self._part_bytes + self._group_bytes > PART_BYTES:
            self._end_part()
        count = len(self._texts)
        columns = [self._texts, [self._language] * count, [self._source] * count, self._ids, self._extras]
        table = pa.table(columns[: len(self._schema)], schema=self._schema)
        writer = self._writer or self._start_part()
        writer.write_table(table, row_group_size=count)
        self._part_bytes += self._group_bytes
        self._texts, self._ids, self._extras, self._group_bytes = [], [], [], 0

    def _start_part(self) -> pq.ParquetWriter:
        name = f"{self._source}/part-{len(self.files):05d}.parquet"
        (self._folder / self._source).mkdir(exist_ok=True)
        # Texts do not repeat, so a dictionary of them would only cost time.
        self._writer = pq.ParquetWriter(
            self._folder / name, self._schema, compression="zstd", use_dictionary=["language", "source"]
        )
        self.files.append(name)
        return self._writer

    def _end_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._part_bytes = None, 0
