"""Turns files of conversations, or of pairs of them, into packed rows: each is encoded once, and training reads ids and marks."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.chat.conversation import BadRecordError, Conversation, Message, Record, conversation_of
from tonsai_jax.chat.preferences import Pair, check_pair, pair_of
from tonsai_jax.chat.template import ChatTemplate, Encoded, TemplateError
from tonsai_jax.corpus.sources.faults import Faults, OnError
from tonsai_jax.corpus.sources.formats import WITH_FIELDS, file_format, find_files
from tonsai_jax.corpus.sources.hub import HubSplit
from tonsai_jax.corpus.sources.record_files import read_records
from tonsai_jax.data.manifest import FORMAT, RowsManifest, SourceInfo, SplitInfo, dtype_for, read_manifest
from tonsai_jax.data.marks import ANSWER, marks_of
from tonsai_jax.data.packing import write_packed
from tonsai_jax.data.row_writer import write_manifest
from tonsai_jax.data.tokenize import TOKENIZER_FOLDER, check_val_ratio, choose_validation, copy_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, disk_errors, read_json
from tonsai_jax.names import is_folder_name
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.tokenizer.loading import Tokenizer

HUB = "hf:"  # in front of the name of a dataset of the Hub
SHORTEST_ROW = 16  # tokens; a question and an answer need about as many


@dataclass(frozen=True)
class ChatSource:
    """Conversations that belong together.

    Attributes:
      name: of the source in the token rows.
      language: its tag (BCP 47); "mul" for several languages.
      locations: files, folders and globs of json, jsonl, csv, tsv and parquet, or "hf:ORG/NAME" for a dataset of the Hub.
      kind: "conversations", or "pairs" of a chosen and a rejected one.
      validation: locations of the validation conversations; () chooses them by chance among the others.
    """

    name: str
    language: str
    locations: tuple[str, ...]
    kind: str = "conversations"
    validation: tuple[str, ...] = ()


Sample = tuple[Encoded, ...]
"""What stays together in a row: a conversation, or the chosen and the rejected one of a pair."""
TokensAndMarks = tuple[np.ndarray, np.ndarray]


@dataclass
class Packed:
    """What became of the conversations of a source.

    Attributes:
      counts: "conversations" (or pairs) that were read, "duplicates" left out, "shortened" by their last turns, and what was
        left out because it cannot be read, by kind.
      examples: the first of them, encoded.
    """

    source: SourceInfo
    counts: Counter[str]
    examples: list[Sample]


def write_conversations(
    sources: Sequence[ChatSource],
    tokenizer_dir: str | Path,
    output_dir: str | Path,
    *,
    row_tokens: int,
    val_ratio: float,
    seed: int,
    on_error: OnError = "stop",
    num_examples: int = 0,
    progress: bool = True,
) -> list[Packed]:
    """Writes a folder of token rows with these conversations. The same input gives the same bytes on any machine.

    A conversation that is longer than a row loses its last questions with their answers; if not even the first pair fits, it is
    left out as a fault. So is a pair that is longer than a row. Conversations, and pairs, with the same tokens are kept once.

    Args:
      tokenizer_dir: a tokenizer with a chat template; it is copied to `output_dir`/tokenizer.
      output_dir: the folder to write; older rows in it are replaced when the new ones are complete.
      row_tokens: tokens in a row, which is the seq_len of training.
      val_ratio: share of each source's conversations, in [0, 1), that becomes the "validation" split.
      seed: chooses these conversations.
      on_error: "stop" raises the first fault in the input, "skip" counts such conversations and leaves them out.
      num_examples: how many encoded conversations of each source to return, for a look at them.
      progress: show the progress on stderr.

    Raises:
      UserError: a value is out of range; a file is missing; a record is no conversation, or one of another kind of fault
        (file and line are named); the tokenizer has no chat template; `output_dir` holds something else; the disk is full.
    """
    _check(row_tokens, val_ratio, sources)
    _check_no_text(Path(output_dir))
    tokenizer = Tokenizer.from_folder(tokenizer_dir)
    packer = _Packer(tokenizer, row_tokens, val_ratio, seed, on_error, num_examples, progress)
    with atomic_folder(output_dir, manifest="manifest.json", format=FORMAT) as folder:
        packed = [packer.pack(source, folder) for source in sources]
        total = sum(each.source.splits["train"].rows for each in packed)
        for each in packed:  # its share of all training rows, so that each source is read equally often
            share = each.source.splits["train"].rows / max(1, total)
            each.source = dataclasses.replace(each.source, weight=share)
        manifest = RowsManifest(
            directory=folder,
            row_tokens=row_tokens,
            dtype=dtype_for(tokenizer.vocab_size),
            vocab_size=tokenizer.vocab_size,
            end_of_text_id=tokenizer.end_of_text_id,
            tokenizer_hash=tokenizer.hash,
            sources={each.source.name: each.source for each in packed},
        )
        write_manifest(manifest)
        copy_tokenizer(tokenizer, folder / TOKENIZER_FOLDER, tokenizer.normalization)
    return packed


def add_conversations(
    sources: Sequence[ChatSource],
    rows_dir: str | Path,
    *,
    val_ratio: float,
    seed: int,
    on_error: OnError = "stop",
    num_examples: int = 0,
    progress: bool = True,
) -> list[Packed]:
    """Adds sources of conversations to a folder of token rows, packed in rows of its length with its tokenizer.

    The weight of a new source is 0: runs that do not name it in `data.weights` stay what they were.
    The arguments and errors are those of `write_conversations`; it also raises `UserError` where a source is already there.
    """
    manifest = read_manifest(rows_dir)
    _check(manifest.row_tokens, val_ratio, sources)
    for source in sources:
        if source.name in manifest.sources:
            raise UserError(f"{rows_dir}: already has a source {source.name!r}; give the new one another --name")
    tokenizer = Tokenizer.from_folder(manifest.directory / TOKENIZER_FOLDER)
    packer = _Packer(tokenizer, manifest.row_tokens, val_ratio, seed, on_error, num_examples, progress)
    with disk_errors(manifest.directory):
        packed = [packer.pack(source, manifest.directory) for source in sources]
        added = {each.source.name: each.source for each in packed}
        write_manifest(dataclasses.replace(manifest, sources=manifest.sources | added))
    return packed


def figures(packed: Sequence[Packed]) -> list[dict[str, Any]]:
    """What each source and split holds: one dictionary for each line of the table that the command prints."""
    return [
        {
            "source": each.source.name,
            "split": name,
            "conversations": split.documents,
            "rows": split.rows,
            "tokens": split.tokens,
            "answer_bytes": split.bytes,
            # A row has one id more than inputs.
            "filled": split.tokens / (split.slots + split.rows) if split.slots else 0.0,
        }
        for each in packed
        for name, split in each.source.splits.items()
    ]


def _check(row_tokens: int, val_ratio: float, sources: Sequence[ChatSource]) -> None:
    if row_tokens < SHORTEST_ROW:
        raise UserError(f"row_tokens {row_tokens} must be at least {SHORTEST_ROW}; the usual value is 2048")
    check_val_ratio(val_ratio)
    for name, count in Counter(source.name for source in sources).items():
        if count > 1 or name == TOKENIZER_FOLDER:
            why = "is given twice" if count > 1 else "is the name of the tokenizer's folder"
            raise UserError(f"source {name!r} {why}; give it another name")
        if not is_folder_name(name):
            raise UserError(
                f"source {name!r}: a name has letters, digits, '_', '-' and '.', and begins with one of the first three"
            )


def _check_no_text(output_dir: Path) -> None:
    """Raises `UserError` where this would replace token rows of text, which take hours to make."""
    if (output_dir / "manifest.json").is_file() and read_json(output_dir / "manifest.json").get("format") == FORMAT:
        text = [source.name for source in read_manifest(output_dir).sources.values() if not source.is_packed]
        if text:
            raise UserError(
                f"{output_dir}: holds token rows of text ({', '.join(text)}), which would be lost; give another folder, or add "
                f"the conversations to them with --add-to {output_dir}"
            )


class _Packer:
    """Encodes, splits and packs the conversations of a source."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        row_tokens: int,
        val_ratio: float,
        seed: int,
        on_error: OnError,
        num_examples: int,
        progress: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate.of(tokenizer)
        self._token_bytes = tokenizer.token_bytes()
        self._row_tokens = row_tokens
        self._val_ratio = val_ratio
        self._seed = seed
        self._on_error: OnError = on_error
        self._num_examples = num_examples
        self._progress = progress

    def pack(self, source: ChatSource, folder: Path) -> Packed:
        """Writes both splits of a source to `folder`; its weight is still 0."""
        faults, counts = Faults(self._on_error), Counter[str]()
        sequences: list[TokensAndMarks] = []
        seen: set[bytes] = set()
        examples: list[Sample] = []
        num_train = 0
        with progress_bar("encoding", unit=f" {source.kind}", total=None, wanted=self._progress) as bar:
            for locations in (source.locations, source.validation):
                num_train = len(sequences)
                for where, record in _records(locations, faults):
                    counts["conversations"] += 1
                    bar.update(1)
                    sample = self._encode(source.kind, where, record, faults, counts)
                    if not sample:
                        continue
                    ids, marks = _sequence_of(sample)
                    digest = blake2b(ids.tobytes(), digest_size=16).digest()
                    if digest in seen:
                        counts["duplicates"] += 1
                        continue
                    seen.add(digest)
                    sequences.append((ids, marks))
                    if len(examples) < self._num_examples:
                        examples.append(sample)
        if not sequences:
            raise UserError(f"{', '.join(source.locations)}: no {source.kind} are left to train on")
        is_validation = list(choose_validation(len(sequences), self._val_ratio, f"{self._seed}/{source.name}"))
        if source.validation:
            is_validation = [number >= num_train for number in range(len(sequences))]
        splits = {}
        for split, is_held_out in (("train", False), ("validation", True)):
            chosen = [each for each, held_out in zip(sequences, is_validation, strict=True) if held_out == is_held_out]
            splits[split] = self._write(folder, source.name, split, chosen)
        info = SourceInfo(source.name, 0.0, source.language, splits, kind=source.kind)
        return Packed(info, counts + faults.counts, examples)

    def _write(self, folder: Path, name: str, split: str, sequences: Sequence[TokensAndMarks]) -> SplitInfo:
        answer_bytes = sum(int(self._token_bytes[ids[(marks & ANSWER) != 0]].sum()) for ids, marks in sequences)
        return write_packed(
            folder,
            name,
            split,
            sequences,
            row_tokens=self._row_tokens,
            vocab_size=self._tokenizer.vocab_size,
            pad_id=self._tokenizer.pad_id,
            text_bytes=answer_bytes,
        )

    def _encode(self, kind: str, where: str, record: Record, faults: Faults, counts: Counter[str]) -> Sample | None:
        """What a record holds, short enough for a row; None after reporting a fault."""
        try:
            sample = self._conversation(record, counts) if kind == "conversations" else self._pair(record)
        except BadRecordError as error:
            faults.report("no_conversation", f"{where}: not a {kind.removesuffix('s')}: {error}")
        except TemplateError as error:
            faults.report("refused_by_template", f"{where}: the chat template refuses it: {error}")
        else:
            length = sum(len(each.ids) for each in sample)
            if length <= self._row_tokens + 1:
                return sample
            what = "first question and answer have" if kind == "conversations" else "chosen and rejected have together"
            faults.report(
                "too_long",
                f"{where}: its {what} {count_of(length, 'token')}, but a row holds {self._row_tokens + 1}; make longer rows with "
                "--row-tokens",
            )
        return None

    def _conversation(self, record: Record, counts: Counter[str]) -> Sample:
        conversation = self._normalized(conversation_of(record))
        encoded = self._template.encode(conversation)
        turns = len(conversation)
        while len(encoded.ids) > self._row_tokens + 1 and len(conversation) > 3:
            conversation = conversation[:-2]
            encoded = self._template.encode(conversation)
        counts["shortened"] += len(conversation) < turns and len(encoded.ids) <= self._row_tokens + 1
        return (encoded,)

    def _pair(self, record: Record) -> Sample:
        pair = pair_of(record)
        pair = Pair(self._normalized(pair.chosen), self._normalized(pair.rejected))
        check_pair(pair)  # again, for normalization can make two texts equal
        earlier = sum(message.role == "assistant" for message in pair.chosen[: pair.shared])
        return tuple(_without_first(self._template.encode(each), earlier) for each in (pair.chosen, pair.rejected))

    def _normalized(self, conversation: Conversation) -> Conversation:
        normalize = self._tokenizer.normalize_prompt
        messages = tuple(Message(each.role, normalize(each.content).strip()) for each in conversation)
        for message in messages:
            if not message.content:
                raise BadRecordError(
                    f"a text of the {message.role} has nothing but characters that normalization removes"
                )
        return messages


def _sequence_of(sample: Sample) -> TokensAndMarks:
    """The ids, int32, and the marks of what stays together in a row."""
    ids = np.concatenate([each.ids for each in sample]).astype(np.int32)
    return ids, np.concatenate([marks_of(each.answers) for each in sample])


def _without_first(encoded: Encoded, count: int) -> Encoded:
    """The same tokens; the first `count` answers are not learned."""
    answers, seen = [], 0
    for before, is_answer in zip([False, *encoded.answers], encoded.answers, strict=False):
        seen += is_answer and not before
        answers.append(is_answer and seen > count)
    return Encoded(encoded.ids, answers)


def _records(locations: Sequence[str], faults: Faults) -> Iterator[tuple[str, Record]]:
    """Every record with its place, such as "chats.jsonl: line 3"."""
    for location in locations:
        if location.startswith(HUB):
            for label, record in HubSplit(location.removeprefix(HUB)).records():
                yield f"{location}: {label}", record
            continue
        for path in find_files(location):
            if file_format(path) not in WITH_FIELDS:
                raise UserError(f"{path}: has no records; conversations are read from {', '.join(WITH_FIELDS)}")
            for _, label, record in read_records(path, faults):
                yield f"{path}: {label}", record
