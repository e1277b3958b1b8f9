"""Extends a tokenizer with tokens for one more language, writes its folder, and measures what changes."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from tonsai_jax.adapt.base_tokenizer import BaseTokenizer
from tonsai_jax.adapt.new_tokens import learn_tokens, with_tokens
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, write_json
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.text.scripts import script_of
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer
from tonsai_jax.tokenizer.even_sample import EvenSample, SampledText
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.folder_checksums import write_tokenizer_checksums
from tonsai_jax.tokenizer.training import FORMAT, VERSION

# What a tokenizer's folder has besides tokenizer.json. Files that hold the old vocabulary (vocab.json, tokenizer.model, ...) stay
# behind: programs that prefer them would not know the new tokens.
_COPIED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)


def extend_tokenizer(
    base_dir: str | Path,
    examples: Iterable[Example],
    *,
    new_tokens: int,
    language: str,
    output_dir: str | Path,
    progress: bool = False,
) -> dict[str, Any]:
    """Learns new tokens from texts and writes the extended tokenizer; the same examples give the same files.

    Args:
      base_dir: the folder of the tokenizer, or of the model that it belongs to.
      examples: texts, each with the label under which the report counts it; read once.
      new_tokens: number of tokens to add; a small corpus can give fewer.
      language: BCP-47 code; every new token has a letter of its script.
      output_dir: the folder to write. An earlier tokenizer of ours there is replaced when the new one is complete.
      progress: show the progress on stderr.

    Returns:
      The report, as written to `report.json`: "base" (folder), "old_size" and "vocab_size" (the first id after the last, before
      and after), "new_tokens", "whole_words" (whether the words of the script are kept whole now, and were cut before), and under
      "texts", by label: "bytes" (UTF-8, of the sample that is measured), "bytes_per_token_before", "bytes_per_token", and
      "same_ids" (the share of the texts that are encoded as before).

    Raises:
      UserError: the tokenizer cannot be extended, the language has no known script, there is no text with letters of it, or
        `output_dir` is not ours to replace.
    """
    if new_tokens < 1:
        raise UserError(f"--new-tokens {new_tokens}: must be at least 1; 8000 for a first try")
    script = script_of(language)
    if script is None:
        raise UserError(f"--language {language}: its script is not known; give one such as km, lo or sr-Latn")
    base = old = BaseTokenizer.from_folder(base_dir)
    with atomic_folder(output_dir, manifest="report.json", format=FORMAT) as folder:
        sampled = SampledText()
        with progress_bar("counting words", wanted=progress):
            texts = list(sampled.passing(examples))
            if whole_words := base.cuts_marks(script, texts):
                base = base.with_whole_words(script)
            words = base.words(texts)
        del texts
        with progress_bar("learning tokens", wanted=progress):
            tokens = learn_tokens(base, words, script, new_tokens)
            if not tokens:
                raise UserError(
                    f"{base_dir}: nothing to add; the texts have no letters of {language!r}, or the tokenizer has all their "
                    "tokens already"
                )
            content = with_tokens(base, tokens)
        (folder / "tokenizer.json").write_text(
            json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        for name in _COPIED:
            if (old.folder / name).is_file():
                shutil.copyfile(old.folder / name, folder / name)
        with progress_bar("measuring the tokenizer", wanted=progress):
            new = tokenizers.Tokenizer.from_str(json.dumps(content))
            before, after = AnyTokenizer(old.inner), AnyTokenizer(new)
            measured = {label: _compare(before, after, sample) for label, sample in sampled.by_label.items()}
        report = {
            "format": FORMAT,
            "version": VERSION,
            "base": str(old.folder),
            "old_size": len(old.pieces),
            "vocab_size": len(after.pieces),
            "new_tokens": len(tokens),
            "whole_words": whole_words,
            "texts": measured,
        }
        write_json(folder / "report.json", report)
        write_tokenizer_checksums(folder)
    return report


def _compare(before: AnyTokenizer, after: AnyTokenizer, sample: EvenSample[str]) -> dict[str, float]:
    old, new = before.encode(sample.items), after.encode(sample.items)
    return {
        "bytes": sample.sample_bytes,
        "bytes_per_token_before": sample.sample_bytes / max(sum(map(len, old)), 1),
        "bytes_per_token": sample.sample_bytes / max(sum(map(len, new)), 1),
        "same_ids": sum(a == b for a, b in zip(old, new, strict=True)) / max(len(old), 1),
    }
