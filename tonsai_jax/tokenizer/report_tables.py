"""The figures of tokenizers side by side, for the terminal and for the page."""

from collections.abc import Mapping
from typing import Any

from tonsai_jax.reporting.tables import Table
from tonsai_jax.tokenizer.any_tokenizer import KINDS

_OF_TEXT = (
    "A cluster is a Khmer consonant with all that hangs on it. The last three are shares of the tokens: those that end inside a "
    "cluster, those that are no whole characters, and those that stand for text that the tokenizer cannot write."
)
_OF_SENTENCES = "The ratio is of the first to the second: below 1, the first language has fewer tokens."
_OF_VOCABULARY = (
    "By the script of a token's first letter. The last column: tokens of text that are nowhere in what was measured."
)


def tables(measured: Mapping[str, dict[str, Any]]) -> list[Table]:
    """Tables of {name of a tokenizer: what `measure` says of it, and under "parallel" `measure_parallel`}, where that is."""
    figures = list(measured.values())
    labels = list(figures[0]["fertility"])
    text = [[label, name, *_of_text(each["fertility"][label])] for label in labels for name, each in measured.items()]
    heads = ["text", "tokenizer", "bytes/token", "characters/token", "clusters/token"]
    heads += ["ends in cluster", "parts of characters", "unknown"]
    found = [Table("How texts are cut", _OF_TEXT, heads, text, 2)]
    if "parallel" in figures[0]:
        names = figures[0]["parallel"]["tokens_per_sentence"]
        rows = [[name, *_of_parallel(each["parallel"])] for name, each in measured.items()]
        found.append(
            Table("Tokens a sentence, of the same sentences", _OF_SENTENCES, ["tokenizer", *names, "ratio"], rows, 1)
        )
    rows = [[name, *_of_vocabulary(each["vocabulary"])] for name, each in measured.items()]
    return [
        *found,
        Table("Ids of the vocabulary", _OF_VOCABULARY, ["tokenizer", "in all", *KINDS, "not in the text"], rows, 1),
    ]


def _of_text(figures: dict[str, Any]) -> list[str]:
    each = [figures[f"{unit}_per_token"] for unit in ("bytes", "characters", "clusters")]
    shares = [figures[name] for name in ("ends_in_cluster", "parts_of_characters", "unknown")]
    return [_number(value, ".2f") for value in each] + [_number(value, ".1%") for value in shares]


def _of_parallel(figures: dict[str, Any]) -> list[str]:
    return [_number(value, ".2f") for value in (*figures["tokens_per_sentence"].values(), figures["ratio"])]


def _of_vocabulary(figures: dict[str, Any]) -> list[str]:
    counts = [figures["kinds"][kind] for kind in KINDS]
    return [_number(value, ",") for value in (sum(counts), *counts, figures["unused"])]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
