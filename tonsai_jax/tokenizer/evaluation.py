"""Tokenizers measured side by side on text given by hand: `evaluation.json`, and `evaluation.html` for people."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.text.scripts import script_of
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer
from tonsai_jax.tokenizer.balance import language_of
from tonsai_jax.tokenizer.even_sample import SAMPLE_BYTES, EvenSample, SampledText
from tonsai_jax.tokenizer.examples import Example, file_examples
from tonsai_jax.tokenizer.report import Pair, measure, measure_parallel
from tonsai_jax.tokenizer.report_page import write_report

FORMAT = "tonsai_jax/tokenizer_evaluation"
VERSION = 1


def evaluate_tokenizers(
    paths: Sequence[str],
    examples: Iterable[Example],
    output_dir: str | Path,
    *,
    parallel: tuple[str, str] | None = None,
    n: int = 10,
    seed: int = 42,
) -> dict[str, Any]:
    """Measures the tokenizers at `paths` on the same text and writes both files; the same text gives the same bytes.

    Args:
      paths: folders or files tokenizer.json, ours or others'.
      examples: texts by language, each figure measured on an even sample of a language's.
      output_dir: where the files go.
      parallel: two files with the same sentences, a sentence a line.
      n, seed: how many documents the page shows, and what chooses them.

    Returns:
      What `evaluation.json` has: "tokenizers", {name: what `measure` says, its "path", and under "parallel" what
      `measure_parallel` says}, and "samples", {"n", "seed"}.

    Raises:
      UserError: a tokenizer cannot be read, there is no text, the files of `parallel` differ in length, `n` < 0.
    """
    if n < 0:
        raise UserError(f"--n {n}: must be at least 0, how many documents to show")
    tokenizers = {path: AnyTokenizer.from_path(path) for path in paths}
    pairs = None if parallel is None else _pairs(*parallel)
    text = SampledText(n=n, seed=seed)
    for _ in text.passing(examples):
        pass
    if not text.has_text:
        raise UserError("there is no text to measure on; check the input files or the dataset")
    names = _names(list(tokenizers))
    opened = {names[path]: tokenizer for path, tokenizer in tokenizers.items()}
    measured = {}
    for path, tokenizer in tokenizers.items():
        measured[names[path]] = {"path": path, **measure(tokenizer, text.by_label)}
        if parallel and pairs:
            measured[names[path]]["parallel"] = measure_parallel(tokenizer, pairs, parallel)
    evaluation = {"format": FORMAT, "version": VERSION, "tokenizers": measured, "samples": {"n": n, "seed": seed}}
    sizes = ", ".join(f"{each.sample_bytes:,} of {label}" for label, each in text.by_label.items())
    write_json(Path(output_dir) / "evaluation.json", evaluation)
    write_report(
        Path(output_dir) / "evaluation.html",
        title="Tokenizers side by side",
        lead=f"Measured on an even sample of the text, at most {SAMPLE_BYTES / 1e6:g} MB of each language: bytes, {sizes}.",
        measured=measured,
        tokenizers=opened,
        documents=text.documents,
    )
    return evaluation


def labelled(inputs: Sequence[str], languages: Sequence[str]) -> Iterator[Example]:
    """Lines of raw text files, each with the language of `languages` in whose script it is, or "other".

    Raises `UserError` where the script of a language is not known.
    """
    for language in languages:
        if script_of(language) is None:
            raise UserError(f"--languages {language!r}: its script is not known; write it as km, en or sr-Cyrl")
    for text, _ in file_examples(inputs, faults=Faults()):
        yield Example(text, language_of(text, "", languages) or "other")


def _pairs(first: str, second: str) -> EvenSample[Pair]:
    pairs: EvenSample[Pair] = EvenSample()
    sides = [(text for text, _ in file_examples([file], faults=Faults())) for file in (first, second)]
    try:
        for pair in zip(*sides, strict=True):
            pairs.add(pair, sum(len(text.encode()) for text in pair))
    except ValueError:
        raise UserError(
            f"--parallel {first} {second}: one has more lines than the other after {pairs.examples:,} sentences; "
            "each line of one must be the same sentence in the other"
        ) from None
    return pairs


def _names(paths: Sequence[str]) -> dict[str, str]:
    """What to call tokenizers: the names of their folders, or the whole paths where two have the same."""
    folders = [Path(path).absolute() for path in paths]
    names = [path.parent.name if path.is_file() else path.name for path in folders]
    return {path: path if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)}
