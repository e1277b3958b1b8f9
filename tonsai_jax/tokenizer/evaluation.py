"""Compares tokenizers on the same text and writes `evaluation.json` and a page, `evaluation.html`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.text.languages import check_language
from tonsai_jax.text.scripts import script_of
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer
from tonsai_jax.tokenizer.balance import language_of
from tonsai_jax.tokenizer.even_sample import SAMPLE_BYTES, EvenSample, SampledText
from tonsai_jax.tokenizer.examples import Example, file_examples
from tonsai_jax.tokenizer.measure import Pair, measure, measure_parallel
from tonsai_jax.tokenizer.report import write_report

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
    """Measures the tokenizers at `paths` on the same text and writes both files; the same text gives the same files.

    Args:
      paths: tokenizer folders or tokenizer.json files, ours or others.
      examples: texts with their languages. Each figure is measured on an even sample of one language.
      output_dir: folder for the two files.
      parallel: two files with the same sentences in two languages, one sentence per line.
      n: number of documents that the page shows.
      seed: selects these documents.

    Returns:
      The content of `evaluation.json`: "tokenizers" is {name: the figures of `measure`, "path", and under "parallel" those of
      `measure_parallel`}, "samples" is {"n", "seed"}.

    Raises:
      UserError: a tokenizer cannot be read, there is no text, the files of `parallel` differ in length, or `n` < 0.
    """
    if n < 0:
        raise UserError(f"--n {n}: must be at least 0; it is the number of documents to show")
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
    sizes = ", ".join(f"{each.sample_bytes:,} bytes of {label}" for label, each in text.by_label.items())
    write_json(Path(output_dir) / "evaluation.json", evaluation)
    write_report(
        Path(output_dir) / "evaluation.html",
        title="Comparison of tokenizers",
        lead=f"Measured on an even sample of the text, at most {SAMPLE_BYTES / 1e6:g} MB of each language: {sizes}.",
        measured=measured,
        tokenizers=opened,
        documents=text.documents,
    )
    return evaluation


def labelled(inputs: Sequence[str], languages: Sequence[str]) -> Iterator[Example]:
    """The lines of raw text files, each labelled with the one of `languages` whose script it is in, or else with "other".

    Raises `UserError` for a language whose script is not known, and for a file that cannot be read.
    """
    for language in languages:
        check_language(language, "--languages")
        if script_of(language) is None:
            raise UserError(f"--languages {language!r}: its script is not known; use a code such as km, en or sr-Cyrl")
    for text, _ in file_examples(inputs, faults=Faults(can_skip=False)):
        yield Example(text, language_of(text, "", languages) or "other")


def _pairs(first: str, second: str) -> EvenSample[Pair]:
    pairs: EvenSample[Pair] = EvenSample()
    sides = [(text for text, _ in file_examples([file], faults=Faults(can_skip=False))) for file in (first, second)]
    try:
        for pair in zip(*sides, strict=True):
            pairs.add(pair, sum(len(text.encode()) for text in pair))
    except ValueError:
        raise UserError(
            f"--parallel {first} {second}: one file ends after {count_of(pairs.examples, 'sentence')}, the other has more; "
            "line N of both files must be the same sentence"
        ) from None
    return pairs


def _names(paths: Sequence[str]) -> dict[str, str]:
    """{path: a name for its tokenizer}: the name of the folder, or the path if two folders have the same name."""
    folders = [Path(path).absolute() for path in paths]
    names = [path.parent.name if path.is_file() else path.name for path in folders]
    return {path: path if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)}
