"""The report on one or more tokenizers: tables for the terminal, and a page that also shows texts token by token."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from tonsai_jax.reporting.numbers import format_known
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.tables import Table
from tonsai_jax.tokenizer.any_tokenizer import KINDS, SPECIAL, AnyTokenizer, is_text

_TEXT_NOTE = (
    "A syllable is a Khmer orthographic syllable: a consonant with its subscripts, vowels and signs. The last three columns are "
    "shares of the tokens: tokens that end inside a syllable, tokens that are not whole characters, and tokens for text that the "
    "tokenizer cannot represent."
)
_PARALLEL_NOTE = "The ratio is the first column divided by the second: below 1, the first language needs fewer tokens."
_VOCABULARY_NOTE = (
    "Tokens are counted by the script of their first letter. The last column counts the tokens that do not occur in the measured "
    "text; bytes and special tokens are left out."
)
# Characters that cannot be seen, and what the page shows for them. A line can still break at them.
_SHOWN = {
    " ": Markup("<u>·</u><wbr>"),
    "\n": Markup("<u>↵</u>\n"),
    "\r": Markup("<u>␍</u>"),
    "\t": Markup("<u>→</u>\t"),
    "\u200b": Markup("<u>|</u>\u200b"),
    "\u200c": Markup("<u>¦</u>\u200c"),
    "\u00a0": Markup("<u>⍽</u>"),
}


def tables(measured: Mapping[str, dict[str, Any]]) -> list[Table]:
    """The figures of the tokenizers side by side.

    Args:
      measured: {name of a tokenizer: the result of `measure`}, which may hold that of `measure_parallel` under "parallel".
    """
    figures = list(measured.values())
    labels = list(figures[0]["fertility"])
    rows = [[label, name, *_of_text(each["fertility"][label])] for label in labels for name, each in measured.items()]
    heads = ["text", "tokenizer", "bytes/token", "characters/token", "syllables/token"]
    heads += ["ends in syllable", "parts of characters", "unknown"]
    found = [Table("How texts are split", heads, rows, "llrrrrrr", _TEXT_NOTE)]
    if "parallel" in figures[0]:
        names = figures[0]["parallel"]["tokens_per_sentence"]
        rows = [[name, *_of_parallel(each["parallel"])] for name, each in measured.items()]
        title = "Tokens per sentence of parallel text"
        found.append(Table(title, ["tokenizer", *names, "ratio"], rows, "lrrr", _PARALLEL_NOTE))
    rows = [[name, *_of_vocabulary(each["vocabulary"])] for name, each in measured.items()]
    heads = ["tokenizer", "total", *KINDS, "not in the text"]
    return [*found, Table("Token ids by kind", heads, rows, "l" + "r" * (len(heads) - 1), _VOCABULARY_NOTE)]


def write_report(
    path: Path,
    *,
    title: str,
    lead: str,
    measured: Mapping[str, dict[str, Any]],
    tokenizers: Mapping[str, AnyTokenizer],
    documents: Sequence[Mapping[str, str]],
) -> None:
    """Writes the page.

    Args:
      path: the HTML file to write.
      title: the heading.
      lead: a sentence on the text that was measured.
      measured: the figures of each tokenizer by name, as `tables` takes them.
      tokenizers: the same tokenizers, by the same names.
      documents: to show token by token, [{"id", "text"}].
    """
    texts = [document["text"] for document in documents]
    ids = {name: tokenizer.encode(texts) for name, tokenizer in tokenizers.items()}
    write_page(
        path,
        Path(__file__).with_name("report.html"),
        title=title,
        lead=lead,
        tables=tables(measured),
        documents=[
            {
                "id": document["id"],
                "tokenized": [
                    (name, len(ids[name][number]), _tokens(tokenizer, ids[name][number]))
                    for name, tokenizer in tokenizers.items()
                ],
            }
            for number, document in enumerate(documents)
        ],
        longest=[
            (
                name,
                [
                    (kind, list(map(_visible, tokens)))
                    for kind, tokens in figures["vocabulary"]["longest"].items()
                    if tokens
                ],
            )
            for name, figures in measured.items()
        ],
    )


def _of_text(figures: dict[str, Any]) -> list[str]:
    ratios = [figures[f"{unit}_per_token"] for unit in ("bytes", "characters", "clusters")]
    shares = [figures[name] for name in ("ends_in_cluster", "parts_of_characters", "unknown")]
    return [format_known(value, ".2f") for value in ratios] + [format_known(value, ".1%") for value in shares]


def _of_parallel(figures: dict[str, Any]) -> list[str]:
    return [f"{value:.2f}" for value in (*figures["tokens_per_sentence"].values(), figures["ratio"])]


def _of_vocabulary(figures: dict[str, Any]) -> list[str]:
    counts = [figures["kinds"][kind] for kind in KINDS]
    return [f"{value:,}" for value in (sum(counts), *counts, figures["unused"])]


def _tokens(tokenizer: AnyTokenizer, ids: Iterable[int]) -> Markup:
    return Markup("").join(Markup("<i title={}>{}</i>").format(id, _token(tokenizer, id)) for id in ids)


def _token(tokenizer: AnyTokenizer, id: int) -> Markup:
    piece = tokenizer.pieces[id]
    if tokenizer.kinds[id] == SPECIAL:
        return Markup("<b class=special>{}</b>").format(tokenizer.token(id))
    return _visible(piece.decode()) if is_text(piece) else Markup("<b>{}</b>").format(piece.hex(" ").upper())


def _visible(text: str) -> Markup:
    return Markup("").join(_SHOWN.get(character) or escape(character) for character in text)
