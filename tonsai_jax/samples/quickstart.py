"""The data of both quickstarts, made with the same code as any other data.

Stories -> documents -> tokenizer -> token rows; questions about stories -> files of conversations -> packed rows.
"""

import json
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tonsai_jax.chat.conversation import Conversation
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.conversations import ChatSource, write_conversations
from tonsai_jax.data.manifest import FORMAT
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_replace, read_json
from tonsai_jax.samples.questions import conversations, repetitions
from tonsai_jax.samples.stories import STORY_COUNTS, stories
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.training import train_tokenizer

VOCAB_SIZE = 2048
VALIDATION_RATIO = 0.05
SOURCE_NAMES = {"km": "khmer_stories", "en": "english_stories"}

ROW_TOKENS = 256  # of packed rows: the context of the quickstart's model
QUESTION_SOURCES = {"km": "khmer_questions", "en": "english_questions"}
NUM_CONVERSATIONS = 5400  # in each language
NUM_REPETITIONS = 3000
NUM_HELD_OUT = 200


def build_sample_rows(rows_dir: Path, seed: int = 0) -> None:
    """Writes token rows of Khmer and English stories to `rows_dir`, 5 % of them held out. Does nothing if they exist.

    Raises `UserError` if `rows_dir` contains something else.
    """
    if _are_there(rows_dir):
        return
    print(f"writing a sample corpus of stories, its tokenizer and its token rows to {rows_dir}", flush=True)
    with tempfile.TemporaryDirectory(dir=rows_dir.parent, prefix=".sample-") as scratch:
        documents, tokenizer = Path(scratch, "documents"), Path(scratch, "tokenizer")
        sources = [
            Source(
                name=SOURCE_NAMES[language],
                language=language,
                license="Apache-2.0",
                documents=list(stories(language, count, seed=seed)),
            )
            for language, count in STORY_COUNTS.items()
        ]
        prepare(sources, documents, progress=False)
        train_tokenizer(dataset_examples(documents), vocab_size=VOCAB_SIZE, output_dir=tokenizer)
        tokenize_dataset(documents, tokenizer, rows_dir, val_ratio=VALIDATION_RATIO, seed=seed, progress=False)


def build_question_rows(rows_dir: Path, tokenizer_dir: Path, seed: int = 0) -> None:
    """Writes packed rows of questions about stories, in Khmer and English, to `rows_dir`. Does nothing if they exist.

    The validation conversations are about held-out stories.

    Args:
      tokenizer_dir: the tokenizer of the model that will learn to answer.

    Raises `UserError` if `rows_dir` contains something else.
    """
    if _are_there(rows_dir):
        return
    print(f"writing questions about stories as packed rows to {rows_dir}", flush=True)
    with tempfile.TemporaryDirectory(dir=rows_dir.parent, prefix=".sample-") as scratch:
        sources = []
        for language, name in QUESTION_SOURCES.items():
            train, validation = Path(scratch, f"{name}.jsonl"), Path(scratch, f"{name}_held_out.jsonl")
            asked = islice(conversations(language, seed=seed), NUM_CONVERSATIONS)
            _write(train, [*asked, *islice(repetitions(language, seed=seed), NUM_REPETITIONS)])
            _write(validation, islice(conversations(language, seed=seed, held_out=True), NUM_HELD_OUT))
            sources.append(ChatSource(name, language, (str(train),), validation=(str(validation),)))
        write_conversations(
            sources, tokenizer_dir, rows_dir, row_tokens=ROW_TOKENS, val_ratio=0.0, seed=seed, progress=False
        )


def _are_there(rows_dir: Path) -> bool:
    """Whether there are token rows; if not, the folder is new or empty, and the one above it exists."""
    manifest = rows_dir / "manifest.json"
    if manifest.is_file() and read_json(manifest).get("format") == FORMAT:
        return True
    if rows_dir.exists() and any(rows_dir.iterdir()):
        raise UserError(f"{rows_dir}: not empty and has no token rows; set --config.data.dir to a new folder")
    folder_to_replace(str(rows_dir)).parent.mkdir(parents=True, exist_ok=True)
    return False


def _write(file: Path, told: Iterable[Conversation]) -> None:
    """Writes conversations in the form that `tonsai prepare-sft` reads."""
    records = ([{"role": each.role, "content": each.content} for each in conversation] for conversation in told)
    lines = (json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in records)
    file.write_text("".join(lines), encoding="utf-8")
