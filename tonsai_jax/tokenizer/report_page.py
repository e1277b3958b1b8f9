"""The page of a tokenizer's report: tables first, then documents in the colours of their tokens, then the longest tokens."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.tables import as_html
from tonsai_jax.tokenizer.any_tokenizer import SPECIAL, AnyTokenizer, is_text
from tonsai_jax.tokenizer.report_tables import tables

_STYLE = """
.tokens { margin: .1rem 0 .9rem; line-height: 2; overflow-wrap: anywhere }
.tokens i { font-style: normal; padding: .2rem 0; margin-right: 1px; border-radius: .2rem; white-space: pre-wrap;
  unicode-bidi: isolate } /* or marks would be drawn on the letter of the token before */
.tokens i:nth-of-type(4n+1) { background: rgb(58 134 255 / .22) }
.tokens i:nth-of-type(4n+2) { background: rgb(255 176 32 / .26) }
.tokens i:nth-of-type(4n+3) { background: rgb(46 184 114 / .24) }
.tokens i:nth-of-type(4n) { background: rgb(214 84 160 / .22) }
.tokens i:hover { outline: 1px solid var(--ink) }
.tokens u { text-decoration: none; color: var(--faint) } .tokens b { font: 600 .72em ui-monospace, monospace; padding: 0 .15em }
.tokens b.special { color: var(--dropped) }
h2 + p.lead { margin-bottom: .8rem }
p.name { margin: .6rem 0 0; font-size: .85rem; color: var(--faint) }
p.name strong { color: var(--ink) }
.longest { display: grid; grid-template-columns: 9rem 1fr; gap: .3rem 1rem; align-items: baseline }
.longest .tokens { margin: 0 } .longest i { display: inline-block; margin-right: .2rem;
  padding: 0 .3rem; line-height: 1.7 }
"""
# What is not to be seen, and what is shown for it; a line or paragraph still breaks there.
_SEEN = {
    " ": "<u>·</u><wbr>",
    "\n": "<u>↵</u>\n",
    "\r": "<u>␍</u>",
    "\t": "<u>→</u>\t",
    "\u200b": "<u>|</u>\u200b",
    "\u200c": "<u>¦</u>\u200c",
    "\u00a0": "<u>⍽</u>",
}


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
      lead: says what it was measured on.
      measured: the figures of each tokenizer by name, as `tables` takes them.
      tokenizers: the same tokenizers.
      documents: to show, [{"id", "text"}].
    """
    body = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(lead)}</p>']
    body += [as_html(table) for table in tables(measured)]
    body += [_documents(tokenizers, documents)] if documents else []
    body += [_longest(name, figures["vocabulary"]["longest"]) for name, figures in measured.items()]
    write_page(path, title=title, style=_STYLE, body=body)


def _documents(tokenizers: Mapping[str, AnyTokenizer], documents: Sequence[Mapping[str, str]]) -> str:
    texts = [document["text"] for document in documents]
    rows = {name: tokenizer.encode(texts) for name, tokenizer in tokenizers.items()}
    parts = []
    for number, document in enumerate(documents):
        parts.append(f"<section><h3>{_text(document['id'])}</h3>")
        for name, tokenizer in tokenizers.items():
            ids = rows[name][number]
            parts.append(f'<p class="name"><strong>{_text(name)}</strong> {len(ids):,} tokens</p>')
            parts.append(f'<div class="tokens">{_tokens(tokenizer, ids)}</div>')
        parts.append("</section>")
    lead = (
        "A colour is a token; the pointer tells its id. Bytes that are no whole character are written in hexadecimal."
    )
    return f'<h2>Documents at random, token by token</h2><p class="lead">{lead}</p>{"".join(parts)}'


def _tokens(tokenizer: AnyTokenizer, ids: Iterable[int]) -> str:
    return "".join(f"<i title={id}>{_shown(tokenizer, id)}</i>" for id in ids)


def _shown(tokenizer: AnyTokenizer, id: int) -> str:
    piece = tokenizer.pieces[id]
    if tokenizer.kinds[id] == SPECIAL:
        return f"<b class=special>{_text(tokenizer.token(id))}</b>"
    return _visible(piece.decode()) if is_text(piece) else f"<b>{piece.hex(' ').upper()}</b>"


def _longest(name: str, longest: Mapping[str, Sequence[str]]) -> str:
    rows = [
        f"<div>{kind}</div><div class=tokens>{''.join(f'<i>{_visible(token)}</i> ' for token in tokens)}</div>"
        for kind, tokens in longest.items()
        if tokens
    ]
    return f'<h2>The longest tokens of {_text(name)}</h2><div class="longest">{"".join(rows)}</div>'


def _visible(text: str) -> str:
    return "".join(_SEEN.get(character) or _text(character) for character in text)


def _text(text: str) -> str:
    return html.escape(text)
