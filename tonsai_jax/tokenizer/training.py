"""Trains a tokenizer (byte-level BPE, Unigram, or the baseline `gpt2`), writes its folder, and measures it."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tonsai_jax.errors import UserError, unknown_name
from tonsai_jax.files import atomic_folder, write_json
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.text.normalize import DEFAULT, Normalization
from tonsai_jax.tokenizer import bpe, unigram
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer
from tonsai_jax.tokenizer.even_sample import SampledText
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.folder_checksums import write_tokenizer_checksums
from tonsai_jax.tokenizer.gpt2_bpe import train_gpt2_bpe
from tonsai_jax.tokenizer.loading import NORMALIZATION
from tonsai_jax.tokenizer.measure import measure
from tonsai_jax.tokenizer.report import write_report
from tonsai_jax.tokenizer.special_tokens import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    END_OF_TURN,
    PAD,
    ROLES,
    SPECIAL_TOKENS,
    check_special_tokens,
)
from tonsai_jax.tokenizer.units import BYTES

FORMAT = "tonsai_jax/tokenizer"
VERSION = 1
MODEL_TYPES = ("bpe", "unigram", "gpt2")
DEFAULT_PATTERN = "grouped-digits"


def train_tokenizer(
    examples: Iterable[Example],
    *,
    vocab_size: int,
    output_dir: str | Path,
    model_type: str = "bpe",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    sentences: int = 0,
    pattern: str = DEFAULT_PATTERN,
    normalization: Normalization = DEFAULT,
    text_bytes: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains a tokenizer and writes its folder; the same examples give the same files.

    More than a few MB of text are counted in worker processes, so a script that calls this function needs
    `if __name__ == "__main__":`.

    Args:
      examples: texts, each with the label (a language or a file) under which the report counts it; read once.
      vocab_size: number of ids wanted, special tokens included; a small corpus can give fewer.
      output_dir: the folder to write. An earlier tokenizer there is replaced when the new one is complete.
      model_type: "bpe", "unigram", or "gpt2", the baseline of `gpt2_bpe`.
      special_tokens: tokens that stand for no text; they get the ids 0 to n-1. The first is "<|endoftext|>".
      sentences: number of random lines that Unigram is trained on; 0 for all.
      pattern: how BPE splits text into words: a name of `bpe.PATTERNS`. tokenizer.json records it.
      normalization: what the examples went through. It is saved, so that prompts are normalized in the same way.
      text_bytes: UTF-8 bytes of the examples, if they are known, for the time left.
      progress: show the progress on stderr.

    Returns:
      The report, as written to `report.json`, and for people to `report.html`: "vocab_size" and "requested_vocab_size",
      "examples", "bytes" (UTF-8), and what `measure` says of the tokenizer on a sample of the text it has seen.

    Raises:
      UserError: the model type or the pattern is not known, the vocabulary is smaller than the bytes need, there is no text,
        `output_dir` is not ours to replace, or the disk is full.
    """
    check_pattern(pattern, model_type)
    special_tokens = check_special_tokens(special_tokens)
    check_vocabulary(vocab_size, model_type, special_tokens)
    if sentences and (model_type != "unigram" or sentences <= 100):
        raise UserError(
            f"--input-sentence-size {sentences}: must be above 100, and only works with --model-type unigram"
        )
    with atomic_folder(output_dir, manifest="report.json", format=FORMAT) as folder:
        text = SampledText()
        texts = _shown(text.passing(examples), text_bytes, progress)
        spm_model = None
        if model_type == "bpe":
            tokenizer = bpe.train_bpe(texts, vocab_size, special_tokens, progress, bpe.PATTERNS[pattern])
        elif model_type == "gpt2":
            tokenizer = train_gpt2_bpe(texts, vocab_size, special_tokens, progress)
        else:
            # SentencePiece reports nothing; its training takes most of the time.
            with progress_bar("training Unigram with SentencePiece", wanted=progress):
                tokenizer, spm_model = unigram.train_unigram(texts, vocab_size, special_tokens, sentences)
        if not text.has_text:
            raise UserError("there is no text to train a tokenizer on; check the input files or the dataset")
        opened = AnyTokenizer(tokenizer)
        with progress_bar("measuring the tokenizer", wanted=progress):
            measured = measure(opened, text.by_label)
        report = {
            "format": FORMAT,
            "version": VERSION,
            "model_type": model_type,
            "vocab_size": tokenizer.get_vocab_size(),
            "requested_vocab_size": vocab_size,
            "examples": sum(sample.examples for sample in text.by_label.values()),
            "bytes": sum(sample.bytes for sample in text.by_label.values()),
            **measured,
        }
        _write_folder(folder, tokenizer, spm_model, special_tokens, normalization, report)
        write_report(
            folder / "report.html",
            title="Tokenizer",
            lead="Measured on an even sample of the training text. Text that it has not seen has fewer bytes per token.",
            measured={model_type: report},
            tokenizers={model_type: opened},
            documents=text.documents,
        )
    return report


def check_pattern(pattern: str, model_type: str) -> None:
    """Raises `UserError` for a pattern that is not known, and for one that the model type cannot use."""
    if pattern not in bpe.PATTERNS:
        raise unknown_name("pattern", pattern, bpe.PATTERNS)
    if pattern != DEFAULT_PATTERN and model_type != "bpe":
        raise UserError(f"pattern={pattern} is for model type bpe only, {model_type} has none; leave it out")


def check_vocabulary(vocab_size: int, model_type: str, special_tokens: Sequence[str]) -> None:
    """Raises `UserError` for a model type that is not known, and for a vocabulary smaller than its bytes need."""
    if model_type not in MODEL_TYPES:
        raise UserError(
            f"model type {model_type!r} is not known; use {', '.join(MODEL_TYPES[:-1])} or {MODEL_TYPES[-1]}"
        )
    least = len(special_tokens) + (unigram.SMALLEST_VOCABULARY if model_type == "unigram" else len(BYTES))
    if vocab_size < least:
        raise UserError(
            f"vocab_size {vocab_size} is too small: the bytes and {len(special_tokens)} special tokens need {least} ids; "
            "use a larger one, 8000 for a first try"
        )


def _shown(texts: Iterable[str], text_bytes: int | None, progress: bool) -> Iterator[str]:
    with progress_bar("reading text", unit="B", total=text_bytes, wanted=progress) as bar:
        for text in texts:
            bar.update(len(text.encode()))
            yield text


def _write_folder(
    folder: Path,
    tokenizer: Tokenizer,
    spm_model: bytes | None,
    special_tokens: Sequence[str],
    normalization: Normalization,
    report: dict[str, Any],
) -> None:
    pad = PAD if PAD in special_tokens else END_OF_TEXT
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": pad}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,  # no limit: only the model limits the length
        NORMALIZATION: dataclasses.asdict(normalization),
    }
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    if spm_model is not None:
        (folder / "spm.model").write_bytes(spm_model)
    if {*ROLES, END_OF_TURN} <= {*special_tokens}:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "report.json", report)
    write_tokenizer_checksums(folder)
