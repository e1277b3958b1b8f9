"""The manifest of a folder of token rows: what the folder holds. It is written last and checked by every reader."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tonsai_jax.checksums import KEY, check_checksum
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file
from tonsai_jax.manifest_fields import Fields
from tonsai_jax.names import file_inside, is_folder_name
from tonsai_jax.stages import SourceSize, Stage

FORMAT = "tonsai_jax/rows"
VERSION = 1
SPLITS = ("train", "validation")
# Of sources: a stream of documents, or packed rows (packing.py) of conversations, or of pairs of a chosen and a rejected one.
KINDS = ("text", "conversations", "pairs")
_KEYS = ("format", "version", "row_tokens", "dtype", "vocab_size", "end_of_text_id", "tokenizer_hash", "sources", KEY)


@dataclass(frozen=True)
class ShardInfo:
    """One file of token rows.

    Attributes:
      sha256: of its bytes.
      bytes: its size; None in a manifest of an earlier version.
      sample: `checksums.sample_sha256` of it; None in a manifest of an earlier version.
    """

    path: Path
    rows: int
    sha256: str
    bytes: int | None = None
    sample: str | None = None


@dataclass(frozen=True)
class SplitInfo:
    """What one split of a source holds.

    Attributes:
      rows: token rows, the padded last one included.
      tokens: ids of all documents, each with its end-of-text id; without padding.
      documents: number of documents, of conversations, or of pairs.
      bytes: UTF-8 bytes of the documents' text, or of the answers in conversations.
      files: the files, in order.
      slots: of packed rows, all inputs with padding: rows * row_tokens; None for a stream of text.
    """

    rows: int
    tokens: int
    documents: int
    bytes: int
    files: tuple[ShardInfo, ...]
    slots: int | None = None

    @property
    def targets(self) -> int:
        """Number of targets that a run reads: all tokens but the first; of packed rows, every slot."""
        return max(self.tokens - 1, 0) if self.slots is None else self.slots


@dataclass(frozen=True)
class SourceInfo:
    """One source of the mix: its weight, its language tag (BCP 47), its splits ("train" and "validation") and its kind (`KINDS`).

    A license and a dataset of the Hugging Face Hub ("owner/name") are None where they are not recorded.
    """

    name: str
    weight: float
    language: str
    splits: dict[str, SplitInfo]
    license: str | None = None
    dataset: str | None = None
    kind: str = "text"

    @property
    def is_packed(self) -> bool:
        """Whether its rows are packed: whole conversations, with marks."""
        return self.kind != "text"


@dataclass(frozen=True)
class RowsManifest:
    """What a folder of token rows holds.

    Attributes:
      directory: the folder.
      row_tokens: inputs in a row; a row on disk has one id more.
      dtype: dtype of the ids on disk.
      tokenizer_hash: SHA-256 of the tokenizer.json that made the ids.
      sources: the sources by name.
    """

    directory: Path
    row_tokens: int
    dtype: np.dtype
    vocab_size: int
    end_of_text_id: int
    tokenizer_hash: str
    sources: dict[str, SourceInfo]

    def identity(self, source: str) -> str:
        """A short hash of the training rows of a source, by which a run knows them again."""
        hashes = "".join(shard.sha256 for shard in self.sources[source].splits["train"].files)
        return hashlib.sha256(f"{self.row_tokens} {hashes}".encode()).hexdigest()[:16]

    def read_by(self, stages: Iterable[Stage]) -> set[str]:
        """The sources that a run with these stages reads; a stage without weights takes those of the manifest."""
        read = set()
        for stage in stages:
            weights = stage.weights or {name: source.weight for name, source in self.sources.items()}
            read |= {name for name, weight in weights.items() if weight > 0 and name in self.sources}
        return read

    def train_sizes(self) -> dict[str, SourceSize]:
        """Weight and training targets of each source, from which a length in epochs becomes steps."""
        return {
            name: SourceSize(source.weight, source.splits["train"].targets) for name, source in self.sources.items()
        }


def dtype_for(vocab_size: int) -> np.dtype:
    """Returns the dtype of ids on disk: little-endian uint16, or uint32 when the vocabulary has over 65,536 ids."""
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


def read_manifest(directory: str | Path) -> RowsManifest:
    """Reads and checks the manifest of a folder of token rows.

    Raises:
      UserError: the folder does not exist, has no token rows, or has another format version; the manifest is damaged, or was
        changed since it was written; it names a file outside the folder; a file is missing or has another size; the
        tokenizer in the folder is not the one that made the rows.
    """
    directory = Path(directory).absolute()
    path = directory / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"{directory}: no token rows here (no manifest.json); `tonsai data --khmer FILE --english FILE --vocab-size 8000` "
            "writes them to data/tokens; step by step: `tonsai prepare`, `tonsai train-tokenizer`, `tonsai tokenize`. "
            "`tonsai prepare-sft` makes rows of conversations, or of pairs of answers"
        )
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(
            f"{path}: this is not a folder of token rows; make one with `tonsai tokenize` or `tonsai prepare-sft`"
        )
    if value.get("version") != VERSION:
        raise UserError(
            f"{path}: format version {value.get('version')}, but this program reads version {VERSION}; "
            "make the rows again with `tonsai tokenize` or `tonsai prepare-sft`"
        )
    manifest = _manifest_from_json(directory, Fields(value, path))
    check_checksum(path, value, "make the rows again with `tonsai tokenize` or `tonsai prepare-sft`")
    for source in manifest.sources.values():
        for split in source.splits.values():
            for shard in split.files:
                _check_size(shard)
    tokenizer = directory / "tokenizer" / "tokenizer.json"
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: no such file; copy the tokenizer that made these rows there, or tokenize again")
    if sha256_file(tokenizer) != manifest.tokenizer_hash:
        raise UserError(
            f"{tokenizer}: not the tokenizer that made the rows in {directory}; tokenize the dataset again with it"
        )
    return manifest


def _check_size(shard: ShardInfo) -> None:
    if not shard.path.is_file():
        raise UserError(f"{shard.path}: this file of token rows is missing; tokenize the dataset again")
    size = shard.path.stat().st_size
    if shard.bytes is not None and size != shard.bytes:
        raise UserError(
            f"{shard.path}: damaged token rows (it has {size:,} bytes, the manifest says {shard.bytes:,}); "
            "copy the file again, or tokenize the dataset again"
        )


def _shard_from_json(directory: Path, fields: Fields) -> ShardInfo:
    path = file_inside(directory, fields.value.get("path"), fields.path)
    is_new = fields.value.get("bytes") is not None or fields.value.get("sample_sha256") is not None
    return ShardInfo(
        path,
        fields.whole("rows", least=1),
        fields.sha256("sha256"),
        fields.whole("bytes") if is_new else None,
        fields.sha256("sample_sha256") if is_new else None,
    )


def _split_from_json(directory: Path, fields: Fields, row_tokens: int, *, is_packed: bool) -> SplitInfo:
    files = tuple(_shard_from_json(directory, each) for each in fields.groups("files"))
    counts = {key: fields.whole(key) for key in ("rows", "tokens", "documents", "bytes")}
    split = SplitInfo(**counts, files=files, slots=counts["rows"] * row_tokens if is_packed else None)
    if split.rows != sum(shard.rows for shard in files) or split.rows != -(-split.targets // row_tokens):
        raise fields.wrong("rows", f"those of its {len(files)} files and {split.tokens} tokens")
    return split


def _source_from_json(directory: Path, name: str, fields: Fields, row_tokens: int) -> SourceInfo:
    weight = fields.number("weight")
    if not 0 <= weight < math.inf:
        raise UserError(f"{fields.path}: the weight of source {name!r} is {weight}; set it to 0 or more")
    kind = fields.text("kind", KINDS) if "kind" in fields.value else "text"
    splits = fields.group("splits")
    return SourceInfo(
        name=name,
        weight=weight,
        language=fields.text("language"),
        splits={
            key: _split_from_json(directory, splits.group(key), row_tokens, is_packed=kind != "text") for key in SPLITS
        },
        license=fields.text_or_none("license"),
        dataset=fields.text_or_none("dataset"),
        kind=kind,
    )


def _manifest_from_json(directory: Path, fields: Fields) -> RowsManifest:
    fields.no_others(_KEYS)
    row_tokens, vocab_size = fields.whole("row_tokens", least=1), fields.whole("vocab_size", least=1)
    dtype = dtype_for(vocab_size)
    if fields.text("dtype") != dtype.name:
        raise fields.wrong("dtype", f"{dtype.name}, which a vocabulary of {vocab_size:,} ids has on disk")
    end_of_text_id = fields.whole("end_of_text_id")
    if end_of_text_id >= vocab_size:
        raise fields.wrong("end_of_text_id", f"one of the {vocab_size:,} ids of the vocabulary")
    sources = fields.group("sources")
    for name in sources.value:
        if not is_folder_name(name):
            raise UserError(
                f"{fields.path}: {name!r} cannot be the name of a source, which is also that of a folder; make the rows again"
            )
    return RowsManifest(
        directory=directory,
        row_tokens=row_tokens,
        dtype=dtype,
        vocab_size=vocab_size,
        end_of_text_id=end_of_text_id,
        tokenizer_hash=fields.sha256("tokenizer_hash"),
        sources={name: _source_from_json(directory, name, sources.group(name), row_tokens) for name in sources.value},
    )
