"""Shows encoded conversations to a person: what the model reads, and which of it is learned."""

from itertools import groupby

from tonsai_jax.chat.template import Encoded
from tonsai_jax.tokenizer.loading import Tokenizer

_GREEN, _PLAIN = "\033[32m", "\033[0m"


def preview(encoded: Encoded, tokenizer: Tokenizer, *, colored: bool) -> str:
    """The text of a conversation with its special tokens; what is learned is green, or without colors between ⟦ and ⟧."""
    before, after = (_GREEN, _PLAIN) if colored else ("⟦", "⟧")
    parts = []
    for is_answer, tokens in groupby(zip(encoded.ids, encoded.answers, strict=True), key=lambda token: token[1]):
        text = tokenizer.decode([id for id, _ in tokens])
        parts.append(f"{before}{text}{after}" if is_answer else text)
    return "".join(parts)
