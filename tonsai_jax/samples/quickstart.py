"""The data of the quickstart, made with the same code as any other data: stories -> documents -> tokenizer -> token rows."""

import tempfile
from pathlib import Path

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.manifest import FORMAT
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_replace, read_json
from tonsai_jax.samples.stories import STORY_COUNTS, stories
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.training import train_tokenizer

VOCAB_SIZE = 2048
VALIDATION_RATIO = 0.05
SOURCE_NAMES = {"km": "khmer_stories", "en": "english_stories"}


def build_sample_rows(rows_dir: Path, seed: int = 0) -> None:
    """Writes token rows of Khmer and English stories to `rows_dir`, 5 % of them held out. Does nothing if they exist.

    Raises `UserError` if `rows_dir` contains something else.
    """
    manifest = rows_dir / "manifest.json"
    if manifest.is_file() and read_json(manifest).get("format") == FORMAT:
        return
    if rows_dir.exists() and any(rows_dir.iterdir()):
        raise UserError(f"{rows_dir}: not empty and has no token rows; set --config.data.dir to a new folder")
    folder_to_replace(str(rows_dir)).parent.mkdir(parents=True, exist_ok=True)
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
